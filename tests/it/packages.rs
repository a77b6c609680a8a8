//! What is handed out (docs/packages.md): it is what it says, and it runs.
//!
//! `deploy/package` makes it; `./check` has that made from this very source before the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::docs::page;

mod deb;
mod image;
mod names;
mod paper;
mod sbom;

/// The folder in which `deploy/package` put the file of that name.
///
/// `None`, and a word of it, where nothing was made and `TIDEGATE_PEERS` does not require it.
///
/// # Panics
/// When it is required, and not there.
fn made(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/packages");
    if folder.join(name).exists() {
        return Some(folder);
    }
    let way_out = format!("there is no {name} in {folder:?}: run PROFILE=dev deploy/package");
    assert!(
        std::env::var("TIDEGATE_PEERS").as_deref() != Ok("required"),
        "{way_out}"
    );
    eprintln!("SKIPPED: {way_out}");
    None
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs a program to its end, which has to be a good one; what it said.
///
/// # Panics
/// When it is not there (`from` says which package brings it), and when it fails.
fn done(command: &mut Command, from: &str) -> String {
    let ran = command.output();
    let ran = ran.unwrap_or_else(|error| panic!("{command:?}, of the package {from}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "{command:?}: {}", text(&ran.stderr));
    text(&ran.stdout)
}

/// The files below a folder, by their paths from it.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).expect("a folder") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let path = path.strip_prefix(folder).expect("below it");
                found.insert(path.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    found
}

/// No library, and no loader of libraries: it runs on any Linux, and where there is nothing else.
#[test]
fn the_program_that_is_handed_out_is_static() {
    let Some(folder) = made("tidegate") else {
        return;
    };
    let mut readelf = Command::new("readelf");
    readelf.args(["--dynamic", "--program-headers", "--wide"]);
    let told = done(readelf.arg(folder.join("tidegate")), "binutils");
    assert!(told.contains("DYN (Position-Independent"), "{told}");
    assert!(
        !told.contains("NEEDED") && !told.contains("INTERP"),
        "{told}"
    );
    lies_together(&folder.join("tidegate"));
    let mut program = Command::new(folder.join("tidegate"));
    let version = done(program.arg("--version").env_clear(), "tidegate");
    assert_eq!(version, format!("tidegate {VERSION}\n"));
}

/// What a connection runs through lies in front of all other code, and the script that puts it there still knows most of it by name.
fn lies_together(program: &Path) {
    let mut readelf = Command::new("readelf");
    let told = done(
        readelf.args(["--sections", "--wide"]).arg(program),
        "binutils",
    );
    let text = told.lines().find(|line| line.contains(" .text "));
    let words: Vec<_> = text.expect(&told).split_whitespace().collect();
    let at = words.iter().position(|word| *word == "PROGBITS");
    let at = at.expect("code");
    let number = |word: &str| u64::from_str_radix(word, 16).ok();
    let begin = number(words[at + 1]).expect("an address");
    let front = begin..begin + number(words[at + 3]).expect("a size") / 4;
    let symbols = done(Command::new("nm").arg(program), "binutils");
    let names: Vec<_> = symbols
        .lines()
        .filter(|line| {
            let address = line.get(..16).and_then(number);
            address.is_some_and(|address| front.contains(&address))
        })
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    let script = page("deploy/layout.ld");
    let patterns: Vec<_> = script
        .lines()
        .filter_map(|line| line.trim().strip_prefix("*(.text.")?.strip_suffix(')'))
        .collect();
    let names = names.join("\n");
    let known = patterns.iter().filter(|pattern| {
        let longest = pattern.split(['*', '?']).max_by_key(|part| part.len());
        names.contains(longest.expect("a part"))
    });
    let (known, all) = (known.count(), patterns.len());
    assert!(
        known * 5 >= all * 4,
        "{known} of {all} patterns fit something: run bench/layout"
    );
}
