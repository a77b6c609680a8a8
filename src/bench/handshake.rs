//! `bench handshake`: how many devices get in, and how long it takes them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::arrivals::Schedule;
use super::devices::{self, Device};
use super::held::Held;
use super::link::{Agreed, Link};
use super::phases::Course;
use super::report::Scenario;
use super::settings::{Load, Phase, Settings, Until};
use super::stage::{self, Found, Gathered, Pulse, Seat};
use super::trouble::Trouble;
use super::{Fault, cue, limits, pace, process, setup, sources, tally, tls};

/// What a run of handshakes is to do, beside what every run has.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When attempts are begun.
    pub load: Load,
    /// When no more are begun.
    pub until: Until,
    /// In open loop and by time, what follows then.
    pub then: Vec<Phase>,
    /// Go on to CONNECT and CONNACK.
    pub connect: bool,
    /// A device gives up an attempt after so long; `None`: only the timeout of the run ends it.
    pub give_up: Option<Duration>,
    /// How often a device that failed comes back; 0: never.
    pub retries: u32,
    /// How long it waits before it does.
    pub retry_after: Duration,
    /// A device that got in leaves, and comes again so long after it came; `None`: it does not.
    pub return_after: Option<Duration>,
    /// Connections stay open until the end of the run; they are those of devices that have `connect`ed.
    pub hold: bool,
}

/// What the operator hears while it goes on.
pub trait Listener {
    /// Devices are made: so many of so many.
    fn preparing(&mut self, done: usize, of: usize);
    /// Devices make the TLS sessions that they will resume: so many of so many.
    fn priming(&mut self, done: usize, of: usize);
    /// A second of the run is over.
    fn second(&mut self, pulse: &Pulse<'_>);
}

/// Runs it.
///
/// # Errors
/// [`Fault`], when it cannot begin. Attempts that fail are in the report.
pub fn run(settings: &Settings, plan: &Plan, listener: &mut dyn Listener) -> Result<Found, Fault> {
    limits::allow(at_once(plan))?;
    let mut report = setup::report(Scenario::Handshake, settings);
    let caller = Arc::new(Caller::prepare(
        settings,
        KEEP_ALIVE,
        plan.connect,
        listener,
    )?);
    if caller.resume > 0.0 {
        let primed = prime(&caller, settings.threads, listener)?;
        let of = caller.devices.len();
        report.setup.push((
            "sessions",
            format!("{primed} of {of} devices have one to resume"),
        ));
    }
    report.setup.extend([
        ("load", setup::load(plan.load)),
        ("lasts", setup::course(plan.until, &plan.then)),
        (
            "goes on to",
            if plan.connect {
                "CONNACK"
            } else {
                "the end of the handshake"
            }
            .into(),
        ),
    ]);

    if settings.begin_on_line {
        let _ = cue::wait().blocking_recv();
    }
    let phases = phases(plan);
    let work = Arc::new(Work {
        caller,
        plan: plan.clone(),
        schedule: match plan.load {
            Load::Open(rate) if phases.is_empty() => Some(Schedule::new(rate, plan.until)),
            Load::Open(_) => Some(Schedule::of(&phases)),
            Load::Closed(_) => None,
        },
        course: Course::new(&phases),
        next: AtomicU64::new(0),
        arrived: AtomicU64::new(0),
    });
    let before = process::look(&settings.pids);
    let shared = work.clone();
    let mut gathered = stage::run(
        threads(plan.load, settings.threads),
        &mut |pulse| listener.second(pulse),
        move |seat| shared.clone().sit(seat),
    )?;
    if !settings.pids.is_empty() {
        let (cost, told) = process::look(&settings.pids).cost_since(&before);
        report.server = Some(cost);
        gathered.client.bottlenecks.extend(told);
    }
    if plan.give_up.is_some() || plan.retries > 0 {
        report.setup.push(("storm", storm(plan, &work, &gathered)));
    }
    if let Load::Open(_) = plan.load {
        gathered.judge_lateness();
    }
    report.setup.extend(setup::common(settings));
    report.phases = work.course.told(&gathered.tally.tries);
    Ok(gathered.fill(report))
}

/// The phases of the run; none in closed loop, and of a run that ends by count.
fn phases(plan: &Plan) -> Vec<Phase> {
    match (plan.load, plan.until) {
        (Load::Open(rate), Until::Time(time)) => {
            let first = Phase { rate, time };
            std::iter::once(first).chain(plan.then.clone()).collect()
        }
        _ => Vec::new(),
    }
}

fn storm(plan: &Plan, work: &Work, gathered: &Gathered) -> String {
    let patience = match plan.give_up {
        None => "devices do not give up".to_owned(),
        Some(time) => format!("devices give up after {}", humantime::format_duration(time)),
    };
    let again = match plan.retries {
        0 => "do not come back".to_owned(),
        u32::MAX => "come back until the end".to_owned(),
        times => format!("come back up to {times} times"),
    };
    let later = match plan.retry_after {
        Duration::ZERO => String::new(),
        time => format!(", {} later", humantime::format_duration(time)),
    };
    let returns = plan.return_after.map_or_else(String::new, |time| {
        let time = humantime::format_duration(time);
        format!(", and who got in comes again {time} after it came")
    });
    let arrived = work.arrived.load(Ordering::Relaxed);
    format!(
        "{patience}, {again}{later}{returns}; {arrived} arrived, {} got in",
        gathered.tally.timed("got_in")
    )
}

/// How many connections are open at once at most, as far as one can know before.
fn at_once(plan: &Plan) -> u64 {
    match (plan.load, plan.hold, plan.until) {
        (_, true, Until::Count(count)) => count,
        (Load::Closed(many), ..) => many as u64,
        (Load::Open(_), ..) => 64,
    }
}

/// No more threads than attempts at once.
fn threads(load: Load, threads: usize) -> usize {
    match load {
        Load::Closed(many) => threads.min(many),
        Load::Open(_) => threads,
    }
}

/// Who calls, whom, and how: what the attempts of all threads share and none changes.
pub(super) struct Caller {
    pub(super) devices: Vec<Device>,
    target: super::settings::Target,
    sources: Vec<IpAddr>,
    timeout: Duration,
    mqtt: crate::mqtt::Version,
    plain: bool,
    connect: bool,
    resume: f64,
}

/// An attempt that went well.
pub(super) struct Done {
    pub(super) link: Link,
    /// `None`: there was no TLS.
    agreed: Option<Agreed>,
    /// When the device's part of the handshake was over; without TLS, when TCP was there.
    handshake: Instant,
    /// What the end was, and when; `None`: the handshake.
    end: Option<(&'static str, Instant)>,
}

impl Caller {
    /// Makes the devices, once it is seen that what else was named is there.
    pub(super) fn prepare(
        settings: &Settings,
        keep_alive: u16,
        connect: bool,
        listener: &mut dyn Listener,
    ) -> Result<Self, Fault> {
        process::are_there(&settings.pids)?;
        sources::are_here(&settings.sources)?;
        let template = tls::template(&settings.tls)?;
        let devices = devices::prepare(
            &settings.devices,
            &template,
            settings.threads,
            keep_alive,
            settings.tls.resume > 0.0,
            &mut |done, of| listener.preparing(done, of),
        )?;
        Ok(Self {
            devices,
            target: settings.target.clone(),
            sources: settings.sources.clone(),
            timeout: settings.timeout,
            mqtt: settings.devices.mqtt,
            plain: settings.tls.plain,
            connect,
            resume: settings.tls.resume,
        })
    }

    /// Whether attempt `n` is one of those to be resumed: spread evenly.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "attempts of one run are far below 2^52, and none is negative"
    )]
    fn resumes(&self, n: u64) -> bool {
        let part = |n: u64| (n as f64 * self.resume).floor() as u64;
        part(n + 1) > part(n)
    }

    /// Attempt `n`, for `limit` at most: `word` is what it is then counted under. Dropped half-way, the socket is closed.
    pub(super) async fn attempt(&self, n: u64, limit: Option<Duration>) -> Result<Done, Trouble> {
        let (limit, word) = match limit {
            Some(limit) if limit < self.timeout => (limit, "gave_up"),
            _ => (self.timeout, "timeout"),
        };
        let attempt = self.call(n, self.resumes(n));
        match tokio::time::timeout(limit, attempt).await {
            // The signature that does not fit is the one under the certificate: its CA has the name of one that the
            // server knows, and another key.
            Ok(Err(Trouble {
                word: "tls_alert_decrypt_error",
                said,
            })) if self.device(n).shows => Err(Trouble::said("certificate_refused", &said)),
            Ok(done) => done,
            Err(_) => Err(Trouble::of(word)),
        }
    }

    /// How long an attempt may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The version of MQTT that its devices speak.
    pub(super) fn version(&self) -> crate::mqtt::Version {
        self.mqtt
    }

    /// The device that makes attempt `n`.
    pub(super) fn device(&self, n: u64) -> &Device {
        &self.devices[nth(n, self.devices.len())]
    }

    async fn call(&self, n: u64, resume: bool) -> Result<Done, Trouble> {
        let device = self.device(n);
        let config = match &device.resuming {
            Some((config, _)) if resume => config,
            _ => &device.full,
        };
        let source = match self.sources.as_slice() {
            [] => None,
            sources => Some(sources[nth(n, sources.len())]),
        };
        let tls = (!self.plain).then(|| (config.clone(), self.target.name.clone()));
        let mut link = Link::dial(self.target.address, source, tls).await?;
        let agreed = link.handshake().await?;
        let handshake = Instant::now();
        let end = if self.connect {
            link.connect(&device.connect, self.mqtt).await?;
            Some(("connack", Instant::now()))
        } else if link.verdict_is_open() {
            link.verdict().await?;
            Some(("verdict", Instant::now()))
        } else {
            None
        };
        Ok(Done {
            link,
            agreed,
            handshake,
            end,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the rest is below a usize")]
fn nth(n: u64, of: usize) -> usize {
    (n % of as u64) as usize
}

impl Done {
    /// Writes it into the book; times count from `from`. Gives the connection.
    pub(super) fn note(self, seat: &Seat, from: Instant) -> Link {
        let mut book = seat.book();
        if let Some(agreed) = self.agreed {
            book.agree(agreed);
            book.time("handshake", self.handshake - from);
        }
        let last = match self.end {
            Some((name, at)) => {
                book.time(name, at - from);
                at
            }
            None => self.handshake,
        };
        book.succeed(last - from);
        self.link
    }
}

/// Lets every device make a TLS session that it can resume; gives how many have one.
///
/// # Errors
/// When there is no thread or no descriptor to be had, and when the operator ends it: nothing was measured yet.
fn prime(
    caller: &Arc<Caller>,
    threads: usize,
    listener: &mut dyn Listener,
) -> Result<usize, Fault> {
    let next = Arc::new(AtomicU64::new(0));
    let shared = caller.clone();
    let of = caller.devices.len();
    let begun = next.clone();
    let mut live = |_: &Pulse<'_>| {
        let begun = usize::try_from(begun.load(Ordering::Relaxed)).unwrap_or(of);
        listener.priming(begun.min(of), of);
    };
    let primed = stage::run(threads, &mut live, move |seat| {
        let (caller, next) = (shared.clone(), next.clone());
        async move {
            let one = || async {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= caller.devices.len() as u64 {
                        return;
                    }
                    let call = tokio::time::timeout(caller.timeout, caller.call(n, true));
                    // What fails here fails again in the run, and is counted there.
                    if let Ok(Ok(done)) = call.await {
                        done.link.bye(caller.connect);
                    }
                }
            };
            let all = futures_util::future::join_all((0..8).map(|_| one()));
            tokio::select! {
                _ = all => {}
                () = seat.stopped() => {}
            }
        }
    })?;
    if primed.interrupted {
        let why = "interrupted while devices made the sessions that they were to resume: nothing was measured";
        return Err(Fault::Failed(why.into()));
    }
    let primed = caller.devices.iter().filter(|device| {
        let sessions = device.resuming.as_ref().map(|(_, sessions)| sessions);
        sessions.is_some_and(|sessions| sessions.are_there())
    });
    Ok(primed.count())
}

struct Work {
    caller: Arc<Caller>,
    plan: Plan,
    schedule: Option<Schedule>,
    course: Course,
    /// The number of the next attempt, in closed loop.
    next: AtomicU64,
    /// Devices that came, however often they tried.
    arrived: AtomicU64,
}

/// What CONNECT promises, and what a connection that is held says PINGREQ by.
const KEEP_ALIVE: u16 = 60;

impl Work {
    async fn sit(self: Arc<Self>, seat: Rc<Seat>) {
        let keep_alive = Duration::from_secs(KEEP_ALIVE.into());
        let held = Rc::new(Held::new(Some(keep_alive), self.caller.timeout()));
        let visit = |n, due| {
            let (work, seat, held) = (self.clone(), seat.clone(), held.clone());
            async move { work.visit(&seat, n, due, &held).await }
        };
        let all = async {
            match &self.schedule {
                Some(schedule) => pace::attempts(&seat, schedule, visit).await,
                None => self.closed(&seat, &held).await,
            }
        };
        if let Until::Time(time) = self.plan.until {
            let then: Duration = self.plan.then.iter().map(|phase| phase.time).sum();
            seat.book().rate_until(seat.begin() + time + then);
        }
        tokio::select! {
            () = all => {}
            () = seat.stopped() => seat.book().rate_until(Instant::now()),
        }
        held.end().await;
    }

    /// This thread's share of so many at once.
    async fn closed(self: &Arc<Self>, seat: &Rc<Seat>, held: &Rc<Held>) {
        let Load::Closed(many) = self.plan.load else {
            return;
        };
        let share = many / seat.threads + usize::from(seat.thread < many % seat.threads);
        let mut tasks = JoinSet::new();
        for _ in 0..share {
            let (work, seat, held) = (self.clone(), seat.clone(), held.clone());
            tasks.spawn_local(async move {
                while let Some(n) = work.take(&seat) {
                    work.visit(&seat, n, Instant::now(), &held).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// The number of the next attempt in closed loop; `None`: no more are to be begun.
    fn take(&self, seat: &Seat) -> Option<u64> {
        if self.is_over(seat) {
            return None;
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        match self.plan.until {
            Until::Count(count) if n >= count => None,
            _ => Some(n),
        }
    }

    fn is_over(&self, seat: &Seat) -> bool {
        match self.plan.until {
            Until::Time(time) => seat.begin().elapsed() >= time,
            Until::Count(_) => false,
        }
    }

    /// One device comes, at `due`, and comes back as often as the plan says.
    async fn visit(&self, seat: &Rc<Seat>, n: u64, due: Instant, held: &Held) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let end = self.course.end(due - seat.begin());
        let end = end.map(|end| seat.begin() + end);
        let (mut came, mut from, mut failed) = (due, due, 0);
        seat.book().begin(due);
        loop {
            let again = match self.attempt(seat, n, from).await {
                Some(done) => {
                    self.got_in(seat, done.note(seat, from), came, held);
                    failed = 0;
                    let Some(time) = self.plan.return_after else {
                        return;
                    };
                    came = (from + time).max(Instant::now());
                    came
                }
                None if failed >= self.plan.retries => return,
                None => {
                    failed += 1;
                    Instant::now() + self.plan.retry_after
                }
            };
            // What fails at once must not keep the others of this thread from their turn.
            tokio::task::yield_now().await;
            let over = end.map_or_else(|| self.is_over(seat), |end| again >= end);
            if over {
                return;
            }
            tokio::time::sleep_until(again.into()).await;
            from = Instant::now();
            seat.book().begin_many(1);
        }
    }

    /// One try, which was due at `from`; `None`: it came to nothing, and that is counted.
    async fn attempt(&self, seat: &Seat, n: u64, from: Instant) -> Option<Done> {
        let at = from - seat.begin();
        let phased = !self.course.is_empty();
        if phased {
            seat.book().tries().begin(&self.course, at);
        }
        // Patience begins when the try was due: one that the harness begins late has less of it left.
        let patience = self.plan.give_up;
        let patience = patience.map(|time| time.saturating_sub(from.elapsed()));
        match self.caller.attempt(n, patience).await {
            Ok(done) => {
                if phased {
                    let time = tally::micros(from.elapsed());
                    seat.book().tries().succeed(&self.course, at, time);
                }
                Some(done)
            }
            Err(trouble) => {
                if phased {
                    seat.book().tries().fail(&self.course, at, trouble.word);
                }
                seat.book().fail_after(trouble, from.elapsed());
                None
            }
        }
    }

    fn got_in(&self, seat: &Rc<Seat>, link: Link, came: Instant, held: &Held) {
        if self.plan.give_up.is_some() || self.plan.retries > 0 {
            seat.book().time("got_in", came.elapsed());
        }
        if self.plan.hold {
            held.take(seat, link);
        } else {
            link.bye(self.plan.connect);
        }
    }
}
