//! [`Page`]: a `/metrics` page, read strictly: what Prometheus would not take, or take otherwise than meant, fails.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::in_time;

/// See the module.
#[derive(Debug, Default)]
pub struct Page {
    pub families: BTreeMap<String, Family>,
    /// By name and labels as they stand there.
    values: BTreeMap<String, f64>,
}

#[derive(Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    pub labels: BTreeSet<String>,
}

/// `GET path` over HTTP/1: status, content type and body.
pub async fn get(address: &str, path: &str) -> (u16, String, String) {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("a socket");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    let answer = in_time("a page", exchange).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let content = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (status, content.to_owned(), body.to_owned())
}

/// The page of a process.
pub async fn scrape(address: &str) -> Page {
    let (status, content, body) = get(address, "/metrics").await;
    assert_eq!((status, &content[..]), (200, "text/plain; version=0.0.4; charset=utf-8"));
    Page::read(&body)
}

impl Page {
    fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends, too");
        let mut page = Self::default();
        let mut current: Option<String> = None;
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help has text");
                assert!(is_name(name), "{line}");
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(page.families.insert(name.to_owned(), family).is_none(), "{name} stands there twice");
                current = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(current.as_deref(), Some(name), "the help goes before the type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                page.families.get_mut(name).expect("its help").kind = kind.to_owned();
            } else {
                assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
                page.sample(line, current.as_deref().expect("rows follow a type"));
            }
        }
        page.check_histograms();
        page
    }

    fn sample(&mut self, line: &str, current: &str) {
        let (row, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}: not a number"));
        let (name, labels) = match row.split_once('{') {
            Some((name, labels)) => (name, read_labels(labels.strip_suffix('}').expect("an end of labels"))),
            None => (row, Vec::new()),
        };
        assert!(is_name(name), "{line}");
        let family = self.families.get_mut(current).expect("it stands there");
        assert!(!family.kind.is_empty(), "{line}: the type goes before the rows");
        let parts: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let part =
            name.strip_prefix(current).unwrap_or_else(|| panic!("{line} is among the rows of {current}"));
        assert!(parts.contains(&part), "{line}");
        let names: HashSet<_> = labels.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), labels.len(), "{line}: a label twice");
        assert_eq!(part == "_bucket", names.contains(&"le".to_owned()), "{line}");
        family.labels.extend(labels.into_iter().map(|(name, _)| name).filter(|name| name != "le"));
        if family.kind == "counter" {
            assert!(value >= 0.0 && current.ends_with("_total"), "{line}: not a counter");
        }
        assert!(self.values.insert(row.to_owned(), value).is_none(), "{row} stands there twice");
    }

    fn check_histograms(&self) {
        for name in
            self.families.iter().filter(|(_, family)| family.kind == "histogram").map(|(name, _)| name)
        {
            let (bucket, count) = (format!("{name}_bucket"), format!("{name}_count"));
            let mut found = 0;
            for (row, count) in self.rows(&count) {
                found += 1;
                let labels = row.trim_start_matches('{').trim_end_matches('}');
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for (row, value) in self.rows(&bucket) {
                    let all = read_labels(row.trim_start_matches('{').trim_end_matches('}'));
                    let (le, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| name == "le");
                    let others: Vec<_> =
                        others.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
                    if others.join(",") == labels {
                        buckets.push((le[0].1.parse().expect("a bound"), value));
                    }
                }
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.is_sorted_by_key(|(_, value)| *value), "{name}{row}: {buckets:?}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name}{row}");
            }
            assert!(found > 0, "{name} has no rows");
        }
    }

    /// The rows of a name: labels with their braces, and values.
    pub fn rows(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let rows = self.values.iter().filter_map(move |(row, value)| Some((row.strip_prefix(name)?, *value)));
        rows.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    }

    /// The one row of a name that has all of these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let found: Vec<_> =
            self.rows(name).filter(|(row, _)| wanted.iter().all(|label| row.contains(label))).collect();
        let [(_, value)] = found[..] else { panic!("{name} {labels:?} is {found:?}") };
        value
    }

    /// How many rows there are.
    #[expect(clippy::len_without_is_empty, reason = "no page is")]
    pub fn len(&self) -> usize {
        self.values.len()
    }
}

fn is_name(name: &str) -> bool {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    !name.is_empty() && name.chars().all(legal) && !name.starts_with(|letter: char| letter.is_ascii_digit())
}

/// `a="b",c="d"`, where values may hold `\\`, `\"` and `\n`.
fn read_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(is_name(name) && !name.contains(':'), "{name}");
        let (mut value, mut letters) = (String::new(), rest.char_indices());
        let end = loop {
            match letters.next().expect("an end of the value") {
                (end, '"') => break end,
                (_, '\\') => match letters.next().expect("an escaped letter").1 {
                    'n' => value.push('\n'),
                    letter @ ('\\' | '"') => value.push(letter),
                    other => panic!("\\{other} is no escape"),
                },
                (_, letter) => value.push(letter),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
        if !text.is_empty() {
            text = text.strip_prefix(',').expect("a comma");
        }
    }
    labels
}

#[test]
fn what_prometheus_would_not_take_is_not_taken() {
    let family = "# HELP a A.\n# TYPE a gauge\n";
    let histogram = "# HELP h H.\n# TYPE h histogram\n";
    let page = Page::read(&format!("{family}a{{b=\"x\\\\\\\"\\n,y\",c=\"}}\"}} 1\n"));
    assert_eq!(page.families["a"].labels.len(), 2);
    Page::read(&format!(
        "{histogram}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n"
    ));
    for (why, text) in [
        ("no end of line", format!("{family}a 1")),
        ("a row twice", format!("{family}a 1\na 2\n")),
        ("a family twice", format!("{family}a 1\n{family}a{{b=\"c\"}} 1\n")),
        ("a row of another family", format!("{family}b 1\n")),
        ("no type", "# HELP a A.\na 1\n".to_owned()),
        ("no help", "# TYPE a gauge\na 1\n".to_owned()),
        ("not a number", format!("{family}a one\n")),
        ("an illegal name", "# HELP a-b A.\n# TYPE a-b gauge\na-b 1\n".to_owned()),
        ("an open label", format!("{family}a{{b=\"c}} 1\n")),
        ("a label twice", format!("{family}a{{b=\"c\",b=\"d\"}} 1\n")),
        ("a counter without its ending", "# HELP a A.\n# TYPE a counter\na 1\n".to_owned()),
        ("no last bucket", format!("{histogram}h_bucket{{le=\"1\"}} 2\nh_sum 3\nh_count 2\n")),
        (
            "a falling bucket",
            format!("{histogram}h_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n"),
        ),
    ] {
        assert!(std::panic::catch_unwind(|| Page::read(&text)).is_err(), "{why} was taken");
    }
}
