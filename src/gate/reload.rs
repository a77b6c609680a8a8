//! What may change while connections are open: certificates, keys, trust groups, revocation lists (threats.md R2, R3).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::registry::StoreSettings;
use crate::tls::client;
use crate::tls::server::Resumption;
use crate::tls::trust::Groups;

use super::listener::Listener;
use super::start::{LoadedListener, tell_ends};
use super::{Gate, Settings, StartFault};

/// How often the files are looked at. One that changed is read when it has not changed again since the last look, so that
/// nobody reads half of it: within a second.
const LOOK: Duration = Duration::from_millis(400);

/// A read that failed is tried again after so long, also when nothing has changed: what was in the way may have been ours.
const AGAIN: Duration = Duration::from_secs(10);

/// The listeners at work, and the settings in force.
pub(super) struct Live {
    listeners: Vec<Arc<Listener>>,
    in_force: Mutex<Settings>,
    /// Held while files are read and put in force: a slow reading must not undo a later one.
    reading: tokio::sync::Mutex<Files>,
}

/// What the system said of each file when it was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Files(Vec<(PathBuf, Option<[i64; 6]>)>);

impl Files {
    /// The same, of the trust groups' files alone.
    fn of_trust(&self, settings: &Settings) -> Vec<(PathBuf, Option<[i64; 6]>)> {
        let trust: Vec<_> = trust_files(settings).collect();
        let all = self.0.iter();
        all.filter(|(path, _)| trust.contains(&path))
            .cloned()
            .collect()
    }
}

impl Live {
    /// `read`: what the system said of the files before they were read.
    pub(super) fn new(listeners: Vec<Arc<Listener>>, in_force: Settings, read: Looked) -> Self {
        Self {
            listeners,
            in_force: Mutex::new(in_force),
            reading: tokio::sync::Mutex::new(read.0),
        }
    }

    /// The registry's store, and the file with the key of its tokens.
    pub(super) fn token_key(&self) -> Option<(StoreSettings, PathBuf)> {
        let in_force = self.in_force();
        let registry = in_force.registry.as_ref()?;
        Some((registry.directory.store.clone(), registry.token_key.clone()))
    }

    /// The trust groups of each listener that has any.
    pub(super) fn groups(&self) -> Vec<Arc<Groups>> {
        let secure = self.listeners.iter().filter_map(|one| one.secure());
        secure.filter_map(|secure| secure.groups.clone()).collect()
    }

    /// See [`Running::reload`](super::Running::reload).
    pub(super) async fn reload(
        &self,
        settings: Settings,
        gate: &Gate,
    ) -> Result<Vec<String>, Vec<StartFault>> {
        let mut read = self.reading.lock().await;
        let checked = {
            let old = self.in_force();
            check_listeners(&old, &settings).and_then(|()| check_mixture(&old, &settings))
        };
        let done = match checked {
            Ok(later) => {
                let files = look(&settings).await;
                let done = self.read(settings, &read, &files, gate).await;
                done.map(|()| {
                    *read = files;
                    later
                })
            }
            Err(faults) => Err(faults),
        };
        gate.metrics.reloaded(done.is_ok());
        done
    }

    /// Sees whether files change; reads them anew when they have. Never ends.
    pub(super) async fn watch(&self, gate: &Gate) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Files::default();
        let mut failed: Option<(Files, Instant)> = None;
        let mut told = Vec::new();
        let mut waiting = Waiting::of(&self.in_force());
        loop {
            ticks.tick().await;
            let mut read = self.reading.lock().await;
            let settings = self.in_force().clone();
            if waiting.is_news(look_at_all(broker_files(&settings)).await) {
                tracing::warn!(
                    event = "configuration",
                    "files of [broker.tls] changed, and count after a restart"
                );
            }
            let seen = look(&settings).await;
            let settled = seen == last;
            last.clone_from(&seen);
            let tried = failed
                .as_ref()
                .is_some_and(|(files, at)| *files == seen && at.elapsed() < AGAIN);
            if !settled || seen == *read || tried {
                continue;
            }
            let done = self.read(settings, &read, &seen, gate).await;
            gate.metrics.reloaded(done.is_ok());
            match done {
                Ok(()) => {
                    *read = seen;
                    failed = None;
                    told.clear();
                    tracing::info!(
                        event = "reloaded",
                        "files changed, and what they hold now is in force"
                    );
                }
                Err(faults) => {
                    failed = Some((seen, Instant::now()));
                    // Tried again and again, but told once: the metric says that it is still so.
                    if faults != told {
                        for fault in &faults {
                            tracing::error!(
                                event = "reload_failed",
                                "{fault}; what was in force stays"
                            );
                        }
                        told = faults;
                    }
                }
            }
        }
    }

    /// Reads the files of every listener and, if all are good, puts them in force; if it is about trust, has open connections
    /// look again.
    async fn read(
        &self,
        settings: Settings,
        before: &Files,
        now: &Files,
        gate: &Gate,
    ) -> Result<(), Vec<StartFault>> {
        let pins = settings.registry.is_some();
        let reading = spawn_blocking(move || {
            let load = |listener| LoadedListener::load(listener, &settings.trust, pins);
            let loaded: Vec<_> = settings.listeners.iter().map(load).collect();
            (settings, loaded)
        });
        let (settings, mut loaded) = reading.await.map_err(|_| {
            vec![StartFault {
                key: "listener".into(),
                sentence: "reading its files panicked; please report it".into(),
            }]
        })?;
        let mut faults: Vec<_> = loaded
            .iter_mut()
            .flat_map(|one| one.faults.drain(..))
            .collect();
        faults.sort_by(|a, b| (&a.key, &a.sentence).cmp(&(&b.key, &b.sentence)));
        faults.dedup();
        if !faults.is_empty() {
            return Err(faults);
        }
        for (place, loaded) in loaded.into_iter().enumerate() {
            let named = |listener: &&Arc<Listener>| listener.name == settings.listeners[place].name;
            let listener = self.listeners.iter().find(named);
            if let (Some(listener), Some(secure)) = (listener, loaded.secure) {
                tell_ends(&gate.metrics, listener.place, &secure);
                listener.replace(secure);
            }
        }
        let mut in_force = self.in_force();
        let is_about_trust = trust_of(&in_force) != trust_of(&settings)
            || before.of_trust(&settings) != now.of_trust(&settings);
        in_force.listeners = settings.listeners;
        in_force.trust = settings.trust;
        drop(in_force);
        if is_about_trust {
            for control in gate.devices.rolls().iter().flat_map(|roll| roll.all()) {
                control.review();
            }
        }
        Ok(())
    }

    fn in_force(&self) -> MutexGuard<'_, Settings> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the system said of the files before they were read at the start.
#[derive(Debug)]
pub(super) struct Looked(Files);

impl Looked {
    pub(super) fn at(settings: &Settings) -> Self {
        Self(look_at(files(settings)))
    }
}

/// Files that count after a restart only: a change of theirs is told, and each change once.
struct Waiting {
    last: Files,
    told: Files,
}

impl Waiting {
    fn of(settings: &Settings) -> Self {
        let now = look_at(broker_files(settings));
        Self {
            last: now.clone(),
            told: now,
        }
    }

    /// Whether they have changed, and have not changed again since the last look, as for files that are read again.
    fn is_news(&mut self, seen: Files) -> bool {
        let news = seen == self.last && seen != self.told;
        if news {
            self.told.clone_from(&seen);
        }
        self.last = seen;
        news
    }
}

/// What the system says of each file: who has another name, time, size or place is read again.
async fn look(settings: &Settings) -> Files {
    look_at_all(files(settings)).await
}

async fn look_at_all(paths: Vec<PathBuf>) -> Files {
    if paths.is_empty() {
        return Files::default();
    }
    let looking = spawn_blocking(move || look_at(paths));
    looking.await.unwrap_or_default()
}

fn look_at(paths: Vec<PathBuf>) -> Files {
    let look = |path: PathBuf| {
        let told = fs::metadata(&path).ok().map(|meta| {
            let ids = [meta.dev(), meta.ino(), meta.size()].map(u64::cast_signed);
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()];
            let ([dev, ino, size], [seconds, nanos, changed]) = (ids, times);
            [dev, ino, size, seconds, nanos, changed]
        });
        (path, told)
    };
    Files(paths.into_iter().map(look).collect())
}

/// Whose word counts where, as it is written.
fn trust_of(settings: &Settings) -> String {
    let by_listener: Vec<_> = settings
        .listeners
        .iter()
        .map(|one| (&one.name, &one.trust))
        .collect();
    format!("{by_listener:?} {:?}", settings.trust)
}

/// What is read anew must make sense with what is not: whether names of two groups can meet hangs on the templates, the alphabet
/// and the registry, which stay as they are until a restart (threats.md I3, I7). Gives the sections that wait for it.
fn check_mixture(old: &Settings, new: &Settings) -> Result<Vec<String>, Vec<StartFault>> {
    let later = later(old, new);
    let leans_on = ["connect", "registry", "token"];
    let waits: Vec<_> = later
        .iter()
        .filter(|name| leans_on.contains(&name.as_str()))
        .collect();
    if waits.is_empty() || trust_of(old) == trust_of(new) {
        return Ok(later);
    }
    let waits: Vec<_> = waits.into_iter().map(|name| format!("[{name}]")).collect();
    Err(vec![StartFault {
        key: "trust".into(),
        sentence: format!(
            "trust groups and {} changed together, and the latter counts after a restart only: one without the other could give two \
             devices one name; restart the gate, or change them one after the other",
            waits.join(", ")
        ),
    }])
}

/// Which listeners there are, and where, does not change while the gate runs.
fn check_listeners(old: &Settings, settings: &Settings) -> Result<(), Vec<StartFault>> {
    let shape = |settings: &Settings| -> BTreeMap<_, _> {
        let one = settings.listeners.iter();
        one.map(|one| (one.name.clone(), (one.bind.clone(), one.offer)))
            .collect()
    };
    if shape(old) == shape(settings) {
        return Ok(());
    }
    Err(vec![StartFault {
            key: "listener".into(),
            sentence: "name, bind and mode of listeners, and how many there are, cannot change while the gate runs; restart it"
                .into(),
        }])
}

/// The files that listeners and trust groups name.
fn files(settings: &Settings) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for tls in settings.listeners.iter().filter_map(|one| one.tls.as_ref()) {
        files.extend([tls.certificate.clone(), tls.key.clone()]);
        for also in &tls.also {
            files.extend([also.certificate.clone(), also.key.clone()]);
        }
        if let Resumption::Tickets { secret_file } = &tls.resumption {
            files.extend(secret_file.clone());
        }
    }
    files.extend(trust_files(settings).cloned());
    files.sort();
    files.dedup();
    files
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

/// The files that trust groups name.
fn trust_files(settings: &Settings) -> impl Iterator<Item = &PathBuf> {
    settings
        .trust
        .iter()
        .flat_map(|group| [&group.ca, &group.intermediates, &group.crl])
        .flatten()
}

/// Who has to send a PROXY header, as it is written.
fn proxies_of(settings: &Settings) -> String {
    let by_listener: Vec<_> = settings
        .listeners
        .iter()
        .map(|one| (&one.name, &one.proxy_protocol_from))
        .collect();
    format!("{by_listener:?}")
}

/// The sections that differ, but for secrets, which do not print, and are not read again while the gate runs.
fn later(old: &Settings, new: &Settings) -> Vec<String> {
    let sections = |settings: &Settings| {
        [
            (
                "connect",
                format!("{:?} {:?}", settings.connect, settings.alphabet),
            ),
            ("broker", format!("{:?}", settings.broker)),
            ("limits", format!("{:?}", settings.limits)),
            ("listener.proxy_protocol_from", proxies_of(settings)),
            ("registry", format!("{:?}", settings.registry)),
            ("token", format!("{:?}", settings.token)),
        ]
    };
    let both = sections(old).into_iter().zip(sections(new));
    both.filter(|(old, new)| old != new)
        .map(|((name, _), _)| name.to_owned())
        .collect()
}
