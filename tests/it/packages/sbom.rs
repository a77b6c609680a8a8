//! What the program is made of, and the licences of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{VERSION, done, made};
use crate::docs::page;

/// It names what is compiled for the program and nothing else, each by the hash that Cargo.lock knows it by.
#[test]
fn the_list_of_parts_is_that_of_cargo() {
    let name = format!("tidegate-{VERSION}.cdx.json");
    let Some(folder) = made(&name) else {
        return;
    };
    let text = fs::read_to_string(folder.join(name)).expect("readable");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(list["bomFormat"], "CycloneDX");
    assert_eq!(list["metadata"]["component"]["name"], "tidegate");
    assert_eq!(list["metadata"]["component"]["version"], VERSION);
    assert!(
        !text.contains(env!("CARGO_MANIFEST_DIR")),
        "where it was built"
    );

    let lock: toml::Table = page("Cargo.lock").parse().expect("TOML");
    let locked = lock["package"].as_array().expect("packages");
    let locked: BTreeMap<(&str, &str), &str> = locked
        .iter()
        .filter_map(|one| {
            let text = |key| one.get(key).and_then(toml::Value::as_str);
            Some(((text("name")?, text("version")?), text("checksum")?))
        })
        .collect();
    let mut listed = BTreeSet::new();
    for part in list["components"].as_array().expect("components") {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let (name, version) = (text(&part["name"]), text(&part["version"]));
        assert_eq!(part["hashes"][0]["alg"], "SHA-256", "{name}");
        let hash = text(&part["hashes"][0]["content"]);
        assert_eq!(locked.get(&(&*name, &*version)), Some(&&*hash), "{name}");
        assert!(part["licenses"][0].is_object(), "{name} has a licence");
        assert_eq!(text(&part["purl"]), format!("pkg:cargo/{name}@{version}"));
        listed.insert((name, version));
    }
    assert_eq!(listed, parts("normal,build"));
    assert!(
        listed.len() < locked.len(),
        "what only tests use is not listed"
    );
}

/// Whoever hands the program on finds in one file what its libraries ask for: of each crate which licence, and the texts, those of the C in them as well.
#[test]
fn the_licences_of_all_that_is_linked_in_are_told() {
    let Some(folder) = made("LICENSE-THIRD-PARTY") else {
        return;
    };
    let text = fs::read_to_string(folder.join("LICENSE-THIRD-PARTY")).expect("readable");
    let (told, texts) = text.split_once(&"=".repeat(80)).expect("texts");
    for (name, version) in parts("normal,no-proc-macro") {
        let line = format!("\n{name} {version}: ");
        assert!(told.contains(&line), "{name} {version} is told of");
        // Beside those of others, or alone; or nothing of the kind is in its package.
        let whose = format!("{name} {version}");
        let has_text = texts
            .lines()
            .any(|line| line.split(", ").any(|one| one == whose));
        assert!(has_text || name == "governor", "{whose} has a text");
    }
    for owner in [
        "Jason Evans",         // jemalloc
        "Amazon.com",          // AWS-LC
        "The OpenSSL Project", // of which parts are in it
        "Tokio Contributors",
        "Lesser General Public", // the C library
        "the Rust standard library",
    ] {
        assert!(texts.contains(owner), "{owner}");
    }
    assert!(
        !told.contains(env!("CARGO_MANIFEST_DIR")),
        "where it was built"
    );
}

/// What cargo takes for the program on this system by these edges, but for the program itself.
fn parts(edges: &str) -> BTreeSet<(String, String)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["tree", "--locked", "--offline", "--features", "jemalloc"]);
    cargo.args(["--edges", edges]);
    let told = done(cargo.args(["--prefix", "none", "--format", "{p}"]), "cargo");
    let parts = told.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((
            words.next()?.to_owned(),
            words.next()?.strip_prefix('v')?.to_owned(),
        ))
    });
    parts.filter(|(name, _)| name != "tidegate").collect()
}
