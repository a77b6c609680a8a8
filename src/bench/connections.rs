//! `bench connections`: opens many, holds them, and tells what one at rest costs the server.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::arrivals::Schedule;
use super::handshake::{Caller, Listener};
use super::held::Held;
use super::link::Link;
use super::meeting::Meeting;
use super::report::Scenario;
use super::settings::{Load, Settings, Until};
use super::stage::{self, Found, Seat};
use super::{Fault, limits, pace, process, setup};

/// What a run of connections is to do, beside what every run has.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many are opened.
    pub connections: u64,
    /// How fast.
    pub load: Load,
    /// How long they are held after the last one is open.
    pub hold: Duration,
    /// How often each says PINGREQ; `None`: never.
    pub keep_alive: Option<Duration>,
}

/// Runs it. The report's rate and CPU time are those of the opening; what rest costs is told apart.
///
/// # Errors
/// [`Fault`], when it cannot begin. Connections that fail are in the report.
pub fn run(settings: &Settings, plan: &Plan, listener: &mut dyn Listener) -> Result<Found, Fault> {
    limits::allow(plan.connections)?;
    let mut report = setup::report(Scenario::Connections, settings);
    let keep_alive = plan.keep_alive.map_or(0, |time| time.as_secs().max(1));
    let keep_alive = u16::try_from(keep_alive).unwrap_or(u16::MAX);
    let caller = Caller::prepare(settings, keep_alive, true, listener)?;
    let threads = settings.threads;
    let work = Arc::new(Work {
        caller,
        plan: plan.clone(),
        next: AtomicU64::new(0),
        meeting: Meeting::new(threads, &settings.pids),
    });
    let before = process::look(&settings.pids);
    let shared = work.clone();
    let mut gathered = stage::run(threads, &mut |pulse| listener.second(pulse), move |seat| {
        shared.clone().sit(seat)
    })?;
    if let Load::Open(_) = plan.load {
        gathered.judge_lateness();
    }
    report.setup.extend([
        ("opened by", setup::load(plan.load)),
        (
            "held for",
            humantime::format_duration(plan.hold).to_string(),
        ),
        (
            "keep alive",
            plan.keep_alive.map_or_else(
                || "none".into(),
                |time| format!("PINGREQ every {}", humantime::format_duration(time)),
            ),
        ),
    ]);
    if let [(opened, open), (closed, rested)] = work.meeting.looks().as_slice()
        && !settings.pids.is_empty()
    {
        let (mut cost, told) = rested.cost_since(&before);
        cost.cpu = open.cpu_since(&before);
        let held = closed.saturating_duration_since(*opened);
        cost.at_rest = Some((rested.cpu_since(open), held));
        report.server = Some(cost);
        gathered.client.bottlenecks.extend(told);
    }
    report.setup.extend(setup::common(settings));
    Ok(gathered.fill(report))
}

struct Work {
    caller: Caller,
    plan: Plan,
    next: AtomicU64,
    meeting: Meeting,
}

impl Work {
    async fn sit(self: Arc<Self>, seat: Rc<Seat>) {
        let held = Held::new(self.plan.keep_alive, self.caller.timeout());
        tokio::select! {
            () = self.open(&seat, &held) => {}
            () = seat.stopped() => {}
        }
        self.meeting.meet().await;
        tokio::select! {
            () = tokio::time::sleep(self.plan.hold) => {}
            () = held.all_lost() => {} // there is nothing to hold
            () = seat.stopped() => {}
        }
        self.meeting.meet().await;
        held.end().await;
    }

    async fn open(self: &Arc<Self>, seat: &Rc<Seat>, held: &Held) {
        // Connections go to `held` as they come, for the tasks that make them to be over by then.
        let (to, mut opened) = tokio::sync::mpsc::unbounded_channel();
        let mut making = JoinSet::new();
        match self.plan.load {
            Load::Closed(many) => {
                let share = many / seat.threads + usize::from(seat.thread < many % seat.threads);
                for _ in 0..share {
                    let (work, seat, to) = (self.clone(), seat.clone(), to.clone());
                    making.spawn_local(async move {
                        loop {
                            let n = work.next.fetch_add(1, Ordering::Relaxed);
                            if n >= work.plan.connections {
                                return;
                            }
                            work.one(&seat, n, Instant::now(), &to).await;
                        }
                    });
                }
            }
            Load::Open(rate) => {
                let schedule = Schedule::new(rate, Until::Count(self.plan.connections));
                let (work, seat, to) = (self.clone(), seat.clone(), to.clone());
                making.spawn_local(async move {
                    let one = |n, due| {
                        let (work, seat, to) = (work.clone(), seat.clone(), to.clone());
                        async move { work.one(&seat, n, due, &to).await }
                    };
                    pace::attempts(&seat, &schedule, one).await;
                });
            }
        }
        drop(to);
        while let Some(link) = opened.recv().await {
            held.take(seat, link);
        }
    }

    async fn one(&self, seat: &Seat, n: u64, due: Instant, to: &Opened) {
        seat.book().begin(due);
        match self.caller.attempt(n, None).await {
            // Whoever held them has gone when the run was stopped.
            Ok(done) => drop(to.send(done.note(seat, due))),
            Err(trouble) => seat.book().fail_after(trouble, due.elapsed()),
        }
    }
}

type Opened = tokio::sync::mpsc::UnboundedSender<Link>;
