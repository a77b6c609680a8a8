//! What the gate lives on runs out or breaks: each time it is counted, and over when its cause is (threats.md V3, V4, V8, V9).

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::mqtt::Version;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::limits::{HERE, crowd};
use crate::support::broker::Visit;
use crate::support::device::{Answer, Device, Link, call_from, connect};
use crate::support::gate::{Gate, MUTUAL, Plan};
use crate::support::held::Held;
use crate::support::namespaces::has_its_own_namespaces;
use crate::support::{soon, until};

/// Connects, and panics unless it is let in.
async fn let_in(device: &Device) -> Link {
    let (answer, link) = device.asks(&connect("anybody", Version::V311)).await;
    assert_eq!(answer, Answer::Admitted);
    link.expect("admitted")
}

/// Asks until it is let in.
async fn let_in_again(device: &Device) -> Link {
    until("a device to be let in again", async || {
        let (answer, link) = device.asks(&connect("anybody", Version::V311)).await;
        (answer == Answer::Admitted).then_some(link).flatten()
    })
    .await
}

// ── File descriptors

/// V3: what is open goes on while no descriptor is left; no broker is blamed; and when some are back, so are new devices,
/// the admin port, the probes of the brokers, and the reading of files.
#[tokio::test]
async fn what_is_open_goes_on_without_descriptors_and_all_is_well_with_new_ones() {
    let gate = Gate::plan(Plan {
        under: ["prlimit", "--nofile=64:64"].map(str::to_owned).to_vec(),
        limits: "handshake_timeout = \"5m\"\n".into(),
        broker: "[broker.health]\ninterval = \"100ms\"\n".into(),
        ..Plan::default()
    })
    .await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let device = gate.device("meter-7");
    let asks = connect("anybody", Version::V311);
    let ((answer, link), mut visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
    let mut link = link.expect("admitted");

    let crowd = crowd(&gate, HERE, 100).await;
    gate.line("out_of_descriptors", |_| true).await;
    let ca = std::fs::read(gate.file("ca.pem")).expect("its file");
    std::fs::write(gate.file("ca.pem"), [&ca[..], b"\n"].concat()).expect("written");
    for _ in 0..50 {
        link.say(&[0xc0, 0]).await.expect("the gate reads");
        assert_eq!(visit.packet().await, Some(vec![0xc0, 0]));
        visit.say(&[0xd0, 0]).await;
        assert_eq!(link.packet().await, Some(vec![0xd0, 0]));
    }
    drop(crowd);

    assert_eq!(gate.admin_get("/readyz").await, (200, "ready\n".into()));
    let (mut more, _visit) = tokio::join!(let_in(&device), gate.broker().welcome());
    more.say(&[0xc0, 0]).await.expect("the gate reads");
    let refused = gate.metric(
        "tidegate_refusals_total",
        &[("reason", "out_of_descriptors")],
    );
    assert!(refused.await >= 1.0);
    gate.line("reloaded", |_| true).await;
    gate.metric_becomes("tidegate_config_last_reload_successful", &[], 1.0)
        .await;
    let probes = gate.metric("tidegate_broker_up", &[]).await;
    assert!(probes > 0.5, "the broker was there all the time");
    assert_eq!(gate.lines("broker_down").len(), 0);
}

// ── Memory

/// The most that a device takes before it has proved who it is, in kB: docs/operation.md, "Memory".
const A_STRANGER: u64 = 128;

/// The front of a ClientHello of 64 KiB, in records of 16 KiB, of which 60 KiB come: as much as one may send for nothing.
fn most_of_a_hello() -> Vec<u8> {
    let mut message = vec![1, 0, 0xff, 0xf0, 3, 3];
    message.resize(60 * 1024, 0);
    let records = message.chunks(16 * 1024).flat_map(|piece| {
        let length = u16::try_from(piece.len()).expect("a record").to_be_bytes();
        [&[22, 3, 1][..], &length, piece].concat()
    });
    records.collect()
}

/// So many devices that send that much, and hold still; they leave when this is dropped.
async fn storm(gate: &Gate, count: u64) -> JoinSet<()> {
    let hello = Arc::new(most_of_a_hello());
    let mut storm = JoinSet::new();
    for _ in 0..count {
        let socket = soon("the kernel to connect", call_from(HERE, gate.address())).await;
        let Ok(mut socket) = socket else {
            continue; // a full house resets: sometimes before the kernel has told that it connected
        };
        let hello = hello.clone();
        storm.spawn(async move {
            // Who is not let in yet has sent what the kernel takes.
            let _ = socket.write_all(&hello).await;
            let _ = socket.read(&mut [0]).await;
        });
    }
    storm
}

/// V3: a storm of handshakes that nobody finishes takes what docs/operation.md says, and no more, whoever many come.
#[tokio::test]
async fn a_storm_of_unfinished_handshakes_takes_no_more_than_is_documented() {
    const PLACES: u64 = 200;
    let mut gate = Gate::plan(Plan {
        limits: format!("connections = {PLACES}\nhandshake_timeout = \"5m\"\n"),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    drop(let_in(&device).await); // buffers of the threads
    let before = gate.proc_status("VmRSS");

    let raging = storm(&gate, 3 * PLACES).await;
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let full = PLACES as f64;
    until("the house to be full", async || {
        let in_progress = gate.metric("tidegate_handshakes_in_progress", &[]).await;
        (in_progress > full - 3.0).then_some(())
    })
    .await;
    let taken = gate.proc_status("VmHWM").saturating_sub(before);
    assert!(
        taken <= PLACES * A_STRANGER,
        "{taken} kB for {PLACES} strangers"
    );

    drop(raging);
    let_in_again(&device).await;
}

/// V3: with a limit on memory that holds what the gate takes at its limits, a storm does not end it.
#[tokio::test]
async fn within_a_limit_on_its_memory_it_outlives_a_storm() {
    const MEMORY: u64 = 256 << 20; // of data: what is written to
    let mut gate = Gate::plan(Plan {
        under: vec!["prlimit".into(), format!("--data={MEMORY}")],
        limits: "connections = 100\nhandshake_timeout = \"5m\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    for _ in 0..3 {
        let _raging = storm(&gate, 300).await;
        until("the house to be full", async || {
            let refused = gate.metric("tidegate_refusals_total", &[("reason", "full")]);
            (refused.await >= 1.0).then_some(())
        })
        .await;
    }
    let_in_again(&gate.device("meter-7")).await;
}

// ── The log

/// Comes, is let in, and goes.
async fn come_and_go(device: Device) {
    let mut link = let_in(&device).await;
    link.close_write().await;
    assert_eq!(link.packet().await, None);
}

async fn come_and_go_times(device: &Device, count: usize) {
    for _ in 0..count.div_ceil(20) {
        let wave = (0..20).map(|_| tokio::spawn(come_and_go(device.clone())));
        for gone in join_all(wave).await {
            gone.expect("let in");
        }
    }
}

/// A gate whose log goes to `log`, which the support does not read; it listens where it can be told from the admin port.
async fn gate_logging_to(log: Stdio) -> Gate {
    let listeners = format!("{MUTUAL}\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n")
        .replace("127.0.0.1:0", "127.0.0.2:0");
    let mut gate = Gate::plan(Plan {
        log_to: Some(log),
        listeners: Some(listeners),
        ..Plan::default()
    })
    .await;
    let ports = until("the gate to listen", async || {
        Some(gate.listens_on()).filter(|ports| ports.len() == 2)
    })
    .await;
    gate.admin = ports[0];
    gate.addresses.insert("devices".into(), ports[1]);
    gate
}

async fn lost(gate: &Gate) -> f64 {
    gate.metric("tidegate_log_lines_lost_total", &[]).await
}

/// The lines of a log, as JSON; half a line is none.
fn read_lines(log: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// V4: whoever reads the log leaves: nobody is killed by it, and every line that it costs is counted.
#[tokio::test]
async fn a_log_whose_reader_has_left_costs_lines_and_no_more() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut gate = gate_logging_to(writer.into()).await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    come_and_go_times(&device, 20).await;
    assert!(lost(&gate).await < 0.5);

    drop(reader);
    come_and_go_times(&device, 100).await;

    until("every lost line to be counted", async || {
        (lost(&gate).await >= 100.0).then_some(())
    })
    .await;
    gate.signal("TERM");
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// V4: whoever reads the log stops for a while, and then goes on: it is told how many lines it has missed.
#[tokio::test]
async fn a_reader_that_goes_on_is_told_what_it_missed() {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut gate = gate_logging_to(writer.into()).await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    // 64 KiB of pipe and 4096 lines of queue, and one line a device.
    let mut came = 0;
    while lost(&gate).await < 0.5 {
        assert!(came < 6_000, "lines are lost by now");
        come_and_go_times(&device, 400).await;
        came += 400;
    }

    let (to, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut log = String::new();
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            log.push_str(&String::from_utf8_lossy(&piece[..n]));
            if log.contains("log_lost") && log.ends_with('\n') {
                break;
            }
        }
        let _ = to.send(log);
    });
    let log = until("the line that tells of lost ones", async || {
        told.try_recv().ok()
    })
    .await;
    let lines = read_lines(&log);
    let missed: u64 = lines
        .iter()
        .filter(|line| line["event"] == "log_lost")
        .map(|line| line["lost"].as_u64().expect("a count"))
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let missed = missed as f64;
    assert!((missed - lost(&gate).await).abs() < 0.5, "{missed}");
}

/// A disk of a few KiB, in the mount namespace of the test alone. It ends with the test.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .status();
        assert!(mounted.expect("mount, of the package mount").success());
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    /// Else the folder could not be removed.
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

/// V3, V4: the disk of the log is full, and then has room again: lines are lost and counted, and the log goes on and says so.
#[tokio::test]
async fn a_disk_that_has_room_again_is_written_to_again() {
    if !has_its_own_namespaces("faults::a_disk_that_has_room_again_is_written_to_again") {
        return;
    }
    let disk = Disk::mount();
    let mut ballast = File::create(disk.path().join("ballast")).expect("room");
    let path = disk.path().join("log");
    let log = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .expect("room");
    let mut gate = gate_logging_to(log.into()).await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    while ballast.write(&[0; 1024]).is_ok_and(|written| written > 0) {}
    until("lines to be lost", async || {
        come_and_go_times(&device, 20).await;
        (lost(&gate).await >= 10.0).then_some(())
    })
    .await;

    ballast.set_len(0).expect("a file");
    let told = until("the log to tell of lost lines", async || {
        come_and_go_times(&device, 1).await;
        let log = std::fs::read_to_string(&path).expect("its file");
        read_lines(&log)
            .into_iter()
            .find(|line| line["event"] == "log_lost")
    })
    .await;
    assert_eq!(told["level"], "warn");
    assert!(told["lost"].as_u64() >= Some(10), "{told}");
}

// ── The clock

/// A wall clock that the test sets while the gate runs.
struct Clock(TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(tempfile::tempdir().expect("a folder"));
        let source = clock.0.path().join("clock.c");
        std::fs::write(&source, include_str!("faults/clock.c")).expect("written");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([clock.library(), source])
            .status();
        assert!(
            built.is_ok_and(|built| built.success()),
            "cc: apt-get install gcc"
        );
        clock.jump(0);
        clock
    }

    /// What makes a program that it is preloaded into go by this clock.
    fn library(&self) -> PathBuf {
        self.0.path().join("clock.so")
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("clock")
    }

    /// So far from the true time.
    fn jump(&self, days: i64) {
        let new = self.0.path().join("new");
        std::fs::write(&new, (days * 24 * 60 * 60).to_string()).expect("written");
        std::fs::rename(&new, self.file()).expect("in one piece");
    }

    fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library()),
            ("WALL_CLOCK", self.file()),
            // The library reads it from within the gate.
            ("TIDEGATE_SANDBOX__READ", self.0.path().to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_str().expect("text").to_owned()))
        .to_vec()
    }
}

/// V8: the wall clock jumps, forth and back, and nobody is thrown out: also when open connections are judged again meanwhile.
/// Who comes meanwhile is judged by what the clock says, and is let in when it is right again.
#[tokio::test]
async fn a_clock_that_jumps_ends_no_connection() {
    let clock = Clock::new();
    let mut gate = Gate::plan(Plan {
        env: clock.environment(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    let mut inside = Vec::new();
    for _ in 0..20 {
        inside.push(let_in(&device).await);
    }
    let ca = std::fs::read(gate.file("ca.pem")).expect("its file");
    for (n, (days, reason)) in [
        (-7200, Some("certificate_not_yet_valid")),
        (0, None),
        (7200, Some("certificate_expired")),
        (0, None),
    ]
    .into_iter()
    .enumerate()
    {
        clock.jump(days);
        let reviewed = gate.count("reloaded") + gate.count("reload_failed");
        let longer = [&ca[..], "\n".repeat(n + 1).as_bytes()].concat();
        std::fs::write(gate.file("ca.pem"), longer).expect("written");
        until("the files to be read", async || {
            (gate.count("reloaded") + gate.count("reload_failed") > reviewed).then_some(())
        })
        .await;
        match reason {
            Some(reason) => {
                let (answer, _) = device.asks(&connect("anybody", Version::V311)).await;
                assert_ne!(answer, Answer::Admitted, "{days} days off");
                gate.refusal(reason).await;
            }
            None => drop(let_in(&device).await),
        }
        for link in &mut inside {
            link.say(&[0xc0, 0]).await.expect("it stays");
        }
        gate.metric_becomes("tidegate_connections_open", &[], 20.0)
            .await;
    }
    let ended = gate.metric("tidegate_revoked_connections_total", &[]).await;
    assert!(ended < 0.5, "{ended}");
}

// ── What goes on beside the path

/// V4: the thread that watches files, tells metrics, probes brokers and hears signals stands still: devices come, talk and go as before. What it
/// has missed it does when it gets on.
#[test]
fn a_file_watcher_that_stands_still_stalls_no_device() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // One thread throughout: only the one that seized a thread may let it go.
    runtime.block_on(async {
        let gate = Gate::start().await;
        gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
        let device = gate.device("meter-7");
        let linked = async || tokio::join!(let_in(&device), gate.broker().welcome());
        let talk = async |(link, visit): &mut (Link, Visit)| {
            link.say(&[0xc0, 0]).await.expect("the gate reads");
            assert_eq!(visit.packet().await, Some(vec![0xc0, 0]));
            visit.say(&[0xd0, 0]).await;
            assert_eq!(link.packet().await, Some(vec![0xd0, 0]));
        };
        let mut open = linked().await;
        let Some(watcher) = Held::hold(&gate, "tidegate") else {
            return;
        };
        let ca = gate.file("ca.pem");
        let more = [&std::fs::read(&ca).expect("its file")[..], b"\n"].concat();
        std::fs::write(ca, more).expect("written");
        let mut asks = tokio::net::TcpStream::connect(gate.admin)
            .await
            .expect("the kernel");
        asks.write_all(b"GET /metrics HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n")
            .await
            .expect("the kernel takes it");

        for _ in 0..50 {
            talk(&mut linked().await).await;
        }
        talk(&mut open).await;
        assert_eq!(gate.count("reloaded"), 0, "it stands still");

        drop(watcher);
        let mut told = Vec::new();
        soon("the metrics", asks.read_to_end(&mut told))
            .await
            .expect("read");
        assert!(String::from_utf8_lossy(&told).contains("tidegate_connections_open"));
        gate.line("reloaded", |_| true).await;
    });
}

/// V4: callers who ask for the metrics, and never read them, keep neither devices nor other callers waiting.
#[tokio::test]
async fn a_reader_of_metrics_that_stalls_holds_up_nobody() {
    let mut gate = Gate::start().await;
    let _house = gate.take_broker().welcome_all();
    let asks = "GET /metrics HTTP/1.1\r\nhost: gate\r\n\r\n".repeat(500);
    let mut stalled = Vec::new();
    for _ in 0..16 {
        let caller = tokio::net::TcpStream::connect(gate.admin)
            .await
            .expect("it listens");
        // As much as it takes: an answer has some 40 KB, and nobody reads one.
        let _ = caller.try_write(asks.as_bytes());
        caller.readable().await.expect("the first answer begins");
        stalled.push(caller);
    }
    for _ in 0..20 {
        drop(let_in(&gate.device("meter-7")).await);
        let (status, page) = gate.admin_get("/metrics").await;
        assert!(status == 200 && page.contains("tidegate_build_info"));
    }
    assert_eq!(stalled.len(), 16);
}
