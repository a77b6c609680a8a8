//! What is seen while a run goes on: one line, rewritten in place.

use std::io::{self, IsTerminal as _, Stderr, Write};
use std::time::Duration;

use super::times;
use super::words::{count, micros, seconds, three};

/// Columns of the line: one fewer than a terminal has, so that it never wraps.
const WIDTH: usize = 79;

/// Where the line cannot be rewritten, one this often is enough.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// How a run stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Since its begin.
    pub elapsed: Duration,
    /// How long it will last, where that is known.
    pub total: Option<Duration>,
    /// Attempts that succeeded in the last second.
    pub per_second: f64,
    /// Attempts begun and not ended.
    pub in_flight: u64,
    /// Attempts that failed since the begin.
    pub errors: u64,
    /// 99th percentile of the times that ended in the last second, in microseconds; `None` of fewer than 100.
    pub p99_micros: Option<u64>,
    /// The longest of them; `None`: none ended.
    pub max_micros: Option<u64>,
}

/// The line, of 79 columns at most, without an end of line.
pub fn line(now: &Now) -> String {
    let total = now
        .total
        .map_or_else(String::new, |total| format!(" of {}", seconds(total)));
    let elapsed = format!("{}{total}", seconds(now.elapsed));
    let (which, slow) = match times::slow(now.p99_micros, now.max_micros) {
        None => ("p99", "–".to_owned()),
        Some((which, some)) => (which, micros(some)),
    };
    let errors = match now.errors {
        1 => "1 error".to_owned(),
        some => format!("{} errors", count(some)),
    };
    let rate = format!("{}/s", three(now.per_second));
    let flight = format!("{} in flight", count(now.in_flight));
    let line = format!("{elapsed:>16}  {rate:>9}  {which} {slow:>7}  {errors:>10}  {flight:>13}");
    line.chars().take(WIDTH).collect()
}

/// Shows the line: rewritten in place on a terminal, elsewhere a plain one every 10 s.
#[derive(Debug)]
pub struct Live<W: Write> {
    out: W,
    terminal: bool,
    /// Columns in use, on a terminal.
    shown: usize,
    /// When the next plain line is due.
    due: Duration,
}

impl Live<Stderr> {
    /// On stderr, so that stdout has the result alone.
    pub fn stderr() -> Self {
        let out = io::stderr();
        let terminal = out.is_terminal();
        Self::new(out, terminal)
    }
}

impl<W: Write> Live<W> {
    /// On `out`, which is a terminal or not.
    pub fn new(out: W, terminal: bool) -> Self {
        Self {
            out,
            terminal,
            shown: 0,
            due: PLAIN_EVERY,
        }
    }

    /// Shows how the run stands now. What cannot be written is lost: it is no reason to end a run.
    pub fn show(&mut self, now: &Now) {
        let line = line(now);
        if self.terminal {
            let width = self.shown;
            self.shown = line.chars().count();
            let _ = write!(self.out, "\r{line:width$}");
        } else if now.elapsed >= self.due {
            self.due = now.elapsed.saturating_add(PLAIN_EVERY);
            let _ = writeln!(self.out, "{}", line.trim_start());
        }
        let _ = self.out.flush();
    }

    /// Shows how many devices are made: on a terminal alone, as it takes seconds at most.
    pub fn preparing(&mut self, done: usize, of: usize) {
        self.prepare(&format!("made {done} of {of} devices"));
    }

    /// Shows how many devices have been told to make a TLS session: likewise.
    pub fn priming(&mut self, done: usize, of: usize) {
        self.prepare(&format!("sessions to resume: {done} of {of} devices"));
    }

    fn prepare(&mut self, line: &str) {
        if self.terminal {
            let width = self.shown;
            self.shown = line.chars().count();
            let _ = write!(self.out, "\r{line:width$}");
            let _ = self.out.flush();
        }
    }

    /// Clears the line, for what comes next.
    pub fn finish(&mut self) {
        if self.shown > 0 {
            let _ = write!(self.out, "\r{:width$}\r", "", width = self.shown);
            let _ = self.out.flush();
            self.shown = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(elapsed: u64) -> Now {
        Now {
            elapsed: Duration::from_secs(elapsed),
            total: Some(Duration::from_mins(1)),
            per_second: 98.84,
            in_flight: 16,
            errors: 10,
            p99_micros: Some(9870),
            max_micros: Some(9990),
        }
    }

    #[test]
    fn the_line_tells_rate_errors_and_p99() {
        let expected = "   3.0 s of 60.0 s     98.8/s  p99 9.87 ms   10 errors   16 in flight";
        assert_eq!(line(&after(3)).trim_start(), expected.trim_start());
        let few = Now {
            p99_micros: None,
            ..after(3)
        };
        assert!(line(&few).contains("98.8/s  max 9.99 ms  "));
        let expected = "0.0 s        0/s  p99       –    0 errors    0 in flight";
        assert_eq!(line(&Now::default()).trim_start(), expected);
    }

    #[test]
    fn a_terminal_has_one_line_that_is_cleared_in_the_end() {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, true);
        let long = Now {
            in_flight: 1_000_000_000,
            ..after(1)
        };
        for now in [long, after(2)] {
            live.show(&now);
        }
        live.finish();
        live.finish();

        let told = String::from_utf8(out).expect("text");
        let shown: Vec<_> = told.split('\r').collect();
        let [_, long, short, blank, end] = shown.as_slice() else {
            panic!("{told:?}");
        };
        let columns = |text: &str| text.chars().count();
        assert_eq!(
            columns(long),
            columns(short),
            "what was longer is overwritten"
        );
        assert_eq!((blank.trim(), *end), ("", ""));
        assert_eq!(columns(blank), columns(&line(&after(2))));
    }

    #[test]
    fn what_comes_before_the_run_is_on_the_same_line() {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, true);
        live.preparing(5, 10);
        live.priming(7, 10);
        live.finish();
        let told = String::from_utf8(out).expect("text");
        assert!(
            told.starts_with("\rmade 5 of 10 devices\rsessions to resume: 7 of 10 devices\r "),
            "{told:?}"
        );

        let mut out = Vec::new();
        Live::new(&mut out, false).priming(7, 10);
        assert!(out.is_empty());
    }

    #[test]
    fn elsewhere_a_line_comes_every_ten_seconds_at_most() {
        let mut out = Vec::new();
        let mut live = Live::new(&mut out, false);
        (0..35).for_each(|second| live.show(&after(second)));
        live.finish();

        let told = String::from_utf8(out).expect("text");
        let elapsed: Vec<_> = told
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(elapsed, ["10.0", "20.0", "30.0"]);
        assert!(!told.contains('\r'));
    }

    proptest! {
        #[test]
        fn the_line_never_wraps(numbers in any::<[u64; 5]>(), per_second: f64) {
            let [elapsed, total, in_flight, errors, max] = numbers;
            let (p99_micros, max_micros) = (Some(max).filter(|max| max % 2 == 0), Some(max));
            let elapsed = Duration::from_secs(elapsed);
            let total = Some(Duration::from_secs(total));
            let line = line(&Now { elapsed, total, per_second, in_flight, errors, p99_micros, max_micros });
            prop_assert!(line.chars().count() <= 79, "{line}");
        }
    }
}
