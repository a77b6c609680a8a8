//! Reload: other settings come into force, all of them or none, while connections are open (threats.md R2, R3).
//!
//! First everything is read and checked that could be wrong; only then is anything changed, and that cannot fail. What a running
//! gate cannot change is a fault like any other: a configuration of which only a part counted would be a third one, which nobody wrote.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::jwks::{self, KeySource, Place};
use crate::registry::{StoreSettings, token_key};
use crate::rules::reason::Cause;
use crate::rules::token::TokenKey;
use crate::tls::client;
use crate::tls::server::Resumption;

use super::crowd::Crowd;
use super::ends::tell_ends;
use super::handshake::patience;
use super::in_force::{Fleet, InForce};
use super::start::{Files, each_once, entrances, key_source, turns, unknown};
use super::tokens::{Key, TokenDesk};
use super::{Contents, Gate, RegistrySettings, Settings, StartFault, devices};

/// What was read may be of two moments.
const CHANGED: &str =
    "some changed while they were read; let whoever writes them rename whole ones into place";

/// What a reload put in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reloaded {
    /// How many configurations have been in force since the start, this one included.
    pub generation: u64,
    /// What an operator should look after.
    pub warnings: Vec<String>,
}

/// The settings in force.
pub(super) struct Live {
    settings: Mutex<Settings>,
    /// Held by a reload: a slow one must not undo a later one.
    alone: tokio::sync::Mutex<()>,
    workers: usize,
    /// How many configurations have been in force, this one included.
    generation: AtomicU64,
}

/// What was read and found good.
struct Read {
    files: Files,
    /// `None`: as it was.
    keys: Option<Arc<KeySource>>,
    /// The key of the registry's tokens; `None`: as it was.
    token_key: Option<TokenKey>,
}

/// What of new settings, and of the files they name, is what it was.
struct Same {
    trust: bool,
    issuer: bool,
    brokers: Brokers,
}

/// What `[broker]` is, beside what it was.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Brokers {
    Same,
    /// Other brokers, but `[broker.tls]` and its files are the same.
    SameTls,
    Others,
}

impl Same {
    fn of(old: &Settings, new: &Settings, (before, now): (&Contents, &Contents)) -> Self {
        let same = |one: &dyn fmt::Debug, other: &dyn fmt::Debug| {
            format!("{one:?}") == format!("{other:?}")
        };
        let same_tls =
            same(&old.broker.tls, &new.broker.tls) && now.agree_on(before, &broker_files(new));
        Self {
            trust: trust_of(old) == trust_of(new) && now.agree_on(before, trust_files(new)),
            issuer: same(&old.token.jwt, &new.token.jwt) && now.agree_on(before, &jwt_files(new)),
            brokers: match same_tls {
                false => Brokers::Others,
                true if same(&old.broker, &new.broker) => Brokers::Same,
                true => Brokers::SameTls,
            },
        }
    }
}

impl Live {
    pub(super) fn new(settings: Settings, workers: usize) -> Self {
        Self {
            settings: Mutex::new(settings),
            alone: tokio::sync::Mutex::new(()),
            workers,
            generation: AtomicU64::new(1),
        }
    }

    /// The registry's store, and the file with the key of its tokens.
    pub(super) fn token_key(&self) -> Option<(StoreSettings, PathBuf)> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = settings.registry.as_ref()?;
        Some((registry.directory.store.clone(), registry.token_key.clone()))
    }

    /// See [`Running::reload`](super::Running::reload). Dropping it half-way changes nothing.
    pub(super) async fn reload(
        &self,
        settings: Settings,
        also: Vec<StartFault>,
        contents: (&Contents, &Contents),
        gate: &Gate,
    ) -> Result<Reloaded, Vec<StartFault>> {
        let _alone = self.alone.lock().await;
        let old = self
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let same = Same::of(&old, &settings, contents);
        let mut faults = also;
        faults.extend(fixed(&old, &settings));
        let settings = Arc::new(settings);
        let mut read = read(&settings, &same, gate, &mut faults).await;
        let now = contents.1.clone();
        if !spawn_blocking(move || now.stand()).await.unwrap_or(false) {
            // What was read would count as what had been looked at, which is something else.
            faults.push(fault("files", CHANGED));
        }
        let faults = each_once(faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let warnings = std::mem::take(&mut read.files.warnings);
        self.put_in_force(&old, &settings, &same, read, gate);
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = (*settings).clone();
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Reloaded {
            generation,
            warnings,
        })
    }

    /// Nothing here can fail.
    fn put_in_force(&self, old: &Settings, new: &Settings, same: &Same, read: Read, gate: &Gate) {
        let was = gate.in_force();
        let secures = by_place(old, new, read.files.secures);
        let tokens = match read.token_key {
            None => was.tokens.shared_key().clone(),
            Some(key) => Key::of(key),
        };
        let keys = read.keys.or_else(|| was.tokens.key_source().cloned());
        let jwt = new.token.jwt.as_ref().zip(keys);
        let tokens = TokenDesk::new(
            new.token.place,
            new.alphabet.clone(),
            new.registry.is_some(),
            tokens,
            jwt.map(|(jwt, keys)| (jwt.tokens.clone(), keys)),
        );
        let fleet = if same.brokers == Brokers::Same {
            was.fleet.clone()
        } else {
            let same_tls = same.brokers == Brokers::SameTls;
            let (tls, before) = (read.files.broker_tls, (&*was.fleet, same_tls));
            let fleet = Fleet::succeeding(&new.broker, tls, &gate.metrics, before);
            Arc::new(fleet)
        };
        let limits = new.limits.clone();
        gate.places.change(limits.connections);
        gate.patience.change(patience(limits.handshake_timeout));
        let [from, to] = [&was.limits, &limits].map(|limits| turns(limits, self.workers));
        change_turns(&gate.handshakes, from, to);
        let sorted = sorted(old, new);
        let entrances = entrances(&sorted, secures);
        tell_ends(&gate.metrics, &sorted, &entrances, &fleet);
        let tokens = Arc::new(tokens);
        gate.in_force.store(Arc::new(InForce {
            entrances,
            crowd: Crowd::succeeding(&limits, Some(&was.crowd)),
            limits,
            farewell: Arc::new(new.farewell.clone()),
            tokens: tokens.clone(),
            unknown: unknown(new),
            connect: new.connect.clone(),
            fleet,
        }));
        // From here on whoever takes its seat sees what is in force; those who sit are told.
        if !same.trust {
            for control in gate.devices.rolls().iter().flat_map(|roll| roll.all()) {
                control.review();
            }
        }
        end_jwts(gate, &tokens, &was.tokens);
        end_modes(gate);
        gate.devices.change_unknown(unknown(new));
        if let Some(registry) = &new.registry {
            gate.devices.change_memory(&registry.directory);
        }
        gate.reloaded.send_replace(());
    }
}

/// Ends connections whose JWT, which `by` took, would be none at `tokens`.
pub(super) fn end_jwts(gate: &Gate, tokens: &TokenDesk, by: &TokenDesk) {
    let same = tokens.asks_as(by);
    let all = gate.devices.rolls().iter().flat_map(|roll| roll.all());
    let gone: Vec<_> = all
        .filter(|one| !tokens.still_holds(&one.sitter.evidence, same))
        .collect();
    if !gone.is_empty() {
        devices::end(gone, Cause::TrustEnded);
    }
}

/// Ends connections of a mode that their listener has no more.
fn end_modes(gate: &Gate) {
    let in_force = gate.in_force();
    let all = gate.devices.rolls().iter().flat_map(|roll| roll.all());
    let gone = all.filter(|one| {
        let offer = in_force.entrances[one.sitter.listener].offer;
        !offer.has(one.sitter.evidence.mode)
    });
    devices::end(gone.collect(), Cause::ModeTightened);
}

/// Reads whatever the settings name, and goes on after a fault.
async fn read(
    settings: &Arc<Settings>,
    same: &Same,
    gate: &Gate,
    faults: &mut Vec<StartFault>,
) -> Read {
    let (wanted, keys_are_same) = (settings.clone(), same.issuer);
    let reading = spawn_blocking(move || {
        let files = Files::read(&wanted);
        let issuer = wanted.token.jwt.as_ref().filter(|_| !keys_are_same);
        let keys = issuer.map(key_source).transpose();
        let registry = wanted.registry.as_ref();
        let key = registry.map(|registry| token_key::read(&registry.token_key));
        (files, keys, key.transpose())
    });
    let Ok((mut files, keys, token_key)) = reading.await else {
        faults.push(fault(
            "listener",
            "reading the files panicked; please report it",
        ));
        return Read::nothing();
    };
    faults.append(&mut files.faults);
    let keys = match keys {
        Ok(keys) => keys,
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if let (Some(source), Some(jwt)) = (&keys, &settings.token.jwt)
        && let Err(why) = fetch(source, jwt).await
    {
        faults.push(why);
    }
    let was = gate.in_force();
    let token_key = match (token_key, &settings.registry) {
        (Ok(Some(key)), Some(registry)) => {
            let file = registry.token_key.display();
            let store = &registry.directory.store;
            let checked = check_key(was.tokens.key(), key, store).await;
            checked.map_err(|why| format!("{file}: {why}"))
        }
        (Ok(_), _) => Ok(None),
        (Err(why), _) => Err(why),
    };
    let token_key = token_key.unwrap_or_else(|why| {
        faults.push(fault("token.key_file", why));
        None
    });
    Read {
        files,
        keys,
        token_key,
    }
}

impl Read {
    fn nothing() -> Self {
        Self {
            files: Files {
                secures: Vec::new(),
                broker_tls: None,
                faults: Vec::new(),
                warnings: Vec::new(),
            },
            keys: None,
            token_key: None,
        }
    }
}

/// Another address is asked once before it is relied on: without keys every token would be told to come back.
async fn fetch(source: &KeySource, jwt: &jwks::Settings) -> Result<(), StartFault> {
    match &jwt.keys {
        Place::File(_) => Ok(()),
        place @ Place::Url(_) => source
            .fetch()
            .await
            .map_err(|why| fault("token.jwt.keys", format!("{place}: {why}"))),
    }
}

/// What becomes of the key that the file `holds` now, where `known` is in use; `None`: nothing.
async fn check_key(
    known: Option<&TokenKey>,
    holds: Option<TokenKey>,
    store: &StoreSettings,
) -> Result<Option<TokenKey>, String> {
    let Some(known) = known else {
        return Ok(None); // the gate waits for it, and will see
    };
    let key = holds.ok_or(
        "it is not there any more, and tokens are hashed with the key that was in it; put it back",
    )?;
    if key.check_value() == known.check_value() {
        return Ok(None);
    }
    match token_key::is_of(&key, store).await {
        Ok(true) => Ok(Some(key)),
        Ok(false) => Err(
            "it is not the key that the registry's tokens are hashed with; put the old one back"
                .into(),
        ),
        Err(why) => Err(format!(
            "it holds another key, and whether that is the registry's cannot be seen: {why}"
        )),
    }
}

/// Gives or takes turns to handshake, of which there are `from`. Those that are taken go when who has them is through.
fn change_turns(turns: &Arc<Semaphore>, from: usize, to: usize) {
    if to >= from {
        return turns.add_permits(to - from);
    }
    let surplus = from - to;
    let rest = surplus - turns.forget_permits(surplus);
    if let Some(rest) = u32::try_from(rest).ok().filter(|rest| *rest > 0) {
        let turns = turns.clone();
        tokio::spawn(async move {
            if let Ok(given_back) = turns.acquire_many_owned(rest).await {
                given_back.forget();
            }
        });
    }
}

/// What a running gate cannot change, and was changed.
fn fixed(old: &Settings, new: &Settings) -> Vec<StartFault> {
    const RESTART: &str =
        "cannot change while the gate runs; put it back, or start the gate anew (docs/reload.md)";
    let mut faults = Vec::new();
    for was in &old.listeners {
        let name = &was.name;
        let Some(now) = new.listeners.iter().find(|one| one.name == *name) else {
            let key = format!("listener[{name}]");
            faults.push(fault(
                key,
                format!("is gone or has another name, which {RESTART}"),
            ));
            continue;
        };
        if was.bind != now.bind {
            faults.push(fault(format!("listener[{name}].bind"), RESTART));
        }
    }
    for now in &new.listeners {
        if !old.listeners.iter().any(|one| one.name == now.name) {
            let key = format!("listener[{}]", now.name);
            faults.push(fault(key, format!("is new: how many there are {RESTART}")));
        }
    }
    match (&old.registry, &new.registry) {
        (None, None) => {}
        (Some(was), Some(now)) => {
            let store = |one: &RegistrySettings| format!("{:?}", one.directory.store);
            if store(was) != store(now) {
                faults.push(fault(
                    "registry",
                    format!("url and password_file {RESTART}"),
                ));
            }
            if was.token_key != now.token_key {
                faults.push(fault("token.key_file", format!("its path {RESTART}")));
            }
        }
        _ => faults.push(fault("registry", format!("whether there is one {RESTART}"))),
    }
    faults
}

fn fault(key: impl Into<String>, sentence: impl Into<String>) -> StartFault {
    StartFault {
        key: key.into(),
        sentence: sentence.into(),
    }
}

/// The new settings with their listeners in the old order, which is that of places.
fn sorted(old: &Settings, new: &Settings) -> Settings {
    let mut new = new.clone();
    new.listeners.sort_by_key(|one| place(old, &one.name));
    new
}

/// The same of what was read for them.
fn by_place<T>(old: &Settings, new: &Settings, read: Vec<T>) -> Vec<T> {
    let mut all: Vec<_> = new.listeners.iter().zip(read).collect();
    all.sort_by_key(|(one, _)| place(old, &one.name));
    all.into_iter().map(|(_, read)| read).collect()
}

fn place(old: &Settings, name: &str) -> Option<usize> {
    old.listeners.iter().position(|one| *one.name == *name)
}

/// Whose word counts where, as it is written.
fn trust_of(settings: &Settings) -> String {
    let mut by_listener: Vec<_> = settings
        .listeners
        .iter()
        .map(|one| (&one.name, &one.trust))
        .collect();
    by_listener.sort();
    format!("{by_listener:?} {:?}", settings.trust)
}

impl Settings {
    /// Every file that is read for these settings, but for secrets, which they hold.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut files: BTreeSet<PathBuf> = trust_files(self).cloned().collect();
        for tls in self.listeners.iter().filter_map(|one| one.tls.as_ref()) {
            files.extend([tls.certificate.clone(), tls.key.clone()]);
            for also in &tls.also {
                files.extend([also.certificate.clone(), also.key.clone()]);
            }
            if let Resumption::Tickets { secret_file } = &tls.resumption {
                files.extend(secret_file.clone());
            }
        }
        files.extend(broker_files(self));
        files.extend(jwt_files(self));
        files.extend(self.registry.iter().map(|one| one.token_key.clone()));
        files
    }
}

/// The files that `[broker.tls]` names.
fn broker_files(settings: &Settings) -> Vec<PathBuf> {
    let Some(client::Settings { ca, identity, .. }) = &settings.broker.tls else {
        return Vec::new();
    };
    let own = identity.iter();
    let own = own.flat_map(|own| [own.certificate.clone(), own.key.clone()]);
    own.chain([ca.clone()]).collect()
}

/// The files that `[token.jwt]` names.
fn jwt_files(settings: &Settings) -> Vec<PathBuf> {
    let Some(jwt) = &settings.token.jwt else {
        return Vec::new();
    };
    let keys = match &jwt.keys {
        Place::File(path) => Some(path.clone()),
        Place::Url(_) => None,
    };
    keys.into_iter().chain(jwt.ca.clone()).collect()
}

/// The files that trust groups name.
fn trust_files(settings: &Settings) -> impl Iterator<Item = &PathBuf> {
    settings
        .trust
        .iter()
        .flat_map(|group| [&group.ca, &group.intermediates, &group.crl])
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever handshakes goes on; fewer begin from then on.
    #[tokio::test]
    async fn turns_that_are_taken_go_when_they_are_given_back() {
        let turns = Arc::new(Semaphore::new(3));
        let taken = [0; 2].map(|_| turns.clone().try_acquire_owned().expect("one of three"));
        change_turns(&turns, 3, 1);
        tokio::task::yield_now().await;
        assert_eq!(turns.available_permits(), 0);
        let [first, second] = taken;
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!(turns.available_permits(), 0);
        drop(second);
        tokio::task::yield_now().await;
        assert_eq!(turns.available_permits(), 1);
        change_turns(&turns, 1, 4);
        assert_eq!(turns.available_permits(), 4);
    }
}
