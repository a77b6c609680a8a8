//! Open connections: told, and ended.

use serde::Serialize;

use crate::gate::{Connections, Open, Wanted};

use super::query::Query;
use super::reply::{Problem, Reply};
use super::route::Asked;
use super::{Shared, devices};

/// An open connection.
#[derive(Debug, Serialize)]
pub(super) struct ConnectionForm {
    number: u64,
    device: String,
    listener: String,
    address: String,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    open_for_seconds: u64,
}

/// A page of them.
#[derive(Debug, Serialize)]
pub(super) struct ConnectionsForm {
    pub(super) connections: Vec<ConnectionForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// How many were ended.
#[derive(Debug, Serialize)]
pub(super) struct EndedForm {
    pub(super) ended: usize,
}

impl ConnectionForm {
    pub(super) fn of(open: Open) -> Self {
        Self {
            number: open.number,
            device: open.device.to_string(),
            listener: open.listener,
            address: open.address.to_string(),
            mode: open.mode.word(),
            trust: open.trust,
            certificate: open.certificate_fingerprint,
            open_for_seconds: open.open_for.as_secs(),
        }
    }
}

pub(super) async fn list(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    let query = Query::read(&asked.query, asked.entry.query)?;
    let device = query.one("device")?;
    let wanted = Wanted {
        device: device.map(|text| devices::id(shared, text)).transpose()?,
        listener: query.one("listener")?.map(str::to_owned),
        after: query.number("after")?.unwrap_or(0),
    };
    let limit = query.limit()? as usize;
    // One more tells whether there are more.
    let mut open = tour(shared, move |all| all.list(&wanted, limit + 1)).await?;
    let more = open.len() > limit;
    open.truncate(limit);
    let last = open.last().filter(|_| more).map(|last| last.number);
    let next = last.map(|number| query.next("/v1/connections", &number.to_string()));
    let form = ConnectionsForm {
        connections: open.into_iter().map(ConnectionForm::of).collect(),
        next,
    };
    Ok(Reply::json(&form)?.followed_by(form.next.as_deref()))
}

pub(super) async fn end(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let number = number(asked.path.first())?;
    if tour(shared, move |all| all.end(number)).await? {
        Ok(Reply::done().told("the connection ends"))
    } else {
        Err(Problem::no_such_connection(number))
    }
}

pub(super) async fn end_of_device(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let device = devices::device(shared, asked)?;
    let ended = tour(shared, move |all| all.end_device(&device)).await?;
    let told = format!("{ended} connections end");
    Ok(Reply::json(&EndedForm { ended })?.told(told))
}

/// Reads a number of the path.
///
/// Only as it is written in answers: one thing has one path.
pub(super) fn number<T: std::str::FromStr + ToString>(text: Option<&String>) -> Result<T, Problem> {
    let number = text.and_then(|text| text.parse().ok().filter(|it: &T| it.to_string() == *text));
    number.ok_or_else(|| Problem::bad_request("the last part of the path is no number".into()))
}

/// Goes through the connections, of which there may be a hundred thousand, beside this thread.
async fn tour<T: Send + 'static>(
    shared: &Shared,
    go: impl FnOnce(&Connections) -> T + Send + 'static,
) -> Result<T, Problem> {
    let turn = shared.tours.acquire().await;
    let _turn = turn.map_err(|_| Problem::broken())?;
    let all = shared.connections.clone();
    let done = tokio::task::spawn_blocking(move || go(&all)).await;
    done.map_err(|_| Problem::broken())
}
