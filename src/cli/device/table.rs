//! A table that fits its terminal.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// Between two columns.
const GAP: usize = 2;
/// The last column is cut to no less.
const LEAST: usize = 8;

/// The columns of the terminal on standard output; `None`: it is none, and nothing is cut.
pub(super) fn width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Rows under a heading, each column as wide as it must be; the last one is cut with `…` where the terminal ends.
pub(super) fn table<const N: usize>(
    heading: [&str; N],
    rows: &[[String; N]],
    width: Option<usize>,
) -> String {
    let count = |text: &str| text.chars().count();
    let mut widths = heading.map(count);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(count(cell));
        }
    }
    let before: usize = widths
        .iter()
        .take(N.saturating_sub(1))
        .map(|width| width + GAP)
        .sum();
    let last = width.map_or(usize::MAX, |width| width.saturating_sub(before).max(LEAST));
    let mut out = String::new();
    let heading = heading.map(str::to_owned);
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            if at + 1 < N {
                let _ = write!(line, "{cell:width$}{:GAP$}", "");
            } else {
                line += &cut(cell, last);
            }
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_where_the_terminal_does() {
        let rows = [
            [
                "meter-7".to_owned(),
                "by the door, behind the gate".to_owned(),
            ],
            ["m".to_owned(), String::new()],
        ];
        let heading = ["DEVICE", "DESCRIPTION"];
        assert_eq!(
            table(heading, &rows, None),
            "DEVICE   DESCRIPTION\nmeter-7  by the door, behind the gate\nm\n"
        );
        for line in table(heading, &rows, Some(20)).lines() {
            assert!(line.chars().count() <= 20, "{line}");
        }
        assert!(table(heading, &rows, Some(1)).contains("by the …"));
    }
}
