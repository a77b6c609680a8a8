//! What one thread counts, and how the counts of several become one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion};
use tokio::sync::mpsc::UnboundedSender;

use super::link::Agreed;
use super::phases::Tries;
use super::report::Latency;
use super::trouble::Trouble;

/// The longest time that is told apart: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// The name of the times of who waited in vain.
const WAITED: &str = "waited";

/// An empty histogram of microseconds, three significant figures.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("1 and an hour are bounds")
}

/// In microseconds, from 1 to [`LONGEST`].
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros())
        .unwrap_or(LONGEST)
        .clamp(1, LONGEST)
}

/// The counts of one thread; and, merged, of all.
pub(super) struct Tally {
    pub(super) attempts: u64,
    pub(super) succeeded: u64,
    /// Of those, the ones that the rate is of.
    pub(super) in_time: u64,
    /// The time that the rate is of.
    pub(super) rated: Duration,
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// What the first failure of a word was about.
    pub(super) examples: BTreeMap<&'static str, String>,
    negotiated: BTreeMap<Agreed, u64>,
    latencies: Vec<Latency>,
    /// How late attempts began after their schedule.
    pub(super) late: Histogram<u64>,
    /// Payload moved, in bytes.
    pub(super) payload: u64,
    /// What became of tries, by when they were due; empty in closed loop.
    pub(super) tries: Tries,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            attempts: 0,
            succeeded: 0,
            in_time: 0,
            rated: Duration::ZERO,
            errors: BTreeMap::new(),
            examples: BTreeMap::new(),
            negotiated: BTreeMap::new(),
            latencies: Vec::new(),
            late: histogram(),
            payload: 0,
            tries: Tries::default(),
        }
    }
}

impl Tally {
    /// Adds what another thread counted.
    pub(super) fn merge(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.succeeded += other.succeeded;
        self.in_time += other.in_time;
        self.rated = self.rated.max(other.rated);
        self.payload += other.payload;
        add_all(&mut self.errors, &other.errors);
        for (word, said) in other.examples {
            self.examples.entry(word).or_insert(said);
        }
        for (agreed, count) in other.negotiated {
            *self.negotiated.entry(agreed).or_default() += count;
        }
        for latency in other.latencies {
            add(self.latency(latency.name), &latency.micros);
        }
        add(&mut self.late, &other.late);
        self.tries.merge(other.tries);
    }

    /// Times by name, in the order of the first time; those of who waited in vain last.
    pub(super) fn latencies(mut self) -> Vec<Latency> {
        self.latencies.sort_by_key(|of| of.name == WAITED);
        self.latencies
    }

    /// How often something was timed.
    pub(super) fn timed(&self, name: &str) -> u64 {
        let of = self.latencies.iter().find(|of| of.name == name);
        of.map_or(0, |of| of.micros.len())
    }

    /// The 99th percentile of the slowest thing that an attempt by schedule is timed by, in microseconds; `None`: nothing
    /// was timed.
    pub(super) fn slowest_p99(&self) -> Option<u64> {
        let timed = self.latencies.iter().filter(|of| {
            !of.micros.is_empty()
                && ["handshake", "verdict", "connack", "puback", "round_trip"].contains(&of.name)
        });
        timed.map(|of| of.micros.value_at_quantile(0.99)).max()
    }

    /// What was agreed on, in words, and how often.
    pub(super) fn negotiated(&self) -> BTreeMap<String, u64> {
        let named = self.negotiated.iter();
        named
            .map(|(agreed, count)| (told(*agreed), *count))
            .collect()
    }

    fn latency(&mut self, name: &'static str) -> &mut Histogram<u64> {
        let at = self.latencies.iter().position(|one| one.name == name);
        let at = at.unwrap_or_else(|| {
            self.latencies.push(Latency {
                name,
                micros: histogram(),
            });
            self.latencies.len() - 1
        });
        &mut self.latencies[at].micros
    }
}

/// Every histogram here has the same bounds.
pub(super) fn add(to: &mut Histogram<u64>, other: &Histogram<u64>) {
    to.add(other).expect("the same bounds");
}

pub(super) fn add_all(to: &mut BTreeMap<&'static str, u64>, other: &BTreeMap<&'static str, u64>) {
    for (word, count) in other {
        *to.entry(word).or_default() += count;
    }
}

fn told((version, suite, group, resumed): Agreed) -> String {
    let version = match ProtocolVersion::from(version) {
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        _ => "TLS ?",
    };
    let suite = CipherSuite::from(suite).as_str().unwrap_or("?");
    let group = match group {
        0 => "",
        group => NamedGroup::from(group).as_str().unwrap_or("?"),
    };
    let space = if group.is_empty() { "" } else { " " };
    let kind = if resumed == 1 { "resumed" } else { "full" };
    format!("{version} {suite}{space}{group} {kind}")
}

/// What happened on one thread in one second.
pub(super) struct Slice {
    /// How often the run began anew before.
    pub(super) epoch: u32,
    /// The second, from 0.
    pub(super) at: u32,
    pub(super) begun: u64,
    pub(super) succeeded: u64,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) micros: Histogram<u64>,
    /// Part of a core that the thread used: 0.0 to 1.0; only of a whole second, or of a run that was shorter.
    pub(super) busy: f64,
}

impl Slice {
    pub(super) fn new(epoch: u32, at: u32) -> Self {
        Self {
            epoch,
            at,
            begun: 0,
            succeeded: 0,
            errors: BTreeMap::new(),
            micros: histogram(),
            busy: 0.0,
        }
    }

    /// Adds what another thread did in the same second.
    pub(super) fn merge(&mut self, other: &Self) {
        self.begun += other.begun;
        self.succeeded += other.succeeded;
        self.busy = self.busy.max(other.busy);
        add_all(&mut self.errors, &other.errors);
        add(&mut self.micros, &other.micros);
    }
}

/// One thread's book: its counts, and the second that is being written.
pub(super) struct Book {
    begin: Instant,
    /// What succeeds later is not in the rate; `None`: all is, and its time ends with the last success.
    end: Option<Instant>,
    /// When the last success was.
    last: Option<Instant>,
    tally: Tally,
    slice: Slice,
    /// When the slice began, and the CPU time of the thread by then.
    since: (Instant, Duration),
    to: UnboundedSender<Slice>,
}

impl Book {
    /// An empty book; each second goes `to` whoever gathers.
    pub(super) fn new(begin: Instant, to: UnboundedSender<Slice>) -> Self {
        Self {
            begin,
            end: None,
            last: None,
            tally: Tally::default(),
            slice: Slice::new(0, 0),
            since: (begin, thread_time()),
            to,
        }
    }

    /// Begins anew at `begin`: what was done until then was preparation. What was agreed on and what failed is kept.
    pub(super) fn begin_anew(&mut self, begin: Instant) {
        self.tally = Tally {
            attempts: self.tally.errors.values().sum(),
            errors: std::mem::take(&mut self.tally.errors),
            examples: std::mem::take(&mut self.tally.examples),
            negotiated: std::mem::take(&mut self.tally.negotiated),
            ..Tally::default()
        };
        self.begin = begin;
        (self.end, self.last) = (None, None);
        self.slice = Slice::new(self.slice.epoch + 1, 0);
        self.since = (begin, thread_time());
    }

    /// The rate is of what succeeds until `end`, or until the earlier one that was told before.
    pub(super) fn rate_until(&mut self, end: Instant) {
        self.end = Some(self.end.map_or(end, |earlier| earlier.min(end)));
    }

    /// An attempt begins now that was `due` before, or now (closed loop: the same).
    pub(super) fn begin(&mut self, due: Instant) {
        self.turn();
        self.tally.attempts += 1;
        self.slice.begun += 1;
        self.tally.late.saturating_record(micros(due.elapsed()));
    }

    /// So many attempts begin now, with no schedule to be late after.
    pub(super) fn begin_many(&mut self, count: u64) {
        self.turn();
        self.tally.attempts += count;
        self.slice.begun += count;
    }

    /// An attempt did what was asked for, in `time`.
    pub(super) fn succeed(&mut self, time: Duration) {
        self.pass(1);
        self.slice.micros.saturating_record(micros(time));
        self.confirm(1);
    }

    /// So many attempts got as far as can be seen now: the second that is being written has them.
    pub(super) fn pass(&mut self, count: u64) {
        self.turn();
        self.slice.succeeded += count;
    }

    /// So many attempts that have passed are now known to have succeeded.
    pub(super) fn confirm(&mut self, count: u64) {
        self.tally.succeeded += count;
        let now = Instant::now();
        if count > 0 && self.end.is_none_or(|end| now <= end) {
            self.tally.in_time += count;
            self.last = Some(now);
        }
    }

    /// An attempt that had succeeded has come to nothing after all.
    pub(super) fn lose(&mut self, trouble: Trouble) {
        self.tally.succeeded -= 1;
        self.tally.in_time = self.tally.in_time.min(self.tally.succeeded);
        self.fail(trouble);
    }

    /// What became of tries by schedule.
    pub(super) fn tries(&mut self) -> &mut Tries {
        &mut self.tally.tries
    }

    /// Payload was moved, in bytes.
    pub(super) fn carry(&mut self, payload: u64) {
        self.tally.payload += payload;
    }

    /// An attempt failed.
    pub(super) fn fail(&mut self, trouble: Trouble) {
        self.fail_many(trouble, 1);
    }

    /// An attempt failed that has `waited` so long. Where waiting is what ended it, the time is told: latencies of those
    /// alone that succeeded would end at the patience of the others.
    pub(super) fn fail_after(&mut self, trouble: Trouble, waited: Duration) {
        if matches!(trouble.word, "timeout" | "gave_up") {
            self.wait(waited);
        }
        self.fail(trouble);
    }

    /// An attempt has waited so long, in vain.
    pub(super) fn wait(&mut self, waited: Duration) {
        self.time(WAITED, waited);
    }

    /// So many attempts failed for the same reason.
    pub(super) fn fail_many(&mut self, Trouble { word, said }: Trouble, count: u64) {
        self.turn();
        *self.tally.errors.entry(word).or_default() += count;
        *self.slice.errors.entry(word).or_default() += count;
        self.tally.examples.entry(word).or_insert(said);
    }

    /// Something took so long.
    pub(super) fn time(&mut self, name: &'static str, time: Duration) {
        self.tally.latency(name).saturating_record(micros(time));
    }

    /// A handshake agreed on that.
    pub(super) fn agree(&mut self, agreed: Agreed) {
        *self.tally.negotiated.entry(agreed).or_default() += 1;
    }

    /// Turns the page if a new second has begun.
    pub(super) fn turn(&mut self) {
        let now = Instant::now();
        let at = now.saturating_duration_since(self.begin).as_secs();
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        if at != self.slice.at {
            self.page(at, now);
        }
    }

    fn page(&mut self, at: u32, now: Instant) {
        let (since, spent) = self.since;
        let epoch = self.slice.epoch;
        let cpu = thread_time();
        let wall = now.saturating_duration_since(since);
        let mut slice = std::mem::replace(&mut self.slice, Slice::new(epoch, at));
        let least = if slice.at == 0 { 10 } else { 500 };
        if wall >= Duration::from_millis(least) {
            let busy = cpu.saturating_sub(spent).as_secs_f64() / wall.as_secs_f64();
            slice.busy = busy.min(1.0);
        }
        self.since = (now, cpu);
        // Nobody gathers any more when the run is over.
        let _ = self.to.send(slice);
    }

    /// Closes the book.
    pub(super) fn close(mut self) -> Tally {
        self.page(u32::MAX, Instant::now());
        let until = self.end.or(self.last);
        self.tally.rated = until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(self.begin)
        });
        self.tally
    }
}

/// The CPU time of this thread.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_agreed_on_is_told_in_words() {
        assert_eq!(
            told((0x0304, 0x1302, 0x001d, 0)),
            "TLS 1.3 TLS13_AES_256_GCM_SHA384 X25519 full"
        );
        assert_eq!(
            told((0x0303, 0xc02c, 0, 1)),
            "TLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 resumed"
        );
    }

    #[test]
    fn a_thread_that_works_is_seen_even_in_a_short_run() {
        let (to, mut seconds) = tokio::sync::mpsc::unbounded_channel();
        let begin = Instant::now();
        let book = Book::new(begin, to);
        while begin.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        book.close();
        assert!(seconds.try_recv().expect("its only second").busy > 0.0);
    }

    #[test]
    fn only_first_tries_can_be_late() {
        let (to, _seconds) = tokio::sync::mpsc::unbounded_channel();
        let mut book = Book::new(Instant::now(), to);
        book.begin(Instant::now());
        book.begin_many(1); // a retry
        let tally = book.close();
        assert_eq!((tally.attempts, tally.late.len()), (2, 1));
    }

    #[test]
    fn who_waited_in_vain_is_timed_and_told_last() {
        let (to, _seconds) = tokio::sync::mpsc::unbounded_channel();
        let mut book = Book::new(Instant::now(), to);
        book.fail_after(Trouble::of("gave_up"), Duration::from_secs(2));
        book.fail_after(Trouble::of("refused"), Duration::from_secs(1));
        book.time("connack", Duration::from_millis(1));
        let tally = book.close();
        assert_eq!(tally.errors.len(), 2);
        let told: Vec<_> = (tally.latencies().iter())
            .map(|of| (of.name, of.micros.len()))
            .collect();
        assert_eq!(told, [("connack", 1), ("waited", 1)]);
    }

    #[test]
    fn the_rate_is_of_what_succeeded_in_its_time() {
        let (to, _seconds) = tokio::sync::mpsc::unbounded_channel();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut book = Book::new(begin, to.clone());
        book.rate_until(begin + 600 * second);
        book.succeed(second);
        book.rate_until(begin);
        book.succeed(second); // a straggler
        let tally = book.close();
        assert_eq!((tally.succeeded, tally.in_time), (2, 1));
        assert_eq!(tally.rated, Duration::ZERO);

        let mut book = Book::new(begin, to);
        book.succeed(second);
        let last = book.last.expect("there was one");
        book.fail(Trouble::of("timeout"));
        let tally = book.close();
        assert_eq!((tally.in_time, tally.rated), (1, last - begin));
    }

    #[test]
    fn books_of_two_threads_become_one() {
        let (to, _seconds) = tokio::sync::mpsc::unbounded_channel();
        let book = |time: u64| {
            let now = Instant::now();
            let mut book = Book::new(now, to.clone());
            book.begin(now);
            book.begin(now);
            book.succeed(Duration::from_micros(time));
            book.time("handshake", Duration::from_micros(time));
            book.fail(Trouble::said("reset", &"by peer"));
            book.agree((0x0304, 0x1302, 0x001d, 0));
            book.close()
        };
        let mut tally = book(100);
        tally.merge(book(300));
        assert_eq!(
            (tally.attempts, tally.succeeded, tally.errors["reset"]),
            (4, 2, 2)
        );
        assert_eq!(tally.examples["reset"], "by peer");
        assert_eq!(tally.negotiated().values().sum::<u64>(), 2);
        let latencies = tally.latencies();
        assert_eq!(latencies[0].micros.len(), 2);
        assert_eq!(
            (latencies[0].micros.min(), latencies[0].micros.max()),
            (100, 300)
        );
    }
}
