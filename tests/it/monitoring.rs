//! Dashboard and alerts: they name what the gate counts, and show a gate that runs. (That each alert fires when it should, and
//! else stays quiet, is tried by promtool: deploy/prometheus/rules.test.yml, in ./check.)

use std::collections::BTreeSet;

use regex_lite::Regex;
use serde_json::Value;
use tidegate::mqtt::Version;
use tidegate::observe::metrics::{FAMILIES, Kind};
use tidegate::pki::{Authority, Order, Validity};

use crate::docs::page;
use crate::support::broker::publish;
use crate::support::device::{Answer, connect};
use crate::support::estate::{MIXED, admitted, list, now};
use crate::support::gate::{Gate, Plan};
use crate::support::prometheus::Prometheus;
use crate::support::until;

const DASHBOARD: &str = "deploy/grafana/tidegate.json";
const RULES: &str = "deploy/prometheus/rules.yml";
const RUNBOOKS: &str = "docs/monitoring.md";

/// Labels that Prometheus brings along.
const PROMETHEUS: &[&str] = &["job", "instance"];

/// What the process tells of itself besides [`FAMILIES`]: docs/metrics.md.
const PROCESS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
];

// ── what stands in the files

fn dashboard() -> Value {
    serde_json::from_str(&page(DASHBOARD)).expect("JSON")
}

/// Every panel that asks something: its title, and what it asks.
fn panels(dashboard: &Value) -> Vec<(String, Vec<String>)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let asks = panels.iter().filter(|panel| panel["type"] != "row");
    asks.map(|panel| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let targets = panel["targets"].as_array().expect("targets");
        let queries = targets.iter().map(|target| text(&target["expr"]));
        (text(&panel["title"]), queries.collect())
    })
    .collect()
}

/// One alert of [`RULES`], as far as it is read line by line.
struct Alert {
    name: String,
    text: String,
}

impl Alert {
    fn line(&self, key: &str) -> &str {
        let found = self.text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix(key)?;
            rest.strip_prefix(": ")
        });
        found.unwrap_or_else(|| panic!("{} has no {key}", self.name))
    }
}

fn alerts() -> Vec<Alert> {
    let rules = page(RULES);
    let parts = rules.split("- alert: ").skip(1);
    parts
        .map(|part| {
            let (name, text) = part.split_once('\n').expect("more lines");
            let (name, text) = (name.to_owned(), text.to_owned());
            Alert { name, text }
        })
        .collect()
}

/// Every expression of [`RULES`], and the names of what they record.
fn expressions() -> (Vec<String>, BTreeSet<String>) {
    let rules = page(RULES);
    let (mut found, mut recorded) = (Vec::new(), BTreeSet::new());
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim().trim_start_matches("- ");
        if let Some(name) = line.strip_prefix("record: ") {
            recorded.insert(name.to_owned());
        }
        let Some(first) = line.strip_prefix("expr: ") else {
            continue;
        };
        let mut expression = first.trim_start_matches('|').to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
            expression += " ";
            expression += more.trim();
        }
        found.push(expression);
    }
    (found, recorded)
}

// ── they name what is there

/// What of a query is no metric or label of ours, in words.
fn strange(query: &str, recorded: &BTreeSet<String>) -> Vec<String> {
    let metric =
        Regex::new(r"\b(?:tidegate|process)_[a-z0-9_]+|\b[a-z_]+:[a-z0-9_:]+").expect("one");
    let selector = Regex::new(r#"^\{((?:[^"}]|"[^"]*")*)\}"#).expect("one");
    let label = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#).expect("one");
    let by = Regex::new(r"\b(?:by|on|without|ignoring) \(([^)]*)\)").expect("one");
    let mut allowed: BTreeSet<&str> = PROMETHEUS.iter().copied().chain(["le"]).collect();
    let mut strange = Vec::new();
    for found in metric.find_iter(query) {
        let name = found.as_str();
        let Some(labels) = labels_of(name, recorded) else {
            strange.push(format!("no metric {name}"));
            continue;
        };
        let rest = &query[found.end()..];
        if let Some(inside) = selector.captures(rest) {
            for captures in label.captures_iter(&inside[1]) {
                let used = captures.get(1).expect("a name").as_str();
                if !labels.contains(&used) && !PROMETHEUS.contains(&used) {
                    strange.push(format!("no label {used} of {name}"));
                }
            }
        }
        allowed.extend(labels);
    }
    for captures in by.captures_iter(query) {
        for used in captures[1].split(',').map(str::trim) {
            if !allowed.contains(used) {
                strange.push(format!("no label {used} to group by"));
            }
        }
    }
    strange
}

/// The labels of a metric; `None`: there is no such.
fn labels_of(name: &str, recorded: &BTreeSet<String>) -> Option<Vec<&'static str>> {
    if recorded.contains(name) {
        return Some(vec!["listener", "reason"]);
    }
    if PROCESS.contains(&name) {
        return Some(Vec::new());
    }
    let part = ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|part| name.strip_suffix(part));
    FAMILIES.iter().find_map(|family| {
        if family.kind == Kind::Histogram {
            let bound = name.ends_with("_bucket").then_some("le");
            let labels = family.labels.iter().copied().chain(bound);
            (part == Some(family.name)).then(|| labels.collect())
        } else {
            (family.name == name).then(|| family.labels.to_vec())
        }
    })
}

/// Metrics and labels in queries and rules are those of the program: a misspelt one would show nothing for ever, and wake nobody.
#[test]
fn dashboard_and_alerts_name_only_what_the_gate_counts() {
    let (rules, recorded) = expressions();
    assert!(rules.len() > 20 && !recorded.is_empty(), "{rules:?}");
    let shown = panels(&dashboard());
    let asked = shown.into_iter().flat_map(|(_, queries)| queries);
    let mut faults = Vec::new();
    for query in asked.chain(rules) {
        let found = strange(&query, &recorded);
        faults.extend(found.into_iter().map(|fault| format!("{fault}: {query}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // And it would be found.
    for (query, fault) in [
        ("tidegate_refusal_total", "no metric"),
        ("tidegate_handshake_duration_seconds", "no metric"),
        ("tidegate_broker_up{listener=\"x\"}", "no label"),
        ("sum by (broker) (tidegate_refusals_total)", "no label"),
    ] {
        assert!(strange(query, &recorded)[0].starts_with(fault), "{query}");
    }
}

/// Every family is on the dashboard but for these, which say nothing to whoever looks at a curve.
#[test]
fn the_dashboard_shows_all_that_the_gate_counts() {
    let text = page(DASHBOARD);
    let missing: Vec<_> = FAMILIES
        .iter()
        .map(|family| family.name)
        .filter(|name| !text.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whoever is woken finds what it means and what to do; and promtool has seen each alert fire and stay quiet.
#[test]
fn every_alert_has_words_a_runbook_and_tests() {
    let runbooks = page(RUNBOOKS);
    let tests = page("deploy/prometheus/rules.test.yml");
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = &alert.name;
        assert!(names.insert(name.clone()), "{name} twice");
        let severity = alert.line("labels");
        assert!(
            ["{severity: critical}", "{severity: warning}"].contains(&severity),
            "{name}: {severity}"
        );
        for words in ["summary", "description"] {
            assert!(alert.line(words).len() > 10, "{name}: {words}");
        }
        let wanted = format!("{RUNBOOKS}#{}", name.to_lowercase());
        assert_eq!(alert.line("runbook_url"), wanted);
        let section = runbooks.split(&format!("\n### {name}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("no runbook of {name}"));
        let section = section.split("\n#").next().expect("its text");
        for part in ["**Means**", "**Look**", "**Do**"] {
            assert!(
                section.contains(part),
                "the runbook of {name} has no {part}"
            );
        }
        for how in ["fires", "stays quiet"] {
            let tried = tests.contains(&format!("name: {name} {how}\n"))
                || tests.contains(&format!("name: '{name} {how}: "));
            assert!(tried, "no test in which {name} {how}");
        }
    }
    assert!(names.len() > 20, "{names:?}");
    let told = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("### Tidegate"));
    let gone: Vec<_> = told
        .filter(|name| !names.contains(&format!("Tidegate{name}")))
        .collect();
    assert!(gone.is_empty(), "runbooks of no alert: {gone:?}");
}

/// What Grafana needs of a dashboard: ids of its own, a place for each panel and none on another, one data source to choose.
#[test]
fn the_dashboard_has_what_grafana_reads() {
    let dashboard = dashboard();
    for key in ["uid", "title", "time", "templating", "annotations"] {
        assert!(!dashboard[key].is_null(), "no {key}");
    }
    assert!(dashboard["schemaVersion"].as_u64() >= Some(36));
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let names: Vec<_> = variables
        .iter()
        .map(|v| v["name"].as_str().expect("text"))
        .collect();
    assert_eq!(names, ["datasource", "instance", "listener"]);
    let kinds = ["row", "stat", "table", "timeseries", "heatmap"];
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(
            kinds.contains(&panel["type"].as_str().expect("a type")),
            "{title}"
        );
        assert!(
            ids.insert(panel["id"].as_u64().expect("an id")),
            "{title}: its id"
        );
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        assert!(x + w <= 24 && h > 0, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} stands on another");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

// ── they show a gate that runs

/// As Grafana asks it, with all gates and listeners.
fn as_asked(query: &str) -> String {
    let query = query.replace("$instance", ".*").replace("$listener", ".*");
    let query = query.replace("$__rate_interval", "20s");
    query.replace("$__range", "1m")
}

/// A gate with all that a dashboard tells of: a revocation list, a registry, tickets.
async fn busy_gate() -> Gate {
    let authority = Authority::new("Test CA").expect("a CA");
    let empty = list(&authority, &[]);
    let listeners = MIXED.replace(
        "key = \"server.key\"\n",
        "key = \"server.key\"\nresumption = \"tickets\"\n",
    ) + "crl = [\"devices.crl\"]\n";
    let mut gate = Gate::plan(Plan {
        authority,
        listeners: Some(listeners),
        more: "[registry]\nurl = \"sqlite://tidegate.db\"\nunknown = \"admit\"\n".into(),
        broker: "[broker.health]\ninterval = \"200ms\"\n".into(),
        files: vec![("devices.crl".into(), empty.into_bytes())],
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    // Before it has read its registry it tells every device to come back.
    gate.metric_becomes("tidegate_registry_up", &[], 1.0).await;
    gate
}

/// Some devices come and go, one is refused.
async fn some_traffic(gate: &Gate) {
    for version in [Version::V311, Version::V5] {
        let mut link = admitted(&gate.device("meter-7"), &connect("x", version)).await;
        let says = publish(version, "devices/meter-7/x", b"1 kWh");
        link.say(&says).await.expect("sent");
    }
    let ended = Validity {
        not_before: now() - 1000,
        not_after: now() - 500,
    };
    let late = Order::device_named("meter-8").valid(ended);
    let answer = gate
        .device_ordered(late)
        .connects_as("x", Version::V5)
        .await;
    assert_eq!(answer, Answer::Refused(0x87));
}

/// The Prometheus of docker compose, which looks each second.
async fn looks_at(gate: &Gate) -> Prometheus {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.yml");
    std::fs::write(&rules, page(RULES)).expect("written");
    let config = page("deploy/compose/prometheus.yml");
    let changes = [
        ("gate:9883", gate.admin.to_string()),
        ("/etc/prometheus/rules.yml", rules.display().to_string()),
        ("scrape_interval: 15s", "scrape_interval: 500ms".into()),
        (
            "evaluation_interval: 15s",
            "evaluation_interval: 500ms".into(),
        ),
    ];
    let config = changes.iter().fold(config, |config, (from, to)| {
        assert!(config.contains(from), "{from}");
        config.replace(from, to)
    });
    Prometheus::start(folder, &config).await
}

/// Every query of every panel gives data of a gate that runs, by a real Prometheus, as compose starts it; no alert is up, and the
/// one that matters comes up when the broker is gone.
#[tokio::test]
async fn the_dashboard_shows_a_gate_that_runs_and_alerts_wait_for_trouble() {
    let gate = busy_gate().await;
    let stays = admitted(&gate.device("meter-9"), &connect("x", Version::V5)).await;
    let prometheus = looks_at(&gate).await;
    let looked = |times: usize| {
        let prometheus = &prometheus;
        async move {
            let count = format!("count_over_time(up{{job=\"tidegate\"}}[1m]) >= {times}");
            until("Prometheus to look", async || {
                (!prometheus.query(&count).await.is_empty()).then_some(())
            })
            .await;
        }
    };
    looked(2).await;
    some_traffic(&gate).await;
    looked(8).await;

    let mut silent = Vec::new();
    for (title, queries) in panels(&dashboard()) {
        for query in queries.iter().map(|query| as_asked(query)) {
            if prometheus.query(&query).await.is_empty() {
                silent.push(format!("{title}: {query}"));
            }
        }
    }
    assert!(
        silent.is_empty(),
        "these show nothing:\n{}",
        silent.join("\n")
    );

    let rules = prometheus.api("/api/v1/rules").await;
    let groups = rules["data"]["groups"].as_array().expect("groups");
    let rules: Vec<&Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"))
        .collect();
    assert!(rules.len() > 25);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
    drop(stays);
}

/// A broker that is gone, and files with a fault: the alerts of both begin to count.
#[tokio::test]
async fn trouble_is_seen_by_the_alerts() {
    let mut gate = Gate::plan(Plan {
        broker: "[broker.health]\ninterval = \"200ms\"\n".into(),
        ..Plan::default()
    })
    .await;
    let broker = gate.take_broker();
    let prometheus = looks_at(&gate).await;
    let up = async |alert: &str| {
        let asked = format!(
            "ALERTS{{alertname=\"{alert}\", instance=\"{}\"}}",
            gate.admin
        );
        prometheus.query(&asked).await
    };
    until("Prometheus to look", async || {
        (!prometheus.query("tidegate_broker_up == 1").await.is_empty()).then_some(())
    })
    .await;
    assert!(up("TidegateNoBroker").await.is_empty());

    broker.stop();
    std::fs::write(gate.file("server.pem"), "no certificate").expect("written");

    for alert in ["TidegateNoBroker", "TidegateReloadFailed"] {
        let seen = until(alert, async || up(alert).await.pop()).await;
        assert_eq!(seen["metric"]["alertstate"], "pending", "{seen}");
    }
}
