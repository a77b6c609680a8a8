//! `tidegate man`: the manual pages, made from the command line's own definition and from docs/configuration.md.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_mangen::roff::Roff;

use super::{Cli, Failure, say};

mod command;
mod markdown;

/// Writes a manual page to standard output, or all of them into a folder
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// The page of a command, or tidegate.toml, the configuration; left out: tidegate's own
    #[arg(value_name = "COMMAND")]
    page: Vec<String>,
    /// Writes every page into this folder, which is made if need be
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  tidegate man run | man -l -
  tidegate man device add | man -l -
  tidegate man tidegate.toml | man -l -          every key of the configuration
  tidegate man --out /usr/local/share/man/man1   (tidegate.toml.5 belongs into man5)

Exit codes: 0 done; 1 it cannot be written; 2 usage.";

/// When what the pages say last changed in earnest: it stands at their feet.
const DATE: &str = "2026-11-27";

/// One page: the name of its file, and its text in roff.
struct Page {
    file: String,
    roff: String,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let pages = pages();
        if let Some(folder) = &self.out {
            return write(&pages, folder);
        }
        let page = named(&pages, &self.page).ok_or_else(|| unknown(&pages, &self.page))?;
        say(&page.roff);
        Ok(())
    }
}

/// Every page there is: that of each command, then tidegate.toml(5).
fn pages() -> Vec<Page> {
    let mut pages = command::pages(Cli::command());
    pages.push(markdown::configuration());
    pages
}

/// The page of `device add` is `tidegate-device-add.1`; that of no words is tidegate's own.
fn named<'a>(pages: &'a [Page], words: &[String]) -> Option<&'a Page> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let name = match words.as_slice() {
        [] => "tidegate".to_owned(),
        [whole] if whole.starts_with("tidegate") => (*whole).to_owned(),
        words => format!("tidegate-{}", words.join("-")),
    };
    pages.iter().find(|page| stem(page) == name)
}

fn unknown(pages: &[Page], words: &[String]) -> Failure {
    let all: Vec<_> = pages.iter().map(stem).collect();
    Failure::asked_wrongly(format!(
        "there is no page for {:?}; there are {}",
        words.join(" "),
        all.join(", ")
    ))
}

/// The name of a page without its section.
fn stem(page: &Page) -> &str {
    page.file
        .rsplit_once('.')
        .map_or(&*page.file, |(stem, _)| stem)
}

/// Keys, flags and paths are neither hyphenated nor spread over a line.
fn ragged(roff: &mut Roff) -> &mut Roff {
    roff.control("nh", []).control("ad", ["l"])
}

fn write(pages: &[Page], folder: &Path) -> Result<(), Failure> {
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::failed(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    for page in pages {
        let path = folder.join(&page.file);
        fs::write(&path, &page.roff).map_err(|error| cannot(&path, error))?;
    }
    say(&format!("{} pages in {}\n", pages.len(), folder.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_command_has_a_page_and_so_has_the_configuration() {
        let pages = pages();
        for (asked, file) in [
            ("", "tidegate.1"),
            ("run", "tidegate-run.1"),
            ("device rotate-token", "tidegate-device-rotate-token.1"),
            ("tidegate-ca-init", "tidegate-ca-init.1"),
            ("tidegate.toml", "tidegate.toml.5"),
        ] {
            let page = named(&pages, &words(asked)).expect(asked);
            assert_eq!(page.file, file);
        }
        assert!(named(&pages, &words("walk")).is_none());
    }

    #[test]
    fn what_is_no_page_is_told_with_those_that_are() {
        let failure = unknown(&pages(), &words("walk on"));
        assert_eq!(failure.code, 2);
        assert!(
            failure.sentence.contains("\"walk on\"") && failure.sentence.contains("tidegate-run"),
            "{failure}"
        );
    }
}
