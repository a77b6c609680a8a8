use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use super::*;

fn metrics() -> Arc<Metrics> {
    Metrics::new(
        &["devices".into(), "vendors".into()],
        &["mqtt://127.0.0.1:1883".to_owned()],
    )
}

/// The value of a series, by its name and labels as they stand in the exposition.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let told = metrics.render();
    let after = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    told.lines().find_map(after)
}

/// One of everything.
fn busy() -> Arc<Metrics> {
    let metrics = metrics();
    let listener = metrics.listener(0);
    listener.accepted();
    listener.handshake("ok", "1.3", false, Some(Duration::from_millis(3)));
    listener.refused("not_tls");
    listener.connect(Version::V5, Mode::MutualTls);
    listener.connack(0);
    listener.connect_to_connack(Duration::from_millis(1));
    listener.closed(Duration::from_mins(1));
    listener.certificate_remaining(86_400);
    let broker = metrics.broker(0);
    broker.up(true);
    broker.dial("ok", Duration::from_millis(1));
    let at = 1_900_000_000;
    metrics.ends(&EndTimes {
        servers: vec![("devices".into(), "server.pem".to_owned(), at)],
        others: vec![(Use::BrokerClient, "gate.pem".to_owned(), at)],
        lists: vec![("fleet".to_owned(), at)],
    });
    metrics.accept_paused("descriptors");
    metrics
}

#[test]
fn every_family_of_the_table_is_told_and_no_other() {
    let told = busy().render();
    for family in FAMILIES {
        let Family {
            name, kind, help, ..
        } = family;
        let head = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        assert!(told.contains(&head), "{head}");
    }
    let types = told.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let ours = types.filter(|line| !line.starts_with("process_")).count();
    assert_eq!(ours, FAMILIES.len());
}

#[test]
fn names_follow_the_conventions() {
    for Family {
        name, kind, help, ..
    } in FAMILIES
    {
        assert!(name.starts_with("tidegate_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(help.ends_with('.') && !help.contains('|'), "{name}");
    }
}

/// docs/metrics.md is what dashboards are built on.
#[test]
fn the_documented_table_is_this_one() {
    let page = include_str!("../../../docs/metrics.md");
    let documented: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `tidegate_"))
        .collect();
    let ours: Vec<String> = FAMILIES
        .iter()
        .map(|family| {
            let labels: Vec<_> = family.labels.iter().map(|l| format!("`{l}`")).collect();
            let (kind, labels) = (family.kind.word(), labels.join(" "));
            format!(
                "| `{}` | {kind} | {labels} | {} |",
                family.name, family.help
            )
        })
        .collect();
    assert_eq!(documented, ours, "\n{}", ours.join("\n"));
}

#[test]
fn build_info_tells_what_is_linked_in() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"))
        .expect("the lock file");
    let locked: toml::Table = lock.parse().expect("TOML");
    let version = |name: &str| {
        let packages = locked["package"].as_array().expect("packages");
        // The newest, when something else brings an older one along.
        let mut versions = packages.iter().filter(|p| p["name"].as_str() == Some(name));
        let last = versions.next_back().expect("it is locked");
        last["version"].as_str().expect("a version").to_owned()
    };
    assert_eq!(RUSTLS, version("rustls"));
    assert_eq!(CRYPTO, format!("aws-lc-rs {}", version("aws-lc-rs")));
    let series = format!(
        "tidegate_build_info{{crypto=\"{CRYPTO}\",rustls=\"{RUSTLS}\",version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(value(&metrics(), &series), Some(1.0));
}

/// An alert on `rate()` misses the first event of a series that begins with it.
#[test]
fn what_an_alert_watches_begins_at_zero() {
    let metrics = metrics();
    metrics.expect_refusals(&["not_tls"]);
    for series in [
        "tidegate_connections_accepted_total{listener=\"vendors\"}",
        "tidegate_connections_open{listener=\"devices\",mode=\"mutual-tls\"}",
        "tidegate_refusals_total{listener=\"vendors\",reason=\"not_tls\"}",
        "tidegate_connack_total{code=\"0x87\",listener=\"devices\"}",
        "tidegate_relayed_bytes_total{direction=\"to_broker\",listener=\"devices\"}",
        "tidegate_broker_up{broker=\"mqtt://127.0.0.1:1883\"}",
        "tidegate_log_lines_lost_total",
    ] {
        assert_eq!(value(&metrics, series), Some(0.0), "{series}");
    }
}

#[test]
fn listeners_count_apart() {
    let metrics = metrics();
    metrics.listener(1).accepted();
    metrics.listener(1).to_device(512);
    metrics.listener(1).refused("not_tls");
    let of = |family, labels| value(&metrics, &format!("tidegate_{family}{{{labels}}}"));
    let accepted = "connections_accepted_total";
    assert_eq!(of(accepted, "listener=\"devices\""), Some(0.0));
    assert_eq!(of(accepted, "listener=\"vendors\""), Some(1.0));
    let to_device = "direction=\"to_device\",listener=\"vendors\"";
    assert_eq!(of("relayed_bytes_total", to_device), Some(512.0));
    let refused = "listener=\"vendors\",reason=\"not_tls\"";
    assert_eq!(of("refusals_total", refused), Some(1.0));
}

/// V9: a connection stops counting as open however it ends.
#[test]
fn a_guard_counts_down_even_in_a_panic() {
    let metrics = metrics();
    let open = "tidegate_connections_open{listener=\"devices\",mode=\"server-tls\"}";
    let kept = metrics.listener(0).opened(Mode::ServerTls);
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _guards = (
            metrics.listener(0).opened(Mode::ServerTls),
            metrics.listener(0).handshaking(),
            metrics.broker(0).opened(),
        );
        assert_eq!(value(&metrics, open), Some(2.0));
        panic!("a bug in one connection");
    }));
    assert!(ended.is_err());
    assert_eq!(value(&metrics, open), Some(1.0));
    assert_eq!(
        value(&metrics, "tidegate_handshakes_in_progress"),
        Some(0.0)
    );
    let broker = "tidegate_broker_connections_open{broker=\"mqtt://127.0.0.1:1883\"}";
    assert_eq!(value(&metrics, broker), Some(0.0));
    drop(kept);
    assert_eq!(value(&metrics, open), Some(0.0));
}

/// V11: a broker that answers nonsense makes one series, not a hundred.
#[test]
fn unknown_codes_share_one_series() {
    let metrics = metrics();
    (0..=u8::MAX).for_each(|code| metrics.listener(0).connack(code));
    let told = metrics.render();
    let series = told
        .lines()
        .filter(|line| line.starts_with("tidegate_connack_total"))
        .filter(|line| line.contains("listener=\"devices\""));
    let codes: BTreeSet<_> = series.collect();
    assert_eq!(codes.len(), CONNACK_CODES.len() + 1);
    let other = "tidegate_connack_total{code=\"other\",listener=\"devices\"}";
    let unknown = 256.0 - f64::from(u8::try_from(CONNACK_CODES.len()).expect("few"));
    assert_eq!(value(&metrics, other), Some(unknown));
}

#[test]
fn handshakes_are_told_by_result_version_and_resumption() {
    let metrics = metrics();
    let listener = metrics.listener(0);
    let took = Some(Duration::from_millis(30));
    listener.handshake("ok", "1.2", true, took);
    listener.handshake("ok", "1.3", false, took);
    listener.handshake("certificate_expired", "1.3", false, None);
    let of = |result, version, resumed| {
        let labels = format!(
            "{{listener=\"devices\",result=\"{result}\",resumed=\"{resumed}\",tls_version=\"{version}\"}}"
        );
        value(&metrics, &format!("tidegate_handshakes_total{labels}"))
    };
    assert_eq!(of("ok", "1.2", true), Some(1.0));
    assert_eq!(of("ok", "1.2", false), Some(0.0));
    assert_eq!(of("ok", "1.3", false), Some(1.0));
    assert_eq!(of("ok", "1.3", true), Some(0.0));
    assert_eq!(of("certificate_expired", "1.3", false), Some(1.0));
    let count = "tidegate_handshake_duration_seconds_count{listener=\"devices\",resumed=\"false\"}";
    assert_eq!(
        value(&metrics, count),
        Some(1.0),
        "only those that tell a duration"
    );
}

#[test]
fn an_expired_certificate_falls_into_the_first_bucket() {
    let metrics = metrics();
    for left in [-1, 0, 1, 400 * 86_400, i64::MAX] {
        metrics.listener(0).certificate_remaining(left);
    }
    let family = "tidegate_device_certificate_remaining_seconds";
    let within = |le: &str| value(&metrics, &format!("{family}_bucket{{le=\"{le}\"}}"));
    assert_eq!(within("0"), Some(2.0));
    assert_eq!(within("3600"), Some(3.0));
    assert_eq!(within("63072000"), Some(4.0));
    assert_eq!(within("+Inf"), Some(5.0));
}

#[test]
fn one_broker_named_twice_is_counted_once() {
    let address = "mqtt://127.0.0.1:1883".to_owned();
    let metrics = Metrics::new(&[], &[address.clone(), address]);
    metrics.broker(0).dial("ok", Duration::ZERO);
    metrics.broker(1).dial("refused", Duration::ZERO);
    let count = "tidegate_broker_dial_seconds_count{broker=\"mqtt://127.0.0.1:1883\"}";
    assert_eq!(value(&metrics, count), Some(2.0));
}

/// R3: what is gone is not told any more, so that nobody is alarmed by it for ever.
#[test]
fn what_left_the_configuration_leaves_the_metrics() {
    let metrics = busy();
    let [one, two] = ["mqtt://127.0.0.1:1883", "mqtt://127.0.0.1:1884"].map(str::to_owned);
    let open = metrics.broker(0).opened();
    let old = metrics.broker(0);
    let new = metrics.replace_brokers(std::slice::from_ref(&two));
    new[0].up(true);
    old.dial("refused", Duration::ZERO); // somebody was under way
    let told = metrics.render();
    let of_old: Vec<_> = told.lines().filter(|line| line.contains(&one)).collect();
    let line = format!("tidegate_broker_connections_open{{broker=\"{one}\"}} 1");
    assert_eq!(of_old, [&line]);
    drop(open);
    assert!(!metrics.render().contains(&one));

    let again = metrics.replace_brokers(&[one.clone(), two]);
    let _open = again[0].opened();
    assert!(metrics.render().contains(&line));

    metrics.ends(&EndTimes {
        servers: vec![("devices".into(), "new.pem".to_owned(), 1)],
        others: vec![
            (Use::TrustCa, "fleet".to_owned(), 3),
            (Use::TrustCa, "fleet".to_owned(), 2),
        ],
        lists: Vec::new(),
    });
    let told = metrics.render();
    assert!(told.contains("new.pem") && !told.contains("server.pem"));
    assert!(!told.contains("gate.pem"));
    let first = "tidegate_certificate_not_after_timestamp_seconds{name=\"fleet\",use=\"trust_ca\"}";
    assert_eq!(value(&metrics, first), Some(2.0));
    assert!(!told.contains("tidegate_crl_next_update_timestamp_seconds{"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_tells_its_own() {
    let metrics = metrics();
    for series in ["process_resident_memory_bytes", "process_open_fds"] {
        assert!(value(&metrics, series) > Some(0.0), "{series}");
    }
}
