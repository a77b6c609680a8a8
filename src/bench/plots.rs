//! From a run to its charts: latency by percentile, and what happened second by second.

use super::chart::{Axis, Chart, Line};
use super::report::{Latency, Report, Scenario, Second};
use super::times;
use super::words::{self, float};

/// Points along a line of time, at most; a longer run is told in wider steps.
const STEPS: usize = 300;

/// Nines that the percentile plot goes to: 4 is 99.99 %.
const NINES: f64 = 4.0;

/// The charts of a run that have something to show, in the order to be shown.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let steps = steps(report);
    let busy = while_attempts_were_made(report, &steps);
    let charts = [
        percentiles(&report.latencies),
        latency_over_time(report, busy),
        rate_over_time(report, busy),
        errors_over_time(&steps),
    ];
    charts.into_iter().filter(Chart::shows_something).collect()
}

/// A part of the run: one second, or several where it was long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// The second at which it begins.
    pub(super) at: u32,
    /// Each second of it, on average.
    pub(super) begun: f64,
    pub(super) succeeded: f64,
    pub(super) failed: f64,
    /// The highest of its seconds, in microseconds; `None` where too little was timed in each.
    pub(super) p50_micros: Option<u64>,
    pub(super) p99_micros: Option<u64>,
    pub(super) max_micros: Option<u64>,
}

/// The timeline in 300 steps at most. The last second is left out where it was not a whole one:
/// its counts would look like a fall.
pub(super) fn steps(report: &Report) -> Vec<Step> {
    let whole = |second: &&Second| report.lasted.as_secs_f64() + 0.05 >= f64::from(second.at) + 1.0;
    let mut seconds: Vec<Second> = report.timeline.iter().filter(whole).copied().collect();
    if seconds.is_empty() {
        seconds.clone_from(&report.timeline);
    }
    let width = seconds.len().div_ceil(STEPS).max(1);
    seconds.chunks(width).map(step).collect()
}

fn step(seconds: &[Second]) -> Step {
    let number = float(seconds.len() as u64);
    let average =
        |of: fn(&Second) -> u64| seconds.iter().map(|s| float(of(s))).sum::<f64>() / number;
    let highest = |of: fn(&Second) -> Option<u64>| seconds.iter().filter_map(of).max();
    Step {
        at: seconds.first().map_or(0, |second| second.at),
        begun: average(|s| s.begun),
        succeeded: average(|s| s.succeeded),
        failed: average(|s| s.failed),
        p50_micros: highest(|s| s.p50_micros),
        p99_micros: highest(|s| s.p99_micros),
        max_micros: highest(|s| s.max_micros),
    }
}

/// The part of the run in which attempts were made: connections that are only held are neither begun nor timed.
fn while_attempts_were_made<'a>(report: &Report, steps: &'a [Step]) -> &'a [Step] {
    let opening = report.rated.as_secs_f64();
    let made = |step: &Step| {
        report.scenario != Scenario::Connections || f64::from(step.at) < opening.max(1.0)
    };
    &steps[..steps.partition_point(made)]
}

/// Latency by percentile: each nine has the same width, so that the tail is seen.
fn percentiles(latencies: &[Latency]) -> Chart {
    let timed = latencies.iter();
    let lines: Vec<Line> = timed
        .filter(|of| of.micros.len() >= times::P90.least)
        .map(|of| Line {
            name: of.name.replace('_', " "),
            points: tail(of),
        })
        .collect();
    let names = ["0", "90", "99", "99.9", "99.99"];
    let ticks = (0_u8..).map(f64::from).zip(names.map(str::to_owned));
    let ends = lines.iter().filter_map(|line| *line.points.last()?);
    let high = ends.map(|(nines, _)| nines.ceil()).fold(1.0, f64::max);
    Chart {
        id: "percentiles",
        title: "Latency by percentile".to_owned(),
        about: "Latency on a logarithmic scale against the percentile, each nine as wide as the one before; \
                a line ends where there were too few times to tell more. The figures are in the table of latency."
            .to_owned(),
        x: Axis {
            label: "percentile",
            low: 0.0,
            high,
            ticks: ticks.take_while(|(nines, _)| *nines <= high).collect(),
        },
        y: micros_axis(&lines),
        lines,
    }
}

/// Points at `(nines, log10 µs)`. Of 1000 times one is above 99.9 %: beyond that there is nothing to know.
fn tail(of: &Latency) -> Vec<Option<(f64, f64)>> {
    let last = float(of.micros.len()).log10().min(NINES);
    let points = (0_u8..=80).map(|n| f64::from(n) * NINES / 80.0);
    let known = points.take_while(|nines| *nines < last);
    known
        .chain([last])
        .map(|nines| {
            Some((
                nines,
                log(of.micros.value_at_quantile(1.0 - 10_f64.powf(-nines))),
            ))
        })
        .collect()
}

/// What an attempt is timed by as a whole: the first of these of which there are times.
const WHOLE: [&str; 5] = ["round_trip", "puback", "connack", "verdict", "handshake"];

fn latency_over_time(report: &Report, steps: &[Step]) -> Chart {
    let line = |name: &str, of: fn(&Step) -> Option<u64>| Line {
        name: name.to_owned(),
        points: steps
            .iter()
            .map(|step| of(step).map(|micros| (f64::from(step.at), log(micros))))
            .collect(),
    };
    let lines = [
        line("p50", |s| s.p50_micros),
        line("p99", |s| s.p99_micros),
        line("max", |s| s.max_micros),
    ];
    let lines: Vec<_> = lines.into_iter().filter(Line::has_points).collect();
    let timed = |name: &&str| {
        let mut latencies = report.latencies.iter();
        latencies.any(|of| of.name == *name && !of.micros.is_empty())
    };
    let what = WHOLE.into_iter().find(timed).unwrap_or("attempts");
    let what = what.replace('_', " ");
    Chart {
        id: "latency",
        about: format!(
            "Median, 99th percentile and longest {what} of each second, on a logarithmic scale; a gap where nothing \
             ended, and of the 99th percentile where fewer than 100 did."
        ),
        title: format!("Latency over time: {what}"),
        x: time(steps),
        y: micros_axis(&lines),
        lines,
    }
}

fn rate_over_time(report: &Report, steps: &[Step]) -> Chart {
    let (_, many) = words::nouns(report.scenario);
    let lines = counted(vec![
        line(steps, "begun", |s| s.begun),
        line(steps, "succeeded", |s| s.succeeded),
    ]);
    Chart {
        id: "rate",
        title: format!("Rate over time: {many}"),
        about: format!("How many {many} were begun and how many succeeded, each second."),
        x: time(steps),
        y: rate_axis(&lines),
        lines,
    }
}

fn errors_over_time(steps: &[Step]) -> Chart {
    let lines = counted(vec![line(steps, "failed", |s| s.failed)]);
    Chart {
        id: "errors",
        title: "Errors over time".to_owned(),
        about: "How many attempts failed, each second.".to_owned(),
        x: time(steps),
        y: rate_axis(&lines),
        lines,
    }
}

fn line(steps: &[Step], name: &str, of: fn(&Step) -> f64) -> Line {
    let points = steps
        .iter()
        .map(|step| Some((f64::from(step.at), of(step))));
    Line {
        name: name.to_owned(),
        points: points.collect(),
    }
}

/// Lines of counts; none, where all of them stay at 0.
fn counted(lines: Vec<Line>) -> Vec<Line> {
    if values(&lines).all(|count| count <= 0.0) {
        return Vec::new();
    }
    lines
}

fn time(steps: &[Step]) -> Axis {
    let last = steps.last().map_or(0.0, |step| f64::from(step.at));
    let mut axis = Axis::from_zero("seconds", last, words::mark);
    // The lines fill the width; a mark that would be beyond it goes.
    axis.high = last.max(1.0);
    axis.ticks.retain(|(at, _)| *at <= last.max(1.0));
    axis
}

fn rate_axis(lines: &[Line]) -> Axis {
    let highest = values(lines).fold(0.0, f64::max);
    Axis::from_zero("per second", highest, words::mark)
}

fn micros_axis(lines: &[Line]) -> Axis {
    let least = values(lines).fold(f64::INFINITY, f64::min);
    let most = values(lines).fold(f64::NEG_INFINITY, f64::max);
    let (least, most) = if least <= most {
        (least, most)
    } else {
        (3.0, 4.0)
    };
    Axis::log(
        "latency",
        10_f64.powf(least + 1e-9),
        10_f64.powf(most - 1e-9),
        words::micros_mark,
    )
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines
        .iter()
        .flat_map(|line| &line.points)
        .flatten()
        .map(|(_, y)| *y)
}

fn log(micros: u64) -> f64 {
    float(micros.max(1)).log10()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::report::samples;

    fn lasting(seconds: u32, millis: u64) -> Report {
        let second = |at| Second {
            at,
            begun: 10,
            succeeded: u64::from(at % 10),
            failed: 1,
            p50_micros: Some(100),
            p99_micros: (at % 2 == 0).then(|| at.into()),
            max_micros: Some(u64::from(at)),
        };
        Report {
            timeline: (0..seconds).map(second).collect(),
            lasted: Duration::from_millis(millis),
            ..samples::handshakes()
        }
    }

    #[test]
    fn a_second_that_was_not_whole_is_left_out() {
        let last = |report| steps(&report).last().map(|step| step.at);
        assert_eq!(last(lasting(11, 10_020)), Some(9));
        assert_eq!(last(lasting(10, 9_990)), Some(9));
        assert_eq!(last(lasting(1, 300)), Some(0), "there is no other");
        assert_eq!(last(lasting(0, 0)), None);
        let held = Report {
            rated: Duration::from_secs(1),
            ..lasting(11, 11_000)
        };
        assert_eq!(last(held), Some(10), "what is lost while held is seen");
    }

    #[test]
    fn a_long_run_is_told_in_wider_steps() {
        let steps = steps(&lasting(3000, 3_000_000));
        assert_eq!(steps.len(), 300);
        let expected = Step {
            at: 10,
            begun: 10.0,
            succeeded: 4.5,
            failed: 1.0,
            p50_micros: Some(100),
            p99_micros: Some(18),
            max_micros: Some(19),
        };
        assert_eq!(steps[1], expected);
    }

    #[test]
    fn a_tail_goes_no_further_than_its_times_tell() {
        let ends = |times: u64| {
            let points = tail(&samples::latency("handshake", 1..=times));
            points.into_iter().flatten().next_back().expect("a point")
        };
        assert_eq!(ends(1), (0.0, 0.0));
        let (nines, micros) = ends(1000);
        assert!((nines - 3.0).abs() < 1e-9 && (micros - 999_f64.log10()).abs() < 1e-3);
        let (nines, _) = ends(100_000);
        assert!((nines - 4.0).abs() < 1e-9);
    }

    #[test]
    fn every_run_can_be_drawn() {
        let runs = [lasting(5, 5000), samples::handshakes(), samples::relay()];
        for chart in runs.iter().flat_map(charts) {
            let svg = chart.svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let drawn = charts(&samples::handshakes());
        let marks = drawn[0].y.ticks.iter().map(|(_, name)| name.as_str());
        assert_eq!(marks.collect::<Vec<_>>(), ["500 µs", "1 ms", "2 ms"]);
        assert_eq!(drawn[0].lines.len(), 1);
        assert_eq!(
            drawn[0].x.ticks.len(),
            4,
            "0 to 99.9: of 990 no more is known"
        );
    }

    fn titles(report: &Report) -> Vec<String> {
        charts(report)
            .into_iter()
            .map(|chart| chart.title)
            .collect()
    }

    #[test]
    fn what_has_nothing_to_show_is_not_drawn() {
        assert_eq!(titles(&samples::nothing_succeeded()), [""; 0]);
        let by_percentile = "Latency by percentile";
        let latency = "Latency over time: handshake";
        let (rate, errors) = ("Rate over time: handshakes", "Errors over time");
        let run = lasting(5, 5000);
        assert_eq!(titles(&run), [by_percentile, latency, rate, errors]);
        let short = lasting(1, 1000);
        assert_eq!(titles(&short), [by_percentile], "a point is no line");

        let mut untimed = lasting(5, 5000);
        untimed.latencies.clear();
        for second in &mut untimed.timeline {
            (second.p50_micros, second.p99_micros, second.max_micros) = (None, None, None);
            second.failed = 0;
        }
        assert_eq!(titles(&untimed), [rate], "messages of QoS 0 are like this");
    }

    #[test]
    fn connections_are_drawn_while_they_are_opened() {
        let held = |opening: u64| Report {
            scenario: Scenario::Connections,
            rated: Duration::from_millis(opening),
            latencies: vec![samples::latency("connack", 1..=9)],
            ..lasting(10, 10_000)
        };
        let last = |report| charts(&report).into_iter().map(|chart| chart.x.high);
        assert_eq!(last(held(2500)).collect::<Vec<_>>(), [2.0, 2.0, 9.0]);
        assert_eq!(titles(&held(400)), ["Errors over time"]);
    }

    #[test]
    fn a_second_with_few_times_has_no_percentile_but_a_longest() {
        let mut run = lasting(5, 5000);
        for second in &mut run.timeline {
            second.p99_micros = None;
        }
        let names = |report| {
            let lines = charts(&report).swap_remove(1).lines.into_iter();
            lines.map(|line| line.name).collect::<Vec<_>>()
        };
        assert_eq!(names(run), ["p50", "max"]);
        assert_eq!(names(lasting(5, 5000)), ["p50", "p99", "max"]);
    }
}
