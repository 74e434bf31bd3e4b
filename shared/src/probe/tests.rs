use http_body_util::BodyExt as _;

use super::*;

#[derive(Clone, Copy)]
struct Fake {
    works: bool,
    /// `None`: no answer ever.
    reads: Option<bool>,
    alarms: &'static [AlarmType],
}

const GOOD: Fake = Fake { works: true, reads: Some(true), alarms: &[] };

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

    async fn alarms(&self) -> Result<Vec<AlarmType>, Status> {
        Ok(self.alarms.to_vec())
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

#[tokio::test]
async fn only_get_is_answered() {
    for method in [Method::HEAD, Method::POST, Method::PUT] {
        let response = answer(&GOOD, &method, &Uri::from_static("/health")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()[header::ALLOW], "GET");
    }
}
