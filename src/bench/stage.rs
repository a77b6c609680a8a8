//! Where a run takes place: its threads, their beginning, what they report, and their end.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use super::Fault;
use super::interrupt::Interrupt;
use super::report::{ClientCost, Report, Second};
use super::tally::{Book, Slice, Tally};
use super::times;
use super::trouble::{DESCRIPTORS, PORTS};
use super::watch::Watch;
use super::words;

/// What is told once a second while a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct Pulse<'a> {
    /// The second that is over.
    pub second: &'a Second,
    /// Attempts begun since the beginning.
    pub attempts: u64,
    /// Attempts that succeeded since the beginning.
    pub succeeded: u64,
    /// Attempts that failed since the beginning, by kind.
    pub errors: &'a BTreeMap<&'static str, u64>,
}

/// What a run found.
#[derive(Debug)]
pub struct Found {
    /// All of it.
    pub report: Report,
    /// What was said when something failed the first time, by kind; may be empty.
    pub examples: BTreeMap<&'static str, String>,
}

/// A thread's place in a run.
pub(super) struct Seat {
    /// Which of the threads, from 0.
    pub(super) thread: usize,
    /// How many there are.
    pub(super) threads: usize,
    begin: Cell<Instant>,
    book: RefCell<Option<Book>>,
    stop: watch::Receiver<bool>,
}

impl Seat {
    /// When the run began, the same for all.
    pub(super) fn begin(&self) -> Instant {
        self.begin.get()
    }

    /// Begins anew: what was done until `begin`, the same for all, was preparation.
    pub(super) fn begin_anew(&self, begin: Instant) {
        self.begin.set(begin);
        self.book().begin_anew(begin);
    }

    /// The thread's book. Not to be held over an await.
    pub(super) fn book(&self) -> RefMut<'_, Book> {
        RefMut::map(self.book.borrow_mut(), |book| {
            book.as_mut().expect("closed only after the body has ended")
        })
    }

    /// Comes when the operator ends the run before its time.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a run brought.
pub(super) struct Gathered {
    pub(super) tally: Tally,
    pub(super) timeline: Vec<Second>,
    /// From the common beginning to the end of the last thread's last attempt.
    pub(super) lasted: Duration,
    pub(super) interrupted: bool,
    pub(super) client: ClientCost,
}

/// What one thread leaves.
struct Left {
    tally: Tally,
    lasted: Duration,
    /// Part of its time that it could have run and had no core.
    waited: f64,
}

/// Runs `body` on `threads` threads at once, each with a runtime of its own, until all have ended.
///
/// Ctrl-C is told to them through their seats; a second one ends the process. `live` hears of every second.
///
/// # Errors
/// When there is no thread or no descriptor to be had.
pub(super) fn run<B, F>(
    threads: usize,
    live: &mut dyn FnMut(&Pulse<'_>),
    body: B,
) -> Result<Gathered, Fault>
where
    B: Fn(Rc<Seat>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let failed = |why: std::io::Error| Fault::Failed(format!("cannot start the load: {why}"));
    let interrupt = Interrupt::listen()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (stop, stopping) = watch::channel(false);
    let (to, seconds) = mpsc::unbounded_channel();
    let gate = Arc::new((Barrier::new(threads + 1), OnceLock::new()));
    let mut running = Vec::new();
    for thread in 0..threads {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (body, to, stop, gate) = (body.clone(), to.clone(), stopping.clone(), gate.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("load-{thread}"))
            .spawn(move || {
                gate.0.wait();
                let begin = *gate.1.get_or_init(Instant::now);
                let seat = Rc::new(Seat {
                    thread,
                    threads,
                    begin: Cell::new(begin),
                    book: RefCell::new(Some(Book::new(begin, to))),
                    stop,
                });
                sit(&runtime, &seat, body)
            });
        running.push(spawned.map_err(failed)?);
    }
    drop(to);
    gate.0.wait();
    let seen = runtime.block_on(gather(threads, seconds, interrupt, &stop, live));
    finish(running, seen)
}

fn sit<B, F>(runtime: &tokio::runtime::Runtime, seat: &Rc<Seat>, body: B) -> Left
where
    B: Fn(Rc<Seat>) -> F,
    F: Future<Output = ()> + 'static,
{
    let waiting = waited_for_a_core();
    let local = LocalSet::new();
    local.block_on(runtime, async {
        // Turns the page of a thread that has nothing to write.
        let ticking = seat.clone();
        let mut seconds = tokio::time::interval_at(
            (seat.begin() + Duration::from_secs(1)).into(),
            Duration::from_secs(1),
        );
        tokio::task::spawn_local(async move {
            loop {
                seconds.tick().await;
                ticking.book().turn();
            }
        });
        body(seat.clone()).await;
    });
    let ended = Instant::now();
    drop(local);
    let book = seat.book.borrow_mut().take().expect("nobody else takes it");
    let time = ended.saturating_duration_since(seat.begin()).as_secs_f64();
    let waited = waited_for_a_core().saturating_sub(waiting).as_secs_f64();
    Left {
        tally: book.close(),
        lasted: ended.saturating_duration_since(seat.begin()),
        waited: if time > 0.0 { waited / time } else { 0.0 },
    }
}

/// How long this thread has waited on a run queue; nothing where the kernel does not tell.
fn waited_for_a_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().nth(1);
    Duration::from_nanos(nanos.and_then(|n| n.parse().ok()).unwrap_or_default())
}

/// Puts the seconds of all threads together, until the last thread has ended.
async fn gather(
    threads: usize,
    mut seconds: mpsc::UnboundedReceiver<Slice>,
    mut interrupt: Interrupt,
    stop: &watch::Sender<bool>,
    live: &mut dyn FnMut(&Pulse<'_>),
) -> Seen {
    let mut open: BTreeMap<u32, (usize, Slice)> = BTreeMap::new();
    let mut told = Told::default();
    let mut interrupted = false;
    let mut sink = Watch::begin();
    loop {
        tokio::select! {
            slice = seconds.recv() => {
                let Some(slice) = slice else { break };
                let (epoch, at) = (slice.epoch, slice.at);
                if epoch > told.epoch {
                    open.clear();
                    told = Told { epoch, ..Told::default() };
                    sink = Watch::begin();
                }
                if epoch < told.epoch {
                    continue;
                }
                let (count, sum) = open.entry(at).or_insert_with(|| (0, Slice::new(epoch, at)));
                *count += 1;
                sum.merge(&slice);
                if *count == threads {
                    let (_, slice) = open.remove(&at).expect("it was there");
                    told.tell(&slice, live);
                    sink.second();
                }
            }
            () = interrupt.heard(), if !interrupted => {
                interrupted = true;
                let _ = stop.send(true);
            }
        }
    }
    for (_, slice) in open.into_values() {
        told.tell(&slice, live);
    }
    told.timeline.sort_by_key(|second| second.at);
    Seen {
        timeline: told.timeline,
        busiest: told.busiest,
        sink: sink.end(),
        interrupted,
    }
}

/// What was seen while the threads ran.
struct Seen {
    timeline: Vec<Second>,
    /// Part of a core that a thread used at most, and that the sink did: 0.0 to 1.0.
    busiest: f64,
    sink: f64,
    interrupted: bool,
}

#[derive(Default)]
struct Told {
    /// How often the run began anew before; what is of an earlier beginning is forgotten.
    epoch: u32,
    timeline: Vec<Second>,
    busiest: f64,
    attempts: u64,
    succeeded: u64,
    errors: BTreeMap<&'static str, u64>,
}

impl Told {
    fn tell(&mut self, slice: &Slice, live: &mut dyn FnMut(&Pulse<'_>)) {
        let second = Second {
            at: slice.at,
            begun: slice.begun,
            succeeded: slice.succeeded,
            failed: slice.errors.values().sum(),
            p50_micros: times::P50.of(&slice.micros),
            p99_micros: times::P99.of(&slice.micros),
            max_micros: times::longest(&slice.micros),
        };
        self.busiest = self.busiest.max(slice.busy);
        self.attempts += slice.begun;
        self.succeeded += slice.succeeded;
        super::tally::add_all(&mut self.errors, &slice.errors);
        self.timeline.push(second);
        live(&Pulse {
            second: &second,
            attempts: self.attempts,
            succeeded: self.succeeded,
            errors: &self.errors,
        });
    }
}

fn finish(running: Vec<JoinHandle<Left>>, seen: Seen) -> Result<Gathered, Fault> {
    let threads = running.len();
    let mut tally = Tally::default();
    let (mut lasted, mut waited) = (Duration::ZERO, 0.0_f64);
    for thread in running {
        let left = thread
            .join()
            .map_err(|_| Fault::Failed("a thread of the load panicked".into()))?;
        tally.merge(left.tally);
        lasted = lasted.max(left.lasted);
        waited = waited.max(left.waited);
    }
    let client = ClientCost {
        threads,
        busiest_thread: seen.busiest,
        late_p99_micros: None,
        bottlenecks: bottlenecks(&tally, &seen, waited),
    };
    Ok(Gathered {
        tally,
        timeline: seen.timeline,
        lasted,
        interrupted: seen.interrupted,
        client,
    })
}

/// A thread that uses more of its core than this is at its end.
const BUSY: f64 = 0.9;

/// A thread that waits longer than this part of its time for a core has too little of it.
const WAITING: f64 = 0.1;

/// Attempts that begin later than this after their time, in microseconds, are no schedule.
const LATE: u64 = 10_000;

/// So late, in microseconds, any thread is that has to be woken: no more than that is told of none.
const WAKE_UP: u64 = 2_000;

fn bottlenecks(tally: &Tally, seen: &Seen, waited: f64) -> Vec<String> {
    let mut told = Vec::new();
    let count = |word| tally.errors.get(word).copied().unwrap_or_default();
    let of_interest = tally.succeeded > 0; // of a run without a success there are no rates and times
    if of_interest && seen.busiest > BUSY {
        told.push(format!(
            "a thread of the harness used {:.0} % of its core: rates and times may be its own; give it more --threads and \
             cores, or load from a second machine",
            seen.busiest * 100.0
        ));
    }
    if seen.sink > BUSY {
        told.push(format!(
            "the sink used {:.0} % of its core: the rate may be its own; run `tidegate bench sink` as a process of its own, on \
             another core",
            seen.sink * 100.0
        ));
    }
    if of_interest && waited > WAITING {
        told.push(format!(
            "a thread of the harness waited {:.0} % of the time for a core: it shares cores with others; set server and \
             harness apart with taskset, or load from a second machine",
            waited * 100.0
        ));
    }
    if count(DESCRIPTORS) > 0 {
        told.push(format!(
            "{} attempts found no descriptor left in the harness; raise the hard limit (ulimit -Hn)",
            count(DESCRIPTORS)
        ));
    }
    if count(PORTS) > 0 {
        told.push(format!(
            "{} attempts found no port left in the harness; give it more addresses with --source",
            count(PORTS)
        ));
    }
    told
}

impl Gathered {
    /// Adds how late attempts began, where a schedule said when.
    pub(super) fn judge_lateness(&mut self) {
        self.client.late_p99_micros = times::P99.of(&self.tally.late);
        let (late, began) = match self.client.late_p99_micros {
            Some(late) => (late, "1 % of the attempts began at least"),
            None => (self.tally.late.max(), "an attempt began"),
        };
        let told = words::micros(late);
        let slow = self.tally.slowest_p99();
        if late > LATE {
            self.client.bottlenecks.push(format!(
                "{began} {told} after its time: the harness could not keep its schedule; give it more --threads and \
                 cores, or a lower --rate"
            ));
        } else if late > WAKE_UP && slow.is_some_and(|slow| late * 10 > slow) {
            self.client.bottlenecks.push(format!(
                "{began} {told} after its time, which is more than a tenth of the latency at p99: that \
                 part of the latency is the harness's own; give it more cores, or a lower --rate"
            ));
        }
    }

    /// Fills in what every report takes from a run.
    pub(super) fn fill(self, mut report: Report) -> Found {
        report.lasted = self.lasted;
        report.in_time = self.tally.in_time;
        report.rated = self.tally.rated;
        report.interrupted = self.interrupted;
        report.attempts = self.tally.attempts;
        report.succeeded = self.tally.succeeded;
        report.errors = self.tally.errors.clone();
        report.negotiated = self.tally.negotiated();
        report.payload_bytes = self.tally.payload;
        report.timeline = self.timeline;
        report.arrivals = self.tally.tries.arrivals();
        report.client = self.client;
        let examples = self.tally.examples.clone();
        report.latencies = self.tally.latencies();
        Found { report, examples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late_by(late: u64, latency: u64) -> Vec<String> {
        let (to, _seconds) = mpsc::unbounded_channel();
        let mut book = Book::new(Instant::now(), to);
        book.time("connack", Duration::from_micros(latency));
        let mut tally = book.close();
        tally.late.record(late).expect("within bounds");
        let mut gathered = Gathered {
            tally,
            timeline: Vec::new(),
            lasted: Duration::ZERO,
            interrupted: false,
            client: ClientCost::default(),
        };
        gathered.judge_lateness();
        assert_eq!(gathered.client.late_p99_micros, None, "there was one");
        gathered.client.bottlenecks
    }

    #[test]
    fn a_schedule_is_missed_by_10_ms_or_by_a_tenth_of_the_latency() {
        assert!(late_by(9_000, 500_000).is_empty());
        assert!(late_by(90, 1_000).is_empty());
        assert!(late_by(11_000, 500_000)[0].contains("began 11.0 ms after"));
        assert!(late_by(1_500, 3_000).is_empty(), "any thread that is woken");
        let told = late_by(2_500, 9_000);
        assert!(told[0].contains("more than a tenth"), "{told:?}");
        assert_eq!(late_by(11_000, 20_000).len(), 1);
    }

    #[test]
    fn a_sink_at_its_end_is_a_limit() {
        let seen = |sink| Seen {
            timeline: Vec::new(),
            busiest: 0.2,
            sink,
            interrupted: false,
        };
        let told = bottlenecks(&Tally::default(), &seen(0.95), 0.0);
        assert!(told[0].contains("the sink used 95 %"), "{told:?}");
        assert!(bottlenecks(&Tally::default(), &seen(0.5), 0.0).is_empty());
    }
}
