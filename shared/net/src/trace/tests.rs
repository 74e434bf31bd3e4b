use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::{metadata, method};
use parking_lot::Mutex;
use proptest::prelude::*;
use tonic::Code;
use tonic::body::Body;

use super::{
    Context, Ended, MILLION, Name, Own, Sink, Step, TRACEPARENT, TRACESTATE, Traced, Tracer, Work, passed,
    step, within,
};
use crate::direct::Direct;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Ended>>>);

impl Sink for Kept {
    fn take(&self, span: Ended) {
        self.0.lock().push(span);
    }
}

/// The same ids each time, spread over all bits.
fn tracer(per_million: u32) -> (Tracer, Kept) {
    let (kept, drawn) = (Kept::default(), AtomicU64::new(1));
    let chance = move || {
        let word = drawn.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word ^ (word >> 27)
    };
    (Tracer::new(kept.clone(), per_million, chance), kept)
}

fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in of {
        headers.append(*name, HeaderValue::from_str(value).expect("a legal header"));
    }
    headers
}

fn parent(value: &str) -> Option<Context> {
    Context::of(&headers(&[("traceparent", value)]))
}

#[test]
fn a_parent_is_taken_as_the_standard_writes_it_and_nothing_else() {
    let context = parent(PARENT).expect("the standard's own example");
    assert_eq!(context.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!((context.span, context.is_sampled), (0xb7ad_6b71_6920_3331, true));
    assert_eq!(context.value(), PARENT);
    assert_eq!(context.to_string(), "0af7651916cd43dd8448eb211c80319c");
    let changed = |from: &str, to: &str| PARENT.replacen(from, to, 1);
    for (value, sampled) in [
        (changed("-01", "-00"), false),
        (changed("-01", "-ff"), true),
        (changed("-01", "-fe"), false),
        (changed("00-", "cc-") + "-later", true),
    ] {
        assert_eq!(parent(&value).expect(&value).is_sampled, sampled, "{value}");
    }
    for garbage in [
        String::new(),
        "00".to_owned(),
        changed("00-", "ff-"),
        changed("00-", "0g-"),
        changed("0af7", "0AF7"),
        changed("0af7", "0a_7"),
        changed("-b7", "_b7"),
        changed("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        changed("b7ad6b7169203331", &"0".repeat(16)),
        format!("{PARENT}-more"),
        changed("00-", "cc-") + "later",
        PARENT[..54].to_owned(),
        PARENT.repeat(1000),
    ] {
        assert_eq!(parent(&garbage), None, "{garbage}");
    }
    let twice = headers(&[("traceparent", PARENT), ("traceparent", PARENT)]);
    assert_eq!(Context::of(&twice), None, "which of them?");
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange_and_what_is_taken_is_written_alike(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0..55_usize, byte in any::<u8>()) {
        let mut near = PARENT.as_bytes().to_vec();
        near[at] = byte;
        for bytes in [bytes, near] {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, value);
            if let Some(context) = Context::of(&headers) {
                headers.insert(TRACEPARENT, context.value());
                prop_assert_eq!(Context::of(&headers), Some(context));
            }
        }
    }
}

#[test]
fn what_comes_in_goes_on_as_a_chain_of_parents() {
    let (tracer, kept) = tracer(0);
    tracer.is(Own { group: None, role: Box::new(|| "proxy") });
    let mut headers = headers(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
    let served = tracer.serve(&mut headers, Name::of(method::TXN), true).expect("the client wants it");
    assert_eq!(Context::of(&headers), Some(served.context()));
    let mut on = headers.clone();
    let asked = tracer.ask(&mut on, Name::of(method::TXN)).expect("so it is wanted here");
    assert_eq!(Context::of(&on), Some(asked.context()));
    assert_eq!(on.get_all(TRACESTATE).iter().collect::<Vec<_>>(), ["a=1,b=2"]);
    asked.end(Code::Unavailable);
    asked.end(Code::Ok);
    drop(asked);
    drop(served);
    let spans = std::mem::take(&mut *kept.0.lock());
    let [asked, served] = &spans[..] else { panic!("two spans are wanted, not {spans:?}") };
    assert_eq!(served.parent, parent(PARENT));
    assert_eq!(asked.parent, Some(served.context));
    let txn = Name { service: "etcdserverpb.KV", method: "Txn" };
    assert_eq!((served.work, asked.work), (Work::Serves(txn), Work::Asks(txn)));
    assert_eq!((served.code, asked.code), (Code::Cancelled, Code::Unavailable));
    assert!(spans.iter().all(|span| span.state.as_deref() == Some("a=1,b=2") && span.role == "proxy"));
}

#[test]
fn garbage_is_no_parent_and_goes_nowhere() {
    let (tracer, kept) = tracer(0);
    let long = format!("a={}", "x".repeat(600));
    let mut garbage =
        headers(&[("traceparent", "what"), ("tracestate", "a=1"), ("baggage", &"k=v,".repeat(9000))]);
    assert!(tracer.serve(&mut garbage, Name::of(method::PUT), true).is_none());
    assert!(garbage.is_empty(), "{garbage:?}");
    let mut large = headers(&[("traceparent", PARENT), ("tracestate", &long), ("baggage", "k=v")]);
    assert!(tracer.serve(&mut large, Name::of(method::PUT), true).is_some());
    assert_eq!(large.keys().collect::<Vec<_>>(), [&TRACEPARENT]);
    assert!(kept.0.lock()[0].state.is_none());
}

#[test]
fn who_decides_whether_a_request_is_traced() {
    let unwanted = PARENT.replace("-01", "-00");
    let rounds = 10_000;
    for (per_million, begins, given, wanted) in [
        (0, true, None, 0..=0),
        (MILLION, true, None, rounds..=rounds),
        (MILLION / 10, true, None, 900..=1100),
        // Not where proxies ask: their client's trace has begun, or shall not.
        (MILLION, false, None, 0..=0),
        // The client has decided.
        (MILLION, true, Some(unwanted.as_str()), 0..=0),
        (0, false, Some(PARENT), rounds..=rounds),
    ] {
        let (tracer, kept) = tracer(per_million);
        for _ in 0..rounds {
            let mut headers = headers(&given.map_or(vec![], |given| vec![("traceparent", given)]));
            let served = tracer.serve(&mut headers, Name::of(method::RANGE), begins);
            assert_eq!(tracer.ask(&mut headers, Name::of(method::RANGE)).is_some(), served.is_some());
        }
        let count = kept.0.lock().iter().filter(|span| matches!(span.work, Work::Serves(_))).count();
        assert!(wanted.contains(&count), "{count} of {rounds} at {per_million}");
    }
}

#[test]
fn without_a_sink_nothing_is_looked_at() {
    let mut headers = headers(&[("traceparent", PARENT), ("baggage", "k=v")]);
    let before = headers.clone();
    assert!(Tracer::default().serve(&mut headers, Name::of(method::PUT), true).is_none());
    assert!(Tracer::default().ask(&mut headers, Name::of(method::PUT)).is_none());
    assert_eq!(headers, before);
}

#[tokio::test]
async fn steps_are_parts_of_what_their_task_works_for_and_of_nothing_else() {
    let (tracer, kept) = tracer(0);
    let mut headers = headers(&[("traceparent", PARENT), ("tracestate", "a=1")]);
    let served = tracer.serve(&mut headers, Name::of(method::RANGE), false);
    let work = async {
        passed(Step::Admission, Code::Ok);
        let part = step(Step::Part);
        let mut own = HeaderMap::new();
        within(part.as_ref(), async { tracer.ask(&mut own, Name::of(method::RANGE)) })
            .await
            .expect("it is traced")
            .end(Code::Ok);
        assert!(
            own.contains_key(TRACEPARENT) && own.contains_key(TRACESTATE),
            "whom it asks goes on with it"
        );
        part.expect("it is traced").end(Code::Ok);
        let apart = tokio::spawn(async { step(Step::Fence).is_some() });
        assert!(!apart.await.expect("it ends"), "a task of its own works for nobody");
        step(Step::Queue)
            .expect("it is traced")
            .then(Step::Batch)
            .then(Step::Commit { system: "memory", writes: 2 })
            .end(Code::Ok);
    };
    within(served.as_ref(), work).await;
    let served = served.expect("it is traced");
    served.answers();
    served.answers();
    assert!(
        step(Step::Fence).is_none() && tracer.ask(&mut HeaderMap::new(), Name::of(method::PUT)).is_none()
    );
    tracer.step(&headers, Step::Part).expect("its headers name it").end(Code::Ok);
    let own = served.context();
    served.end(Code::Ok);
    let spans = kept.0.lock();
    let part = spans.iter().find(|span| span.work == Work::Does(Step::Part)).expect("there is one").context;
    let told: Vec<_> = spans.iter().map(|span| (span.work, span.parent.map(|parent| parent.span))).collect();
    let of = |step: Step| (Work::Does(step), Some(own.span));
    let range = Name::of(method::RANGE);
    assert_eq!(
        told,
        [
            of(Step::Admission),
            (Work::Asks(range), Some(part.span)),
            of(Step::Part),
            of(Step::Queue),
            of(Step::Batch),
            of(Step::Commit { system: "memory", writes: 2 }),
            of(Step::FirstByte),
            of(Step::Part),
            (Work::Serves(range), parent(PARENT).map(|parent| parent.span)),
        ]
    );
    assert!(
        spans.iter().all(|span| span.code == Code::Ok && span.state.as_deref() == Some("a=1")),
        "{spans:?}"
    );
    let of_trace = |span: &Ended| {
        span.context.trace == own.trace && span.parent.is_some_and(|parent| parent.trace == own.trace)
    };
    assert!(spans.iter().all(of_trace), "{spans:?}");
}

#[tokio::test]
async fn who_asks_its_own_process_directly_has_the_same_spans_there() {
    let (tracer, kept) = tracer(0);
    let group = GroupName::parse("core").expect("a name");
    let inside = tracer.of(Own { group: Some(group.clone()), role: Box::new(|| "master") });
    tracer.is(Own { group: None, role: Box::new(|| "standalone") });
    let service = tower::service_fn(|_: Request<Body>| async {
        step(Step::Queue).into_iter().for_each(|step| step.end(Code::Ok));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        let body = Full::new(Bytes::from_static(b"answer"))
            .with_trailers(async { Some(Ok::<_, Infallible>(trailers)) });
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert(metadata::REVISION, metadata::number(Revision::new(7)));
        Ok::<_, Infallible>(response)
    });
    let direct = Direct::new(Traced::new(service, inside));
    for (value, spans) in [(None, 0), (Some(PARENT.replace("-01", "-00")), 0), (Some(PARENT.to_owned()), 3)] {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = http::Uri::from_static(method::TXN);
        if let Some(value) = &value {
            request.headers_mut().insert(TRACEPARENT, HeaderValue::from_str(value).expect("legal"));
        }
        let answer = direct.call(request).await.expect("no panic");
        drop(answer.into_body().collect().await.expect("a body"));
        assert_eq!(kept.0.lock().len(), spans, "{value:?}");
    }
    let spans = kept.0.lock();
    let [queue, first, served] = &spans[..] else { panic!("three spans are wanted, not {spans:?}") };
    assert_eq!(served.work, Work::Serves(Name::of(method::TXN)));
    assert_eq!((served.code, served.revision), (Code::NotFound, Some(7)));
    assert_eq!((queue.work, first.work), (Work::Does(Step::Queue), Work::Does(Step::FirstByte)));
    assert!([queue, first].iter().all(|step| step.parent == Some(served.context)), "{spans:?}");
    assert!(
        spans.iter().all(|span| span.role == "master" && span.group.as_ref() == Some(&group)),
        "{spans:?}"
    );
}
