//! Reloads: when the configuration and its files are read anew, and what is told of it.
//!
//! By HUP, by the admin API, and when a file holds something else than it did. One task does all of them, one after the other, so
//! none races another; what is asked for meanwhile is done afterwards (threats.md R2, R3).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::admin::v1::{Api, Order, Outcome};
use crate::cli::check;
use crate::config::{self, Config, Source};
use crate::gate::{Contents, Look, Reloaded, Running, StartFault};
use crate::observe::logging;
use crate::observe::ready::Ready;
use crate::sandbox::{self, Inside};
use crate::tls::files::led_to;

/// How often the files are looked at. One that changed is read when it has not changed again since the last look, so that
/// nobody reads half of it: within a second.
const LOOK: Duration = Duration::from_millis(400);

/// A certificate may come a moment before its key: for so long nothing is said of files that do not fit together.
const MOMENT: Duration = Duration::from_secs(2);

/// Between attempts to read what somebody writes.
const SETTLES: Duration = Duration::from_millis(100);

/// What has faults is read again after so long, also when no file that was read has changed: what was in the way may have been ours.
const AGAIN: Duration = Duration::from_secs(10);

/// A reload begins, or has ended. Each beginning has its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// From here on files are read.
    Begins,
    /// What was read is in force, or has faults.
    Ended,
}

/// Who wants a reload, and what of it is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    Signal,
    Operator,
    Files,
}

/// Reads the configuration anew, again and again.
pub(super) struct Reloads<'a> {
    source: &'a Source,
    running: &'a Running,
    api: &'a Api,
    log: &'a logging::Guard,
    ready: &'a Ready,
    inside: &'a Inside,
    /// What the sandbox was built by.
    sandbox: sandbox::Settings,
    /// Where the admin port is.
    admin: Option<SocketAddr>,
    /// What the files held that are in force.
    in_force: Contents,
    /// What was read last, in force or not.
    read: Contents,
    failing: Option<Failing>,
    /// What was warned of.
    warned: BTreeSet<String>,
}

/// What was read last has faults.
struct Failing {
    since: Instant,
    tried: Instant,
    /// Those that were told; empty: none yet.
    told: Vec<String>,
}

impl Failing {
    /// Whether to read again, although nothing has changed.
    fn is_due(&self) -> bool {
        if self.told.is_empty() {
            self.since.elapsed() >= MOMENT
        } else {
            self.tried.elapsed() >= AGAIN
        }
    }
}

impl<'a> Reloads<'a> {
    /// `config` and what its files held are in force; `warned` is what was warned of.
    pub(super) fn new(
        (source, config, files): (&'a Source, &Config, Contents),
        running: &'a Running,
        api: &'a Api,
        log: &'a logging::Guard,
        (ready, inside): (&'a Ready, &'a Inside),
        warned: BTreeSet<String>,
    ) -> Self {
        Self {
            source,
            running,
            api,
            log,
            ready,
            inside,
            sandbox: config.sandbox.clone(),
            admin: config.admin.as_ref().map(|admin| admin.bind),
            in_force: files.clone(),
            read: files,
            failing: None,
            warned,
        }
    }

    /// Reloads by each `hup`, by each of `orders`, and when files change. `observe` is called as each reload begins and ends.
    ///
    /// Dropping it half-way leaves what is in force as it is.
    pub(super) async fn keep(
        mut self,
        hup: &mut Signal,
        orders: &mut mpsc::Receiver<Order>,
        observe: impl Fn(Moment),
    ) -> Infallible {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Look::default();
        loop {
            let (by, order) = tokio::select! {
                Some(()) = hup.recv() => (By::Signal, None),
                Some(order) = orders.recv() => (By::Operator, Some(order)),
                _ = ticks.tick() => {
                    if !self.is_due(&mut last).await {
                        continue;
                    }
                    (By::Files, None)
                }
            };
            observe(Moment::Begins);
            let outcome = self.reload_settled().await;
            let faults = outcome.as_ref().err().map_or(0, Vec::len);
            tracing::debug!(faults, "has read the configuration and its files");
            observe(Moment::Ended);
            self.tell(by, &outcome);
            if let Some(order) = order {
                let _ = order.send(outcome); // who asked may have left
            }
        }
    }

    /// Whether files hold something else than when they were read, and have not changed since the `last` look; or whether to read
    /// again what had faults.
    async fn is_due(&mut self, last: &mut Look) -> bool {
        let read = self.read.clone();
        let Ok(now) = spawn_blocking(move || read.look()).await else {
            return false;
        };
        let settled = now == *last;
        let news = now != self.read.looked();
        *last = now;
        if !settled {
            return false;
        }
        if let Some(failing) = &self.failing {
            return news || failing.is_due();
        }
        if !news {
            return false;
        }
        let paths = self.read.paths();
        let reading = spawn_blocking(move || Contents::default().with(&paths)).await;
        let Ok(now) = reading else { return false };
        if now.hold_the_same(&self.read) {
            // Touched, or written anew as it was.
            self.in_force = now.clone();
            self.read = now;
            return false;
        }
        true
    }

    /// The same again and again while somebody writes what is read: half of it would be told as faults, or worse, be none.
    async fn reload_settled(&mut self) -> Outcome {
        const TIMES: u8 = 5;
        for _ in 1..TIMES {
            let outcome = self.reload().await;
            let read = self.read.clone();
            let stood = spawn_blocking(move || read.stand()).await;
            if outcome.is_ok() || stood.unwrap_or(true) {
                return outcome;
            }
            sleep(SETTLES).await;
        }
        self.reload().await
    }

    /// Reads the configuration and all that it names; puts all of it in force, or nothing.
    async fn reload(&mut self) -> Outcome {
        let (source, known) = (self.source.clone(), self.in_force.paths());
        let (also, inside) = (self.read.paths(), self.inside.clone());
        let reading = spawn_blocking(move || {
            // First what the files hold, so that what changes meanwhile is read again.
            let now = Contents::default().with(&known).with(&also);
            let barred = barred(&inside, &source);
            match config::load(&source) {
                Ok(config) => {
                    let files = config.files(&source);
                    (now.with(&files), barred, Ok((config, files)))
                }
                Err(_) => (now, barred, Err(check::faults(&source))),
            }
        });
        let Ok((now, barred, config)) = reading.await else {
            return Err(vec![
                "reading the configuration panicked; please report it".into(),
            ]);
        };
        self.read = now.clone();
        if !barred.is_empty() {
            return Err(barred);
        }
        let (config, files) = config?;
        let (trust, alphabet) = (config.gate.trust.clone(), config.gate.alphabet.clone());
        let faults = self.fixed(&config);
        let done = self
            .running
            .reload(config.gate, faults, (&self.in_force, &now))
            .await;
        let mut reloaded =
            done.map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        // From here on nothing can fail.
        if config.sandbox != self.sandbox {
            reloaded.warnings.push(
                "sandbox: it has changed, and counts at the next start: nothing gives back what was given up"
                    .into(),
            );
        }
        let token = config.admin.and_then(|admin| admin.token);
        self.api.reload(token, &trust, alphabet);
        self.log.change(&config.log);
        self.in_force = now.only(&files);
        self.read = self.in_force.clone();
        reloaded.warnings.extend(config.warnings);
        Ok(reloaded)
    }

    /// What cannot change while this process runs, besides what the gate says itself.
    fn fixed(&self, config: &Config) -> Vec<StartFault> {
        let admin = config.admin.as_ref().map(|admin| admin.bind);
        if admin == self.admin {
            return Vec::new();
        }
        let sentence = "cannot change while the gate runs; put it back, or start the gate anew (docs/reload.md)";
        vec![StartFault {
            key: "admin.bind".into(),
            sentence: sentence.into(),
        }]
    }

    /// Tells log, metrics and `/readyz` how it went.
    fn tell(&mut self, by: By, outcome: &Outcome) {
        let faults = match outcome {
            Ok(reloaded) => {
                self.failing = None;
                return self.tell_done(by, reloaded);
            }
            Err(faults) => faults,
        };
        let now = Instant::now();
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: now,
            tried: now,
            told: Vec::new(),
        });
        failing.tried = now;
        let asked = by != By::Files;
        if !asked && failing.told.is_empty() && failing.since.elapsed() < MOMENT {
            return; // perhaps the other half comes in a moment
        }
        // Tried again and again, but told once: the metric says that it is still so.
        if asked || failing.told != *faults {
            for fault in faults {
                tracing::error!(
                    event = "reload_failed",
                    signal = by.signal(),
                    "{fault}; what was in force stays"
                );
            }
            failing.told.clone_from(faults);
            self.running.note_failed_reload();
        }
        self.ready.set_faults(faults.len().max(1));
    }

    fn tell_done(&mut self, by: By, reloaded: &Reloaded) {
        let generation = reloaded.generation;
        self.running.note_reload(generation);
        self.ready.set_faults(0);
        let why = match by {
            By::Files => "files changed, and what they hold now is in force",
            By::Signal | By::Operator => {
                "the configuration and the files it names are in force as they are now"
            }
        };
        tracing::info!(
            event = "reloaded",
            signal = by.signal(),
            generation,
            "{why}"
        );
        let warnings: BTreeSet<_> = reloaded.warnings.iter().cloned().collect();
        for warning in warnings.difference(&self.warned) {
            tracing::warn!(event = "configuration", "{warning}");
        }
        self.warned = warnings;
    }
}

/// A fault for each file that only the sandbox keeps the gate from reading: reading it tells no more than that permission is denied.
fn barred(inside: &Inside, source: &Source) -> Vec<String> {
    const WAY_OUT: &str = "the sandbox lets the gate read no folders but those that were named when it started; restart it, or have the \
                           folder in sandbox.read at the next start";
    let barred = inside.bars(&config::files(source));
    let told = barred.iter().map(|file| {
        let end = led_to(file).map_or(String::new(), |end| {
            format!("it leads to {}; ", end.display())
        });
        format!("files: {}: {end}{WAY_OUT}", file.display())
    });
    told.collect()
}

impl By {
    fn signal(self) -> Option<&'static str> {
        (self == Self::Signal).then_some("HUP")
    }
}
