//! What a reload does to those who are on their way in, to what is being written, and to a gate that is still starting
//! (threats.md R1, R2, I1).

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tidegate::config::{self, Source};
use tidegate::gate::{Contents, Inherited, Loaded, Reloaded};
use tidegate::mqtt::Version;
use tidegate::observe::logging::Logger;
use tidegate::observe::ready::Ready;
use tidegate::pki::Authority;

use crate::support::device::{Answer, connect};
use crate::support::estate::{Estate, admitted, ends, last_words, list, now, record};
use crate::support::gate::{Gate, Plan};
use crate::support::until;

/// Puts `new` for `old` in the configuration, and waits until that is in force.
async fn edit(gate: &Gate, old: &str, new: &str) {
    let before = gate.count("reloaded");
    let file = gate.file("tidegate.toml");
    let text = fs::read_to_string(&file).expect("its file");
    assert!(text.contains(old), "{old} is not in\n{text}");
    let draft = gate.file("draft.toml");
    fs::write(&draft, text.replacen(old, new, 1)).expect("written");
    fs::rename(draft, file).expect("renamed");
    gate.next_line("reloaded", before).await;
}

/// R1, R2: who has shaken hands before unknown devices were refused, and says who it is afterwards, is refused, too.
#[tokio::test]
async fn unknown_devices_do_not_slip_in_past_a_reload() {
    let estate = Estate::with("unknown = \"admit\"", "").await;
    let device = estate.gate.device("stranger");
    let asks = connect("stranger", Version::V5);
    let mut open = admitted(&device, &asks).await;
    for unknown in ["refuse", "register\"\nregister_approval = true\n#\""] {
        let mut late = device.dial().await.expect("a handshake");
        let mut later = device.dial().await.expect("a handshake");
        edit(
            &estate.gate,
            "unknown = \"admit\"",
            &format!("unknown = \"{unknown}\""),
        )
        .await;
        let packet = asks.encode().expect("it fits");
        late.say(&packet).await.expect("taken");
        assert_eq!(late.answer(Version::V5).await, Answer::Refused(0x87));
        edit(
            &estate.gate,
            &format!("unknown = \"{unknown}\""),
            "unknown = \"admit\"",
        )
        .await;
        later.say(&packet).await.expect("taken");
        assert_eq!(later.answer(Version::V5).await, Answer::Admitted);
    }
    last_words(&mut open).await; // it was in before
}

/// `registry.unknown` counts for who is in, and leaves those in peace whom the registry knows.
#[tokio::test]
async fn who_is_unknown_is_judged_by_the_rule_in_force() {
    let estate = Estate::with("unknown = \"admit\"", "").await;
    estate.add(record("known", None)).await;
    let mut known = estate.linked("known", Version::V5).await;
    let mut stranger = estate.linked("stranger", Version::V5).await;

    let began = std::time::Instant::now();
    edit(&estate.gate, "unknown = \"admit\"", "unknown = \"refuse\"").await;
    ends(
        &estate,
        &mut stranger,
        Version::V5,
        "device_removed",
        0x98,
        began,
    )
    .await;
    let device = estate.gate.device("stranger");
    let asks = connect("stranger", Version::V5);
    assert_eq!(device.asks(&asks).await.0, Answer::Refused(0x87));
    known.say(&[0xc0, 0]).await.expect("it stays");

    edit(
        &estate.gate,
        "unknown = \"refuse\"",
        "unknown = \"register\"",
    )
    .await;
    // Who is on its way while all are judged again may have to come once more.
    until("it to register itself", async || {
        (device.asks(&asks).await.0 == Answer::Admitted).then_some(())
    })
    .await;
    edit(
        &estate.gate,
        "unknown = \"register\"",
        "unknown = \"refuse\"",
    )
    .await;
    admitted(&device, &asks).await; // by now it is known
    known.say(&[0xc0, 0]).await.expect("it stays");
}

/// R1, I1: no broker hears of a device whose trust group went after its handshake; one of a group that stays is let in.
#[tokio::test]
async fn no_broker_hears_of_whose_trust_ended_on_its_way() {
    let gate = Gate::start().await;
    let (bad, good) = (gate.device("gone"), gate.device("meter-7"));
    let asks = connect("anybody", Version::V5).encode().expect("it fits");
    let mut on_its_way =
        [bad.dial().await, good.dial().await].map(|link| link.expect("a handshake"));
    let before = gate.count("reloaded");
    let file = gate.file("ca.pem");
    let own = fs::read_to_string(&file).expect("its file");
    let other = Authority::new("Other CA").expect("a CA");
    fs::write(&file, other.certificate_pem()).expect("written");
    gate.next_line("reloaded", before).await;
    on_its_way[0].say(&asks).await.expect("taken");
    assert_eq!(
        on_its_way[0].answer(Version::V5).await,
        Answer::Refused(0x87)
    );
    gate.refusal("revoked_meanwhile").await;
    assert_eq!(gate.broker().visits(), 0);

    let before = gate.count("reloaded");
    fs::write(&file, own + other.certificate_pem()).expect("written");
    gate.next_line("reloaded", before).await;
    on_its_way[1].say(&asks).await.expect("taken");
    let (answer, _visit) = tokio::join!(on_its_way[1].answer(Version::V5), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
}

/// R1, I7: a list that nobody renews keeps nobody from staying, but neither does it keep whom another group vouches for by now.
#[tokio::test]
async fn a_stale_list_keeps_no_identity_of_another_group() {
    let authority = Authority::new("Test CA").expect("a CA");
    let list = authority.crl::<&[u8]>(&[], now() - 60, now() + 2);
    let list = list.expect("a list").pem().expect("PEM");
    let mut gate = Gate::plan(Plan {
        files: vec![("soon.crl".into(), list.into_bytes())],
        trust: "crl = [\"soon.crl\"]".into(),
        authority,
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    let asks = connect("anybody", Version::V5);
    let mut link = admitted(&device, &asks).await;
    until("the list to be stale", async || {
        (device.asks(&asks).await.0 != Answer::Admitted).then_some(())
    })
    .await;
    edit(&gate, "crl = [", "intermediates = []\ncrl = [").await;
    link.say(&[0xc0, 0]).await.expect("it stays");

    edit(&gate, "name = \"fleet\"", "name = \"line\"").await;
    assert_eq!(last_words(&mut link).await.last(), Some(&0x87));
    gate.line("closed", |line| line["reason"] == "trust_ended")
        .await;
}

/// threats.md V3: a reload that asks for more connections than there are descriptors for says so, once.
#[tokio::test]
async fn a_limit_beyond_the_descriptors_is_told() {
    let gate = Gate::plan(Plan {
        under: ["prlimit", "--nofile=400"].map(Into::into).into(),
        limits: "connections = 10".into(),
        ..Plan::default()
    })
    .await;
    assert_eq!(gate.count("few_descriptors"), 0);
    edit(&gate, "connections = 10", "connections = 5000").await;
    edit(&gate, "connections = 5000", "connections = 6000").await;
    let told = gate.line("few_descriptors", |_| true).await;
    let why = told["why"].as_str().expect("text");
    assert!(
        why.contains("not 5000") && why.contains("400 file descriptors"),
        "{why}"
    );
    assert_eq!(gate.count("few_descriptors"), 1);
}

/// R2: of files that somebody writes while they are read, nothing is taken in: it may be half of one, or of two moments.
#[tokio::test]
async fn what_changes_while_it_is_read_is_not_taken_in() {
    let gate = Gate::start().await;
    let file = gate.file("tidegate.toml");
    let text = fs::read_to_string(&file).expect("its file");
    // A second gate, within this process.
    let text = text.replace("[admin]\nbind = \"127.0.0.1:0\"", "[admin]\nbind = \"off\"");
    fs::write(gate.file("second.toml"), text).expect("written");
    let source = Source {
        path: Some(gate.file("second.toml")),
        ..Source::default()
    };
    let config = config::load(&source).expect("good");
    let read = || Contents::default().with(&config.files(&source));
    let first = read();
    let loaded = Loaded::load(config.gate.clone()).expect("good");
    let metrics = loaded.metrics();
    let running = loaded
        .start(
            Inherited::default(),
            metrics.clone(),
            Logger::counted(metrics),
            Arc::new(Ready::default()),
        )
        .expect("started");

    let ca = gate.file("ca.pem");
    let pem = fs::read_to_string(&ca).expect("its file");
    let now = read();
    fs::write(&ca, format!("{pem}\n")).expect("written");
    fs::write(&ca, pem).expect("written"); // it holds what it held, and may have held anything
    let faults = running
        .reload(config.gate.clone(), Vec::new(), (&first, &now))
        .await
        .expect_err("it changed");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0]
            .to_string()
            .starts_with("files: some changed while"),
        "{faults:?}"
    );
    let now = read();
    let done = running
        .reload(config.gate.clone(), Vec::new(), (&first, &now))
        .await;
    let reloaded = Reloaded {
        generation: 2,
        warnings: Vec::new(),
    };
    assert_eq!(done, Ok(reloaded), "what had faults counts as none");
    running.retire().await;
    tokio::task::spawn_blocking(move || running.join())
        .await
        .expect("it ends");
}

/// R2: whoever sends HUP does not know whether the gate has started: it ends nothing, and is heard afterwards.
#[tokio::test]
async fn hup_does_not_end_a_gate_that_is_still_starting() {
    let authority = Authority::new("Test CA").expect("a CA");
    let serials: Vec<[u8; 16]> = (0..60_000_u128)
        .map(|n| (n + (1 << 100)).to_be_bytes())
        .collect();
    let serials: Vec<&[u8]> = serials.iter().map(<[u8; 16]>::as_slice).collect();
    let gate = Gate::plan(Plan {
        files: vec![("large.crl".into(), list(&authority, &serials).into_bytes())],
        trust: "crl = [\"large.crl\"]".into(),
        authority,
        ..Plan::default()
    })
    .await;
    let mut second = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--config"])
        .arg(gate.file("tidegate.toml"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(gate.file("second.log")).expect("made"))
        .spawn()
        .expect("it starts");
    let log = || fs::read_to_string(gate.file("second.log")).expect("its file");
    let pid = second.id();
    until("it to hear HUP", async || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        assert!(
            !log().contains("\"listening\""),
            "it read its files before it heard HUP"
        );
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))?;
        (u64::from_str_radix(caught.trim(), 16).ok()? & 1 == 1).then_some(())
    })
    .await;
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let sent = rustix::process::kill_process(raw, rustix::process::Signal::HUP);
    sent.expect("it is there");
    until("the reload", async || {
        log().contains("\"reloaded\"").then_some(())
    })
    .await;
    rustix::process::kill_process(raw, rustix::process::Signal::TERM).expect("it is there");
    assert_eq!(second.wait().expect("a child").code(), Some(0));
}
