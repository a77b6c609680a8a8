//! A run as text for a terminal of 80 columns.

use std::fmt::Write as _;

use super::kinds;
use super::report::{Latency, Report};
use super::times;
use super::words::{self, count};

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Where the second column of a list begins.
const TAB: usize = 24;

/// The sentence that matters, then the figures behind it; no line is longer than 80 columns.
///
/// A part with nothing to tell is left out, but for latency: that nothing was timed is told.
pub fn table(report: &Report) -> String {
    let parts = [
        head(report),
        latencies(report),
        phases(report),
        errors(report),
        negotiated(report),
        server(report),
        setup(report),
        harness(report),
        limits(report),
    ];
    let told: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    told.join("\n")
}

fn head(report: &Report) -> String {
    let mut text = wrapped(&words::headline(report), 0, 2);
    if !report.client.bottlenecks.is_empty() {
        text += "This is the harness's own limit, not the target's: see the end.\n";
    }
    let began = words::began(report).map_or_else(String::new, |began| format!(", begun {began}"));
    let target = words::printable(&report.target);
    text + &wrapped(&format!("target {target}{began}"), 0, 2)
}

fn latencies(report: &Report) -> String {
    let mut timed = report.latencies.iter().filter_map(latency).peekable();
    if timed.peek().is_none() {
        let others = words::timed_ones(report.scenario);
        let others = others.map_or_else(String::new, |which| format!(" ({which})"));
        return format!("latency: nothing was timed{others}\n");
    }
    let heading = columns("latency", "count", times::NAMES);
    timed.fold(heading, |text, row| text + &row)
}

/// What became of tries by when they were due, where that was not one rate all along.
fn phases(report: &Report) -> String {
    if report.phases.len() < 2 {
        return String::new();
    }
    let rows = report.phases.iter().map(|phase| {
        let [_, p50, _, p99, ..] = times::spread(&phase.micros).map_or_else(
            || [const { String::new() }; 6],
            |spread| spread.map(words::figure),
        );
        let share = match phase.begun {
            0 => "–".to_owned(),
            begun => words::share(phase.succeeded, begun),
        };
        let (begin, end) = (phase.begin, phase.begin + phase.time);
        let when = format!("{}–{} s", begin.as_secs_f64(), end.as_secs_f64());
        let (begun, got_in) = (count(phase.begun), count(phase.succeeded));
        format!("{when:14.14}{begun:>11}{got_in:>13}{share:>9}{p50:>10}{p99:>10}\n")
    });
    let heading = format!(
        "{:14}{:>11}{:>13}{:>9}{:>10}{:>10}\n",
        "phase", "tries", "succeeded", "", "p50", "p99"
    );
    heading + &rows.collect::<String>()
}

/// One row; `None` where nothing was timed.
fn latency(of: &Latency) -> Option<String> {
    let spread = times::spread(&of.micros)?.map(words::figure);
    let cells = spread.each_ref().map(String::as_str);
    let name = of.name.replace('_', " ");
    Some(columns(&name, &count(of.micros.len()), cells))
}

fn columns(name: &str, count: &str, cells: [&str; 6]) -> String {
    let mut row = format!("{name:12.12} {count:>12}");
    for cell in cells {
        let _ = write!(row, "{cell:>9}"); // a String takes everything
    }
    row + "\n"
}

fn errors(report: &Report) -> String {
    let errors = report.errors.iter().filter(|(_, times)| **times > 0);
    let mut rows: Vec<_> = errors
        .map(|(kind, times)| (*kind, *times, kinds::meaning(kind)))
        .collect();
    let under_way = words::under_way(report);
    if under_way > 0 {
        rows.push(("under way", under_way, "when the run was over"));
    }
    if rows.is_empty() {
        return String::new();
    }
    let longest = rows.iter().map(|(kind, ..)| kind.len()).max();
    let width = longest.unwrap_or(0).clamp(TAB - 6, 34);
    let mut text = "errors\n".to_owned();
    for (kind, times, meaning) in rows {
        let share = words::share(times, report.attempts);
        let number = count(times);
        let row = format!("{kind:width$.width$}{number:>12}{share:>9}  {meaning}");
        text += &wrapped(&row, 2, width + 25);
    }
    text
}

fn negotiated(report: &Report) -> String {
    if report.negotiated.is_empty() {
        return String::new();
    }
    let rows = report.negotiated.iter().map(|(what, times)| {
        let row = format!("{:>10}  {}", count(*times), words::printable(what));
        wrapped(&row, 2, 14)
    });
    "negotiated\n".to_owned() + &rows.collect::<String>()
}

fn server(report: &Report) -> String {
    let costs = words::server_costs(report);
    if costs.is_empty() {
        return String::new();
    }
    let rows = costs.into_iter().map(|(name, value)| row(&name, &value));
    "server\n".to_owned() + &rows.collect::<String>()
}

fn setup(report: &Report) -> String {
    let rows = report.setup.iter();
    let rows: String = rows
        .map(|(name, value)| row(name, &words::printable(value)))
        .collect();
    if rows.is_empty() {
        return rows;
    }
    "setup\n".to_owned() + &rows
}

fn harness(report: &Report) -> String {
    let rows = words::client_costs(report);
    let rows = rows.into_iter().map(|(name, value)| row(name, &value));
    "harness\n".to_owned() + &rows.collect::<String>()
}

/// Set apart, and last, where eyes rest when a run is over.
fn limits(report: &Report) -> String {
    let reasons = &report.client.bottlenecks;
    if reasons.is_empty() {
        return String::new();
    }
    let line = "!".repeat(WIDTH) + "\n";
    let mut text = line.clone() + "The figures above are the harness's own limit:\n";
    for reason in reasons {
        text += &wrapped(&format!("- {}", words::printable(reason)), 2, 4);
    }
    text + &line
}

fn row(name: &str, value: &str) -> String {
    let indented = format!("{name:width$}{value}", width = TAB - 2);
    wrapped(&indented, 2, TAB)
}

/// `text` in lines of 80 columns at most; the first begins after `first` blanks, the others after `rest`.
///
/// Breaks at blanks, and within a word that is longer than a line. Blanks within a line stay as they are.
fn wrapped(text: &str, first: usize, rest: usize) -> String {
    let mut lines = String::new();
    let (mut left, mut indent) = (text.trim_end(), first);
    loop {
        let (line, more) = broken(left, WIDTH - indent);
        let _ = writeln!(lines, "{:indent$}{line}", "");
        if more.is_empty() {
            return lines;
        }
        (left, indent) = (more, rest);
    }
}

/// The first line of `text`, of `width` characters at most, and what is left; both without blanks where they meet.
fn broken(text: &str, width: usize) -> (&str, &str) {
    let Some((end, _)) = text.char_indices().nth(width) else {
        return (text, "");
    };
    let fits = &text[..end];
    let at_blank = text[end..].starts_with(' ');
    let at = match fits.trim_end().rfind(' ') {
        _ if at_blank => end,
        Some(blank) if !fits[..blank].trim().is_empty() => blank,
        _ => end,
    };
    (text[..at].trim_end(), text[at..].trim_start())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bench::report::{Scenario, samples};

    #[test]
    fn a_run_is_told_from_its_sentence_to_its_costs() {
        let expected = "\
990 of 1000 handshakes in 10.0 s: 98.8/s
target 127.0.0.1:8883, begun 2026-11-26T23:30:00Z

latency             count      min      p50      p90      p99    p99.9      max
handshake             990   911 µs  1.41 ms  1.80 ms  1.89 ms  too few  1.90 ms

errors
  refused                     10    1.0 %  nothing listens there

negotiated
         990  TLS 1.3 TLS13_AES_256_GCM_SHA384 X25519 full

server
  CPU per handshake     123 µs
  CPU                   122 ms in 1 process
  memory                8.00 MiB before, 9.00 MiB at the end

setup
  CPU                   4 × Example 9000
  loop                  closed, 16 at once

harness
  threads               1, 42 % of a core
";
        assert_eq!(table(&samples::handshakes()), expected);
    }

    #[test]
    fn a_run_without_success_says_so() {
        let expected = "\
none of 12 connections succeeded in 2.5 s, interrupted
target 127.0.0.1:8883, begun 2026-11-26T23:30:00Z

latency: nothing was timed

errors
  certificate_refused           9   75.0 %  the target refused the device's
                                            certificate
  under way                     3   25.0 %  when the run was over

harness
  threads               1, 1 % of a core
";
        assert_eq!(table(&samples::nothing_succeeded()), expected);
    }

    #[test]
    fn a_limit_of_the_harness_cannot_be_overlooked() {
        let told = table(&samples::limited());
        let mut lines = told.lines();
        assert!(
            lines.next().is_some_and(|line| line.ends_with("98.8/s")),
            "{told}"
        );
        let expected = "This is the harness's own limit, not the target's: see the end.";
        assert_eq!(lines.next(), Some(expected));
        let end = "\
The figures above are the harness's own limit:
  - its busiest thread used 97 % of a core: give it a second core, or measure
    CPU per handshake with --pid
";
        let end = format!("\n{0}\n{end}{0}\n", "!".repeat(80));
        assert!(told.ends_with(&end), "{told}");
    }

    #[test]
    fn costs_are_told_per_byte_and_per_connection() {
        let told = table(&samples::relay());
        assert!(told.contains("  CPU per byte          1.20 ns\n"), "{told}");
        let told = table(&samples::connections());
        assert!(
            told.contains("  memory per connection 6.10 KiB\n"),
            "{told}"
        );
        let at_rest = "  CPU at rest           12.5 ms in 10.0 s of connections held\n";
        assert!(told.contains(at_rest), "{told}");
    }

    #[test]
    fn lines_break_at_blanks_and_long_words_anywhere() {
        assert_eq!(wrapped("", 2, 4), "  \n");
        let word = "x".repeat(100);
        let told = wrapped(&format!("a {word}"), 0, 10);
        let expected = format!("a\n          {}\n          {}\n", &word[..70], &word[..30]);
        assert_eq!(told, expected);
    }

    proptest! {
        #[test]
        fn every_run_fits_a_terminal(report in samples::any()) {
            let told = table(&report);
            for line in told.lines() {
                prop_assert!(line.chars().count() <= 80, "{line}");
            }
            prop_assert!(told.chars().all(|c| c == '\n' || !c.is_control()));
        }

        #[test]
        fn wrapping_loses_nothing(text in "[a-z]{0,90}( {1,3}[a-zü]{1,90}){0,9}", first in 0..10_usize, rest in 0..50_usize) {
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let told = wrapped(&text, first, rest);
            prop_assert_eq!(letters(&told), letters(&text));
            prop_assert!(told.lines().all(|line| line.chars().count() <= 80));
        }
    }

    #[test]
    fn nothing_begun_is_told_too() {
        for scenario in [Scenario::Handshake, Scenario::Connections, Scenario::Relay] {
            let told = table(&samples::nothing(scenario));
            assert!(
                told.starts_with("no ") && told.contains("nothing was timed"),
                "{told}"
            );
        }
    }
}
