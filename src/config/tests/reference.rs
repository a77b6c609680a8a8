//! docs/configuration.md and the reader say the same.

use std::fmt::Write as _;

use super::*;

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

/// The table of keys in the reference and the keys that the reader knows are the same.
#[test]
fn the_reference_tells_every_key_and_no_other() {
    let told: BTreeSet<String> = REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|key| key.contains('.'))
        .map(str::to_owned)
        .collect();
    let known = keys();
    let mut differences = String::new();
    for key in told.symmetric_difference(&known) {
        let side = if known.contains(key) {
            "is not in docs/configuration.md"
        } else {
            "is not known"
        };
        let _ = writeln!(differences, "{key} {side}");
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Every TOML example of the reference is a good configuration, once what it leaves out is there.
#[test]
fn the_examples_of_the_reference_are_good() {
    let examples: Vec<&str> = REFERENCE
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 4, "the reference has examples");
    for example in examples {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("broker.secret"), "hunter2").expect("written");
        let token = "hunter2".repeat(5);
        std::fs::write(folder.path().join("admin.token"), token).expect("written");
        let mut file = example.to_owned();
        if !example.contains("[[listener]]") {
            file += "\n[[listener]]\nbind = \"127.0.0.1:0\"\ntls = { certificate = \"s.pem\", key = \"s.key\" }\n";
        }
        if !example.contains("[[trust]]") {
            file += "\n[[trust]]\nca = \"ca.pem\"\n";
        }
        if !example.contains("[broker]") {
            file += "\n[broker]\naddresses = \"mqtt://127.0.0.1\"\n";
        }
        if let Err(faults) = Operator::writes(&file).loads_in(folder.path()) {
            panic!("{faults:#?}\n{example}");
        }
    }
}
