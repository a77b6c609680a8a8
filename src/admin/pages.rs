//! `/metrics`, `/livez`, `/readyz`: made from memory at once; nothing here changes anything.

use std::sync::atomic::Ordering;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};

use crate::observe::metrics::Metrics;
use crate::observe::ready::Ready;

use super::http::Answer;

pub(super) fn answer(method: &Method, uri: &Uri, metrics: &Metrics, ready: &Ready) -> Answer {
    let page: fn(&Uri, &Metrics, &Ready) -> Answer = match uri.path() {
        "/metrics" => |_, metrics, _| exposition(metrics),
        "/livez" => |_, _, _| text(StatusCode::OK, "ok\n"),
        "/readyz" => |uri, _, ready| readiness(uri, ready),
        _ => |_, _, _| {
            text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /livez, /readyz and /v1\n",
            )
        },
    };
    if *method == Method::GET || *method == Method::HEAD {
        return page(uri, metrics, ready); // hyper leaves out the body of an answer to HEAD
    }
    let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    let allow = HeaderValue::from_static("GET, HEAD");
    refusal.headers_mut().insert(ALLOW, allow);
    refusal
}

fn exposition(metrics: &Metrics) -> Answer {
    let mut answer = text(StatusCode::OK, metrics.render());
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, format);
    answer
}

fn readiness(uri: &Uri, ready: &Ready) -> Answer {
    let draining = ready.draining.load(Ordering::Relaxed);
    let broker_up = ready.broker_up.load(Ordering::Relaxed);
    let (status, word) = match (draining, broker_up) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "no broker answers"),
        (false, true) => (StatusCode::OK, "ready"),
    };
    let verbose = |query: &str| {
        let keys = query.split('&').map(|pair| pair.split('=').next());
        keys.flatten().any(|key| key == "verbose")
    };
    if !uri.query().is_some_and(verbose) {
        return text(status, format!("{word}\n"));
    }
    let mark = |good| if good { '+' } else { '-' };
    let generation = ready.generation.load(Ordering::Relaxed);
    let configuration = match ready.faults.load(Ordering::Relaxed) {
        0 => format!("[+] what was read last is in force, generation: {generation}"),
        // Which ones is not for everybody who reaches this page.
        faults => format!(
            "[!] what was read last is not in force, faults: {faults}; what was in force before is, generation: {generation} (reload_failed in the log)"
        ),
    };
    let each = format!(
        "[{}] not draining\n[{}] a broker answers\n{configuration}\n{word}\n",
        mark(!draining),
        mark(broker_up)
    );
    text(status, each)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
