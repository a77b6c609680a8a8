//! A run as JSON: one object, its keys in `docs/benchmarking.md`.

use serde_json::{Map, Value, json};

use super::report::{
    Arrivals, ClientCost, Latency, PhaseReport, Report, Scenario, Second, ServerCost,
};
use super::{times, words};

/// The report as one JSON object. Where nothing was timed or asked for, and of too few times, figures are
/// `null`, not 0.
pub fn json(report: &Report) -> Value {
    let latencies = report.latencies.iter();
    let latencies: Map<_, _> = latencies
        .map(|of| (of.name.to_owned(), latency(of)))
        .collect();
    let setup = report.setup.iter();
    let setup: Map<_, _> = setup
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    json!({
        "bench": word(report.scenario),
        "version": env!("CARGO_PKG_VERSION"),
        "target": report.target,
        "setup": setup,
        "began": words::began(report),
        "seconds": rounded(report.lasted.as_secs_f64()),
        "interrupted": report.interrupted,
        "attempts": report.attempts,
        "succeeded": report.succeeded,
        "failed": report.failed(),
        "per_second": rounded(report.per_second()),
        "rated_seconds": rounded(report.rated.as_secs_f64()),
        "rated_succeeded": report.in_time,
        "errors": report.errors,
        "negotiated": report.negotiated,
        "latency_us": latencies,
        "payload_bytes": report.payload_bytes,
        "timeline": report.timeline.iter().map(second).collect::<Vec<_>>(),
        "phases": report.phases.iter().map(phase).collect::<Vec<_>>(),
        "arrivals": report.arrivals.iter().map(arrivals).collect::<Vec<_>>(),
        "server": report.server.as_ref().map(|spent| server(report, spent)),
        "client": client(&report.client),
    })
}

/// The subcommand.
pub(super) fn word(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Handshake => "handshake",
        Scenario::Connections => "connections",
        Scenario::Relay => "relay",
    }
}

fn latency(of: &Latency) -> Value {
    let spread = times::spread(&of.micros);
    let mean = spread.map(|_| rounded(of.micros.mean()));
    let [min, p50, p90, p99, p999, max] = spread.unwrap_or_default();
    json!({
        "count": of.micros.len(),
        "min": min,
        "mean": mean,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "p999": p999,
        "max": max,
    })
}

fn second(of: &Second) -> Value {
    json!({
        "second": of.at,
        "begun": of.begun,
        "succeeded": of.succeeded,
        "failed": of.failed,
        "p50_us": of.p50_micros,
        "p99_us": of.p99_micros,
        "max_us": of.max_micros,
    })
}

fn phase(of: &PhaseReport) -> Value {
    let [_, p50, _, p99, _, max] = times::spread(&of.micros).unwrap_or_default();
    json!({
        "begin": rounded(of.begin.as_secs_f64()),
        "seconds": rounded(of.time.as_secs_f64()),
        "rate": [rounded(of.rate.from), rounded(of.rate.to)],
        "begun": of.begun,
        "succeeded": of.succeeded,
        "errors": of.errors,
        "p50_us": p50,
        "p99_us": p99,
        "max_us": max,
    })
}

fn arrivals(of: &Arrivals) -> Value {
    json!({
        "at": rounded(of.at.as_secs_f64()),
        "begun": of.begun,
        "succeeded": of.succeeded,
    })
}

fn server(report: &Report, spent: &ServerCost) -> Value {
    json!({
        "pids": spent.pids,
        "cpu_us": rounded(spent.cpu.as_secs_f64() * 1e6),
        "cpu_us_each": report.server_micros_each().map(rounded),
        "cpu_ns_per_byte": report.server_nanos_per_byte().map(rounded),
        "cpu_us_at_rest": spent.at_rest.map(|(cpu, _)| rounded(cpu.as_secs_f64() * 1e6)),
        "seconds_at_rest": spent.at_rest.map(|(_, held)| rounded(held.as_secs_f64())),
        "resident_kib_before": spent.resident_before,
        "resident_kib_after": spent.resident_after,
        "resident_kib_each": report.server_kib_each().map(rounded),
    })
}

fn client(spent: &ClientCost) -> Value {
    json!({
        "threads": spent.threads,
        "busiest_thread": rounded(spent.busiest_thread),
        "late_p99_us": spent.late_p99_micros,
        "bottlenecks": spent.bottlenecks,
    })
}

/// To thousandths: more would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::samples;

    #[test]
    fn every_key_is_there() {
        let expected = json!({
            "bench": "handshake",
            "version": env!("CARGO_PKG_VERSION"),
            "target": "127.0.0.1:8883",
            "setup": { "CPU": "4 × Example 9000", "loop": "closed, 16 at once" },
            "began": "2026-11-26T23:30:00Z",
            "seconds": 10.02,
            "interrupted": false,
            "attempts": 1000,
            "succeeded": 990,
            "failed": 10,
            "per_second": 98.802,
            "rated_seconds": 10.02,
            "rated_succeeded": 990,
            "errors": { "refused": 10 },
            "negotiated": { "TLS 1.3 TLS13_AES_256_GCM_SHA384 X25519 full": 990 },
            "latency_us": {
                "handshake": {
                    "count": 990, "min": 911, "mean": 1405.5,
                    "p50": 1405, "p90": 1801, "p99": 1891, "p999": null, "max": 1900,
                },
            },
            "payload_bytes": 0,
            "timeline": [
                { "second": 0, "begun": 510, "succeeded": 500, "failed": 10, "p50_us": 1400, "p99_us": 1890, "max_us": 1900 },
                { "second": 1, "begun": 490, "succeeded": 490, "failed": 0, "p50_us": 1410, "p99_us": 1900, "max_us": 1900 },
            ],
            "phases": [], "arrivals": [],
            "server": {
                "pids": [4711], "cpu_us": 121_770.0, "cpu_us_each": 123.0, "cpu_ns_per_byte": null,
                "cpu_us_at_rest": null, "seconds_at_rest": null,
                "resident_kib_before": 8192, "resident_kib_after": 9216, "resident_kib_each": null,
            },
            "client": { "threads": 1, "busiest_thread": 0.42, "late_p99_us": null, "bottlenecks": [] },
        });
        assert_eq!(json(&samples::handshakes()), expected);
    }

    #[test]
    fn what_was_not_timed_is_null() {
        let told = json(&samples::nothing_succeeded());
        assert_eq!(told["latency_us"]["connack"]["count"], 0);
        assert_eq!(told["latency_us"]["connack"]["p99"], Value::Null);
        assert_eq!(told["server"], Value::Null);
        assert_eq!(told["interrupted"], true);
    }

    #[test]
    fn cost_per_byte_and_per_connection_are_told_where_they_mean_something() {
        let told = json(&samples::relay());
        assert_eq!(told["server"]["cpu_ns_per_byte"], 1.2);
        let told = json(&samples::connections());
        assert_eq!(told["server"]["resident_kib_each"], 6.1);
        assert_eq!(told["server"]["cpu_us_at_rest"], 12_500.0);
        assert_eq!(told["server"]["seconds_at_rest"], 10.0);
    }
}
