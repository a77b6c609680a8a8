//! The papers are true: commands, configurations, links, words and codes in them are those of the program.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use tidegate::bench::json::json;
use tidegate::bench::kinds::KINDS;
use tidegate::bench::report::{
    Arrivals, ClientCost, Latency, PhaseReport, Report, Scenario, Second, ServerCost,
};
use tidegate::bench::settings::Rate;
use tidegate::bench::times::TIMES;
use tidegate::config::{self, Source};
use tidegate::mqtt::connect::Fault;
use tidegate::mqtt::properties::Id;
use tidegate::mqtt::{Malformed, Version};
use tidegate::proxy_protocol;
use tidegate::rules::device::{DeviceId, Mode};
use tidegate::rules::identity::{Field, Unnamed};
use tidegate::rules::jwt;
use tidegate::rules::reason::{
    CERTIFICATE_REASONS, Cause, ENDINGS, Ending, REFUSALS, Refusal, Step,
};
use tidegate::rules::template::Unrenderable;

use crate::support::gate::tidegate;

/// The page that `tutorial.rs` types in.
pub(crate) const TUTORIAL: &str = "docs/tutorial.md";

/// The page of which `guide.rs` types in all that is marked as typed.
pub(crate) const GUIDE: &str = "docs/guide.md";

/// A file of the repository, by its path from the root.
pub(crate) fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|fault| panic!("{path}: {fault}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, by its path from the root.
fn pages() -> Vec<String> {
    let in_folder = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| format!("{folder}{}", name.to_string_lossy()));
        names
            .filter(|name| Path::new(name).extension().is_some_and(|e| e == "md"))
            .collect::<Vec<_>>()
    };
    let mut pages = [in_folder(""), in_folder("docs/")].concat();
    pages.sort();
    assert!(pages.iter().any(|page| page == "README.md"));
    pages
}

/// The blocks of code of a page that are marked as `language`.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(mark) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            if mark == language {
                blocks.push(block.join("\n") + "\n");
            }
        }
    }
    blocks
}

/// A page without its blocks of code.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What stands between backticks in the prose of a page.
fn inline(page: &str) -> Vec<String> {
    let prose = prose(page);
    prose
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The commands of a shell block, each on one line, as words.
pub(crate) fn commands(block: &str) -> Vec<Vec<String>> {
    let joined = block.replace("\\\n", " ");
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let commands = joined.lines().map(words);
    commands.filter(|words| !words.is_empty()).collect()
}

/// The rows of every table of `text`: their cells.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(
            cells
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect(),
        )
    });
    rows.filter(|cells: &Vec<String>| cells[0].starts_with('`'))
        .collect()
}

fn word(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn the_page_tells_how_many_wait_for_accept() {
    let source = page("src/gate/listener.rs");
    let (_, rest) = source
        .split_once("const BACKLOG: i32 = ")
        .expect("it is there");
    let (backlog, _) = rest.split_once(';').expect("a number");
    let told = format!("Up to {backlog} connections wait for accept at each socket");
    assert!(page("docs/operation.md").contains(&told), "{told}");
}

#[test]
fn the_readme_opens_with_the_two_commands() {
    let readme = page("README.md");
    let expected = "# tidegate\n\n```sh\ncargo run --release --example quickstart\n./check\n```\n";
    assert!(readme.starts_with(expected), "{}", &readme[..120]);
}

/// Commands in the pages are understood by the program; those of other programs are known by name.
#[test]
fn every_command_in_the_pages_can_be_typed() {
    let folder = tempfile::tempdir().expect("a folder");
    let understood = |arguments: &[&str], page: &str| {
        let ours = arguments
            .iter()
            .take_while(|word| !["|", ">"].contains(word));
        let arguments: Vec<&str> = ours.copied().collect();
        let (code, _, complaint) = tidegate(&[&arguments, &["--help"][..]].concat(), folder.path());
        assert_eq!(
            code,
            0,
            "{page}: tidegate {}: {complaint}",
            arguments.join(" ")
        );
    };
    // The tutorial is typed in as a whole, by a test of its own.
    for name in pages().into_iter().filter(|name| name != TUTORIAL) {
        let text = page(&name);
        let mut shown = blocks(&text, "sh");
        if name == "docs/admin-api.md" || name == GUIDE {
            shown.clear(); // typed by admin_api::the_page_can_be_typed, and by guide.rs
        }
        for command in shown.iter().flat_map(|block| commands(block)) {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["tidegate", arguments @ ..] => understood(arguments, &name),
                ["./check"] => {
                    let mode = fs::metadata(root().join("check")).expect("it is there");
                    assert_ne!(
                        mode.permissions().mode() & 0o111,
                        0,
                        "./check is executable"
                    );
                }
                ["cargo", "run", "--release", "--example", example] => {
                    let path = format!("examples/{example}/main.rs");
                    assert!(root().join(path).exists(), "{name}: no example {example}");
                }
                ["mosquitto_pub" | "mosquitto_sub", ..] => {} // run by the test of the front
                ["deploy/package"] => {}                      // run by ./check
                ["cargo", "rustc", .., "-C", flag] => {
                    assert!(page("deploy/package").contains(flag), "{name}: {flag}");
                }
                ["docker", ..] if name == "docs/packages.md" => {
                    for file in words.iter().filter(|word| word.starts_with("deploy/")) {
                        assert!(root().join(file).exists(), "{name}: {file}");
                    }
                }
                [
                    "runuser",
                    "-u",
                    "tidegate",
                    "--",
                    "tidegate",
                    arguments @ ..,
                ] => {
                    understood(arguments, &name);
                }
                ["apt" | "systemctl" | "chown" | "chmod", ..] if name == "docs/packages.md" => {}
                _ => panic!("{name}: nobody sees to it that this can be typed: {command:?}"),
            }
        }
        for code in inline(&text) {
            if let Some(arguments) = code.strip_prefix("tidegate ") {
                let first = arguments.split_whitespace().next().unwrap_or_default();
                understood(&[first], &name);
            }
        }
    }
}

/// What cannot change while the gate runs is one list, wherever it stands.
#[test]
fn what_a_reload_cannot_change_is_told_alike_everywhere() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = words(&page("docs/reload.md"));
    let (_, list) = told
        .split_once("is a fault of the reload, with its key, like any other: ")
        .expect("it is told");
    let (list, _) = list.split_once(". A reload that took in").expect("its end");
    assert!(words(&page("docs/operation.md")).contains(list), "{list}");
    let (_, help, _) = tidegate(&["run", "--help"], root());
    assert!(
        words(&help).contains(&list.replace('`', "")),
        "{list}\n{help}"
    );
}

/// What a page or the example in deploy/ shows is a good configuration, once what an excerpt leaves out is there.
/// (docs/configuration.md has a test of its own beside the reader.)
#[test]
fn every_configuration_in_the_pages_is_good() {
    for name in pages()
        .iter()
        .filter(|name| *name != "docs/configuration.md")
    {
        for block in blocks(&page(name), "toml") {
            let mut file = block.clone();
            for (section, least) in [
                (
                    "[[listener]]",
                    "bind = \"127.0.0.1:0\"\ntls = { certificate = \"s.pem\", key = \"s.key\" }",
                ),
                ("[[trust]]", "ca = \"ca.pem\""),
                ("[broker]", "addresses = \"mqtt://127.0.0.1\""),
            ] {
                if !block.contains(section) {
                    for more in ["\n", section, "\n", least, "\n"] {
                        file += more;
                    }
                }
            }
            is_good(name, &file);
        }
    }
}

#[test]
fn the_example_in_deploy_is_good_with_and_without_its_suggestions() {
    let name = "deploy/tidegate.toml";
    let example = page(name);
    is_good(name, &example);

    let suggested = |line: &str| {
        let rest = line.strip_prefix('#').unwrap_or(line);
        let is_toml = rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
        if is_toml {
            rest.to_owned()
        } else {
            line.to_owned()
        }
    };
    let all: Vec<_> = example.lines().map(suggested).collect();
    let all = all.join("\n");
    assert!(all.lines().count() > 40 && all != example);
    is_good(name, &all);
}

fn is_good(name: &str, file: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("broker.secret"), "correct horse").expect("written");
    fs::write(
        folder.path().join("admin.token"),
        "correct horse ".repeat(3).replace(' ', "-"),
    )
    .expect("written");
    let path = folder.path().join("tidegate.toml");
    fs::write(&path, file).expect("written");
    let source = Source {
        path: Some(path),
        ..Source::default()
    };
    if let Err(faults) = config::load(&source) {
        panic!("{name}: {faults:#?}\n{file}");
    }
}

/// `limits.connections` and the like, wherever a page names one.
#[test]
fn every_key_that_the_pages_name_is_known() {
    let keys: BTreeSet<String> = config::keys()
        .iter()
        .map(|key| key.replace("[]", ""))
        .collect();
    let sections: BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| key.split('.').next())
        .collect();
    let known = |name: &str| {
        let below = format!("{name}.");
        keys.iter()
            .any(|key| key == name || key.starts_with(&below))
    };
    let mut unknown = Vec::new();
    for name in pages() {
        for code in inline(&page(&name)) {
            let key = code
                .split(" = ")
                .next()
                .unwrap_or_default()
                .replace("[]", "");
            let is_key = key.contains('.')
                && key
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || "._".contains(c))
                && sections.contains(key.split('.').next().unwrap_or_default());
            if is_key && !known(&key) {
                unknown.push(format!("{name}: {key}"));
            }
        }
    }
    assert!(unknown.is_empty(), "no such keys:\n{}", unknown.join("\n"));
}

/// Relative links lead to a file, and to a heading of it.
#[test]
fn every_link_leads_somewhere() {
    let mut astray = Vec::new();
    for name in pages() {
        let text = prose(&page(&name));
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = root().join(&name);
            let folder = folder.parent().expect("a file is in a folder");
            let to = match path {
                "" => root().join(&name),
                path => folder.join(path),
            };
            let found = to.exists() && (heading.is_empty() || headings(&to).contains(heading));
            if !found {
                astray.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(
        astray.is_empty(),
        "these lead nowhere:\n{}",
        astray.join("\n")
    );
}

/// The headings of a page as GitHub spells them in links.
fn headings(path: &PathBuf) -> BTreeSet<String> {
    let text = prose(&fs::read_to_string(path).expect("a page"));
    let headings = text.lines().filter_map(|line| {
        let heading = line.trim_start_matches('#').strip_prefix(' ')?;
        line.starts_with('#').then(|| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars()
                .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
                .collect()
        })
    });
    headings.collect()
}

fn device() -> DeviceId {
    "meter-7".parse().expect("a device id")
}

/// One refusal of each word; what the device is told hangs on nothing else but its version.
fn sample(word: &'static str, version: Version) -> Refusal {
    let limit = Duration::from_secs(1);
    let text = String::new;
    let wire = |malformed| {
        Refusal::Connect(Fault {
            version: Some(version),
            malformed,
        })
    };
    match word {
        "full" => Refusal::Full { most: 1 },
        "address_full" => Refusal::AddressFull { most: 1 },
        "address_rate" => Refusal::AddressRate { most: 1 },
        "proxy_header_missing" => Refusal::ProxyHeader(proxy_protocol::Malformed::Missing),
        "proxy_header_malformed" => {
            Refusal::ProxyHeader(proxy_protocol::Malformed::TooLong { most: 107 })
        }
        "proxy_header_timeout" => Refusal::ProxyHeaderTimeout { limit },
        "not_tls" => Refusal::NotTls { first: 0x10 },
        "handshake_timeout" => Refusal::HandshakeTimeout { limit },
        "handshakes_full" => Refusal::HandshakesFull { limit },
        "storm" => Refusal::Storm,
        "device_gone" => Refusal::DeviceGone { during: "it" },
        "no_certificate" => Refusal::NoCertificate,
        label if CERTIFICATE_REASONS.contains(&label) => {
            Refusal::Certificate { label, why: text() }
        }
        "server_refused" => Refusal::ServerRefused { alert: text() },
        "nothing_in_common" => Refusal::NothingInCommon { what: text() },
        "tls_fault" => Refusal::TlsFault { what: text() },
        "connect_timeout" => Refusal::ConnectTimeout { limit, got: 0 },
        "not_connect" => wire(Malformed::NotConnect { first: 0 }),
        "connect_malformed" => wire(Malformed::WillQos),
        "connect_against_protocol" => wire(Malformed::RepeatedProperty {
            id: Id::ReceiveMaximum,
        }),
        "connect_too_large" => wire(Malformed::TooLarge { bytes: 2, cap: 1 }),
        "unsupported_level" => wire(Malformed::UnsupportedLevel {
            level: if version == Version::V5 { 6 } else { 2 },
        }),
        "client_id_empty" => wire(Malformed::EmptyClientId),
        "enhanced_authentication" => Refusal::EnhancedAuthentication,
        "identity_missing" => Refusal::Unnamed(Unnamed::Missing(Field::SubjectCn)),
        "identity_repeated" => Refusal::Unnamed(Unnamed::Repeated(Field::SubjectCn)),
        "identity_unreadable" => Refusal::Unnamed(Unnamed::Unreadable(Field::SubjectCn)),
        "identity_not_matched" => Refusal::Unnamed(Unnamed::NotMatched(Field::SubjectCn, text())),
        "identity_not_allowed" => Refusal::Unnamed(Unnamed::NotAllowed(Field::SubjectCn, text())),
        "no_token" => Refusal::NoToken {
            mode: Mode::Plain,
            taken: None,
        },
        "token_bad" => Refusal::TokenBad { why: text() },
        "token_expired" => Refusal::TokenExpired { why: text() },
        "token_keys_away" => Refusal::Jwt(jwt::Bad::KeysAway),
        "credentials_disagree" => Refusal::CredentialsDisagree {
            certificate: device(),
            token: device(),
        },
        "device_unknown" => Refusal::DeviceUnknown {
            device: None,
            by_token: false,
        },
        "device_disabled" => Refusal::DeviceDisabled {
            device: device(),
            waits: false,
        },
        "mode_not_allowed" => Refusal::ModeNotAllowed {
            device: device(),
            mode: Mode::Plain,
            least: Mode::MutualTls,
        },
        "certificate_not_registered" => Refusal::CertificateNotRegistered {
            device: device(),
            why: text(),
        },
        "credential_expired" => Refusal::CredentialExpired {
            device: device(),
            number: 1,
            early: false,
        },
        "registry_away" => Refusal::RegistryAway { why: text() },
        "registration_full" => Refusal::RegistrationFull { why: text() },
        "revoked_meanwhile" => Refusal::Revoked(Cause::DeviceDisabled),
        "client_id_not_own" => Refusal::ClientIdNotOwn {
            device: device(),
            asked: text(),
        },
        "client_id_not_allowed" => Refusal::Unrenderable(Unrenderable::ClientId),
        "username_not_allowed" => Refusal::Unrenderable(Unrenderable::Username),
        "text_too_long" => Refusal::Unrenderable(Unrenderable::TooLong(text())),
        "rewrite_too_long" => Refusal::RewriteTooLong(text()),
        "draining" => Refusal::Draining,
        "broker_away" => Refusal::BrokerAway {
            waited: limit,
            last: text(),
        },
        "broker_silent" => Refusal::BrokerSilent { limit },
        "broker_closed" => Refusal::BrokerClosed { what: text() },
        "broker_garbage" => Refusal::BrokerGarbage(Malformed::NotConnack { first: 0 }),
        "out_of_descriptors" => Refusal::OutOfDescriptors,
        "out_of_ports" => Refusal::OutOfPorts { why: String::new() },
        "gate_fault" => Refusal::GateFault,
        word => panic!("{word} has no sample here"),
    }
}

/// What cannot happen, and is told as `–`: MQTT 5.0 allows an empty client id, and only it knows an Authentication
/// Method.
const CANNOT_BE: [(&str, &str); 2] = [
    ("client_id_empty", "5.0"),
    ("enhanced_authentication", "3.1, 3.1.1"),
];

/// docs/refusals.md has every reason word once, in the section of its step, with the code that each MQTT version is
/// told (threats.md T3).
#[test]
fn every_refusal_is_documented_with_what_the_device_sees() {
    let text = page("docs/refusals.md");
    let columns = [
        ("3.1, 3.1.1", &[Version::V31, Version::V311][..]),
        ("5.0", &[Version::V5][..]),
    ];
    for (step, heading) in [
        (Step::Accept, "Accept"),
        (Step::Handshake, "Handshake"),
        (Step::Connect, "CONNECT"),
        (Step::Verdict, "Verdict"),
        (Step::Broker, "Broker"),
    ] {
        let told = rows(section(&text, heading));
        let words: Vec<&str> = told.iter().map(|row| word(&row[0])).collect();
        let of_step = REFUSALS.iter().filter(|(_, of)| *of == step);
        let known: Vec<&str> = of_step.map(|(word, _)| *word).collect();
        assert_eq!(
            words, known,
            "the section {heading} of docs/refusals.md, in order"
        );

        for (row, known) in told.iter().zip(known) {
            for (at, (column, versions)) in columns.iter().enumerate() {
                for &version in *versions {
                    let refusal = sample(known, version);
                    assert_eq!(refusal.label(), known);
                    let answer = refusal.answer(Some(version));
                    if CERTIFICATE_REASONS.contains(&known) {
                        // Looked at again after the handshake, for a pin or a resumed connection.
                        assert!(answer.is_some_and(|(_, code)| [0x05, 0x87].contains(&code)));
                        continue;
                    }
                    if step == Step::Accept {
                        assert_eq!(answer, None, "{known}: the device sees a reset");
                        continue;
                    }
                    if step == Step::Handshake {
                        let told = refusal.answer(None);
                        assert_eq!(told, None, "{known}: there is no CONNACK in a handshake");
                        // After it, as the page says above its table.
                        let late = known.starts_with("certificate_") || known.starts_with("crl_");
                        assert_eq!(answer.is_some(), late, "{known}");
                        continue;
                    }
                    let seen = match answer {
                        _ if CANNOT_BE.contains(&(known, column)) => "–".to_owned(),
                        None => "close".to_owned(),
                        Some((_, code)) => format!("0x{code:02x}"),
                    };
                    assert_eq!(row[at + 1], seen, "{known} in {version}");
                }
            }
        }
    }
}

#[test]
fn every_ending_is_documented_with_what_the_device_is_told() {
    let limit = Duration::from_secs(1);
    let what = String::new;
    let text = page("docs/refusals.md");
    let told = rows(section(&text, "Endings"));
    let words: Vec<&str> = told.iter().map(|row| word(&row[0])).collect();
    assert_eq!(
        words, ENDINGS,
        "the section Endings of docs/refusals.md, in order"
    );

    for row in &told {
        let ending = match word(&row[0]) {
            "broker_refused" => Ending::BrokerRefused { code: 5 },
            "device_closed" => Ending::DeviceClosed,
            "device_lost" => Ending::DeviceLost { what: what() },
            "broker_closed" => Ending::BrokerClosed,
            "broker_lost" => Ending::BrokerLost { what: what() },
            "second_connect" => Ending::SecondConnect,
            "forbidden_packet" => Ending::ForbiddenPacket { packet: 15 },
            "malformed_packet" => Ending::MalformedPacket,
            "broker_garbage" => Ending::BrokerGarbage { what: what() },
            "half_open" => Ending::HalfOpen { limit },
            word if Cause::ALL.iter().any(|cause| cause.label() == word) => {
                let cause = Cause::ALL.into_iter().find(|cause| cause.label() == word);
                Ending::Revoked(cause.expect("just found"))
            }
            "drained" => Ending::Drained,
            "cut" => Ending::Cut,
            "gate_fault" => Ending::GateFault,
            word => panic!("{word} has no sample here"),
        };
        assert_eq!(ending.label(), word(&row[0]));
        let code = ending.last_word().map(|code| format!("0x{code:02x}"));
        assert_eq!(row[1], code.unwrap_or("–".into()), "{}", ending.label());
    }
}

/// The text below a heading of the second level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = format!("\n## {heading}\n");
    let (_, rest) = text
        .split_once(&start)
        .unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap_or_default()
}

/// docs/benchmarking.md has each kind of error that a run counts, in order, with the words of the program.
#[test]
fn every_kind_of_error_of_a_run_is_documented() {
    let text = page("docs/benchmarking.md");
    let told = rows(section(&text, "Errors"));
    assert_eq!(told.len(), KINDS.len());
    for (row, (kind, meaning)) in told.iter().zip(KINDS) {
        assert_eq!(word(&row[0]), kind);
        let more = row[1].strip_prefix(&meaning.replace("--give-up", "`--give-up`"));
        let more = more.unwrap_or_else(|| panic!("{kind}: {meaning:?} is told as {:?}", row[1]));
        assert!(more.is_empty() || more.starts_with(';'), "{kind}: {more}");
    }
}

/// Likewise each time.
#[test]
fn every_time_of_a_run_is_documented() {
    let text = page("docs/benchmarking.md");
    let told = rows(section(&text, "Times"));
    let told: Vec<(&str, String)> = told
        .iter()
        .map(|row| (word(&row[0]), row[1].replace('`', "")))
        .collect();
    let known = TIMES.map(|(name, meaning)| (name, meaning.to_owned()));
    assert_eq!(told, known);
}

#[test]
fn every_json_key_of_a_run_is_documented() {
    let text = page("docs/benchmarking.md");
    let told = rows(section(&text, "JSON"));
    let told: BTreeSet<String> = told.iter().map(|row| word(&row[0]).to_owned()).collect();
    let mut known = BTreeSet::new();
    keys_of("", &json(&a_run()), &mut known);
    assert_eq!(told, known);
}

/// A run that has something to tell under every key.
fn a_run() -> Report {
    let micros = Histogram::new(3).expect("three significant figures are possible");
    Report {
        scenario: Scenario::Handshake,
        target: "localhost:8883".to_owned(),
        setup: vec![("NAME", String::new())],
        began: 0,
        lasted: Duration::ZERO,
        rated: Duration::ZERO,
        in_time: 0,
        interrupted: false,
        attempts: 0,
        succeeded: 0,
        errors: [("KIND", 1)].into(),
        negotiated: [("WHAT".to_owned(), 1)].into(),
        latencies: vec![Latency {
            name: "NAME",
            micros: micros.clone(),
        }],
        payload_bytes: 0,
        timeline: vec![Second::default()],
        phases: vec![PhaseReport {
            begin: Duration::ZERO,
            time: Duration::ZERO,
            rate: Rate { from: 0.0, to: 0.0 },
            begun: 1,
            succeeded: 0,
            errors: [("KIND", 1)].into(),
            micros,
        }],
        arrivals: vec![Arrivals {
            at: Duration::ZERO,
            begun: 1,
            succeeded: 0,
        }],
        server: Some(ServerCost::default()),
        client: ClientCost::default(),
    }
}

/// The paths of all keys in `value`: `server.pids`, `timeline[].second`.
fn keys_of(path: &str, value: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(inner) => {
            let below = if path.is_empty() {
                String::new()
            } else {
                format!("{path}.")
            };
            for (name, value) in inner {
                keys_of(&format!("{below}{name}"), value, keys);
            }
        }
        serde_json::Value::Array(items)
            if items.first().is_some_and(serde_json::Value::is_object) =>
        {
            keys_of(&format!("{path}[]"), &items[0], keys);
        }
        _ => {
            keys.insert(path.to_owned());
        }
    }
}

/// SECURITY.md names tests that are there, under numbers that the threat model has.
#[test]
fn every_promise_of_security_is_shown_by_tests_that_are_there() {
    let threats = page("docs/threats.md");
    let promises = shown_by("SECURITY.md");
    assert!(promises.len() > 20, "there is a table");
    for (id, tests) in promises {
        assert!(
            threats.contains(&format!("\n- {id} ")),
            "threats.md has no {id}"
        );
        assert!(!tests.is_empty(), "{id} is shown by nothing");
    }
}

/// docs/certificates.md, likewise: what has no test is not there, and says so by a dash.
#[test]
fn what_is_told_of_certificates_is_shown_by_tests_that_are_there() {
    let lines = shown_by("docs/certificates.md");
    assert!(lines.len() > 30, "there are tables");
    for (what, tests) in lines {
        assert_eq!(tests.is_empty(), what == "OCSP", "{what}");
    }
}

/// docs/operation.md, likewise: what runs out or breaks, and what becomes of it.
#[test]
fn what_is_told_of_faults_is_shown_by_tests_that_are_there() {
    let lines = shown_by("docs/operation.md");
    assert!(lines.len() > 15, "there is a table");
    for (what, tests) in lines {
        assert!(!tests.is_empty(), "{what} is shown by nothing");
    }
}

/// The rows of every table of a page whose last column is "shown by": the first cell, and the tests, which are there.
fn shown_by(name: &str) -> Vec<(String, Vec<String>)> {
    let mut source = String::new();
    for folder in ["src", "tests"] {
        append_sources(&root().join(folder), &mut source);
    }
    let text = page(name);
    let rows = text.split(" | shown by |\n").skip(1).flat_map(|table| {
        let rows = table
            .lines()
            .take_while(|line| line.starts_with('|'))
            .skip(1);
        rows.map(|row| {
            let row = row.trim_start_matches("| ").trim_end_matches(" |");
            let (first, _) = row.split_once(" | ").expect("two cells");
            let (_, last) = row.rsplit_once(" | ").expect("two cells");
            (first.to_owned(), inline(last))
        })
    });
    let rows: Vec<_> = rows.collect();
    for (first, tests) in &rows {
        for test in tests {
            assert!(
                source.contains(&format!("fn {test}(")),
                "{name}, {first}: there is no test {test}"
            );
        }
    }
    rows
}

fn append_sources(folder: &Path, source: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            append_sources(&path, source);
        } else if path.extension().is_some_and(|e| e == "rs") {
            source.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}
