//! Arrows between rooms point down: cli → config → bench → admin, pki → gate → jwks, broker → tls, observe, registry → rules → mqtt.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, lowest first. Rooms of one floor do not know each other.
const FLOORS: [&[&str]; 9] = [
    &["mqtt", "proxy_protocol"],
    &["rules"],
    &["tls", "observe", "registry", "sandbox"],
    &["jwks", "broker"],
    &["gate"],
    &["admin", "pki"],
    &["bench"],
    &["config"],
    &["cli"],
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn no_arrow_points_up() {
    let mut faults = Vec::new();
    for file in sources(&source_folder()) {
        let Some(from) = room_of(&file) else { continue };
        let Some(own) = floor(&from) else {
            faults.push(format!("{}: `{from}` has no floor yet", file.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file is readable");
        for (number, to) in rooms_used(&text) {
            let down = floor(&to).is_none_or(|other| other < own);
            if !down && to != from {
                faults.push(format!("{}:{number}: {from} → {to}", file.display()));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "these do not point down; see ARCHITECTURE.md:\n{}",
        faults.join("\n")
    );
}

/// A harness that knew the gate could not measure others alike.
#[test]
fn the_harness_does_not_know_the_gate() {
    for file in sources(&source_folder().join("bench")) {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        let used = rooms_used(&text).into_iter().map(|(_, room)| room);
        let foreign: Vec<_> = used
            .filter(|room| floor(room).is_some())
            .filter(|room| !["bench", "pki", "rules", "mqtt"].contains(&room.as_str()))
            .collect();
        assert!(foreign.is_empty(), "{}: {foreign:?}", file.display());
    }
}

#[test]
fn an_arrow_is_seen_however_it_is_written() {
    let text = "use crate::mqtt::Version;\n\
                use crate::{\n    admin, // crate::nothing\n    rules::{device::Mode, policy},\n    tls,\n};\n\
                fn f(x: crate::gate::Settings) {} /// [`crate::cli`]\n\
                pub(crate) use crate::NotARoom;\n";
    let seen = rooms_used(text);
    let expected = [
        (1, "mqtt"),
        (2, "admin"),
        (2, "rules"),
        (2, "tls"),
        (7, "gate"),
        (8, "NotARoom"),
    ];
    assert_eq!(seen, expected.map(|(line, room)| (line, room.to_owned())));
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("src is there");
    let paths = entries.map(|entry| entry.expect("src is readable").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The first part of the path under src/; `None` for lib.rs and main.rs, which stand over all rooms.
fn room_of(file: &Path) -> Option<String> {
    let inside = file.strip_prefix(source_folder()).ok()?;
    let first = Path::new(inside.iter().next()?).with_extension("");
    let room = first.to_str()?.to_owned();
    (room != "lib" && room != "main").then_some(room)
}

/// What follows each `crate::` outside comments, one name or a `{…}` list of them, and the line it is on.
fn rooms_used(text: &str) -> Vec<(usize, String)> {
    let code: Vec<_> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    let mut seen = Vec::new();
    for (at, mark) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + mark.len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => first_names(list),
            None => vec![name(rest)],
        };
        seen.extend(names.into_iter().map(|name| (line, name)));
    }
    seen
}

/// The first name of each item of a `use` list, up to the brace that closes it.
fn first_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut item) = (0, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&std::mem::take(&mut item))),
            _ => {}
        }
        item.push(c);
    }
    names.push(name(&item));
    names.retain(|name| !name.is_empty());
    names
}

fn name(text: &str) -> String {
    let text = text.trim_start_matches([',', ' ', '\n']);
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}
