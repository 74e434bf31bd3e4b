use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderValue};
use kubebrain_shared::method;
use parking_lot::Mutex;
use proptest::prelude::*;
use tonic::Code;

use super::{Context, Ended, Kind, MILLION, Name, Own, Sink, TRACEPARENT, TRACESTATE, Tracer};

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
    assert_eq!(on.get_all(TRACESTATE).iter().count(), 2);
    asked.end(Code::Unavailable);
    asked.end(Code::Ok);
    drop(asked);
    drop(served);
    let spans = std::mem::take(&mut *kept.0.lock());
    let [asked, served] = &spans[..] else { panic!("two spans are wanted, not {spans:?}") };
    assert_eq!(served.parent, parent(PARENT));
    assert_eq!(asked.parent, Some(served.context));
    assert_eq!((served.kind, asked.kind), (Kind::Server, Kind::Client));
    assert_eq!((served.code, asked.code), (Code::Cancelled, Code::Unavailable));
    assert!(spans.iter().all(|span| span.state.as_deref() == Some("a=1,b=2") && span.role == "proxy"));
    assert!(spans.iter().all(|span| span.name.to_string() == "etcdserverpb.KV/Txn"));
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
        let count = kept.0.lock().iter().filter(|span| span.kind == Kind::Server).count();
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
