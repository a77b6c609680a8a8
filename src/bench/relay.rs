//! `bench relay`: connections that publish, and how fast that goes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::arrivals::Schedule;
use super::handshake::{Caller, Listener};
use super::link::Link;
use super::meeting::Meeting;
use super::report::Scenario;
use super::settings::{Rate, Settings, Until};
use super::speaker::Speaker;
use super::stage::{self, Found, Seat};
use super::trouble::Trouble;
use super::{Fault, cue, limits, pace, setup};

/// What a run of messages is to do, beside what every run has.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many connections publish.
    pub connections: u64,
    /// Payload of a message, in bytes.
    pub size: usize,
    /// 0 or 1.
    pub qos: u8,
    /// Messages per second, all connections together; `None`: as fast as they can.
    pub rate: Option<Rate>,
    /// How long messages are published.
    pub duration: Duration,
    /// Each connection hears its own messages, and sends the next when it has the last one back.
    pub ping_pong: bool,
    /// Messages of QoS 1 of one connection that wait for their PUBACK at once, as fast as they can.
    pub window: usize,
    /// How messages are put into TLS records.
    pub records: Records,
    /// The topic; `{device}` in it is the device's name.
    pub topic: String,
}

/// How messages are put into TLS records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Records {
    /// Each in its own, as a device does that writes when it has something to say.
    PerMessage,
    /// As many as a record holds, where several are due at once.
    Packed,
}

/// Runs it.
///
/// # Errors
/// [`Fault`], when it cannot begin. Messages that do not arrive are in the report.
pub fn run(settings: &Settings, plan: &Plan, listener: &mut dyn Listener) -> Result<Found, Fault> {
    limits::allow(plan.connections)?;
    let mut report = setup::report(Scenario::Relay, settings);
    // The run is shorter than any broker's patience would be; no keep alive, no PINGREQ in between.
    let caller = Caller::prepare(settings, 0, true, listener)?;
    let most = usize::try_from(plan.connections).unwrap_or(usize::MAX);
    let threads = settings.threads.min(most);
    let told = told(plan).into_iter();
    let counts = |name: &str| !settings.tls.plain || name != "tls records";
    report.setup.extend(told.filter(|(name, _)| counts(name)));
    let work = Arc::new(Work {
        caller,
        plan: plan.clone(),
        meeting: Meeting::new(threads, &settings.pids),
        waits: settings.begin_on_line,
    });
    let shared = work.clone();
    let mut gathered = stage::run(threads, &mut |pulse| listener.second(pulse), move |seat| {
        shared.clone().sit(seat)
    })?;
    if let [(_, before), (_, after)] = work.meeting.looks().as_slice()
        && !settings.pids.is_empty()
    {
        let (cost, told) = after.cost_since(before);
        report.server = Some(cost);
        gathered.client.bottlenecks.extend(told);
    }
    if plan.rate.is_some() {
        gathered.judge_lateness();
    }
    report.setup.extend(setup::common(settings));
    Ok(gathered.fill(report))
}

fn told(plan: &Plan) -> [(&'static str, String); 4] {
    let how = match plan.rate {
        None => "as fast as they can".to_owned(),
        Some(rate) if (rate.from - rate.to).abs() < f64::EPSILON => {
            format!("{} per second in all", rate.from)
        }
        Some(rate) => format!("{} to {} per second in all", rate.from, rate.to),
    };
    let waits = match (plan.ping_pong, plan.qos, plan.rate) {
        (true, ..) => ", each waits for its own message to come back".to_owned(),
        (false, 1, None) => format!(", {} of each unacknowledged at most", plan.window),
        _ => String::new(),
    };
    let records = match plan.records {
        Records::PerMessage => "one message each",
        Records::Packed => "as many messages as fit",
    };
    [
        ("connections", plan.connections.to_string()),
        (
            "messages",
            format!("{} bytes, QoS {}, {how}{waits}", plan.size, plan.qos),
        ),
        ("tls records", records.to_owned()),
        (
            "lasts",
            humantime::format_duration(plan.duration).to_string(),
        ),
    ]
}

struct Work {
    caller: Caller,
    plan: Plan,
    meeting: Meeting,
    /// It begins on a line of standard input.
    waits: bool,
}

impl Work {
    async fn sit(self: Arc<Self>, seat: Rc<Seat>) {
        let links = tokio::select! {
            links = self.open(&seat) => links,
            () = seat.stopped() => Vec::new(),
        };
        if self.waits && self.meeting.gather().await {
            tokio::select! {
                _ = cue::wait() => {}
                () = seat.stopped() => {}
            }
        }
        let begin = self.meeting.meet().await;
        seat.begin_anew(begin);
        let end = begin + self.plan.duration;
        if self.plan.qos > 0 || self.plan.ping_pong {
            seat.book().rate_until(end);
        } // else what was said until then may lie in a queue; the fence tells when it arrived
        let mut speaking = JoinSet::new();
        let mut all_due = Vec::new();
        let spoken = Spoken::default();
        for (n, link) in links {
            let due = Rc::new(Due::default());
            all_due.push(due.clone());
            let topic = self
                .plan
                .topic
                .replace("{device}", &self.caller.device(n).name);
            let version = self.caller.version();
            let spoken = spoken.clone();
            let speaker = Speaker::new(link, &self.plan, &topic, version, due, end, spoken);
            let timeout = end + self.caller.timeout();
            speaking.spawn_local(speaker.speak(seat.clone(), timeout));
        }
        let paced = async {
            tokio::select! {
                () = self.pace(&seat, &all_due) => {}
                () = seat.stopped() => {}
            }
        };
        let said = async {
            tokio::join!(paced, async {
                while speaking.join_next().await.is_some() {}
            })
        };
        tokio::select! {
            _ = said => {}
            () = self.stopped(&seat, &all_due) => {}
        }
        self.meeting.meet().await;
        // Only now: that they go is no part of what messages cost.
        for link in spoken.borrow_mut().drain(..) {
            link.bye(true);
        }
    }

    /// When the operator ends the run: nothing more is said, and what was said may still be confirmed. Comes when that
    /// took too long.
    async fn stopped(&self, seat: &Seat, all: &[Rc<Due>]) {
        seat.stopped().await;
        if self.plan.qos > 0 || self.plan.ping_pong {
            seat.book().rate_until(Instant::now());
        }
        for due in all {
            due.give_up();
        }
        tokio::time::sleep(self.caller.timeout()).await;
    }

    /// Opens this thread's share, several at once.
    async fn open(&self, seat: &Rc<Seat>) -> Vec<(u64, Link)> {
        use futures_util::StreamExt as _;
        let mine = (seat.thread as u64..self.plan.connections).step_by(seat.threads);
        let opened = futures_util::stream::iter(mine)
            .map(|n| async move {
                let from = Instant::now();
                match self.caller.attempt(n, None).await {
                    Ok(done) => Some((n, done.note(seat, from))),
                    Err(trouble) => {
                        seat.book().fail(trouble);
                        None
                    }
                }
            })
            .buffer_unordered(8);
        opened.filter_map(std::future::ready).collect().await
    }

    /// Tells each connection when its next message is due.
    async fn pace(&self, seat: &Seat, all: &[Rc<Due>]) {
        let Some(rate) = self.plan.rate else { return };
        if all.is_empty() {
            return;
        }
        let schedule = Schedule::new(rate, Until::Time(self.plan.duration));
        let mut next = all.iter().cycle();
        let paced = pace::keep(seat, &schedule, |_, at| {
            if let Some(due) = next.next() {
                due.add(at);
            }
        });
        if let Err(fault) = paced.await {
            seat.book().fail(Trouble::from(fault));
        }
        for due in all {
            due.close();
        }
    }
}

/// Connections that have said all, and stand until the server was looked at.
pub(super) type Spoken = Rc<RefCell<Vec<Link>>>;

/// The messages that a connection is to publish, by the moment that each was due.
#[derive(Default)]
pub(super) struct Due {
    queue: RefCell<VecDeque<Instant>>,
    closed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Due {
    fn add(&self, at: Instant) {
        self.queue.borrow_mut().push_back(at);
        self.wake();
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// There will be no more, not even those that are due.
    fn give_up(&self) {
        self.queue.borrow_mut().clear();
        self.close();
    }

    /// Whether there will be no more than what is due.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The next one that is due; `None`: there will be no more.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        if let Some(at) = self.queue.borrow_mut().pop_front() {
            return Poll::Ready(Some(at));
        }
        if self.closed.get() {
            return Poll::Ready(None);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
