//! A service manager hears how the gate is: sd_notify(3). And what it hears of the workers is true.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate::mqtt::Version;

use crate::support::gate::{Gate, Plan};
use crate::support::held::Held;
use crate::support::soon;

/// What plays the service manager.
struct Manager {
    socket: tokio::net::UnixDatagram,
    /// What `NOTIFY_SOCKET` says.
    place: String,
    /// Where its file is.
    _folder: Option<TempDir>,
}

impl Manager {
    fn at_path() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&place).expect("bound");
        Self {
            socket,
            place: place.to_str().expect("text").to_owned(),
            _folder: Some(folder),
        }
    }

    fn abstractly() -> Self {
        let name = format!("tidegate-test-{:016x}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        socket.set_nonblocking(true).expect("a socket");
        Self {
            socket: tokio::net::UnixDatagram::from_std(socket).expect("a runtime"),
            place: format!("@{name}"),
            _folder: None,
        }
    }

    /// A gate that tells it.
    async fn gate(&self, plan: Plan, more: &[(&str, &str)]) -> Gate {
        let mut env = vec![("NOTIFY_SOCKET".to_owned(), self.place.clone())];
        env.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Gate::plan(Plan { env, ..plan }).await
    }

    /// The next message.
    async fn hears(&self) -> String {
        let mut buffer = [0; 1024];
        let length = soon("a message", self.socket.recv(&mut buffer)).await;
        String::from_utf8(buffer[..length.expect("a socket")].to_vec()).expect("text")
    }

    /// The next message that has this line.
    async fn hears_of(&self, line: &str) -> String {
        loop {
            let message = self.hears().await;
            if message.lines().any(|one| one.starts_with(line)) {
                return message;
            }
        }
    }
}

/// The number behind `name=` of a message.
fn number(message: &str, name: &str) -> u64 {
    let line = message
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}=")));
    line.expect("it is there").parse().expect("a number")
}

fn monotonic_usec() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).expect("after the start")
}

/// Ready when it listens, reloading around each reload, stopping when it drains: at a path and at an abstract name, which the sandbox of the
/// gate would not let it reach any more.
#[tokio::test]
async fn a_manager_hears_of_the_life_of_a_gate() {
    for manager in [Manager::at_path(), Manager::abstractly()] {
        let mut gate = manager
            .gate(
                Plan {
                    limits: "drain_timeout = \"2s\"".into(),
                    ..Plan::default()
                },
                &[],
            )
            .await;
        assert_eq!(manager.hears().await, "READY=1");
        assert_eq!(
            gate.count("listening"),
            2,
            "the devices' and the operators'"
        );
        let status = manager.hears_of("STATUS=").await;
        assert!(
            status.contains("0 connections open, ") && status.contains("of 1 brokers up"),
            "{status}"
        );

        let before = monotonic_usec();
        gate.signal("HUP");
        let reloading = manager.hears_of("RELOADING=1").await;
        let told = number(&reloading, "MONOTONIC_USEC");
        assert!((before..=monotonic_usec()).contains(&told), "{reloading}");
        manager.hears_of("READY=1").await;
        gate.line("reloaded", |_| true).await;

        // Without a signal, too.
        let renewed = gate
            .authority
            .server(&["localhost", "127.0.0.1"])
            .expect("issued");
        std::fs::write(gate.file("server.pem"), renewed.chain_pem()).expect("written");
        std::fs::write(gate.file("server.key"), renewed.key_pem()).expect("written");
        manager.hears_of("RELOADING=1").await;
        manager.hears_of("READY=1").await;

        gate.signal("TERM");
        let stopping = manager.hears_of("STOPPING=1").await;
        assert_eq!(
            number(&stopping, "EXTEND_TIMEOUT_USEC"),
            12_000_000,
            "the window, and the last steps"
        );
        assert_eq!(gate.exit().await.code(), Some(0));
    }
}

/// A reload that fails is over, too: the manager must not wait for it.
#[tokio::test]
async fn a_reload_that_fails_is_over_too() {
    let manager = Manager::at_path();
    let gate = manager.gate(Plan::default(), &[]).await;
    manager.hears_of("READY=1").await;
    std::fs::write(gate.file("tidegate.toml"), "listener = 7").expect("written");
    gate.signal("HUP");
    manager.hears_of("RELOADING=1").await;
    manager.hears_of("READY=1").await;
    gate.line("reload_failed", |_| true).await;
}

/// The connections that are open and the brokers that answer, for `systemctl status`.
#[tokio::test]
async fn the_status_follows() {
    let manager = Manager::at_path();
    let mut gate = manager.gate(Plan::default(), &[]).await;
    let _house = gate.take_broker().welcome_all();
    let asks = crate::support::device::connect("anybody", Version::V5);
    let (_, link) = gate.device("meter-7").asks(&asks).await;
    let _link = link.expect("admitted");
    manager
        .hears_of("STATUS=1 connections open, 1 of 1 brokers up")
        .await;
}

/// Where nobody listens the gate runs, and says so.
#[tokio::test]
async fn a_manager_that_is_not_there_is_no_reason_to_fail() {
    let env = vec![("NOTIFY_SOCKET".into(), "/no/such/socket".into())];
    let gate = Gate::plan(Plan {
        env,
        ..Plan::default()
    })
    .await;
    let told = gate.line("configuration", |_| true).await;
    assert!(
        told["why"]
            .as_str()
            .expect("text")
            .contains("NOTIFY_SOCKET=/no/such/socket"),
        "{told}"
    );
}

/// How long the watchdog of the test waits.
const WITHIN: Duration = Duration::from_secs(2);

/// The watchdog hears of a gate whose workers live, and nothing while one of them is stuck, though all others go on: here a debugger
/// holds its thread, and no other, as a task that never comes back would.
///
/// Needs ptrace(2) of a child, which every kernel allows; a container may not: then it says so, or fails with TIDEGATE_PEERS=required.
#[test]
fn a_stuck_worker_is_a_missed_watchdog() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // One thread throughout: only the one that seized a thread may let it go.
    runtime.block_on(async {
        let manager = Manager::at_path();
        let usec = WITHIN.as_micros().to_string();
        let gate = manager
            .gate(Plan::default(), &[("WATCHDOG_USEC", &usec)])
            .await;
        for _ in 0..3 {
            let asked = Instant::now();
            manager.hears_of("WATCHDOG=1").await;
            assert!(asked.elapsed() < WITHIN, "in time");
        }
        let Some(worker) = Held::hold(&gate, "worker-0") else {
            return;
        };

        // What was on its way is heard; then silence, for longer than any manager would wait.
        while let Ok(told) = tokio::time::timeout(WITHIN * 2, manager.hears_of("WATCHDOG=1")).await
        {
            drop(told);
            assert!(
                worker.since.elapsed() < WITHIN,
                "a stuck worker, and the watchdog was told that all live"
            );
        }
        let told = gate.line("worker_stuck", |_| true).await;
        assert_eq!(
            (told["workers"].as_str(), told["level"].as_str()),
            (Some("worker-0"), Some("error"))
        );
        assert_eq!(
            gate.admin_get("/livez").await.0,
            200,
            "all but the worker goes on"
        );

        drop(worker);
        manager.hears_of("WATCHDOG=1").await;
    });
}

/// While it drains, and when its workers have ended, the watchdog is told: a gate on its way out is not stuck.
#[tokio::test]
async fn a_drain_is_not_stuck() {
    let manager = Manager::at_path();
    let usec = WITHIN.as_micros().to_string();
    let mut gate = manager
        .gate(Plan::default(), &[("WATCHDOG_USEC", &usec)])
        .await;
    let _house = gate.take_broker().welcome_all();
    let asks = crate::support::device::connect("anybody", Version::V311);
    let (_, link) = gate.device("meter-7").asks(&asks).await;
    let link = link.expect("admitted");
    gate.signal("TERM");
    manager.hears_of("STOPPING=1").await;
    manager.hears_of("WATCHDOG=1").await;
    drop(link);
    assert_eq!(gate.exit().await.code(), Some(0));
}

/// The watchdog of whoever started us is not ours.
#[tokio::test]
async fn a_watchdog_that_is_meant_for_another_process_hears_nothing() {
    let manager = Manager::at_path();
    let _gate = manager
        .gate(
            Plan::default(),
            &[("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")],
        )
        .await;
    manager.hears_of("READY=1").await;
    let heard = tokio::time::timeout(Duration::from_secs(1), manager.hears_of("WATCHDOG=1")).await;
    assert!(heard.is_err(), "{heard:?}");
}
