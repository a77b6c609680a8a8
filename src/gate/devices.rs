//! The devices as the gate knows them: whom a claim names, and what becomes of open connections when that changes.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::sleep;

use crate::observe::metrics::Metrics;
use crate::registry::directory::{Directory, Found, Lane, Whom};
use crate::registry::{self, Change, Fault};
use crate::rules::device::DeviceId;
use crate::rules::policy::{self, Claim, Evidence, Standing, Unknown};
use crate::rules::reason::Cause;
use crate::rules::record::{LastSeen, Record};

use super::Gate;
use super::control::{Control, Order, Roll, Seat, Sitter};
use super::handshake::Secured;

/// How long a connection that is told to end may take for its last packet, before it is cut: so that it is over within a
/// second (threats.md R1).
const LAST_PACKET: Duration = Duration::from_millis(700);

/// Devices that are judged again at once.
const AT_ONCE: usize = 64;

/// Who answered a look-up: the label of `registry_look_ups_total`.
const FROM: [&str; 3] = ["memory", "store", "away"];

/// The registry, if there is one, and everyone who sits.
pub(crate) struct Devices {
    pub(crate) directory: Option<Arc<Directory>>,
    /// What becomes of open connections of those that it does not know.
    unknown: Mutex<Unknown>,
    /// How many have sat down so far.
    sat: AtomicU64,
    /// Of each worker, once they run.
    rolls: OnceLock<Vec<Arc<Roll>>>,
}

/// What is known of whoever calls, and its seat.
pub(crate) struct Looked<S = Seat> {
    /// `None`: nobody can tell who it is.
    pub(crate) seat: Option<S>,
    pub(crate) held: Held,
}

/// Who knows devices: the [`Directory`] for the path, the registry itself for whoever only wants to know.
pub(crate) trait LookUp {
    async fn look_up(&self, lane: Lane, whom: &Whom) -> Found;
    /// What is known of a device that shows what this record lacks; nothing counts that was asked before `since`.
    async fn look_up_anew(&self, record: Arc<Record>, since: tokio::time::Instant) -> Found;
    /// Registers a device that nobody has registered, if its group has fewer than `quota` such devices.
    async fn register(&self, record: Record, quota: u32) -> Held;
}

/// [`Standing`], with what it borrows.
#[derive(Debug)]
pub(crate) enum Held {
    NoRegistry,
    Known(Arc<Record>),
    Unknown(Unknown),
    /// No more may register themselves; a sentence.
    Full(String),
    Away(Arc<str>),
}

impl<S> Looked<S> {
    pub(crate) fn standing(&self) -> Standing<'_> {
        self.held.standing()
    }
}

impl Held {
    pub(crate) fn of(found: Found, unknown: Unknown) -> Self {
        match found {
            Found::Known(record) => Self::Known(record),
            Found::Unknown => Self::Unknown(unknown),
            Found::Away(why) => Self::Away(why),
        }
    }

    fn standing(&self) -> Standing<'_> {
        match self {
            Self::NoRegistry => Standing::NoRegistry,
            Self::Known(record) => Standing::Known(record),
            Self::Unknown(unknown) => Standing::Unknown(*unknown),
            Self::Full(why) => Standing::Full(why),
            Self::Away(why) => Standing::Away(why),
        }
    }

    /// How many connections the record allows; `None`: it does not say.
    pub(crate) fn connections(&self) -> Option<u32> {
        match self {
            Self::Known(record) => record.connections,
            _ => None,
        }
    }
}

impl Devices {
    pub(crate) fn new(directory: Option<Arc<Directory>>, unknown: Unknown) -> Self {
        Self {
            directory,
            unknown: Mutex::new(unknown),
            sat: AtomicU64::new(0),
            rolls: OnceLock::new(),
        }
    }

    fn unknown(&self) -> Unknown {
        *self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this becomes of those that the registry does not know; whoever is in is judged by it.
    pub(crate) fn change_unknown(&self, unknown: Unknown) {
        let old = std::mem::replace(
            &mut *self.unknown.lock().unwrap_or_else(PoisonError::into_inner),
            unknown,
        );
        if let Some(directory) = self.directory.as_ref().filter(|_| old != unknown) {
            directory.tell_again(&Change::Everything);
        }
    }

    /// From now on what is remembered of the registry counts for so long, and may take so much.
    pub(crate) fn change_memory(&self, settings: &registry::Settings) {
        if let Some(directory) = &self.directory {
            directory.change(settings.grace, settings.cache_bytes);
        }
    }

    /// Takes note of the rolls of all workers, once.
    pub(crate) fn set_rolls(&self, rolls: Vec<Arc<Roll>>) {
        let _ = self.rolls.set(rolls);
    }

    pub(crate) fn rolls(&self) -> &[Arc<Roll>] {
        self.rolls.get().map_or(&[], Vec::as_slice)
    }

    /// Everyone who sits for `device`, at any worker.
    fn of(&self, device: &DeviceId) -> Vec<Arc<Control>> {
        self.rolls()
            .iter()
            .flat_map(|roll| roll.of(device))
            .collect()
    }

    /// Looks up whom `claim` names, having taken its seat first. Dropping it half-way gives the seat back.
    pub(crate) async fn find(
        &self,
        claim: &Claim,
        secured: &Secured,
        gate: &Gate,
        unknown: Unknown,
        roll: &Arc<Roll>,
        now: i64,
    ) -> Looked {
        let sit = |device: &DeviceId| {
            let seat = roll.sit(Sitter {
                number: self.sat.fetch_add(1, Ordering::Relaxed) + 1,
                device: device.clone(),
                evidence: claim.evidence.clone(),
                address: secured.address,
                listener: secured.listener.place,
                since: Instant::now(),
                sat_at: now,
            });
            if !secured.is_current(gate) {
                seat.control.review(); // the trust groups changed before its seat could be found
            }
            seat
        };
        let mut looked = look_up(claim, self.directory.as_deref(), unknown, sit, now).await;
        // Unknown devices may be admitted no more since it came, and who was in was judged before its seat could be found.
        if let Held::Unknown(admit @ Unknown::Admit) = &mut looked.held {
            *admit = self.unknown();
        }
        looked
    }

    /// Notes that a device was linked, and lets its oldest connections go if it has more than `most`; 0: any number.
    pub(crate) fn note_linked(&self, control: &Arc<Control>, most: u32, now: i64) {
        let sitter = &control.sitter;
        if let Some(directory) = &self.directory {
            directory.note_seen(&sitter.device, seen(&sitter.evidence, sitter.address, now));
        }
        if most == 0 {
            return;
        }
        let mut open = self.of(&sitter.device);
        open.retain(|one| one.is_linked() && one.cause().is_none());
        let surplus = open.len().saturating_sub(most as usize);
        if surplus == 0 {
            return;
        }
        // By the same order wherever it is looked at: two that are linked at one moment must not end each other.
        open.sort_by_key(|one| one.sitter.number);
        end(open.drain(..surplus).collect(), Cause::Replaced);
    }

    /// Tells the metrics how the registry is, once a second. Never ends.
    pub(crate) async fn count(&self, metrics: &Metrics) {
        let Some(directory) = &self.directory else {
            return std::future::pending().await;
        };
        let mut last = [0; 3];
        loop {
            let counts = directory.counts();
            metrics.registry(directory.is_away().is_none(), counts.entries);
            let now = [
                counts.hits + counts.negative_hits,
                counts.misses,
                counts.away,
            ];
            for (from, (now, last)) in FROM.iter().zip(now.iter().zip(last)) {
                metrics.registry_look_ups(from, now.saturating_sub(last));
            }
            last = now;
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Lets the registry go, having written what is to be noted.
    pub(crate) async fn stop(&self) {
        if let Some(directory) = &self.directory {
            directory.stop().await;
        }
    }

    /// Hears of changes in the registry and judges the connections that they concern again, for as long as it is polled. One that
    /// the registry is slow to tell of holds up no other.
    pub(crate) async fn watch(&self) {
        let Some(directory) = &self.directory else {
            return std::future::pending().await;
        };
        let mut judging = FuturesUnordered::new();
        let mut waiting = VecDeque::new();
        loop {
            while judging.len() < AT_ONCE
                && let Some(device) = waiting.pop_front()
            {
                judging.push(self.judge_again(directory, device));
            }
            tokio::select! {
                Some(()) = judging.next(), if !judging.is_empty() => {}
                changes = directory.next_changes() => for change in changes {
                    match change {
                        Change::Device(device) => waiting.push_front(device),
                        Change::Everything => {
                            // Whoever waits already is among them, or has left.
                            let devices: BTreeSet<_> = self.sitting().collect();
                            waiting = devices.into_iter().collect();
                        }
                    }
                }
            }
        }
    }

    /// Every device of which anybody sits.
    fn sitting(&self) -> impl Iterator<Item = DeviceId> {
        let all = self.rolls().iter().flat_map(|roll| roll.all());
        all.map(|control| control.sitter.device.clone())
    }

    /// Judges every connection of `device` again; those whose evidence counts no longer end. If the registry cannot say, it is
    /// asked again when it can (threats.md R1).
    async fn judge_again(&self, directory: &Directory, device: DeviceId) {
        let sitting = self.of(&device);
        if sitting.is_empty() {
            return;
        }
        let whom = Whom::Device(device.clone());
        let found = directory.look_up_first(&whom).await;
        if let Found::Away(_) = found {
            directory.tell_again(&Change::Device(device));
            return;
        }
        let held = Held::of(found, self.unknown());
        for control in sitting {
            self.judge_one(&control, &held);
        }
    }

    fn judge_one(&self, control: &Arc<Control>, held: &Held) {
        let now = control.now();
        let evidence = control.evidence();
        let device = Some(&control.sitter.device);
        match policy::judge(&evidence, device, held.standing(), now) {
            Ok(until) => {
                let until = until.and_then(|until| super::deadline(until, now));
                for roll in self.rolls() {
                    roll.set_until(control, until);
                }
            }
            Err(refusal) => {
                if let Some(cause) = Cause::of(&refusal) {
                    end(vec![control.clone()], cause);
                }
            }
        }
    }

    /// Looks again at a connection for whose certificate no trust group vouches any more: a pin may still count.
    pub(crate) async fn doubt(&self, control: Arc<Control>) {
        control.set_unvouched();
        let device = control.sitter.device.clone();
        let held = match &self.directory {
            None => Held::NoRegistry,
            Some(directory) => {
                let found = directory.look_up_first(&Whom::Device(device)).await;
                Held::of(found, self.unknown())
            }
        };
        if policy::judge(&control.evidence(), None, held.standing(), control.now()).is_err() {
            end(vec![control], Cause::TrustEnded);
        }
    }
}

/// Looks up whom `claim` names: by that name; if nobody has it, by the pins of what it showed; and if nobody has those,
/// what `unknown` says becomes of it. If the record that is remembered lacks what it showed, that record is asked for anew. `sit` takes a seat for a device, before what is said of it counts. `now` in seconds
/// since 1970. Dropping it half-way gives the seat back.
pub(crate) async fn look_up<S>(
    claim: &Claim,
    registry: Option<&impl LookUp>,
    unknown: Unknown,
    sit: impl Fn(&DeviceId) -> S,
    now: i64,
) -> Looked<S> {
    let named = claim.device().map(|device| (sit(device), device));
    let Some(registry) = registry else {
        return Looked {
            seat: named.map(|(seat, _)| seat),
            held: Held::NoRegistry,
        };
    };
    let lane = if claim.is_vouched() {
        Lane::Vouched
    } else {
        Lane::Stranger
    };
    let since = tokio::time::Instant::now();
    let current = async |found| match found {
        Found::Known(record) if policy::is_lacking(&record, &claim.evidence, now) => {
            registry.look_up_anew(record, since).await
        }
        found => found,
    };
    let mut found = Found::Unknown;
    if let Some((_, device)) = &named {
        let whom = Whom::Device((*device).clone());
        found = current(registry.look_up(lane, &whom).await).await;
    }
    if let (Found::Unknown, Some(pins)) = (&found, claim.pins()) {
        match registry.look_up(lane, &Whom::Pinned(pins)).await {
            Found::Known(record) => {
                let seat = sit(&record.device);
                // Now that its seat is taken, what it is told counts. A stranger it is no more: it has the key of a pin.
                let device = Whom::Device(record.device.clone());
                let found = current(registry.look_up(Lane::Vouched, &device).await).await;
                return Looked {
                    seat: Some(seat),
                    held: Held::of(found, Unknown::Refuse),
                };
            }
            other => found = other,
        }
    }
    let mut held = Held::of(found, unknown);
    if let Held::Unknown(unknown @ Unknown::Register { quota, approval }) = held
        && claim.may_register(unknown)
        && let Some(record) = policy::registration(claim, approval, now)
    {
        held = registry.register(record, quota).await;
    }
    Looked {
        seat: named.map(|(seat, _)| seat),
        held,
    }
}

impl LookUp for Directory {
    async fn look_up(&self, lane: Lane, whom: &Whom) -> Found {
        self.look_up_for(lane, whom).await
    }

    async fn look_up_anew(&self, record: Arc<Record>, since: tokio::time::Instant) -> Found {
        self.look_up_anew(&record.device, since).await
    }

    async fn register(&self, record: Record, quota: u32) -> Held {
        match Self::register(self, record, quota).await {
            Ok(found) => Held::of(found, Unknown::Refuse),
            Err(fault @ Fault::QuotaFull { .. }) => Held::Full(fault.to_string()),
            Err(fault) => Held::Away(fault.to_string().into()),
        }
    }
}

fn seen(evidence: &Evidence, address: SocketAddr, now: i64) -> LastSeen {
    LastSeen {
        at: now,
        address: address.to_string(),
        mode: evidence.mode,
        certificate: evidence
            .certificate
            .as_ref()
            .map(|shown| shown.certificate.print),
    }
}

/// Ends connections between packets; those that take too long over it at once.
pub(crate) fn end(controls: Vec<Arc<Control>>, cause: Cause) {
    for control in &controls {
        control.give(Order::End(cause));
    }
    tokio::spawn(async move {
        sleep(LAST_PACKET).await;
        for control in controls {
            control.give(Order::Cut);
        }
    });
}
