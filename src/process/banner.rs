//! What a person at a terminal reads after starting it.

use super::place::Place;
use crate::print;

/// A few lines: what listens where, and what to type next. Programs read the log instead.
pub(crate) fn print(what: &str, place: &Place) {
    let lines = [
        ("clients", place.clients.join(" ")),
        ("probes", place.probes.join(" ")),
        ("peers", place.peers.join(" ")),
        ("groups", place.groups.join(" ")),
        ("data", place.data.clone()),
        ("try", try_it(&place.clients)),
        ("", format!("kube-apiserver --etcd-servers={} ...", place.clients.join(","))),
    ];
    let mut text = format!("{what}\n");
    for (label, line) in lines.iter().filter(|(_, line)| !line.is_empty()) {
        text += &format!("  {label:<9} {line}\n");
    }
    print::greet(text);
}

/// A client's first command.
fn try_it(urls: &[String]) -> String {
    let endpoint = urls.first().map_or("127.0.0.1:2379", |url| url.trim_start_matches("http://"));
    let secure = endpoint.starts_with("https://") || endpoint.starts_with("unixs://");
    let tls = if secure { " --cacert=... --cert=... --key=..." } else { "" };
    format!("etcdctl --endpoints={endpoint}{tls} put /registry/hello world")
}
