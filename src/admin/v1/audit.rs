//! One line for each change that was asked for: what, of whom, by whom, and what came of it.

use std::net::SocketAddr;

use serde::Deserialize;

use super::reply::{Problem, Reply};
use super::route::{Asked, Route};

/// What of a body is told when it could not be done.
#[derive(Deserialize)]
struct Named {
    device: String,
}

/// Tells a change. What the caller wrote is not repeated but for the device: it may be a secret in the wrong place (threats.md K2).
pub(super) fn tell(asked: &Asked, caller: SocketAddr, done: &Result<Reply, Problem>) {
    let what = asked.entry.change.unwrap_or_default();
    let mut path = asked.path.iter().cloned();
    let (device, number) = match asked.entry.route {
        Route::AddDevice => {
            let named = serde_json::from_slice::<Named>(&asked.body);
            (named.ok().map(|named| named.device), None)
        }
        Route::EndConnection => (None, path.next()),
        _ => (path.next(), path.next()),
    };
    let (outcome, reason, why) = match done {
        Ok(reply) => ("done", None, reply.told.as_str()),
        Err(problem) if problem.reason == "bad_request" => {
            let why = "the request could not be understood, or asks for what cannot be; its answer told the caller";
            ("refused", Some(problem.reason), why)
        }
        Err(problem) => {
            let outcome = if problem.is_ours() {
                "failed"
            } else {
                "refused"
            };
            (outcome, Some(problem.reason), problem.detail.as_str())
        }
    };
    // As a warning: who quietens the log must not lose it.
    tracing::warn!(
        event = "admin_change",
        reason,
        what,
        device = device.as_deref().map(tracing::field::display),
        number = number.as_deref().map(tracing::field::display),
        address = %caller,
        outcome,
        "{why}"
    );
}
