//! A reload, asked for by a caller, who is told how it went.

use serde::Serialize;
use tokio::sync::oneshot;

use super::Shared;
use super::query::Query;
use super::reply::{Problem, Reply};
use super::route::Asked;

/// How a reload went: what an operator should look after, or every fault.
pub type Outcome = Result<Vec<String>, Vec<String>>;

/// Somebody wants a reload, and to hear how it went.
pub type Order = oneshot::Sender<Outcome>;

/// What is read now is in force.
#[derive(Debug, Serialize)]
pub(super) struct ReloadedForm {
    pub(super) warnings: Vec<String>,
}

/// Dropping it half-way leaves a reload that was begun to itself.
pub(super) async fn reload(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let (order, outcome) = oneshot::channel();
    let sent = shared.reloads.send(order).await;
    sent.map_err(|_| Problem::broken())?;
    match outcome.await {
        Ok(Ok(warnings)) => {
            let told = "what was read is in force";
            Ok(Reply::json(&ReloadedForm { warnings })?.told(told))
        }
        Ok(Err(faults)) => Err(Problem::reload_failed(faults)),
        Err(_) => Err(Problem::broken()),
    }
}
