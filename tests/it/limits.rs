//! Limits hold whoever comes: silent, many, or all at once (threats.md V1, V2, V3, V9).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use rustls::ClientConnection;
use rustls::version::TLS13;
use tidegate::mqtt::Version;
use tidegate::pki::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::broker::publish;
use crate::support::device::{Answer, BOTH, Device, Link, call_from, connect};
use crate::support::gate::{Gate, Plan, nothing_kept};
use crate::support::{PATIENCE, soon, until};

/// Where devices call from, unless a test says otherwise.
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The front of a ClientHello: a record of 512 bytes of which 100 come.
fn half_a_hello() -> Vec<u8> {
    let mut half = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    half.resize(105, 0x5a);
    half
}

/// A whole ClientHello, as `device` would send it.
fn whole_hello(device: &Device) -> Vec<u8> {
    let config = device.config.clone().expect("TLS");
    let mut tls = ClientConnection::new(config.into(), device.server_name.clone()).expect("a name");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("into memory");
    hello
}

async fn socket(to: SocketAddr) -> TcpStream {
    soon("the kernel to connect", TcpStream::connect(to))
        .await
        .expect("a listener")
}

/// As many sockets that have said `first`, and now nothing.
async fn silent(gate: &Gate, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let mut socket = socket(gate.address()).await;
        socket.write_all(first).await.expect("sent");
        sockets.push(socket);
    }
    sockets
}

/// So many sockets from `from` that say nothing; `None`: turned away before the kernel had told of it.
pub(crate) async fn crowd(gate: &Gate, from: IpAddr, count: usize) -> Vec<Option<TcpStream>> {
    let calls = (0..count).map(|_| call_from(from, gate.address()));
    let calls = soon("the kernel to connect", join_all(calls)).await;
    let each = calls.into_iter().map(|call| match call {
        Err(fault) if fault.kind() == io::ErrorKind::ConnectionReset => None,
        call => Some(call.expect("a listener")),
    });
    each.collect()
}

/// How many of a crowd the gate has closed.
pub(crate) fn shown_out(crowd: &[Option<TcpStream>]) -> usize {
    let is_over = |socket: &TcpStream| match socket.try_read(&mut [0]) {
        Ok(came) => came == 0,
        Err(fault) => fault.kind() != io::ErrorKind::WouldBlock,
    };
    crowd
        .iter()
        .filter(|one| one.as_ref().is_none_or(is_over))
        .count()
}

/// Connects, and panics unless it is let in.
pub(crate) async fn let_in(device: &Device) -> Link {
    let (answer, link) = device.asks(&connect("anybody", Version::V311)).await;
    assert_eq!(answer, Answer::Admitted);
    link.expect("admitted")
}

/// V2: 500 that say nothing, 500 that sent half a ClientHello and 500 that finished TLS and say nothing take nothing
/// from a device that is well.
#[tokio::test]
async fn silent_sockets_do_not_disturb_a_good_device() {
    let limits = "handshake_timeout = \"5m\"\nconnect_timeout = \"5m\"\n";
    let gate = Gate::plan(Plan {
        limits: limits.into(),
        ..Plan::default()
    })
    .await;
    let before = gate.proc_status("VmRSS");
    let _nothing = silent(&gate, 500, b"").await;
    let _half = silent(&gate, 500, &half_a_hello()).await;
    let quiet = gate.device("quiet");
    let mut secured = Vec::new();
    for _ in 0..500 {
        secured.push(quiet.dial().await.expect("a handshake"));
    }
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 1500.0)
        .await;

    let device = gate.device("meter-7");
    let asks = connect("", Version::V5);
    let ((answer, link), mut visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
    let mut link = link.expect("admitted");
    let packet = publish(Version::V5, "devices/meter-7/state", &vec![7; 100_000]);
    let (said, came) = tokio::join!(link.say(&packet), visit.packet());
    said.expect("the gate reads");
    assert_eq!(came, Some(packet));
    gate.metric_becomes("tidegate_connections_open", &[], 1.0)
        .await;

    // Before anybody is known, a connection costs what is bounded: here 32 KiB each are far more than it takes.
    let grown = gate.proc_status("VmRSS").saturating_sub(before);
    assert!(grown < 1500 * 32, "{grown} kB for 1500 silent connections");
}

/// V2: every stage has its deadline, and bytes that drip do not push it back.
#[tokio::test]
async fn who_is_too_slow_is_shown_out_at_every_stage() {
    let limits = "handshake_timeout = \"300ms\"\nconnect_timeout = \"300ms\"\n";
    let gate = Gate::plan(Plan {
        limits: limits.into(),
        ..Plan::default()
    })
    .await;
    let quiet = gate.device("quiet");
    let hello = whole_hello(&quiet);
    let mut sockets = silent(&gate, 20, b"").await;
    sockets.extend(silent(&gate, 20, &half_a_hello()).await);
    sockets.extend(silent(&gate, 20, &hello).await);
    let mut dripping = socket(gate.address()).await;
    let drip = async {
        // This device's own pace: nobody waits for it.
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
        for byte in hello.iter().cycle() {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            pace.tick().await;
        }
    };
    soon("the gate to end a dripping handshake", drip).await;
    for mut socket in sockets {
        let mut scrap = Vec::new();
        let ended = soon("the gate to close", socket.read_to_end(&mut scrap)).await;
        drop(ended); // an end or a reset
    }
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "handshake_timeout")],
        61.0,
    )
    .await;

    let mut link = quiet.dial().await.expect("a handshake");
    link.say(&[0x10]).await.expect("sent");
    assert_eq!(link.packet().await, None);
    let told = gate.refusal("connect_timeout").await;
    assert!(
        told["why"]
            .as_str()
            .is_some_and(|why| why.contains("1 byte")),
        "{told}"
    );
}

/// A device that comes and goes, and one of a CA that nobody trusts.
#[derive(Clone)]
struct Visitors {
    good: Device,
    foreign: Device,
}

/// Comes and goes in one of eight ways.
async fn visit(nth: usize, Visitors { good, foreign }: Visitors) {
    let bare = async |first: &[u8]| {
        let mut socket = socket(good.gate).await;
        socket.write_all(first).await.expect("sent");
        socket
    };
    match nth % 8 {
        0 => {
            let mut link = let_in(&good).await;
            link.close_write().await;
            assert_eq!(link.packet().await, None);
        }
        1 => drop(bare(b"").await),
        2 => drop(good.dial().await.expect("a handshake")),
        3 => {
            let answer = foreign.connects_as("x", Version::V5).await;
            assert!(!matches!(answer, Answer::Admitted | Answer::Refused(_)));
        }
        4 => drop(bare(&half_a_hello()).await),
        5 => {
            let socket = bare(&whole_hello(&good)).await;
            let now = Some(std::time::Duration::ZERO);
            socket2::SockRef::from(&socket)
                .set_linger(now)
                .expect("a reset");
        }
        6 => {
            let mut link = let_in(&good).await;
            let again = connect("anybody", Version::V311).encode().expect("fits");
            link.say(&again).await.expect("sent");
            assert_eq!(link.packet().await, None);
        }
        _ => {
            // In the middle of a packet, and without a word.
            let mut link = let_in(&good).await;
            let packet = publish(Version::V311, "a", &[7; 5_000]);
            link.say(&packet[..1_000]).await.expect("sent");
        }
    }
}

/// 2,000 connections, 40 at once.
async fn churn(gate: &Gate) {
    let foreign_ca = Authority::new("Foreign CA").expect("a CA");
    let issued = foreign_ca
        .device(&"meter-9".parse().expect("an id"))
        .expect("issued");
    let visitors = Visitors {
        good: gate.device("meter-7"),
        foreign: gate.device_with(&issued, BOTH),
    };
    for _ in 0..50 {
        let wave = (0..40).map(|nth| tokio::spawn(visit(nth, visitors.clone())));
        for visited in join_all(wave).await {
            visited.expect("a visit without a panic");
        }
    }
    gate.metric_becomes("tidegate_connections_open", &[], 0.0)
        .await;
    gate.metric_becomes("tidegate_handshakes_in_progress", &[], 0.0)
        .await;
    gate.metric_becomes("tidegate_broker_connections_open", &[], 0.0)
        .await;
}

/// How many descriptors a gate has that nobody has called yet: looked at when nothing is under way, as the first probe of the
/// broker is for a moment.
async fn descriptors_at_rest(gate: &Gate) -> usize {
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let (mut last, mut same) = (0, 0);
    until("the descriptors to rest", async || {
        let now = gate.descriptors();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same == 10).then_some(now)
    })
    .await
}

/// V9: after any churn, memory, descriptors, threads and counts return to where they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_connections_leave_nothing_behind() {
    /// What an allocator may keep for reasons of its own, in kB. 2,000 connections that left 2 KiB each would show.
    const MARGIN: u64 = 3 * 1024;
    /// Whoever left without a close is waited for so long: docs/operation.md, "Dead links".
    const LINGER: std::time::Duration = std::time::Duration::from_secs(30);
    let mut gate = Gate::plan(Plan {
        env: vec![nothing_kept()],
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let descriptors = descriptors_at_rest(&gate).await;
    churn(&gate).await; // warms up: buffers of the threads, the allocator's pools
    let (memory, threads) = (gate.proc_status("VmRSS"), gate.proc_status("Threads"));

    churn(&gate).await;

    let back = async {
        while gate.descriptors() != descriptors {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let back = tokio::time::timeout(LINGER + PATIENCE, back).await;
    let now = gate.descriptors();
    back.unwrap_or_else(|_| panic!("{descriptors} descriptors before, {now} after"));
    let now = gate.proc_status("VmRSS");
    assert!(now <= memory + MARGIN, "{memory} kB before, {now} kB after");
    assert_eq!(gate.proc_status("Threads"), threads);
    let accepted = gate
        .metric("tidegate_connections_accepted_total", &[])
        .await;
    assert!((accepted - 4000.0).abs() < f64::EPSILON, "{accepted}");
    // Each is told and counted once, in the one way or the other.
    gate.metric_becomes("tidegate_connection_duration_seconds_count", &[], 4000.0)
        .await;
}

/// V9: what a storm took goes back to the system, though nobody calls any more.
#[cfg(all(feature = "jemalloc", target_env = "gnu"))]
#[tokio::test]
async fn the_memory_of_a_storm_goes_back() {
    // Of 60,000 bytes of a CONNECT (MQTT 3.1.1), the first 58,000.
    let mut part = b"\x10\xe0\xd4\x03\0\x04MQTT\x04\xc2\0\x3c".to_vec();
    part.resize(58_000, 0);
    let plain = "[[listener]]\nname = \"devices\"\nbind = \"127.0.0.1:0\"\nmode = \"plain\"\n";
    let gate = Gate::plan(Plan {
        listeners: Some(plain.into()),
        more: "[registry]\nurl = \"sqlite://registry.db\"\n".into(),
        limits: "connect_bytes = \"64KiB\"\nconnect_timeout = \"5m\"\n".into(),
        // Ten seconds, else.
        env: vec![("MALLOC_CONF".into(), "dirty_decay_ms:300".into())],
        ..Plan::default()
    })
    .await;
    let before = gate.proc_status("VmRSS");
    let taken = || gate.proc_status("VmRSS").saturating_sub(before); // in kB

    let strangers = silent(&gate, 300, &part).await;
    until("most of 17 MB to be in memory", async || {
        (taken() > 12_000).then_some(())
    })
    .await;
    drop(strangers);

    until("the memory to go back", async || {
        (taken() < 4_000).then_some(())
    })
    .await;
}

/// V1: a turn to handshake comes free when the one who has it leaves.
#[tokio::test]
async fn handshakes_wait_their_turn() {
    let mut gate = Gate::plan(Plan {
        limits: "handshakes = 1\nhandshake_timeout = \"5m\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device_over("meter-7", &[&TLS13]);
    let holder = silent(&gate, 1, &whole_hello(&device)).await;
    gate.metric_becomes("tidegate_handshakes_in_progress", &[], 1.0)
        .await;
    // Whoever says nothing holds no turn.
    let _silent = silent(&gate, 50, &half_a_hello()).await;
    let next = tokio::spawn({
        let device = device.clone();
        async move { let_in(&device).await }
    });
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 52.0)
        .await;
    assert!(!next.is_finished());

    drop(holder);

    soon("the next to have its turn", next).await.expect("in");
}

/// V1, V2: whoever failed its handshake and then does not leave has had its turn.
#[tokio::test]
async fn a_failed_handshake_holds_no_turn() {
    let mut gate = Gate::plan(Plan {
        limits: "handshakes = 1\nhandshake_timeout = \"5m\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let good = gate.device("meter-7");
    // A ClientHello that TLS cannot read, and then nothing: the gate waits a while for it to take in the alert.
    let mut bad_hello = whole_hello(&good);
    bad_hello[5..].fill(0xff);
    let _bad = silent(&gate, 40, &bad_hello).await;

    let_in(&good).await;
}

/// V3: without file descriptors the gate turns away whoever comes, counts, tells once, and recovers.
#[tokio::test]
async fn out_of_descriptors_it_turns_away_and_recovers() {
    let mut gate = starved().await;
    let _house = gate.take_broker().welcome_all();
    let before = gate.descriptors_below(64);
    let crowd = crowd(&gate, HERE, 260).await;
    let turned_away = until("each to be in, or turned away", async || {
        let away = shown_out(&crowd);
        (away + gate.descriptors_below(64) == before + crowd.len()).then_some(away)
    })
    .await;
    assert!(turned_away >= 260 - 64, "{turned_away}");
    drop(crowd);

    let_in(&gate.device("meter-7")).await;
    let away = f64::from(u32::try_from(turned_away).expect("few"));
    let of = [("reason", "out_of_descriptors")];
    let refused = gate.metric("tidegate_refusals_total", &of).await;
    assert!((refused - away).abs() < f64::EPSILON, "{refused} {away}");
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "device_gone")],
        260.0 - away,
    )
    .await;
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 261.0)
        .await;
    assert_eq!(gate.lines("out_of_descriptors").len(), 1);
    assert!(gate.lines("panicked").is_empty());
}

/// A gate that has 64 descriptors, which nothing but devices and operators takes, and that reckoned with more.
async fn starved() -> Gate {
    let gate = Gate::plan(Plan {
        limits: "handshake_timeout = \"5m\"\ndrain_timeout = \"2s\"\n".into(),
        broker: "[broker.health]\ninterval = \"1h\"\n".into(),
        ..Plan::default()
    })
    .await;
    gate.line("broker_up", |_| true).await; // not asked of the metrics: that takes a descriptor
    gate.allow_descriptors(64);
    gate
}

/// V3: devices leave descriptors for operators: whoever found the gate dead would end it, and everything that is connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_when_devices_have_taken_all_descriptors() {
    let mut gate = Gate::plan(Plan {
        under: ["prlimit", "--nofile=200:200"].map(str::to_owned).to_vec(),
        limits: "handshake_timeout = \"5m\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    gate.line("few_descriptors", |_| true).await;
    let device = gate.device("meter-7");
    let mut link = let_in(&device).await;

    let crowd = crowd(&gate, HERE, 260).await;
    gate.line("out_of_descriptors", |_| true).await;

    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(gate.admin_get(page).await.0, 200, "{page}");
    }
    gate.metric_becomes("tidegate_connections_accepted_total", &[], 261.0)
        .await;
    let turned_away = [("reason", "out_of_descriptors")];
    let turned_away = gate.metric("tidegate_refusals_total", &turned_away).await;
    assert!(turned_away > 160.5, "{turned_away}"); // 100 would leave nothing
    until("whoever is turned away to be told", async || {
        let away = f64::from(u32::try_from(shown_out(&crowd)).expect("few"));
        (away >= turned_away).then_some(())
    })
    .await;
    let paused = gate.metric("tidegate_accept_pauses_total", &[("reason", "descriptors")]);
    assert!(paused.await < 0.5);
    // Whoever is inside has had its broker's leg for sure.
    link.say(&[0xc0, 0]).await.expect("the gate reads");
    drop(crowd);
    let_in(&device).await;
}

/// V3: a device for whose broker leg no descriptor is left is told that the trouble is ours.
#[tokio::test]
async fn a_device_is_told_when_no_descriptor_is_left_for_the_broker() {
    let gate = starved().await;
    let mut crowd = Vec::new();
    for (version, code) in [(Version::V311, 0x03), (Version::V5, 0x89)] {
        let one_left = async || match gate.descriptors_below(64) {
            63 => Some(()),
            fewer if fewer < 63 => {
                crowd.push(socket(gate.address()).await);
                let more = async || (gate.descriptors_below(64) > fewer).then_some(());
                until("the gate to accept", more).await;
                None
            }
            _ => None,
        };
        until("one descriptor to be left", one_left).await;

        let answer = gate.device("meter-7").connects_as("", version).await;
        assert_eq!(answer, Answer::Refused(code), "{version}");
    }
    assert_eq!(gate.broker().visits(), 0);
    gate.refusal("out_of_descriptors").await;
    drop(crowd);
    gate.metric_becomes(
        "tidegate_refusals_total",
        &[("reason", "out_of_descriptors")],
        2.0,
    )
    .await;
}

/// V10: a want of descriptors does not keep the gate from draining.
#[tokio::test]
async fn a_gate_without_descriptors_still_drains() {
    let mut gate = starved().await;
    let _crowd = crowd(&gate, HERE, 100).await;
    gate.line("out_of_descriptors", |_| true).await;

    gate.signal("TERM");

    assert_eq!(gate.exit().await.code(), Some(0));
}

/// V10: a full house does not, either.
#[tokio::test]
async fn a_full_house_still_drains() {
    let mut gate = Gate::plan(Plan {
        limits: "connections = 4\nhandshake_timeout = \"5m\"\ndrain_timeout = \"2s\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _crowd = crowd(&gate, HERE, 100).await;
    gate.metric_becomes("tidegate_refusals_total", &[("reason", "full")], 96.0)
        .await;

    gate.signal("TERM");

    assert_eq!(gate.exit().await.code(), Some(0));
}

/// V10: devices that keep coming do not keep the gate from draining.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_does_not_put_off_the_drain() {
    let mut gate = Gate::plan(Plan {
        limits: "drain_timeout = \"1s\"\n".into(),
        ..Plan::default()
    })
    .await;
    let address = gate.address();
    let storm: Vec<_> = (0..32)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    // Refused once the gate has closed the door, which is what is wanted.
                    drop(TcpStream::connect(address).await);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    until("the storm to rage", async || {
        let came = gate.metric("tidegate_connections_accepted_total", &[]);
        (came.await > 1000.0).then_some(())
    })
    .await;

    gate.signal("TERM");

    assert_eq!(gate.exit().await.code(), Some(0));
    storm.iter().for_each(tokio::task::JoinHandle::abort);
}

/// An idle gate sleeps: 200 devices that say nothing wake nobody.
#[tokio::test]
async fn idle_connections_wake_nobody() {
    let mut gate = Gate::plan(Plan {
        broker: "[broker.health]\ninterval = \"100ms\"\n".into(),
        ..Plan::default()
    })
    .await;
    let _house = gate.take_broker().welcome_all();
    let device = gate.device("meter-7");
    let mut inside = Vec::new();
    for _ in 0..200 {
        inside.push(let_in(&device).await);
    }
    gate.metric_becomes("tidegate_connections_open", &[], 200.0)
        .await;
    // The thread of the operators wakes itself, ten times a second and more: a clock for how long the workers sleep.
    let (before, ticks) = (gate.wakes("worker-"), gate.wakes("tidegate"));
    until("a second or so to go by", async || {
        (gate.wakes("tidegate") >= ticks + 20).then_some(())
    })
    .await;
    let woken = gate.wakes("worker-") - before;
    assert!(
        woken <= 20,
        "200 idle devices woke the workers {woken} times"
    );
}
