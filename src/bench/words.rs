//! Figures as people read them: three figures, a unit, and the one sentence that matters.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report::{Report, Scenario};
use super::times::TOO_FEW;

/// What the run made, one and many: `handshake`, `handshakes`.
pub(super) fn nouns(scenario: Scenario) -> (&'static str, &'static str) {
    match scenario {
        Scenario::Handshake => ("handshake", "handshakes"),
        Scenario::Connections => ("connection", "connections"),
        Scenario::Relay => ("message", "messages"),
    }
}

/// The sentence that matters: `990 of 1000 handshakes in 10.0 s: 98.8/s`; ` over 10.0 s` where the rate is of less than
/// the whole.
pub(super) fn headline(report: &Report) -> String {
    let (one, many) = nouns(report.scenario);
    let (attempts, lasted) = (report.attempts, seconds(report.lasted));
    let mut sentence = match report.succeeded {
        _ if attempts == 0 => format!("no {one} was begun in {lasted}"),
        0 => format!("none of {} {many} succeeded in {lasted}", count(attempts)),
        succeeded => format!(
            "{} of {} {many} in {lasted}: {}",
            count(succeeded),
            count(attempts),
            speed(report)
        ),
    };
    if report.interrupted {
        sentence += ", interrupted";
    }
    sentence
}

/// Which runs are timed, where one of the same kind may well not be.
pub(super) fn timed_ones(scenario: Scenario) -> Option<&'static str> {
    match scenario {
        Scenario::Relay => Some("messages with --qos 1 or --ping-pong are"),
        Scenario::Handshake | Scenario::Connections => None,
    }
}

/// How much a second: `98.8/s`, with payload `10 000/s, 10.2 MB/s`.
pub(super) fn speed(report: &Report) -> String {
    let each = format!("{}/s", three(report.per_second()));
    let payload = if report.payload_bytes > 0 && report.succeeded > 0 {
        let size = float(report.payload_bytes) / float(report.succeeded);
        format!(", {}/s", bytes(report.per_second() * size))
    } else {
        String::new()
    };
    let [lasted, rated] = [report.lasted, report.rated].map(seconds);
    let over = if lasted == rated {
        String::new()
    } else {
        format!(" over {rated}")
    };
    each + &payload + &over
}

/// Attempts that had neither succeeded nor failed when the run was over.
pub(super) fn under_way(report: &Report) -> u64 {
    let ended = report.succeeded.saturating_add(report.failed());
    report.attempts.saturating_sub(ended)
}

/// When the run began: `2026-11-26T23:30:00Z`; `None` outside of the years 0 to 9999.
pub(super) fn began(report: &Report) -> Option<String> {
    let began = OffsetDateTime::from_unix_timestamp(report.began).ok()?;
    began.format(&Rfc3339).ok()
}

/// What the server spent, to be shown: name and value. Empty where nobody asked.
pub(super) fn server_costs(report: &Report) -> Vec<(String, String)> {
    let Some(spent) = &report.server else {
        return Vec::new();
    };
    let (one, _) = nouns(report.scenario);
    let processes = match spent.pids.len() {
        1 => "1 process".to_owned(),
        many => format!("{many} processes"),
    };
    let cpu = span(spent.cpu.as_secs_f64() * 1e6);
    let [before, after] = [spent.resident_before, spent.resident_after].map(|n| kib(float(n)));
    let rows = [
        (
            format!("CPU per {one}"),
            report.server_micros_each().map(span),
        ),
        (
            "CPU per byte".to_owned(),
            report.server_nanos_per_byte().map(|n| three(n) + " ns"),
        ),
        (
            "memory per connection".to_owned(),
            report.server_kib_each().map(kib),
        ),
        ("CPU".to_owned(), Some(format!("{cpu} in {processes}"))),
        (
            "CPU at rest".to_owned(),
            spent.at_rest.map(|(cpu, held)| {
                let cpu = span(cpu.as_secs_f64() * 1e6);
                format!("{cpu} in {} of connections held", seconds(held))
            }),
        ),
        (
            "memory".to_owned(),
            Some(format!("{before} before, {after} at the end")),
        ),
    ];
    let known = |(name, value): (String, Option<String>)| Some((name, value?));
    rows.into_iter().filter_map(known).collect()
}

/// What the harness spent, to be shown: name and value.
pub(super) fn client_costs(report: &Report) -> Vec<(&'static str, String)> {
    let spent = &report.client;
    let busiest = format!("{:.0} %", 100.0 * spent.busiest_thread);
    let threads = match spent.threads {
        1 => format!("1, {busiest} of a core"),
        many => format!("{many}, the busiest at {busiest} of a core"),
    };
    let mut rows = vec![("threads", threads)];
    if let Some(late) = spent.late_p99_micros {
        let late = micros(late);
        rows.push(("late, p99", format!("{late} after the schedule")));
    }
    rows
}

/// `990`, `1000`, `100 000`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Three figures: `1.23`, `12.3`, `123`, `12 345`; what is no number is `–`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is positive here, and a cast to an integer saturates"
)]
pub(super) fn three(number: f64) -> String {
    match number.abs() {
        size if !size.is_finite() => "–".to_owned(),
        0.0 => "0".to_owned(),
        size if size < 9.995 => format!("{number:.2}"),
        size if size < 99.95 => format!("{number:.1}"),
        size => {
            let sign = if number < 0.0 { "-" } else { "" };
            format!("{sign}{}", count(size.round() as u64))
        }
    }
}

/// A time that was measured in whole microseconds: `812 µs`, `1.23 ms`, `2.05 s`.
pub(super) fn micros(number: u64) -> String {
    if number < 1000 {
        format!("{number} µs")
    } else {
        span(float(number))
    }
}

/// A figure of times, or that there were too few to know it.
pub(super) fn figure(known: Option<u64>) -> String {
    known.map_or_else(|| TOO_FEW.to_owned(), micros)
}

/// A time that was computed, in microseconds: `0.45 µs`, `1.23 ms`, `2.05 s`.
pub(super) fn span(micros: f64) -> String {
    match micros {
        few if few < 999.5 => format!("{} µs", three(few)),
        some if some < 999_500.0 => format!("{} ms", three(some / 1e3)),
        many => format!("{} s", three(many / 1e6)),
    }
}

/// The mark of a scale: `5`, `1000`, `20 000`. Marks are whole numbers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "scales begin at 0, and a cast to an integer saturates"
)]
pub(super) fn mark(at: f64) -> String {
    count(at.round() as u64)
}

/// The mark of a scale of microseconds, 1, 2 or 5 times a power of ten: `500 µs`, `1 ms`, `20 s`.
pub(super) fn micros_mark(at: f64) -> String {
    match at {
        few if few < 999.5 => format!("{} µs", mark(few)),
        some if some < 999_500.0 => format!("{} ms", mark(some / 1e3)),
        many => format!("{} s", mark(many / 1e6)),
    }
}

/// `10.0 s`
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Memory, from KiB: `6.10 KiB`, `12.3 MiB`, `1.20 GiB`.
pub(super) fn kib(number: f64) -> String {
    match number.abs() {
        few if few < 1023.5 => format!("{} KiB", three(number)),
        some if some < 1023.5 * 1024.0 => format!("{} MiB", three(number / 1024.0)),
        _ => format!("{} GiB", three(number / 1024.0 / 1024.0)),
    }
}

/// Payload: `512 B`, `12.3 kB`, `1.20 GB`; thousands, as networks count.
pub(super) fn bytes(number: f64) -> String {
    match number {
        few if few < 999.5 => format!("{} B", three(few)),
        some if some < 999.5e3 => format!("{} kB", three(some / 1e3)),
        many if many < 999.5e6 => format!("{} MB", three(many / 1e6)),
        most => format!("{} GB", three(most / 1e9)),
    }
}

/// `1.0 %`; never 0 or 100 where it is not all or nothing.
pub(super) fn share(part: u64, whole: u64) -> String {
    let percent = 100.0 * float(part) / float(whole.max(1));
    if part > 0 && percent < 0.05 {
        "<0.1 %".to_owned()
    } else if part < whole && percent >= 99.95 {
        ">99.9 %".to_owned()
    } else {
        format!("{percent:.1} %")
    }
}

/// Text from outside, without what would move a cursor or hide a part: control characters are written out.
pub(super) fn printable(text: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_control() || turns(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().map(plain).collect()
}

/// Characters that turn the direction of text, or have no width.
fn turns(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A count as a number to reckon with.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one run are far below 2^52"
)]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::samples;

    #[test]
    fn figures_have_three_figures_and_a_unit() {
        let counts = [0, 999, 1000, 9999, 10_000, 1_234_567].map(count);
        assert_eq!(counts, ["0", "999", "1000", "9999", "10 000", "1 234 567"]);
        let numbers = [
            0.0,
            0.456,
            9.994,
            9.996,
            98.84,
            99.96,
            12_345.6,
            -2.5,
            f64::NAN,
        ];
        let told = [
            "0", "0.46", "9.99", "10.0", "98.8", "100", "12 346", "-2.50", "–",
        ];
        assert_eq!(numbers.map(three), told);
        let times = [0, 999, 1000, 9999, 999_499, 999_500, 61_000_000].map(micros);
        let told = [
            "0 µs", "999 µs", "1.00 ms", "10.0 ms", "999 ms", "1.00 s", "61.0 s",
        ];
        assert_eq!(times, told);
        assert_eq!(span(0.456), "0.46 µs");
        let memory = [6.1, 1024.0, 12_595.2, 1_258_291.2, -3.0].map(kib);
        assert_eq!(
            memory,
            ["6.10 KiB", "1.00 MiB", "12.3 MiB", "1.20 GiB", "-3.00 KiB"]
        );
        let moved = [64.0, 1024.0, 10.24e6, 1.2e9].map(bytes);
        assert_eq!(moved, ["64.0 B", "1.02 kB", "10.2 MB", "1.20 GB"]);
    }

    #[test]
    fn a_share_is_all_or_nothing_only_when_it_is() {
        let shares = [
            (0, 10),
            (10, 1000),
            (1, 100_000),
            (99_999, 100_000),
            (5, 5),
            (0, 0),
        ];
        let told = ["0.0 %", "1.0 %", "<0.1 %", ">99.9 %", "100.0 %", "0.0 %"];
        assert_eq!(shares.map(|(part, whole)| share(part, whole)), told);
    }

    #[test]
    fn the_headline_tells_what_came_of_it() {
        let told = headline(&samples::handshakes());
        assert_eq!(told, "990 of 1000 handshakes in 10.0 s: 98.8/s");
        let told = headline(&samples::relay());
        assert_eq!(
            told,
            "100 000 of 100 000 messages in 10.0 s: 10 000/s, 10.2 MB/s"
        );

        let told = headline(&samples::connections());
        assert_eq!(
            told,
            "5000 of 5000 connections in 20.0 s: 500/s over 10.0 s"
        );
        let told = headline(&samples::nothing_succeeded());
        assert_eq!(
            told,
            "none of 12 connections succeeded in 2.5 s, interrupted"
        );
        let told = headline(&samples::nothing(Scenario::Relay));
        assert_eq!(told, "no message was begun in 0.0 s");
    }

    #[test]
    fn text_from_outside_moves_no_cursor() {
        let told = printable("a\x1b[2J\r\u{202e}ü");
        assert_eq!(told, r"a\u{1b}[2J\u{d}\u{202e}ü");
    }
}
