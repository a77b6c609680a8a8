//! The pages of the commands, section 1.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{DATE, Page, ragged};

/// The page of `top`, and those of all commands below it.
pub(super) fn pages(top: Command) -> Vec<Page> {
    let mut top = top.disable_help_subcommand(true);
    top.build();
    let mut pages = Vec::new();
    add(&top, &[], &mut pages);
    pages
}

/// Adds the page of `command` and of those below it; `above` are the names of the pages above it, the top first.
fn add(command: &Command, above: &[&str], pages: &mut Vec<Page>) {
    let name = name(command);
    pages.push(Page {
        file: format!("{name}.1"),
        roff: page(command, above),
    });
    let above = [above, &[name]].concat();
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        add(below, &above, pages);
    }
}

/// `tidegate-device-add` for `tidegate device add`.
fn name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, above: &[&str]) -> String {
    let man = Man::new(command.clone())
        .date(DATE)
        .source(concat!("tidegate ", env!("CARGO_PKG_VERSION")))
        .manual("tidegate manual");
    let mut page = Vec::new();
    written(&man, command, &mut page).expect("memory takes what is written to it");
    // Each part begins with the same preamble; one is enough.
    let preamble = Roff::new().render();
    let parts = String::from_utf8_lossy(&page).replace(&preamble, "");
    // The distance to a list of values is an empty line between two breaks, which programs complain of.
    let parts = parts.replace("\n.br\n\n.br\n", "\n.sp\n");
    let help = command
        .get_after_long_help()
        .or_else(|| command.get_after_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let rest = Tail::of(&help).render(above, command.has_subcommands());
    preamble + &parts + rest.strip_prefix(&Roff::new().render()).unwrap_or(&rest)
}

fn written(man: &Man, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(page)?;
    ragged(&mut Roff::new()).to_writer(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    if command.get_arguments().any(|one| !one.is_hide_set()) {
        man.render_options_section(page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    Ok(())
}

/// What the help says behind the flags: `notes`, then `Examples:`, then `Exit codes:`, each of which may be missing.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tail<'a> {
    notes: &'a str,
    examples: &'a str,
    codes: &'a str,
}

impl<'a> Tail<'a> {
    fn of(help: &'a str) -> Self {
        let (rest, codes) = help.split_once("Exit codes:").unwrap_or((help, ""));
        let (notes, examples) = rest.split_once("Examples:\n").unwrap_or((rest, ""));
        Self {
            notes: notes.trim(),
            examples: examples.trim_end(),
            codes: codes.trim(),
        }
    }

    fn render(&self, above: &[&str], has_commands: bool) -> String {
        let mut roff = Roff::new();
        if !self.notes.is_empty() {
            roff.control("SH", ["NOTES"]);
            for (place, paragraph) in self.notes.split("\n\n").enumerate() {
                if place > 0 {
                    roff.control("PP", []);
                }
                roff.text([roman(one_line(paragraph))]);
            }
        }
        if !self.examples.is_empty() {
            roff.control("SH", ["EXAMPLES"]).control("nf", []);
            for line in self.examples.lines() {
                roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
            }
            roff.control("fi", []);
        }
        if !self.codes.is_empty() {
            roff.control("SH", ["EXIT STATUS"]);
            for code in one_line(self.codes).trim_end_matches('.').split("; ") {
                let (number, meaning) = code.split_once(' ').unwrap_or((code, ""));
                roff.control("TP", []);
                roff.text([bold(number)]).text([roman(meaning)]);
            }
        }
        roff.control("SH", ["SEE ALSO"]);
        let also = above.iter().map(|name| format!("{name}(1)"));
        let also: Vec<_> = also.chain(["tidegate.toml(5)".to_owned()]).collect();
        roff.text([roman(also.join(", "))]);
        if has_commands {
            roff.text([roman("and the pages of the commands above.")]);
        }
        roff.render()
    }
}

/// The words of a paragraph, whatever its lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_help_is_told_apart() {
        let help = "A note.\n\nExamples:\n  tidegate x\n  tidegate y\n\nExit codes: 0 done; 2 usage,\nor more.";
        let tail = Tail::of(help);
        assert_eq!(
            tail,
            Tail {
                notes: "A note.",
                examples: "  tidegate x\n  tidegate y",
                codes: "0 done; 2 usage,\nor more.",
            }
        );
        let page = tail.render(&["tidegate"], false);
        assert!(
            page.contains(".nf\ntidegate x\ntidegate y\n.fi\n"),
            "{page}"
        );
        assert!(page.contains(".TP\n\\fB2\\fR\nusage, or more\n"), "{page}");
        assert!(page.contains("tidegate(1), tidegate.toml(5)\n"), "{page}");
        assert_eq!(Tail::of(""), Tail::default());
    }
}
