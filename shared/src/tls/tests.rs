use super::*;

fn suites_of(names: &[&str]) -> Result<Vec<String>, String> {
    let config =
        TlsConfig { suites: names.iter().map(|&name| name.to_owned()).collect(), ..TlsConfig::default() };
    let provider = suites::provider(&config).map_err(|error| error.to_string())?;
    Ok(provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect())
}

#[test]
fn cipher_suites_are_chosen_by_their_names_in_go() {
    assert_eq!(suites_of(&[]).expect("all").len(), 9);
    let of_13 = ["TLS13_AES_256_GCM_SHA384", "TLS13_AES_128_GCM_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"];
    let chosen = suites_of(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]);
    assert_eq!(chosen.expect("one"), [&of_13[..], &["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]].concat());
    assert_eq!(suites_of(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).expect("insecure ones are left out"), of_13);
    let unknown = suites_of(&["TLS_MADE_UP"]).expect_err("no such suite");
    assert!(
        unknown.contains("TLS_MADE_UP") && unknown.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        "{unknown}"
    );
}

#[test]
fn the_oldest_version_is_not_newer_than_the_newest() {
    let config =
        TlsConfig { version_min: Version::Tls13, version_max: Some(Version::Tls12), ..TlsConfig::default() };
    assert!(matches!(TlsServer::load(config), Err(TlsError::Settings(_))));
    assert_eq!(
        "TLS1.1".parse::<Version>().expect_err("too old").to_string(),
        r#""TLS1.1" is not served: TLS1.2 and TLS1.3 are"#
    );
}
