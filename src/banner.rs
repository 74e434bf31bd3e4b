//! What a person reads after starting it.

/// A few lines on standard output: what listens where, and what to type next.
pub(crate) fn print(what: &str, lines: &[(&str, String)]) {
    println!("{what}");
    for (label, text) in lines.iter().filter(|(_, text)| !text.is_empty()) {
        println!("  {label:<9} {text}");
    }
}

/// A client's first command.
pub(crate) fn try_it(urls: &[String]) -> String {
    let endpoint = urls.first().map_or("127.0.0.1:2379", |url| url.trim_start_matches("http://"));
    let secure = endpoint.starts_with("https://") || endpoint.starts_with("unixs://");
    let tls = if secure { " --cacert=... --cert=... --key=..." } else { "" };
    format!("etcdctl --endpoints={endpoint}{tls} put /registry/hello world")
}
