use http_body_util::BodyExt as _;

use super::*;

#[derive(Clone, Copy)]
struct Fake {
    works: bool,
    /// `None`: no answer ever.
    reads: Option<bool>,
    alarms: &'static [AlarmType],
    /// Those that are a check each, and whether they can be read.
    groups: &'static [(&'static str, bool)],
}

const GOOD: Fake = Fake { works: true, reads: Some(true), alarms: &[], groups: &[] };

impl Subject for Fake {
    fn works(&self) -> Result<(), String> {
        self.works.then_some(()).ok_or_else(|| "stopping".to_owned())
    }

    async fn read(&self) -> Result<(), Status> {
        match self.reads {
            Some(true) => Ok(()),
            Some(false) => Err(Status::unavailable("etcdserver: no leader")),
            None => std::future::pending().await,
        }
    }

    async fn alarms(&self) -> Vec<AlarmType> {
        self.alarms.to_vec()
    }

    fn groups(&self) -> Vec<GroupName> {
        let names = self.groups.iter().map(|(name, _)| GroupName::parse(name).expect("a name"));
        names.collect()
    }

    async fn reads_in(&self, group: &GroupName) -> Result<(), Status> {
        match self.groups.iter().find(|(name, _)| *name == group.as_str()) {
            Some((_, true)) => Ok(()),
            _ => Fake { reads: Some(false), ..*self }.read().await,
        }
    }
}

async fn get(subject: Fake, uri: &'static str) -> (u16, String) {
    let response = answer(&subject, &Method::GET, &Uri::from_static(uri)).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(start_paused = true)]
async fn health_has_etcds_forms() {
    let unread = Fake { reads: Some(false), ..GOOD };
    let full = Fake { alarms: &[AlarmType::Nospace], ..GOOD };
    let corrupt = Fake { alarms: &[AlarmType::Nospace, AlarmType::Corrupt], ..GOOD };
    let stuck = Fake { reads: None, ..GOOD };
    let yes = r#"{"health":"true","reason":""}"#;
    let no = |reason: &str| format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
    let cases = [
        (GOOD, "/health", 200, yes.to_owned()),
        (unread, "/health", 503, no("RANGE ERROR:etcdserver: no leader")),
        (unread, "/health?serializable=false", 503, no("RANGE ERROR:etcdserver: no leader")),
        (unread, "/health?exclude=NOSPACE&serializable=true", 200, yes.to_owned()),
        (stuck, "/health", 503, no("RANGE ERROR:no answer in time")),
        (stuck, "/health?serializable=true", 200, yes.to_owned()),
        (full, "/health", 503, no("ALARM NOSPACE")),
        (full, "/health?exclude=NOSPACE", 200, yes.to_owned()),
        (corrupt, "/health?exclude=NOSPACE", 503, no("ALARM CORRUPT")),
        (corrupt, "/health?exclude=NOSPACE&exclude=CORRUPT", 200, yes.to_owned()),
        (Fake { works: false, ..GOOD }, "/health?serializable=true", 503, no("RANGE ERROR:stopping")),
    ];
    for (subject, uri, status, body) in cases {
        assert_eq!(get(subject, uri).await, (status, body), "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn livez_and_readyz_have_etcds_forms() {
    let unread = Fake { reads: Some(false), ..GOOD };
    let corrupt = Fake { alarms: &[AlarmType::Corrupt], ..GOOD };
    let failed = "[+]data_corruption ok\n[+]serializable_read ok\n\
                  [-]linearizable_read failed: etcdserver: no leader\n[+]non_learner ok\n\n";
    let cases = [
        (unread, "/livez", 200, "ok\n"),
        (unread, "/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
        (unread, "/readyz", 503, failed),
        (unread, "/readyz?exclude=linearizable_read", 200, "ok\n"),
        (unread, "/readyz/linearizable_read", 503, "[-]linearizable_read failed: etcdserver: no leader\n\n"),
        (unread, "/readyz/data_corruption?verbose", 200, "[+]data_corruption ok\nok\n"),
        (corrupt, "/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"),
        (Fake { works: false, ..GOOD }, "/livez", 503, "[-]serializable_read failed: stopping\n\n"),
        (GOOD, "/livez/linearizable_read", 404, "404 page not found\n"),
        (GOOD, "/livezz", 404, "404 page not found\n"),
        (GOOD, "/", 404, "404 page not found\n"),
    ];
    for (subject, uri, status, body) in cases {
        assert_eq!(get(subject, uri).await, (status, body.to_owned()), "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_group_is_a_check_by_its_name() {
    let one_gone = Fake { groups: &[("core", true), ("pods", false)], ..GOOD };
    let home_gone = Fake { reads: Some(false), ..one_gone };
    let etcds =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n";
    let no = "[-]group-pods failed: etcdserver: no leader\n";
    let cases = [
        (one_gone, "/readyz", 503, format!("{etcds}[+]group-core ok\n{no}\n")),
        (one_gone, "/readyz?exclude=group-pods", 200, "ok\n".to_owned()),
        (one_gone, "/readyz?exclude=group-pods&verbose", 200, format!("{etcds}[+]group-core ok\nok\n")),
        (one_gone, "/readyz?exclude=linearizable_read", 200, "ok\n".to_owned()),
        (one_gone, "/readyz/group-pods", 503, format!("{no}\n")),
        (one_gone, "/readyz/group-core?verbose", 200, "[+]group-core ok\nok\n".to_owned()),
        (one_gone, "/readyz/group-nope", 404, "404 page not found\n".to_owned()),
        (one_gone, "/livez/group-pods", 404, "404 page not found\n".to_owned()),
        (one_gone, "/livez", 200, "ok\n".to_owned()),
        (
            home_gone,
            "/readyz/linearizable_read",
            503,
            "[-]linearizable_read failed: etcdserver: no leader\n\n".to_owned(),
        ),
        (one_gone, "/health?exclude=group-pods", 200, r#"{"health":"true","reason":""}"#.to_owned()),
    ];
    for (subject, uri, status, body) in cases {
        assert_eq!(get(subject, uri).await, (status, body), "{uri}");
    }
    assert_eq!(get(one_gone, "/health").await.0, 503);
}

#[tokio::test]
async fn only_get_is_answered() {
    for method in [Method::HEAD, Method::POST, Method::PUT] {
        let response = answer(&GOOD, &method, &Uri::from_static("/health")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()[header::ALLOW], "GET");
    }
}
