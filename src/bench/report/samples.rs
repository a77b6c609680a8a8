//! Runs to be shown in tests.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::bench::kinds::KINDS;

/// Handshakes, a few of which failed.
pub(crate) fn handshakes() -> Report {
    let second = |at, begun, succeeded, failed, p50, p99| Second {
        at,
        begun,
        succeeded,
        failed,
        p50_micros: Some(p50),
        p99_micros: Some(p99),
        max_micros: Some(1900),
    };
    Report {
        attempts: 1000,
        succeeded: 990,
        errors: [("refused", 10)].into(),
        setup: vec![
            ("CPU", "4 × Example 9000".to_owned()),
            ("loop", "closed, 16 at once".to_owned()),
        ],
        lasted: Duration::from_millis(10_020),
        rated: Duration::from_millis(10_020),
        in_time: 990,
        negotiated: [(
            "TLS 1.3 TLS13_AES_256_GCM_SHA384 X25519 full".to_owned(),
            990,
        )]
        .into(),
        latencies: vec![latency("handshake", 911..=1900)],
        timeline: vec![
            second(0, 510, 500, 10, 1400, 1890),
            second(1, 490, 490, 0, 1410, 1900),
        ],
        server: Some(ServerCost {
            pids: vec![4711],
            cpu: Duration::from_micros(121_770),
            at_rest: None,
            resident_before: 8192,
            resident_after: 9216,
        }),
        client: ClientCost {
            threads: 1,
            busiest_thread: 0.42,
            ..ClientCost::default()
        },
        ..nothing(Scenario::Handshake)
    }
}

/// The same, but the harness itself was the limit.
pub(crate) fn limited() -> Report {
    let why = "its busiest thread used 97 % of a core: give it a second core, or measure CPU per handshake with --pid";
    let mut report = handshakes();
    report.client.busiest_thread = 0.97;
    report.client.bottlenecks = vec![why.to_owned()];
    report
}

/// Connections of which none came to be, ended early.
pub(crate) fn nothing_succeeded() -> Report {
    Report {
        attempts: 12,
        errors: [("certificate_refused", 9)].into(),
        interrupted: true,
        lasted: Duration::from_millis(2500),
        latencies: vec![latency("connack", [])],
        client: ClientCost {
            threads: 1,
            busiest_thread: 0.01,
            ..ClientCost::default()
        },
        ..nothing(Scenario::Connections)
    }
}

/// Connections that were held.
pub(crate) fn connections() -> Report {
    Report {
        attempts: 5000,
        succeeded: 5000,
        lasted: Duration::from_secs(20),
        rated: Duration::from_secs(10),
        in_time: 5000,
        server: Some(ServerCost {
            pids: vec![1, 2],
            cpu: Duration::from_secs(2),
            at_rest: Some((Duration::from_micros(12_500), Duration::from_secs(10))),
            resident_before: 10_000,
            resident_after: 40_500,
        }),
        ..nothing(Scenario::Connections)
    }
}

/// Messages of 1 KiB.
pub(crate) fn relay() -> Report {
    Report {
        attempts: 100_000,
        succeeded: 100_000,
        lasted: Duration::from_secs(10),
        rated: Duration::from_secs(10),
        in_time: 100_000,
        payload_bytes: 102_400_000,
        server: Some(ServerCost {
            pids: vec![1],
            cpu: Duration::from_micros(122_880),
            ..ServerCost::default()
        }),
        ..nothing(Scenario::Relay)
    }
}

/// A run that was over before it began.
pub(crate) fn nothing(scenario: Scenario) -> Report {
    Report {
        scenario,
        target: "127.0.0.1:8883".to_owned(),
        setup: Vec::new(),
        began: 1_795_735_800,
        lasted: Duration::ZERO,
        rated: Duration::ZERO,
        in_time: 0,
        interrupted: false,
        attempts: 0,
        succeeded: 0,
        errors: BTreeMap::new(),
        negotiated: BTreeMap::new(),
        latencies: Vec::new(),
        payload_bytes: 0,
        timeline: Vec::new(),
        phases: Vec::new(),
        arrivals: Vec::new(),
        server: None,
        client: ClientCost::default(),
    }
}

/// What was timed, from single times in microseconds.
pub(crate) fn latency(name: &'static str, times: impl IntoIterator<Item = u64>) -> Latency {
    let mut micros = Histogram::new(3).expect("three significant figures are possible");
    for time in times {
        micros.record(time).expect("it grows with what it is given");
    }
    Latency { name, micros }
}

/// Any run, however odd.
pub(crate) fn any() -> impl Strategy<Value = Report> {
    let scenarios = select(vec![
        Scenario::Handshake,
        Scenario::Connections,
        Scenario::Relay,
    ]);
    let exact = ["tls_alert_no_application_protocol"];
    let kinds = select([KINDS.map(|(word, _)| word).as_slice(), &exact].concat());
    let names = select(vec![
        "handshake",
        "connack",
        "round_trip",
        "a_name_that_is_very_long",
    ]);
    let times = vec(prop_oneof![0..5000_u64, Just(90_000_000_000)], 0..20);
    let latencies = vec((names, times), 0..4);
    let texts = (
        ".{0,120}",
        btree_map(".{0,120}", any_count(), 0..3),
        vec(".{0,200}", 0..3),
    );
    let counts = (any_count(), any_count(), any_count(), prop::num::i64::ANY);
    let timeline = vec(
        (any_count(), any_count(), any_count(), 0..90_000_000_u64),
        0..400,
    );
    let server = option::of((
        vec(0..9_u32, 0..3),
        0..u64::from(u32::MAX),
        any_count(),
        any_count(),
    ));
    let client = (0..99_usize, 0.0..1.0, option::of(any_count()));
    let errors = btree_map(kinds, any_count(), 0..5);
    (
        scenarios, counts, texts, errors, latencies, timeline, server, client,
    )
        .prop_map(
            |(scenario, counts, texts, errors, latencies, timeline, server, client)| {
                let (attempts, succeeded, payload_bytes, began) = counts;
                let (target, negotiated, bottlenecks) = texts;
                let (threads, busiest_thread, late_p99_micros) = client;
                Report {
                    attempts,
                    succeeded,
                    payload_bytes,
                    began,
                    lasted: Duration::from_millis(payload_bytes / 1000),
                    rated: Duration::from_millis(payload_bytes / 2000),
                    in_time: succeeded,
                    setup: vec![("target", target.clone())],
                    target,
                    errors,
                    negotiated,
                    latencies: latencies
                        .into_iter()
                        .map(|(name, times)| latency(name, times))
                        .collect(),
                    timeline: (0..)
                        .zip(timeline)
                        .map(|(at, row)| any_second(at, row))
                        .collect(),
                    server: server.map(|(pids, cpu, resident_before, resident_after)| ServerCost {
                        pids,
                        cpu: Duration::from_micros(cpu),
                        at_rest: None,
                        resident_before,
                        resident_after,
                    }),
                    client: ClientCost {
                        threads,
                        busiest_thread,
                        late_p99_micros,
                        bottlenecks,
                    },
                    ..nothing(scenario)
                }
            },
        )
}

fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..100_u64, 0..1_000_000_000_u64]
}

fn any_second(at: u32, (begun, succeeded, failed, micros): (u64, u64, u64, u64)) -> Second {
    Second {
        at,
        begun,
        succeeded,
        failed,
        p50_micros: (micros > 0).then_some(micros / 3),
        p99_micros: (begun >= 100).then_some(micros),
        max_micros: (micros > 0).then_some(micros),
    }
}
