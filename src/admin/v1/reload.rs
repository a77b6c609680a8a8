//! A reload, asked for by a caller, who is told how it went.

use serde::Serialize;
use tokio::sync::oneshot;

use super::Shared;
use super::query::Query;
use super::reply::{Problem, Reply};
use super::route::Asked;
use crate::gate::Reloaded;

/// How a reload went, or every fault.
pub type Outcome = Result<Reloaded, Vec<String>>;

/// Somebody wants a reload, and to hear how it went.
pub type Order = oneshot::Sender<Outcome>;

/// What is read now is in force.
#[derive(Debug, Serialize)]
pub(super) struct ReloadedForm {
    /// How many configurations have been in force since the start, this one included.
    pub(super) generation: u64,
    /// What an operator should look after.
    pub(super) warnings: Vec<String>,
}

/// Dropping it half-way leaves a reload that was begun to itself.
pub(super) async fn reload(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let (order, outcome) = oneshot::channel();
    let sent = shared.reloads.send(order).await;
    sent.map_err(|_| Problem::broken())?;
    match outcome.await {
        Ok(Ok(Reloaded {
            generation,
            warnings,
        })) => {
            let form = ReloadedForm {
                generation,
                warnings,
            };
            Ok(Reply::json(&form)?.told("what was read is in force"))
        }
        Ok(Err(faults)) => Err(Problem::reload_failed(faults)),
        Err(_) => Err(Problem::broken()),
    }
}
