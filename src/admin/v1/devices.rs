//! Devices: told, added, changed, removed.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::gate;
use crate::registry::Filter;
use crate::registry::form::{self, Form};
use crate::rules::device::{DeviceId, Mode};
use crate::rules::record::{Proof, Record, Valid};
use crate::rules::token::Token;

use super::connections::number;
use super::forms::{self, DevicesForm, NewCredential, NewDevice, Patch, Rotation, WithToken};
use super::query::Query;
use super::reply::{Problem, Reply};
use super::route::Asked;
use super::{Shared, Turn};

pub(super) async fn list(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    let query = Query::read(&asked.query, asked.entry.query)?;
    let filter = filter(&query)?;
    let after = query.one("after")?;
    let after = after.map(|text| id(shared, text)).transpose()?;
    let limit = query.limit()?;
    let turn = shared.turn().await?;
    // One more tells whether there are more.
    let listed = turn.registry.list(&filter, after.as_ref(), limit + 1);
    let mut found = listed.await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let last = found.last().filter(|_| more);
    let next = last.map(|(record, _)| query.next("/v1/devices", record.device.as_str()));
    let shown = found
        .iter()
        .map(|(record, seen)| Form::shown(record, seen.as_ref()));
    let form = DevicesForm {
        devices: shown.collect(),
        next,
    };
    Ok(Reply::json(&form)?.followed_by(form.next.as_deref()))
}

fn filter(query: &Query) -> Result<Filter, Problem> {
    let enabled = match query.one("enabled")? {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => {
            let what = "parameter enabled is neither true nor false";
            return Err(Problem::bad_request(what.into()));
        }
    };
    let mode = query.one("min_mode")?.map(form::mode).transpose();
    let label = |label: &str| match label.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (label.to_owned(), String::new()),
    };
    Ok(Filter {
        prefix: query.one("prefix")?.map(str::to_owned),
        labels: query.all("label").map(label).collect(),
        enabled,
        min_mode: mode.map_err(Problem::bad_request)?,
        trust: query.one("trust")?.map(str::to_owned),
    })
}

pub(super) async fn add(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let new: NewDevice = forms::read(&asked.body)?;
    let now = gate::now();
    let device = id(shared, &new.device)?;
    let mut record = new.record(device, |name| shared.group(name), now)?;
    if new.token && record.credentials.is_empty() && record.min_mode == Mode::MutualTls {
        let what = "a token is only of use to a device that may use server-tls; set min_mode to server-tls";
        return Err(Problem::bad_request(what.into()));
    }
    let turn = shared.turn().await?;
    let token = if new.token {
        let (token, proof) = turn.token().await?;
        record.add_credential(proof, Valid::since(now));
        Some(token)
    } else {
        None
    };
    let records = std::slice::from_ref(&record);
    turn.registry.add(records, &mut |_| {}).await?;
    let form = WithToken {
        device: Form::shown(&record, None),
        token: token.map(|token| token.reveal().to_owned()),
    };
    Ok(Reply::json(&form)?
        .created(place(&record))
        .told(standing(&record)))
}

pub(super) async fn show(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let device = device(shared, asked)?;
    let turn = shared.turn().await?;
    let Some(record) = turn.registry.find(&device).await? else {
        return Err(crate::registry::Fault::NoDevice(device).into());
    };
    let seen = turn.registry.last_seen(&device).await?;
    Reply::json(&Form::shown(&record, seen.as_ref()))
}

pub(super) async fn set(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let patch: Patch = forms::read(&asked.body)?;
    let told = patch.judged()?;
    let apply = |record: &mut Record| patch.apply(record);
    Ok(change(shared, asked, apply).await?.told(told))
}

pub(super) async fn switch(
    shared: &Shared,
    asked: &Asked,
    enabled: bool,
) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let switch = |record: &mut Record| {
        record.enabled = enabled;
        Ok(())
    };
    let told = if enabled {
        "it may enter"
    } else {
        "it may not enter, and its connections end"
    };
    Ok(change(shared, asked, switch).await?.told(told))
}

pub(super) async fn remove(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let device = device(shared, asked)?;
    let turn = shared.turn().await?;
    turn.registry.remove(&device).await?;
    Ok(Reply::done().told("removed with all that it could show"))
}

pub(super) async fn rotate_token(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let rotation: Rotation = forms::read(&asked.body)?;
    let now = gate::now();
    let (overlap, valid) = (rotation.overlap()?, rotation.valid(now)?);
    let device = device(shared, asked)?;
    let turn = shared.turn().await?;
    let (token, proof) = turn.token().await?;
    let new = [(proof, valid)];
    let mut rotate = |record: &mut Record| record.rotate(&new, now, overlap);
    let record = turn.registry.change(&device, now, &mut rotate).await?;
    let form = WithToken {
        device: Form::shown(&record, None),
        token: Some(token.reveal().to_owned()),
    };
    let told = match record.locked_out(now) {
        Some(why) => format!("a new token; {why}"),
        None => format!("a new token; the old ones end in {overlap} s"),
    };
    Ok(Reply::json(&form)?.told(told))
}

pub(super) async fn add_credential(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let new: NewCredential = forms::read(&asked.body)?;
    let device = device(shared, asked)?;
    let group = new.trust.as_deref().map(|name| shared.group(name));
    let group = group.transpose()?;
    let now = gate::now();
    let new = [new.proof(group.as_ref(), &device, now)?];
    let turn = shared.turn().await?;
    let mut enrol = |record: &mut Record| record.enrol(&new);
    let record = turn.registry.change(&device, now, &mut enrol).await?;
    let added = record.credentials.iter().find(|one| one.proof == new[0].0);
    let number = added.map_or(0, |one| one.number);
    let place = format!("{}/credentials/{number}", place(&record));
    let told = format!("credential {number}: {}", kind(&new[0].0));
    Ok(Reply::json(&Form::shown(&record, None))?
        .created(place)
        .told(told))
}

pub(super) async fn end_credential(shared: &Shared, asked: &Asked) -> Result<Reply, Problem> {
    Query::read(&asked.query, asked.entry.query)?;
    let number = number(asked.path.get(1))?;
    let now = gate::now();
    let mut missing = None;
    let end = |record: &mut Record| {
        record.end_credential(number, now).inspect_err(|sentence| {
            missing = Some(sentence.clone());
        })
    };
    let done = change(shared, asked, end).await;
    match missing {
        Some(sentence) => Err(Problem::no_such_credential(sentence)),
        None => Ok(done?.told("it counts no longer")),
    }
}

/// Changes the device of the path, and shows it.
async fn change(
    shared: &Shared,
    asked: &Asked,
    mut change: impl FnMut(&mut Record) -> Result<(), String> + Send,
) -> Result<Reply, Problem> {
    let device = device(shared, asked)?;
    let turn = shared.turn().await?;
    let changed = turn.registry.change(&device, gate::now(), &mut change);
    Reply::json(&Form::shown(&changed.await?, None))
}

impl Turn<'_> {
    /// Makes a token, and what the registry keeps of it.
    async fn token(&self) -> Result<(Token, Proof), Problem> {
        let key = self.key().await?;
        let mut chance = [0; 32];
        aws_lc_rs::rand::fill(&mut chance).map_err(|_| Problem::broken())?;
        let token = Token::from_chance(&chance);
        let proof = Proof::Token(key.hash(&token));
        Ok((token, proof))
    }
}

/// Reads a device id.
pub(super) fn id(shared: &Shared, text: &str) -> Result<DeviceId, Problem> {
    let told = |fault| Problem::bad_request(format!("{}: {fault}", form::quoted(text)));
    shared.alphabet.load().device(text).map_err(told)
}

/// The device of the path.
pub(super) fn device(shared: &Shared, asked: &Asked) -> Result<DeviceId, Problem> {
    id(shared, asked.path.first().map_or("", String::as_str))
}

/// Where a device is.
fn place(record: &Record) -> String {
    let name = utf8_percent_encode(record.device.as_str(), NON_ALPHANUMERIC);
    format!("/v1/devices/{name}")
}

/// How a device may enter, in words for the log.
fn standing(record: &Record) -> String {
    let enabled = if record.enabled {
        "enabled"
    } else {
        "disabled"
    };
    let kinds: Vec<&str> = record
        .credentials
        .iter()
        .map(|one| kind(&one.proof))
        .collect();
    format!(
        "{enabled}, at least {}: {}",
        record.min_mode,
        kinds.join(", ")
    )
}

fn kind(proof: &Proof) -> &'static str {
    match proof {
        Proof::Vouched { pin: None, .. } => "any certificate of a trust group",
        Proof::Vouched { .. } => "one of a trust group",
        Proof::Pinned(_) => "a pin",
        Proof::Token(_) => "a token",
    }
}
