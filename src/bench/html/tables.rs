//! The tables of the page.

use super::escape;
use crate::bench::kinds;
use crate::bench::plots::Step;
use crate::bench::report::Report;
use crate::bench::times::{self, P90, P99, P999};
use crate::bench::words::{self, count, micros, three};

/// A column for each thing timed, so that the table is as narrow as a phone.
pub(super) fn latencies(report: &Report) -> String {
    let timed = report.latencies.iter();
    let timed: Vec<_> = timed
        .filter_map(|of| Some((of, times::spread(&of.micros)?)))
        .collect();
    if timed.is_empty() {
        let others = words::timed_ones(report.scenario);
        let others = others.map_or_else(String::new, |which| format!("; {which}"));
        return format!("<h2>Latency</h2>\n<p class=\"soft\">Nothing was timed{others}.</p>\n");
    }
    let columns: Vec<_> = timed
        .iter()
        .map(|(of, _)| of.name.replace('_', " "))
        .collect();
    let heads = [vec![""], columns.iter().map(String::as_str).collect()].concat();
    let mut rows = vec![vec!["count".to_owned()]];
    rows[0].extend(timed.iter().map(|(of, _)| count(of.micros.len())));
    for (at, name) in times::NAMES.into_iter().enumerate() {
        let mut row = vec![name.to_owned()];
        row.extend(timed.iter().map(|(_, spread)| words::figure(spread[at])));
        rows.push(row);
    }
    let unknown = timed.iter().any(|(_, spread)| spread.contains(&None));
    let note = if unknown { too_few() } else { String::new() };
    let names = timed.iter().map(|(of, _)| of.name);
    table("Latency", &heads, 1, &rows) + &meanings(names) + &note
}

/// Why a percentile is not told.
fn too_few() -> String {
    let [p90, p99, p999] = [P90.least, P99.least, P999.least];
    format!(
        "<p class=\"words\">too few: p90 is told of at least {p90} times, p99 of {p99}, p99.9 of {p999}; of fewer it \
         would be the longest one by another name.</p>\n"
    )
}

/// What the times of these names are.
fn meanings<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let known = names.map(|name| (name.replace('_', " "), times::meaning(name)));
    let known = known.filter(|(_, meaning)| !meaning.is_empty());
    let told = known.map(|(name, meaning)| {
        let (name, meaning) = (escape(&name), escape(meaning));
        format!("<dt>{name}</dt><dd>{meaning}</dd>\n")
    });
    match told.collect::<String>().as_str() {
        "" => String::new(),
        told => format!("<dl class=\"words\">\n{told}</dl>\n"),
    }
}

pub(super) fn errors(report: &Report) -> String {
    let row = |name: &str, what: &str, times: u64| {
        let share = words::share(times, report.attempts);
        vec![format!("{name}\n{what}"), count(times), share]
    };
    let errors = report.errors.iter();
    let mut rows: Vec<_> = errors
        .map(|(kind, times)| row(kind, kinds::meaning(kind), *times))
        .collect();
    let under_way = words::under_way(report);
    if under_way > 0 {
        let what = "neither succeeded nor failed when the run was over";
        rows.push(row("under way", what, under_way));
    }
    if rows.is_empty() {
        return "<h2>Errors</h2>\n<p class=\"soft\">None.</p>\n".to_owned();
    }
    table("Errors", &["kind", "times", "of all"], 1, &rows)
}

pub(super) fn negotiated(report: &Report) -> String {
    let rows = report.negotiated.iter();
    let rows: Vec<_> = rows
        .map(|(what, times)| vec![what.clone(), count(*times)])
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(
        "Negotiated",
        &["version, suite, key exchange, kind", "times"],
        1,
        &rows,
    )
}

pub(super) fn costs(caption: &str, costs: &[(impl ToString, String)]) -> String {
    let rows = costs.iter();
    let rows: Vec<_> = rows
        .map(|(name, value)| vec![name.to_string(), value.clone()])
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(caption, &[], 2, &rows)
}

pub(super) fn harness(report: &Report) -> String {
    costs("Harness", &words::client_costs(report))
        + "<p class=\"words\">The harness is the program that made the load, <code>tidegate bench</code>. What it spent tells \
           whether the figures are the target's or its own.</p>\n"
}

pub(super) fn setup(report: &Report) -> String {
    let own = [("target", report.target.clone())];
    costs("Setup", &[own.as_slice(), &report.setup].concat())
}

/// Each second in figures, folded away.
pub(super) fn seconds(steps: &[Step]) -> String {
    let time = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), micros);
    let row = |step: &Step| {
        let counts = [step.begun, step.succeeded, step.failed].map(|number| {
            if number.fract() == 0.0 {
                words::mark(number)
            } else {
                three(number)
            }
        });
        let times = [step.p50_micros, step.p99_micros, step.max_micros].map(time);
        [[step.at.to_string()].as_slice(), &counts, &times].concat()
    };
    let rows: Vec<_> = steps.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = [
        "second",
        "begun/s",
        "succeeded/s",
        "failed/s",
        "p50",
        "p99",
        "max",
    ];
    let table = table("Second by second", &heads, 1, &rows);
    format!(
        "<details class=\"card\">\n<summary>The run in figures, second by second</summary>\n<div class=\"wide\">\n{table}</div>\n</details>\n"
    )
}

/// A table whose first cells are its rows' names. Columns from `numbers` on are numbers. Without `heads`, no heading.
fn table(caption: &str, heads: &[&str], numbers: usize, rows: &[Vec<String>]) -> String {
    let class = |at: usize| if at >= numbers { " class=\"n\"" } else { "" };
    let head = |(at, name): (usize, &&str)| match *name {
        "" => "<td></td>".to_owned(),
        name => format!("<th scope=\"col\"{}>{}</th>", class(at), escape(name)),
    };
    let heads: String = heads.iter().enumerate().map(head).collect();
    let heads = match heads.as_str() {
        "" => heads,
        heads => format!("<thead><tr>{heads}</tr></thead>\n"),
    };
    let cell = |(at, cell): (usize, &String)| match at {
        0 => format!("<th scope=\"row\">{}</th>", name(cell)),
        at => format!("<td{}>{}</td>", class(at), escape(cell)),
    };
    let row = |row: &Vec<String>| {
        let cells: String = row.iter().enumerate().map(cell).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<table>\n<caption>{}</caption>\n{heads}<tbody>\n{rows}</tbody>\n</table>\n",
        escape(caption)
    )
}

/// The name of a row; what stands on a second line is its note.
fn name(cell: &str) -> String {
    match cell.split_once('\n') {
        Some((name, note)) => format!("{}<small>{}</small>", escape(name), escape(note)),
        None => escape(cell),
    }
}
