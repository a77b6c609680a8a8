//! A gate at work: its drain and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::broker;
use crate::observe::ready::Ready;
use crate::observe::service::Service;
use crate::registry::token_key;

use super::connections::Connections;
use super::control::Control;
use super::in_force::Fleet;
use super::pulse::Pulses;
use super::reload::{Live, Reloaded, end_jwts};
use super::start::broker_warnings;
use super::{Contents, Gate, Settings, StartFault, now};

/// What has lapsed is told again after so long.
const DAY: Duration = Duration::from_hours(24);

/// How often it is told how many lines the log left out.
const SUPPRESSED: Duration = Duration::from_secs(5);

/// How often the service manager is told how it is, if anything is different.
const STATUS: Duration = Duration::from_secs(10);

/// Between attempts to learn the token key, when something is wrong with it.
const AGAIN: Duration = Duration::from_secs(2);

/// Between glances whether its file is there.
const GLANCE: Duration = Duration::from_millis(100);

/// How a gate came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Every connection ended between packets.
    Drained,
    /// Bytes were lost at the end of the window, or because the gate was told to end at once.
    Cut,
}

/// A gate at work.
pub struct Running {
    pub(super) gate: Arc<Gate>,
    pub(super) ready: Arc<Ready>,
    /// The listeners, and the settings in force.
    pub(super) live: Live,
    /// Connections for whose certificate nobody vouches any more; taken by who watches them.
    pub(super) doubts: Mutex<Option<mpsc::UnboundedReceiver<Arc<Control>>>>,
    /// What was warned of when the files were read.
    pub(super) warned: Vec<String>,
    pub(super) addresses: Vec<(Arc<str>, SocketAddr)>,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Closed when the last worker ends.
    pub(super) ended: watch::Sender<()>,
    pub(super) cut: watch::Sender<bool>,
    /// Copies of the listening sockets, for the next gate, until a drain begins.
    pub(super) for_next: Mutex<Vec<(String, OwnedFd)>>,
}

impl Running {
    /// Where it listens, with the ports that were taken for port 0: listener name and address.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// Asks the brokers whether they answer, for as long as it is polled; tells metrics, log and `/readyz`.
    pub async fn watch_brokers(&self) {
        let mut reloaded = self.gate.reloaded.subscribe();
        loop {
            let fleet = self.gate.glance().fleet.clone();
            let others = async {
                while Arc::ptr_eq(&fleet, &self.gate.glance().fleet) {
                    if reloaded.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
            };
            tokio::select! {
                () = self.watch_fleet(&fleet) => {}
                () = others => {}
            }
        }
    }

    /// Never ends.
    async fn watch_fleet(&self, fleet: &Fleet) {
        let brokers = &fleet.brokers;
        broker::health::watch(brokers, fleet.health, |told| {
            fleet.metrics(told.place).up(told.up);
            let broker = &brokers.all()[told.place].label;
            let why = told.why;
            match told.news {
                Some(true) => tracing::info!(event = "broker_up", broker = %broker, "{why}"),
                Some(false) => tracing::warn!(event = "broker_down", broker = %broker, "{why}"),
                None => {}
            }
            self.ready.set_broker_up(brokers.any_up());
        })
        .await;
        std::future::pending::<()>().await; // there is no broker
    }

    /// Tells of each revocation list, CA, or certificate for brokers when it lapses, and once a day while it has lapsed; for as long as it is polled.
    /// What had lapsed at the start is told there.
    pub async fn watch_lists(&self) {
        let mut told = Told::default();
        told.due(self.warned.iter().cloned().collect(), Instant::now());
        loop {
            let every = self.gate.glance().fleet.health;
            sleep(every).await;
            for warning in told.due(self.lapsed(), Instant::now()) {
                tracing::warn!(event = "lapsed", "{warning}");
            }
        }
    }

    /// Tells every 5 s how many lines the log left out, if any; for as long as it is polled.
    pub async fn watch_log(&self) {
        let mut ticks = interval(SUPPRESSED);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tell_suppressed();
        }
    }

    /// Tells how many lines the log left out since that was last told.
    pub fn tell_suppressed(&self) {
        self.gate.logger.tell_suppressed();
    }

    /// Hears of changes in the registry, and judges the connections that they concern again; tells the metrics how it is; for as
    /// long as it is polled.
    pub async fn watch_registry(&self) {
        let gate = &self.gate;
        tokio::join!(
            gate.devices.watch(),
            gate.devices.count(&gate.metrics),
            self.fetch_token_key(),
        );
    }

    /// Reads the key of the registry's tokens as soon as its file is there: the first token makes it. Then sees whether it is the
    /// registry's; another one knows no token.
    async fn fetch_token_key(&self) {
        let Some((store, file)) = self.live.token_key() else {
            return;
        };
        let mut told = String::new();
        loop {
            match token_key::read(&file) {
                Ok(Some(key)) => {
                    self.gate.glance().tokens.set_key(key.clone());
                    let same = token_key::is_of(&key, &store).await;
                    match same {
                        Ok(true) => return,
                        Ok(false) => {
                            let why = format!(
                                "{} is not the key that the registry's tokens are hashed with: none of them counts; copy the right one \
                                 from where the first token was made",
                                file.display()
                            );
                            return tracing::error!(event = "token_key", "{why}");
                        }
                        Err(_) => sleep(AGAIN).await, // away: told elsewhere
                    }
                }
                Ok(None) => sleep(GLANCE).await,
                Err(why) if why != told => {
                    tracing::error!(
                        event = "token_key",
                        "no token of the registry can be checked: {why}"
                    );
                    told = why;
                }
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Keeps the keys of the JWTs' issuer fresh, and ends the connections that a key vouched for that is gone; for as long as it
    /// is polled.
    pub async fn watch_issuer(&self) {
        let changed = || {
            let tokens = self.gate.glance().tokens.clone();
            end_jwts(&self.gate, &tokens, &tokens);
        };
        let mut reloaded = self.gate.reloaded.subscribe();
        loop {
            let tokens = self.gate.glance().tokens.clone();
            // Whatever else is new, nobody asks the issuer again for it.
            let others = async {
                while self.gate.glance().tokens.has_source_of(&tokens) {
                    if reloaded.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
            };
            tokio::select! {
                () = tokens.keep(changed) => {}
                () = others => {}
            }
        }
    }

    /// Judges connections again for whose certificate no trust group vouches any more; for as long as it is polled.
    pub async fn watch_doubts(&self) {
        let taken = self.doubts.lock().ok().and_then(|mut slot| slot.take());
        let Some(mut doubts) = taken else {
            return std::future::pending().await;
        };
        let doubts = stream::poll_fn(|cx| doubts.poll_recv(cx));
        let judging = doubts.for_each_concurrent(64, |control| self.gate.devices.doubt(control));
        judging.await;
    }

    /// Tells the service manager how many connections are open, and how many brokers answer; for as long as it is polled.
    pub async fn watch_status(&self, service: &Service) {
        let mut ticks = interval(STATUS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            let status = self.status();
            if status != told {
                service.status(&status);
                told = status;
            }
        }
    }

    fn status(&self) -> String {
        let gate = &self.gate;
        let in_force = gate.glance();
        let brokers = &in_force.fleet.brokers;
        let all = brokers.all().len();
        let up = (0..all).filter(|place| brokers.is_up(*place)).count();
        let draining = if gate.is_draining() { "draining: " } else { "" };
        let open = gate.places.open();
        format!("{draining}{open} connections open, {up} of {all} brokers up")
    }

    /// Whether the workers live.
    pub fn pulses(&self) -> Pulses {
        self.gate.pulses.clone()
    }

    /// How long a drain may take.
    pub fn drain_window(&self) -> Duration {
        let in_force = self.gate.glance();
        in_force.limits.drain_delay + in_force.limits.drain_timeout
    }

    /// Puts other settings in force, and what their files hold now, all or nothing: for new connections; open ones are judged by the
    /// trust groups, the issuer and the registry's rules as they are then. `before` is what the files in force held when they were
    /// read, `now` those of `settings`, looked at before this; `also` is what was found wrong elsewhere. Gives what an operator
    /// should look after.
    ///
    /// # Errors
    /// Every fault; then all stays as it was (threats.md R2).
    pub async fn reload(
        &self,
        settings: Settings,
        also: Vec<StartFault>,
        (before, now): (&Contents, &Contents),
    ) -> Result<Reloaded, Vec<StartFault>> {
        let contents = (before, now);
        self.live.reload(settings, also, contents, &self.gate).await
    }

    /// Tells the metrics and `/readyz` that what was read last is in force: [`Reloaded::generation`].
    pub fn note_reload(&self, generation: u64) {
        self.gate.metrics.reloaded(generation, now());
        self.ready.set_generation(generation);
    }

    /// Tells the metrics that what was read last is not in force.
    pub fn note_failed_reload(&self) {
        self.gate.metrics.reload_failed();
    }

    /// What the admin API may do to connections.
    pub fn connections(&self) -> Connections {
        Connections::new(self.gate.clone())
    }

    /// Once each, what several listeners share.
    fn lapsed(&self) -> BTreeSet<String> {
        let now = now();
        let in_force = self.gate.in_force();
        let secures = in_force
            .entrances
            .iter()
            .filter_map(|one| one.secure.as_ref());
        let groups = secures.filter_map(|secure| secure.groups.as_ref());
        let lapsed = groups.flat_map(|groups| groups.lapsed(now));
        let brokers = in_force.fleet.tls.iter();
        lapsed
            .chain(brokers.flat_map(|tls| broker_warnings(tls, now)))
            .collect()
    }

    /// Whether it wants devices: what `/readyz` tells.
    pub fn is_ready(&self) -> bool {
        self.ready.is_ready()
    }

    /// Begins to accept, where it had to wait for that.
    pub fn open(&self) {
        self.gate.open.send_replace(true);
    }

    /// Waits until it accepts.
    pub async fn opened(&self) {
        self.gate.opened().await;
    }

    /// Not ready from now on, and in `limits.drain_delay` the drain: no more accepting, open connections end one after the other.
    /// Waits for the end of the last worker. Dropping it half-way leaves the gate as it is by then.
    pub async fn retire(&self) {
        self.ready.set_draining();
        if !self.gate.is_draining() {
            let delay = self.gate.glance().limits.drain_delay;
            sleep(delay).await;
        }
        self.drain();
        self.ended().await;
    }

    /// Begins the drain at once: another gate accepts at the same sockets, and whoever waits in them is left to it.
    pub fn hand_over(&self) {
        self.gate.handed_over.store(true, Ordering::Release);
        self.drain();
    }

    /// Copies of the listening sockets with the names of their listeners, once; they are closed when they are dropped.
    pub fn sockets(&self) -> Vec<(String, OwnedFd)> {
        let mut sockets = self.for_next.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut sockets)
    }

    /// Waits until another gate has taken over.
    pub async fn handed_over(&self) {
        let mut draining = self.gate.draining.subscribe();
        let _ = draining.wait_for(|draining| *draining).await;
        if !self.gate.handed_over.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }

    fn drain(&self) {
        self.ready.set_draining();
        if !*self.gate.open.borrow() {
            self.gate.handed_over.store(true, Ordering::Release); // the gate before goes on
        }
        self.gate.draining.send_replace(true);
    }

    /// Ends every connection at once.
    pub fn cut(&self) {
        self.drain();
        self.cut.send_replace(true);
    }

    /// Waits until the last worker has ended, which only a drain brings about.
    pub async fn ended(&self) {
        self.ended.closed().await;
        self.gate.devices.stop().await;
    }

    /// Waits for the workers' threads, blocking; tells how the drain went.
    pub fn join(self) -> Outcome {
        for thread in self.threads {
            if thread.join().is_err() {
                self.gate.note_loss();
            }
        }
        if self.gate.lost.load(Ordering::Relaxed) {
            Outcome::Cut
        } else {
            Outcome::Drained
        }
    }
}

/// What was told, and when.
#[derive(Debug, Default)]
struct Told(BTreeMap<String, Instant>);

impl Told {
    /// Those of `warnings` that are to be told at `now`; they count as told then. What is not among them any more is forgotten.
    fn due(&mut self, mut warnings: BTreeSet<String>, now: Instant) -> BTreeSet<String> {
        self.0.retain(|warning, _| warnings.contains(warning));
        warnings.retain(|warning| {
            let last = self.0.get(warning);
            last.is_none_or(|last| now.saturating_duration_since(*last) >= DAY)
        });
        let told = warnings.iter().map(|warning| (warning.clone(), now));
        self.0.extend(told);
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// threats.md T9: whoever missed the line of the day a list lapsed sees it the next day.
    #[test]
    fn what_lapses_is_told_at_once_and_then_once_a_day() {
        let began = Instant::now();
        let lapsed = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let mut told = Told::default();
        for (hours, is, due) in [
            (0, &["a"][..], &["a"][..]),
            (1, &["a"], &[]),
            (2, &["a", "b"], &["b"]),
            (24, &["a", "b"], &["a"]),
            (25, &["a", "b"], &[]),
            (26, &["a", "b"], &["b"]),
            (27, &["b"], &[]),
            (28, &["a", "b"], &["a"]), // again
        ] {
            let now = began + Duration::from_hours(hours);
            assert_eq!(told.due(lapsed(is), now), lapsed(due), "after {hours} h");
        }
    }
}
