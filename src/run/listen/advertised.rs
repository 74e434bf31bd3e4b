//! Where others are told to come to: what flags say, else where this process listens.

use std::net::SocketAddr;

/// The URLs that `told` names, else those of `bound` that can be dialled. Of etcd's two ways with the others, to refuse to
/// start and to name the host's address of its default route, neither fits: a listener works without being told of.
pub(crate) fn advertised(told: &[String], bound: &[String]) -> Vec<String> {
    let told: Vec<_> = told.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
    match told.is_empty() {
        false => told.into_iter().map(str::to_owned).collect(),
        true => bound.iter().filter(|url| can_be_dialled(url)).cloned().collect(),
    }
}

/// As [`advertised`], of clients' URLs; says which are left out.
pub(crate) fn advertised_to_clients(told: &[String], bound: &[String]) -> Vec<String> {
    let urls = advertised(told, bound);
    let listens: Vec<_> = bound.iter().filter(|url| !can_be_dialled(url)).collect();
    if urls.len() < bound.len() && !listens.is_empty() && told.iter().all(|url| url.trim().is_empty()) {
        tracing::warn!(
            ?listens,
            "clients that ask for the members' URLs are not told of these, which stand for every address of this machine \
             and which nobody can dial: say by --advertise-client-urls where clients reach it"
        );
    }
    urls
}

/// False for the address that stands for all.
fn can_be_dialled(url: &str) -> bool {
    let address = url.split_once("://").and_then(|(_, place)| place.parse::<SocketAddr>().ok());
    !address.is_some_and(|address| address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_dial_is_not_advertised_without_being_told() {
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let bound =
            urls(&["http://0.0.0.0:2379", "https://[::]:2379", "http://127.0.0.1:2379", "unix:///run/s"]);
        for (told, expected) in [
            (urls(&[]), urls(&["http://127.0.0.1:2379", "unix:///run/s"])),
            (urls(&["", " "]), urls(&["http://127.0.0.1:2379", "unix:///run/s"])),
            (urls(&["http://0.0.0.0:2379"]), urls(&["http://0.0.0.0:2379"])),
            (urls(&[" http://kb:2379"]), urls(&["http://kb:2379"])),
        ] {
            assert_eq!(advertised(&told, &bound), expected, "{told:?}");
        }
        assert!(advertised_to_clients(&[], &urls(&["http://[::]:2379"])).is_empty());
    }
}
