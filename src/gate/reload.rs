//! What may change while connections are open: certificates, keys, trust groups, revocation lists (threats.md R2, R3).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::registry::StoreSettings;
use crate::tls::trust::Groups;

use super::listener::Listener;
use super::start::{LoadedListener, tell_ends};
use super::{Gate, Settings, StartFault};

/// How often the files are looked at. One that changed is read when it has not changed again since the last look, so that
/// nobody reads half of it: within four seconds.
const LOOK: Duration = Duration::from_secs(2);

/// The listeners at work, and the settings in force.
pub(super) struct Live {
    listeners: Vec<Arc<Listener>>,
    in_force: Mutex<Settings>,
}

impl Live {
    pub(super) fn new(listeners: Vec<Arc<Listener>>, in_force: Settings) -> Self {
        Self {
            listeners,
            in_force: Mutex::new(in_force),
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
        let later = {
            let old = self.in_force();
            check_listeners(&old, &settings)?;
            later(&old, &settings)
        };
        let settings = self.read(settings, gate).await?;
        let mut in_force = self.in_force();
        in_force.listeners = settings.listeners;
        in_force.trust = settings.trust;
        Ok(later)
    }

    /// Sees whether files change; reads them anew when they have. Never ends.
    pub(super) async fn watch(&self, gate: &Gate) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read = self.look().await;
        let mut last = read.clone();
        loop {
            ticks.tick().await;
            let seen = self.look().await;
            let settled = seen == last;
            last = seen;
            if !settled || last == read {
                continue;
            }
            read.clone_from(&last);
            let settings = self.in_force().clone();
            match self.read(settings, gate).await {
                Ok(_) => {
                    tracing::info!(
                        event = "reloaded",
                        "files changed, and what they hold now is in force"
                    );
                }
                Err(faults) => {
                    for fault in faults {
                        tracing::error!(
                            event = "reload_failed",
                            "{fault}; what was in force stays"
                        );
                    }
                }
            }
        }
    }

    /// Reads the files of every listener and, if all are good, puts them in force and has open connections look again.
    async fn read(&self, settings: Settings, gate: &Gate) -> Result<Settings, Vec<StartFault>> {
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
        gate.metrics.reloaded(faults.is_empty());
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
        for control in gate.devices.rolls().iter().flat_map(|roll| roll.all()) {
            control.review();
        }
        Ok(settings)
    }

    /// What the system says of each file: who has another name, time, size or place is read again.
    async fn look(&self) -> Vec<(PathBuf, Option<[i64; 6]>)> {
        let paths = files(&self.in_force());
        let looking = spawn_blocking(move || {
            let look = |path: PathBuf| {
                let told = fs::metadata(&path).ok().map(|meta| {
                    let ids = [meta.dev(), meta.ino(), meta.size()].map(u64::cast_signed);
                    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()];
                    let ([dev, ino, size], [seconds, nanos, changed]) = (ids, times);
                    [dev, ino, size, seconds, nanos, changed]
                });
                (path, told)
            };
            paths.into_iter().map(look).collect()
        });
        looking.await.unwrap_or_default()
    }

    fn in_force(&self) -> MutexGuard<'_, Settings> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    }
    for group in &settings.trust {
        files.extend(
            [&group.ca, &group.intermediates, &group.crl]
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    files.sort();
    files.dedup();
    files
}

/// The sections that differ and are not read again while the gate runs.
fn later(old: &Settings, new: &Settings) -> Vec<String> {
    let sections = |settings: &Settings| {
        [
            ("connect", format!("{:?}", settings.connect)),
            ("broker", format!("{:?}", settings.broker)),
            ("limits", format!("{:?}", settings.limits)),
            ("registry", format!("{:?}", settings.registry)),
            ("token", format!("{:?}", settings.token)),
        ]
    };
    let both = sections(old).into_iter().zip(sections(new));
    both.filter(|(old, new)| old != new)
        .map(|((name, _), _)| name.to_owned())
        .collect()
}
