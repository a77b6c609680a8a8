//! A report as JSON.

use serde_json::{Map, Value, json};

use super::report::{Latency, Report, Scenario};

/// The whole report as one object.
pub fn json(report: &Report) -> Value {
    let scenario = match report.scenario {
        Scenario::Handshake => "handshake",
        Scenario::Connections => "connections",
        Scenario::Relay => "relay",
    };
    let setup: Map<String, Value> = (report.setup.iter())
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let latencies: Map<String, Value> = (report.latencies.iter())
        .map(|latency| (latency.name.to_owned(), micros(latency)))
        .collect();
    let timeline: Vec<Value> = (report.timeline.iter())
        .map(|second| {
            json!({
                "second": second.at, "begun": second.begun, "succeeded": second.succeeded, "failed": second.failed,
                "p50_us": second.p50_micros, "p99_us": second.p99_micros,
            })
        })
        .collect();
    let server = report.server.as_ref().map(|server| {
        json!({
            "pids": server.pids,
            "cpu_us": server.cpu.as_secs_f64() * 1e6,
            "cpu_us_each": report.server_micros_each(),
            "cpu_ns_per_byte": report.server_nanos_per_byte(),
            "resident_kib_before": server.resident_before,
            "resident_kib_after": server.resident_after,
            "resident_kib_each": report.server_kib_each(),
        })
    });
    let began = time::OffsetDateTime::from_unix_timestamp(report.began)
        .ok()
        .and_then(|at| {
            at.format(&time::format_description::well_known::Rfc3339)
                .ok()
        });
    json!({
        "bench": scenario,
        "version": env!("CARGO_PKG_VERSION"),
        "target": report.target,
        "setup": setup,
        "began": began,
        "seconds": report.lasted.as_secs_f64(),
        "interrupted": report.interrupted,
        "attempts": report.attempts,
        "succeeded": report.succeeded,
        "failed": report.failed(),
        "per_second": report.per_second(),
        "errors": report.errors,
        "negotiated": report.negotiated,
        "latency_us": latencies,
        "payload_bytes": report.payload_bytes,
        "timeline": timeline,
        "server": server,
        "client": {
            "threads": report.client.threads,
            "busiest_thread": report.client.busiest_thread,
            "late_p99_us": report.client.late_p99_micros,
            "bottlenecks": report.client.bottlenecks,
        },
    })
}

fn micros(latency: &Latency) -> Value {
    let micros = &latency.micros;
    let at = |quantile| micros.value_at_quantile(quantile);
    json!({
        "count": micros.len(), "min": micros.min(), "mean": micros.mean(), "p50": at(0.5), "p90": at(0.9),
        "p99": at(0.99), "p999": at(0.999), "max": micros.max(),
    })
}
