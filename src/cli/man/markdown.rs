//! tidegate.toml(5), from docs/configuration.md: as much Markdown as that page uses.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{DATE, Page, ragged};

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

/// The page of the configuration.
pub(super) fn configuration() -> Page {
    let mut roff = Roff::new();
    let source = concat!("tidegate ", env!("CARGO_PKG_VERSION"));
    roff.control(
        "TH",
        ["tidegate.toml", "5", DATE, source, "tidegate manual"],
    );
    ragged(&mut roff).control("SH", ["NAME"]);
    roff.text([roman("tidegate.toml - the configuration of tidegate")]);
    roff.control("SH", ["DESCRIPTION"]);
    let (_title, text) = REFERENCE.split_once('\n').unwrap_or_default();
    take_in(&mut roff, text);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(
        "tidegate(1), tidegate-run(1), tidegate-check(1), tidegate-config(1)",
    )]);
    Page {
        file: "tidegate.toml.5".into(),
        roff: roff.render(),
    }
}

/// Headings, paragraphs, lists, tables and blocks of code, behind a heading.
fn take_in(roff: &mut Roff, text: &str) {
    let mut lines = text.lines().peekable();
    // A paragraph behind a heading needs no distance to it.
    let mut distance = "";
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        let before = std::mem::replace(&mut distance, "PP");
        if let Some(heading) = line.strip_prefix("## ") {
            roff.control("SH", [plain(heading).to_uppercase().as_str()]);
            distance = "";
        } else if let Some(heading) = line.strip_prefix("### ") {
            roff.control("SS", [plain(heading).as_str()]);
            distance = "";
        } else if line.starts_with("```") {
            let code = lines.by_ref().take_while(|line| !line.starts_with("```"));
            paragraph(roff, before);
            block(roff, code);
        } else if line.starts_with('|') {
            // The heads of the columns, and the line below them.
            let head = cells(line);
            lines.next();
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                row_of(roff, &head, &cells(row));
            }
        } else {
            let mut words = line.to_owned();
            while let Some(more) = lines.next_if(|line| goes_on(line)) {
                words = words + " " + more.trim();
            }
            match words.strip_prefix("- ") {
                Some(item) => roff.control("IP", ["\\(bu", "2"]).text(inlines(item)),
                None => paragraph(roff, before).text(inlines(&words)),
            };
        }
    }
}

fn paragraph<'a>(roff: &'a mut Roff, distance: &str) -> &'a mut Roff {
    if !distance.is_empty() {
        roff.control(distance, []);
    }
    roff
}

/// Whether a line belongs to the paragraph or the item before it.
fn goes_on(line: &str) -> bool {
    let begins_anew = ["- ", "|", "#", "```"];
    !line.trim().is_empty() && !begins_anew.iter().any(|mark| line.starts_with(mark))
}

fn block<'a>(roff: &mut Roff, code: impl Iterator<Item = &'a str>) {
    roff.control("RS", ["4"]).control("nf", []);
    for line in code {
        roff.text([roman(line)]);
    }
    roff.control("fi", []).control("RE", []);
}

/// A row is its first cell, with what the middle one says of it, and the last one's text below.
fn row_of(roff: &mut Roff, head: &[&str], row: &[&str]) {
    let &[name, middle, text] = row else {
        debug_assert!(false, "a row of three cells: {row:?}");
        return;
    };
    roff.control("TP", []);
    let mut first = inlines(name);
    if !middle.is_empty() {
        let says_itself = head.get(1) != Some(&"default") || middle == "needed";
        let said = if says_itself { "" } else { "default " };
        first.push(roman(format!("  ({said}{})", plain(middle))));
    }
    roff.text(first);
    roff.text(inlines(text));
}

/// The cells of a row, without the space around them.
fn cells(row: &str) -> Vec<&str> {
    let inner = row.trim().trim_start_matches('|');
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    inner.split(" | ").map(str::trim).collect()
}

/// `code` and **strong** words are bold, *stressed* ones slanted; of a link its words stay.
fn inlines(text: &str) -> Vec<Inline> {
    let text = without_links(text);
    let mut inlines = Vec::new();
    for (code, part) in alternately(&text, "`") {
        if code {
            inlines.push(bold(part));
            continue;
        }
        for (strong, words) in alternately(part, "**") {
            if strong {
                inlines.push(bold(words));
                continue;
            }
            let stressed = alternately(words, "*");
            inlines.extend(stressed.map(|(stressed, words)| {
                if stressed {
                    italic(words)
                } else {
                    roman(words)
                }
            }));
        }
    }
    inlines
}

/// What stands between marks, and whether it is inside of a pair of them.
fn alternately<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = (bool, &'a str)> {
    let parts = text.split(mark).enumerate();
    parts.map(|(place, part)| (place % 2 == 1, part))
}

fn plain(text: &str) -> String {
    without_links(text).replace(['`'], "").replace("**", "")
}

/// `[words](place)` becomes `words`; brackets that are no link stay.
fn without_links(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, place)) = rest.split_once("](") {
        let Some((_, after)) = place.split_once(')') else {
            break;
        };
        match opening(before) {
            Some(open) => kept = kept + &before[..open] + &before[open + 1..],
            None => kept += before,
        }
        rest = after;
    }
    kept + rest
}

/// Where the bracket is that the end of `text` would close.
fn opening(text: &str) -> Option<usize> {
    let mut closed = 0;
    for (place, letter) in text.char_indices().rev() {
        match letter {
            ']' => closed += 1,
            '[' if closed == 0 => return Some(place),
            '[' => closed -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_uses_of_markdown_is_understood() {
        let mut roff = Roff::new();
        take_in(
            &mut roff,
            "One **strong** *line*\ngoes on ([`[a]`: b](x.md#y)).\n\n## Every `key`\n\n- one\n  item\n- two\n\n\
             | key | default | |\n|---|---|---|\n| `a.b` | `\"x\"` | Text, `c`. |\n| `a.c` | needed | More. |\n\n\
             ```toml\n[a]\nb = 1\n```\n",
        );
        assert_eq!(
            roff.to_roff(),
            "One \\fBstrong\\fR \\fIline\\fR goes on (\\fB[a]\\fR: b).\n.SH \"EVERY KEY\"\n\
             .IP \\(bu 2\none item\n.IP \\(bu 2\ntwo\n\
             .TP\n\\fBa.b\\fR  (default \"x\")\nText, \\fBc\\fR.\n.TP\n\\fBa.c\\fR  (needed)\nMore.\n\
             .PP\n.RS 4\n.nf\n[a]\nb = 1\n.fi\n.RE\n"
        );
    }

    #[test]
    fn the_page_tells_every_key_and_nothing_of_markdown_is_left() {
        let page = configuration().roff;
        for key in crate::config::keys() {
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key}");
        }
        for mark in ["](", "**", "```", "|---"] {
            assert!(!page.contains(mark), "{mark} in\n{page}");
        }
    }
}
