//! What `deploy/kubernetes` and `deploy/helm` give a cluster: the gate takes every configuration in them, what belongs together has
//! the same names, and no pod asks for more than it needs. No cluster runs here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Validity};

use crate::docs::page;
use crate::estate::{each_has_its_own_topics, pki_of_the_leg, rabbitmq_for};
use crate::sandbox::landlock;
use crate::support::broker::publish;
use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::kubernetes::{Pod, Rendered, helm, selects, words};
use crate::support::mosquitto::command;
use crate::support::rabbitmq::RabbitMq;
use crate::support::{free_port, until};

/// Where the pods have the gate's files.
const PLACE: &str = "/etc/tidegate";

/// What docs/kubernetes.md tells people to make themselves, and what brokers and cert-manager bring.
const MADE_BY_HAND: [&str; 6] = [
    "tidegate-trust",
    "tidegate-vendor",
    "tidegate-tickets",
    "tidegate-registry",
    "tidegate-password",
    "mqtt-tidegate-server", // the chart without cert-manager
];

/// What the kernel keeps for a relayed connection that is idle, in KiB: docs/kubernetes.md.
const KERNEL: u64 = 10;

/// The gate takes every configuration that is rendered, from the files that its pod mounts.
#[test]
fn every_configuration_is_good() {
    for rendered in Rendered::all() {
        for pod in rendered.pods() {
            let folder = laid_out(&rendered, &pod, &Authority::new("Fleet").expect("a CA"));
            let out = tidegate("check", &folder, &pod);
            let said = String::from_utf8_lossy(&out.stderr) + String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success(), "{}: {said}", rendered.name);
            // The kubelet and Prometheus ask at the pod's address; how many descriptors there are, and whether there is a
            // database, is another matter here.
            let expected = ["admin.bind: ", "limits.connections: ", "registry.url: "];
            let more = if rendered.name.contains("plain") {
                "broker.addresses[0]: "
            } else {
                expected[0]
            };
            for line in said.lines().filter_map(|l| l.strip_prefix("warning: ")) {
                let known = expected.iter().chain([&more]).any(|e| line.starts_with(e));
                assert!(known, "{}: {line}", rendered.name);
            }
        }
    }
}

/// Kubernetes ends the pod only when the wait before the drain, and its window, are over.
#[test]
fn a_drain_has_the_time_it_needs() {
    for rendered in Rendered::all() {
        let pod = rendered.gate();
        let limits = in_force(&rendered, &pod)["limits"].clone();
        let spans = ["drain_delay", "drain_timeout"]
            .into_iter()
            .filter_map(|key| limits.get(key));
        let spans = spans.map(|span| humantime::parse_duration(span.as_str().expect("a text")));
        let drain: u64 = spans.map(|span| span.expect("a span").as_secs()).sum();
        assert!(drain > 0, "{}: no drain", rendered.name);
        let wait = &pod.tidegate()["lifecycle"]["preStop"]["sleep"]["seconds"];
        let grace = &pod.spec["terminationGracePeriodSeconds"];
        let needed = wait.as_u64().expect("a wait") + drain;
        assert!(
            grace.as_u64().expect("a grace") >= needed + 10,
            "{}: {grace} s for {needed} s",
            rendered.name
        );
    }
}

/// A pod's memory is enough for as many devices as its configuration lets in (docs/operation.md, "What to give a container"), and is
/// not lent out.
#[test]
fn the_memory_holds_the_connections() {
    for rendered in Rendered::all() {
        let pod = rendered.gate();
        let resources = &pod.tidegate()["resources"];
        let memory = &resources["limits"]["memory"];
        assert_eq!(
            memory, &resources["requests"]["memory"],
            "{}",
            rendered.name
        );
        let mebibytes = memory.as_str().and_then(|text| text.strip_suffix("Mi"));
        let mebibytes: u64 = mebibytes.expect("in Mi").parse().expect("a number");
        let in_force = in_force(&rendered, &pod);
        let listeners = in_force["listener"].as_array().expect("a list").len() as u64;
        let connections = in_force["limits"]["connections"].as_integer();
        let connections = connections.expect("a number").unsigned_abs();
        let registry = u64::from(in_force.contains_key("registry"));
        let needed = 32 + listeners * 64 + registry * 64 + connections * (16 + KERNEL) / 1024;
        assert!(
            mebibytes >= needed,
            "{}: {mebibytes} MiB for {needed} MiB",
            rendered.name
        );
    }
}

/// Kubernetes' own "restricted" profile, a root that nobody writes to, and no way to the cluster's API.
#[test]
fn no_pod_may_more_than_it_needs() {
    for rendered in Rendered::all() {
        for pod in rendered.pods() {
            let name = &rendered.name;
            assert_eq!(pod.spec["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod.spec["enableServiceLinks"], false, "{name}");
            let security = &pod.spec["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{name}");
            assert_eq!(
                security["seccompProfile"]["type"], "RuntimeDefault",
                "{name}"
            );
            for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
                assert_eq!(pod.spec[key], Value::Null, "{name}: {key}");
            }
            for container in pod.containers() {
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                });
                assert_eq!(container["securityContext"], expected, "{name}");
                assert_ne!(container["resources"]["limits"]["memory"], Value::Null);
                let folders = container["volumeMounts"].as_array().expect("mounts");
                let single = folders.iter().any(|mount| mount["subPath"] != Value::Null);
                assert!(!single, "{name}: a single file is never exchanged");
            }
        }
        for account in rendered.kind("ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false);
        }
    }
}

/// Whom RabbitMQ is to take needs a password (docs/brokers.md), and a name without dots.
#[test]
fn rabbitmq_is_given_a_password_and_names_that_it_takes() {
    let mut found = 0;
    for rendered in Rendered::all() {
        let (name, pod) = (&rendered.name, rendered.gate());
        let brokers = dialled(&rendered, &pod);
        if !brokers.iter().any(|one| one.host.starts_with("rabbitmq")) {
            continue;
        }
        found += 1;
        let in_force = in_force(&rendered, &pod);
        let file = in_force["connect"].get("password_file");
        let file = file.and_then(toml::Value::as_str);
        let file = file.unwrap_or_else(|| panic!("{name}: no password"));
        // That it is mounted was seen to when it was laid out.
        assert!(file.ends_with("/password/password"), "{name}: {file}");
        let source = &pod.volume("password")["secret"]["secretName"];
        assert_eq!(source, "tidegate-password", "{name}: as the page has it");
        for group in in_force["trust"].as_array().expect("groups") {
            let pattern = group["pattern"].as_str().expect("a pattern");
            assert!(
                pattern.contains("(?<device>[A-Za-z0-9_-]+)"),
                "{name}: {pattern}"
            );
        }
    }
    assert_eq!(found, 3, "two overlays, one file of values");
}

/// An overlay says where all of it goes; by the chart it goes where the release does.
#[test]
fn nothing_goes_into_another_namespace() {
    for rendered in Rendered::all() {
        let overlay = rendered.name.contains("overlays");
        let expected = if overlay { json!("mqtt") } else { Value::Null };
        for object in &rendered.objects {
            let metadata = &object["metadata"];
            assert_eq!(
                metadata["namespace"], expected,
                "{}: {} {}",
                rendered.name, object["kind"], metadata["name"]
            );
        }
    }
}

/// Services, budgets, monitors and policies find the gate; what is mounted is made; and no service leads to the admin port.
#[test]
fn what_belongs_together_has_the_same_names() {
    for rendered in Rendered::all() {
        let (name, pod) = (&rendered.name, rendered.gate());
        let ports: BTreeSet<_> = ports(pod.tidegate()).collect();
        assert_eq!(ports, BTreeSet::from(["admin", "mqtts"]), "{name}");
        let service = rendered.kind("Service").next().expect("a service");
        assert!(selects(&service["spec"]["selector"], &pod.labels), "{name}");
        let led = service["spec"]["ports"].as_array().expect("ports");
        assert_eq!(led.len(), 1, "{name}: devices, and nothing else");
        assert_eq!(led[0]["targetPort"], "mqtts", "{name}");
        for kind in ["PodDisruptionBudget", "PodMonitor"] {
            for object in rendered.kind(kind) {
                let selector = &object["spec"]["selector"]["matchLabels"];
                assert!(selects(selector, &pod.labels), "{name}: {kind}");
            }
        }
        for monitor in rendered.kind("PodMonitor") {
            let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
            assert!(ports.contains(port.as_str().expect("a name")), "{name}");
            // Without it the job would be called by the monitor's namespace and name, and no alert would find it.
            let label = monitor["spec"]["jobLabel"].as_str().expect("a label");
            let job = &pod.labels[label];
            let rules = page("deploy/prometheus/rules.yml");
            assert!(
                rules.contains(&format!("absent(up{{job={job:?}}})")),
                "{name}"
            );
        }
        for scaler in rendered.kind("HorizontalPodAutoscaler") {
            let target = &scaler["spec"]["scaleTargetRef"];
            let named = target["name"].as_str().expect("a name");
            let deployment = rendered.find("Deployment", named).expect("its target");
            assert_eq!(
                deployment["spec"]["replicas"],
                Value::Null,
                "{name}: two masters"
            );
        }
        for pod in rendered.pods() {
            everything_mounted_is_made(&rendered, &pod);
        }
        for certificate in rendered.kind("Certificate") {
            let issuer = &certificate["spec"]["issuerRef"];
            if issuer["kind"] == "Issuer" {
                let named = issuer["name"].as_str().expect("a name");
                assert!(rendered.find("Issuer", named).is_some(), "{name}: {named}");
            }
        }
    }
}

fn everything_mounted_is_made(rendered: &Rendered, pod: &Pod<'_>) {
    let made: BTreeSet<&str> = rendered
        .kind("ConfigMap")
        .chain(rendered.kind("PersistentVolumeClaim"))
        .map(|object| &object["metadata"]["name"])
        .chain(
            rendered
                .kind("Certificate")
                .map(|c| &c["spec"]["secretName"]),
        )
        .filter_map(Value::as_str)
        .collect();
    for container in pod.containers() {
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            let volume = pod.volume(mount["name"].as_str().expect("a name"));
            let source = [
                &volume["configMap"]["name"],
                &volume["secret"]["secretName"],
                &volume["persistentVolumeClaim"]["claimName"],
            ];
            let Some(source) = source.into_iter().find_map(Value::as_str) else {
                assert!(volume["emptyDir"].is_object(), "{volume}");
                continue;
            };
            assert!(
                made.contains(source) || MADE_BY_HAND.contains(&source),
                "{}: nobody makes {source}",
                rendered.name
            );
        }
    }
}

/// threats.md N2, N3: only the gate reaches the brokers' MQTT, and only Prometheus the admin port.
#[test]
fn policies_close_the_broker_and_the_admin_port() {
    let mut closed = 0;
    for rendered in Rendered::all() {
        let (name, gate) = (&rendered.name, rendered.gate());
        let policies: Vec<_> = rendered.kind("NetworkPolicy").collect();
        assert_eq!(policies.is_empty(), name.contains("plain"), "{name}");
        for policy in policies {
            let spec = &policy["spec"];
            let of_gate = selects(&spec["podSelector"]["matchLabels"], &gate.labels);
            for rule in spec["ingress"].as_array().into_iter().flatten() {
                if of_gate {
                    let open: Vec<_> = opened(rule).collect();
                    let devices = open == ["mqtts"] && rule["from"] == Value::Null;
                    let metrics = open == ["admin"]
                        && rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                            == "monitoring";
                    assert!(devices || metrics, "{name}: {rule}");
                } else {
                    let from = &rule["from"][0]["podSelector"]["matchLabels"];
                    let own = from == &spec["podSelector"]["matchLabels"];
                    let by_gate = selects(from, &gate.labels);
                    let mqtt = opened(rule).any(|port| ["1883", "8883"].contains(&&*port));
                    assert_eq!(mqtt, by_gate, "{name}: {rule}");
                    assert!(own || rule["from"].is_array(), "{name}: {rule}");
                    closed += usize::from(by_gate);
                }
            }
        }
    }
    assert_eq!(closed, 5, "three overlays, two files of values");
}

/// A policy that closes the gate's own ways would show as brokers that are away: whatever the configuration dials is open, where it is.
#[test]
fn policies_open_what_the_gate_dials() {
    let charts = charts_that_dial();
    let mut open = 0;
    for rendered in Rendered::all().iter().chain(&charts) {
        let gate = rendered.gate();
        let of_gate =
            |policy: &&Value| selects(&policy["spec"]["podSelector"]["matchLabels"], &gate.labels);
        let policies = rendered.kind("NetworkPolicy").filter(of_gate);
        let rules = policies.filter_map(|policy| policy["spec"]["egress"].as_array());
        let rules: Vec<_> = rules.flatten().collect();
        if rules.is_empty() {
            continue;
        }
        for place in dialled(rendered, &gate) {
            let led = rules.iter().any(|rule| place.is_open_by(rule));
            assert!(led, "{}: {place:?} is closed", rendered.name);
            open += 1;
        }
    }
    assert_eq!(
        open, 24,
        "places in three overlays, two files of values, and those below"
    );

    // Brokers in another namespace are closed there, to all but the gate, which is in this one.
    let policies = charts.iter().flat_map(|one| one.kind("NetworkPolicy"));
    let elsewhere = policies.filter(|one| one["metadata"]["namespace"] == "emqx");
    let elsewhere: Vec<_> = elsewhere.collect();
    assert_eq!(elsewhere.len(), 1);
    let from = &elsewhere[0]["spec"]["ingress"][0]["from"][0];
    let namespace = &from["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"];
    assert_eq!(namespace, "mqtt");
    assert!(from["podSelector"].is_object());
}

/// The chart before EMQX, with brokers and a database at each place that its values can name.
fn charts_that_dial() -> [Rendered; 9] {
    let tls = "sslmode=verify-full&sslrootcert=/etc/tidegate/registry/ca.crt";
    let own = page("deploy/kubernetes/overlays/front-emqx/tidegate.toml")
        .replace("/etc/tidegate/trust/", "/etc/tidegate/trust/fleet/")
        .replace("local:8883", "local:8885");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), own).expect("written");
    [
        "broker.addresses={mqtt://emqx:1884,mqtts://emqx,mqtt://emqx,mqtts://emqx:1885};broker.allowPlaintext=true",
        &format!("registry.url=postgres://tidegate@db/tidegate?{tls}"),
        &format!("registry.url=postgres://tidegate@db:5433/tidegate?{tls}"),
        &format!("registry.url=postgres://tidegate@db/tidegate?port=5434&{tls}"),
        &format!("env.TIDEGATE_REGISTRY__URL=postgres://tidegate@db:5435/tidegate?{tls}"),
        &format!(
            "registry.url=postgres://tidegate@db.data.svc/tidegate?{tls};registry.namespace=data;registry.podLabels.app=db"
        ),
        "env.TIDEGATE_BROKER__ADDRESSES=[\"mqtts://emqx:8884\"]",
        "broker.addresses={mqtts://emqx.emqx.svc:8884};broker.namespace=emqx;certManager.brokerDnsNames=null",
        &format!("config=@{};broker.addresses=null", file.path().display()),
    ]
    .map(chart)
}

/// The chart before EMQX with these values, a semicolon between them; `KEY=@FILE` takes one from a file.
fn chart(values: &str) -> Rendered {
    let values = values
        .split(';')
        .flat_map(|value| match value.split_once("=@") {
            Some((key, path)) => ["--set-file".to_owned(), format!("{key}={path}")],
            None => ["--set".to_owned(), value.to_owned()],
        });
    let values: Vec<_> = values.collect();
    let mut arguments = vec!["-f", "deploy/helm/tidegate/ci/front-emqx-values.yaml"];
    arguments.extend(values.iter().map(String::as_str));
    Rendered::chart(&arguments)
}

/// Where a gate dials to, by TCP.
#[derive(Debug)]
struct Place {
    host: String,
    port: String,
}

impl Place {
    fn of(address: &str) -> Self {
        let (host, port) = address.rsplit_once(':').expect("a port");
        let (host, port) = (host.to_owned(), port.to_owned());
        Self { host, port }
    }

    /// The namespace that its name says; a name of one word is of the gate's own.
    fn namespace(&self) -> Option<&str> {
        let mut words = self.host.split('.').skip(1);
        match (words.next(), words.next()) {
            (None, _) => Some("mqtt"),
            (namespace, Some("svc")) => namespace,
            _ => None,
        }
    }

    /// Whether a rule of a policy leads there, as far as ports and namespaces tell.
    fn is_open_by(&self, rule: &Value) -> bool {
        let peers = rule["to"].as_array();
        let near = peers.is_none_or(|peers| {
            peers.iter().any(|peer| {
                let selected = &peer["namespaceSelector"]["matchLabels"];
                let selected = &selected["kubernetes.io/metadata.name"];
                self.namespace() == selected.as_str().or(Some("mqtt"))
            })
        });
        near && opened(rule).any(|port| port == self.port)
    }
}

/// The brokers, and the database if there is one, that a pod's configuration dials; a socket file is no place.
fn dialled(rendered: &Rendered, pod: &Pod<'_>) -> Vec<Place> {
    let in_force = in_force(rendered, pod);
    let addresses = in_force["broker"]["addresses"].as_array();
    let addresses = addresses.expect("a list").iter().filter_map(|address| {
        let (scheme, rest) = address.as_str().expect("a text").split_once("://")?;
        (scheme != "unix").then(|| Place::of(rest))
    });
    let url = in_force.get("registry").map(|registry| &registry["url"]);
    let url = url.and_then(toml::Value::as_str).unwrap_or_default();
    let database = url.split_once('@').map(|(_, rest)| {
        let (host, rest) = rest.split_once('/').expect("a database");
        let asked = rest
            .split(['?', '&'])
            .find_map(|word| word.strip_prefix("port="));
        match (asked, host.contains(':')) {
            (Some(port), _) => Place::of(&format!("{host}:{port}")),
            (None, true) => Place::of(host),
            (None, false) => Place::of(&format!("{host}:5432")),
        }
    });
    addresses.chain(database).collect()
}

/// The two ways to install it give the same pod, but for what the values say.
#[test]
fn the_chart_and_the_overlays_agree() {
    let all = Rendered::all();
    for (overlay, values) in [
        ("overlays/sidecar", "sidecar-values.yaml"),
        ("overlays/front-emqx", "front-emqx-values.yaml"),
    ] {
        let find = |end: &str| {
            let found = all.iter().find(|rendered| rendered.name.ends_with(end));
            found.expect("it is there").gate()
        };
        let (ours, charts) = (find(overlay), find(values));
        for key in [
            "startupProbe",
            "livenessProbe",
            "readinessProbe",
            "lifecycle",
            "args",
            "ports",
        ] {
            assert_eq!(
                ours.tidegate()[key],
                charts.tidegate()[key],
                "{values}: {key}"
            );
        }
        for key in ["securityContext", "terminationGracePeriodSeconds"] {
            assert_eq!(ours.spec[key], charts.spec[key], "{values}: {key}");
        }
        let broker = |pod: &Pod<'_>| pod.spec["initContainers"].clone();
        assert_eq!(broker(&ours), broker(&charts), "{values}: Mosquitto");
    }
}

/// A value that cannot be meant is told by its name before anything reaches a cluster.
#[test]
fn the_chart_refuses_what_cannot_be_meant() {
    let good = "deploy/helm/tidegate/ci/front-emqx-values.yaml";
    for (wrong, told) in [
        ("shape=both", "shape"),
        ("replica=3", "replica"),
        ("listener.mode=plain", "mode"),
        ("listener.certificate=server.pem", "certificate"),
        ("connect.username=all-the-same", "username"),
        ("broker.addresses={unix:///run/broker.sock}", "addresses"),
        (
            "broker.addresses=null",
            "broker.addresses: name the brokers",
        ),
        (
            "certManager.dnsNames=null",
            "certManager.dnsNames: name what",
        ),
        ("registry.url=postgres://tidegate:secret@db/x", "url"),
        ("limits.connections=0", "connections"),
        ("env.PATH=/tmp", "PATH"),
        ("service.type=ExternalName", "type"),
        (
            "limits.connections=200000",
            "704Mi does not hold limits.connections = 200000, which take 5174Mi",
        ),
        ("resources.limits.memory=0.5Gi", "which take 603Mi"),
        ("resources.limits.memory=much", "much is not understood"),
        (
            "env.TIDEGATE_LIMITS__CONNECTIONS=100_000",
            "which take 2635Mi",
        ),
        // A configuration of one's own that does not say: the gate's default.
        ("config=[log]", "limits.connections = 100000"),
        (
            "autoscaling.minReplicas=90",
            "autoscaling.minReplicas: 90 are more than maxReplicas, 12",
        ),
        ("resources=null", "resources.requests.cpu"),
        (
            "env.TIDEGATE_LIMITS__DRAIN_TIMEOUT=1h",
            "limits.drainTimeoutSeconds: ",
        ),
        (
            "broker.addresses={mqtts://emqx.emqx.svc:8883}",
            "set broker.namespace to emqx",
        ),
        (
            "registry.url=postgres://t@db.data.svc/t,registry.podLabels.app=db",
            "set registry.namespace to data",
        ),
        ("broker.namespace=emqx", "certManager.brokerDnsNames: "),
        (
            "env.TIDEGATE_CONNECT__PASSWORD_FILE=/etc/tidegate/password/password",
            "connect.passwordSecret: ",
        ),
    ] {
        let out = helm(&["-f", good, "--set", wrong]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{wrong} was taken");
        assert!(said.contains(told), "{wrong}: {said}");
    }
}

/// What docs/kubernetes.md names in `deploy/` is there, and the chart takes what the page types in.
#[test]
fn the_page_names_what_is_there() {
    let page = page("docs/kubernetes.md");
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
    for path in page.split(ends).filter(|word| word.starts_with("deploy/")) {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        assert!(place.exists() || path == "deploy/tidegate", "{path}");
    }
    let typed = "helm install mqtt deploy/helm/tidegate -n mqtt ";
    let lines: Vec<_> = page.lines().filter_map(|l| l.strip_prefix(typed)).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let out = helm(&line.split_whitespace().collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{line}: {said}");
    }
}

/// Whoever follows the page alone has each part, and a broker that lets no device into another's topics: what it says of EMQX is
/// what is in EMQX's files.
#[test]
fn the_page_says_what_has_to_be_set_up() {
    let text_of = page;
    let page = text_of("docs/kubernetes.md");
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/components");
    for part in std::fs::read_dir(parts).expect("a folder") {
        let part = part.expect("an entry").file_name();
        let row = format!("\n| `{}` | ", part.to_str().expect("text"));
        assert!(page.contains(&row), "{row}");
    }
    let files = text_of("deploy/emqx/base.hocon");
    for setting in [
        "enable_authn = false",
        "no_match = deny",
        "verify = verify_peer",
        "fail_if_no_peer_cert = true",
    ] {
        assert!(
            page.contains(setting) && files.contains(setting),
            "{setting}"
        );
    }
    for words in [
        "(brokers.md#mosquitto)",
        "(brokers.md#emqx)",
        "(brokers.md#rabbitmq)",
        "deploy/emqx/acl.conf",
        "rabbitmqctl import_definitions",
        "metrics-server",
        "`release: NAME`",
        "ulimit -n $(ulimit -Hn)",
    ] {
        assert!(page.contains(words), "{words}");
    }
    for path in [
        "docs/monitoring.md",
        "deploy/kubernetes/components/metrics/podmonitor.yaml",
        "deploy/helm/tidegate/values.yaml",
    ] {
        assert!(text_of(path).contains("release: NAME"), "{path}");
    }
}

/// The pod of the sidecar, without a cluster: Mosquitto and the gate by what is rendered, on this host, in volumes as the kubelet lays them
/// out. A device has its own topics, what is exchanged counts, and the probes tell a broker that is there from one that is not.
#[tokio::test]
async fn a_device_goes_through_the_sidecar() {
    let all = Rendered::all();
    for rendered in all.iter().filter(|one| one.name.contains("sidecar")) {
        let pod = rendered.gate();
        let authority = Authority::new("Fleet").expect("a CA");
        let folder = laid_out(rendered, &pod, &authority);
        let mosquitto = Mosquitto::start(rendered, &pod, folder.path()).await;
        assert_eq!(mosquitto.descriptors(), ["256", "256"]);
        let more = in_the_whole_sandbox(folder.path());
        let gate = gate_of(&pod, authority, folder.path(), more).await;

        let device = gate.device("meter-7");
        let (answer, link) = device.asks(&connect("meter-7", Version::V311)).await;
        assert_eq!(answer, Answer::Admitted, "{}", rendered.name);
        let mut link = link.expect("admitted");
        let subscribe = |topic: &str| {
            let topic = topic.as_bytes();
            let length = u8::try_from(topic.len()).expect("short");
            [&[0x82, length + 5, 0, 1, 0, length], topic, &[1]].concat()
        };
        link.say(&subscribe("devices/meter-7/x"))
            .await
            .expect("said");
        assert_eq!(link.packet().await.expect("a SUBACK"), [0x90, 3, 0, 1, 1]);
        let message = publish(Version::V311, "devices/meter-8/x", b"not mine");
        link.say(&message).await.expect("said");
        let message = publish(Version::V311, "devices/meter-7/x", b"mine");
        link.say(&message).await.expect("said");
        assert_eq!(
            link.packet().await.expect("a message"),
            message,
            "and no other"
        );

        volumes_are_exchanged(&gate, folder.path()).await;

        assert!(mosquitto.probe("startupProbe") && mosquitto.probe("livenessProbe"));
        let probes = mosquitto.stop();
        assert!(!probes.probe("startupProbe") && !probes.probe("livenessProbe"));
    }
}

/// The gate of front-rabbitmq, by its own files and variables, before a RabbitMQ that is set up as docs/brokers.md says: RabbitMQ takes
/// devices with the password of the pod's secret, and each has its own topics.
#[tokio::test]
async fn a_device_goes_through_to_rabbitmq() {
    let all = Rendered::all();
    let mut overlays = all.iter();
    let overlay = overlays.find(|one| one.name.ends_with("overlays/front-rabbitmq"));
    let overlay = overlay.expect("it is there");
    let (pod, authority) = (overlay.gate(), Authority::new("Fleet").expect("a CA"));
    let folder = laid_out(overlay, &pod, &authority);
    let brokers = tempfile::tempdir().expect("a folder");
    pki_of_the_leg(brokers.path());
    let made = |path: &str| std::fs::read_to_string(brokers.path().join(path)).expect("made");
    exchange(
        &folder.path().join("broker"),
        &[
            ("ca.crt", &made("broker/ca.pem")),
            ("tls.crt", &made("gates/gate.pem")),
            ("tls.key", &made("gates/gate.key")),
        ],
    );
    let secret = folder.path().join("password/password");
    std::fs::copy(secret, brokers.path().join("broker.secret")).expect("copied");
    let address = free_port();
    let settings = rabbitmq_for(brokers.path(), &["meter-7", "meter-8"], address);
    let volume = folder.path().join("config");
    let text = std::fs::read_to_string(volume.join("tidegate.toml")).expect("its file");
    let dialled = "rabbitmq-nodes.mqtt.svc.cluster.local:8883";
    assert!(text.contains(dialled), "{text}");
    let text = text.replace(dialled, &address.to_string());
    exchange(&volume, &[("tidegate.toml", &text)]);
    let rabbit = RabbitMq::start_as(brokers, &settings, address).await;

    let gate = gate_of(&pod, authority, folder.path(), Vec::new()).await;

    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    each_has_its_own_topics(&gate, Version::V311, "meter-7", "meter-8").await;
    let dotted = gate.device("meter.7").connects_as("x", Version::V311).await;
    assert_eq!(dotted, Answer::Refused(0x05));
    gate.refusal("identity_not_matched").await;
    drop(rabbit);
}

/// The gate of a pod, with its files in `folder`, its variables and these.
async fn gate_of(
    pod: &Pod<'_>,
    authority: Authority,
    folder: &Path,
    more: Vec<(String, String)>,
) -> Gate {
    let config = folder.join("config/tidegate.toml");
    let flags = [
        "--config",
        config.to_str().expect("text"),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let env = environment(pod.tidegate()).into_iter();
    let env = env.map(|(name, value)| (name, moved(&value, folder)));
    Gate::plan(Plan {
        authority,
        flags: Some(flags.map(String::from).into()),
        env: env.chain(more).collect(),
        ..Plan::default()
    })
    .await
}

/// The gate has nothing but what its pod gives it, and may give up all the rest; and a registry in a volume that it may write.
fn in_the_whole_sandbox(folder: &Path) -> Vec<(String, String)> {
    let state = folder.join("state");
    std::fs::create_dir(&state).expect("made");
    let mode = if landlock() < 6 { "auto" } else { "required" };
    [
        ("TIDEGATE_SANDBOX__MODE", mode.to_owned()),
        (
            "TIDEGATE_REGISTRY__URL",
            format!("sqlite://{}/tidegate.db", state.display()),
        ),
        ("TIDEGATE_REGISTRY__UNKNOWN", "register".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Another CA, another certificate and another configuration count when the kubelet has exchanged them, though the sandbox was built before
/// their folders were made (threats.md R3).
async fn volumes_are_exchanged(gate: &Gate, folder: &Path) {
    let next = Authority::new("Next").expect("a CA");
    let issued = next.device(&"meter-7".parse().expect("an id"));
    let device = Device::issued(
        gate.address(),
        next.certificate(),
        &issued.expect("issued"),
        BOTH,
    );
    let admitted = async |device: &Device| {
        let answer = device.connects_as("meter-7", Version::V311).await;
        answer == Answer::Admitted
    };
    assert!(!admitted(&device).await);
    let server = next.server(&["localhost", "127.0.0.1"]).expect("issued");
    let (chain, key) = (server.chain_pem(), server.key_pem());
    let none: [&[u8]; 0] = [];
    let span = Validity::days(30);
    let list = next.crl(&none, span.not_before, span.not_after);
    let list = list.expect("a list").pem().expect("PEM");
    exchange(
        &folder.join("server"),
        &[("tls.crt", &chain), ("tls.key", &key)],
    );
    let trust = folder.join("trust");
    let of_its_own = trust.join("fleet"); // the chart has a volume for each group
    exchange(
        if of_its_own.exists() {
            &of_its_own
        } else {
            &trust
        },
        &[
            ("devices-ca.pem", next.certificate_pem()),
            ("devices.crl", &list),
        ],
    );
    until("the new certificates to count", async || {
        admitted(&device).await.then_some(())
    })
    .await;
    assert!(!admitted(&gate.device("meter-7")).await, "of the old CA");

    let volume = folder.join("config");
    let good = std::fs::read_to_string(volume.join("tidegate.toml")).expect("its file");
    let wrong = format!("nonsense = 1\n{good}");
    for (text, successful) in [(&wrong, 0.0), (&good, 1.0)] {
        exchange(&volume, &[("tidegate.toml", text)]);
        gate.metric_becomes("tidegate_config_last_reload_successful", &[], successful)
            .await;
    }
    assert!(admitted(&device).await);
}

/// The broker of a rendered sidecar; it ends with the test.
struct Mosquitto {
    child: Child,
    folder: std::path::PathBuf,
    container: Value,
}

impl Mosquitto {
    async fn start(rendered: &Rendered, pod: &Pod<'_>, folder: &Path) -> Self {
        let container = pod.containers().next().expect("Mosquitto comes first");
        assert_eq!(container["restartPolicy"], "Always", "it stays");
        let source = &pod.volume("mosquitto")["configMap"]["name"];
        let map = rendered.find("ConfigMap", source.as_str().expect("a name"));
        for (name, text) in words(&map.expect("its files")["data"]) {
            std::fs::write(folder.join(name), moved(&text, folder)).expect("written");
        }
        // Started by root, it would become another user and could not look into the folder any more.
        let conf = folder.join("mosquitto.conf");
        let text = std::fs::read_to_string(&conf).expect("its file");
        std::fs::write(&conf, format!("{text}\nuser root\n")).expect("written");
        // As the container is started, under a soft limit that is lower than the hard one.
        let path = std::env::var("PATH").expect("a path") + ":/usr/sbin:/usr/local/sbin";
        let child = Command::new("prlimit")
            .arg("--nofile=64:256")
            .args(typed(&container["command"], folder))
            .env("PATH", path)
            .stdin(Stdio::null())
            .spawn()
            .expect("prlimit runs");
        let mosquitto = Self {
            child,
            folder: folder.to_owned(),
            container: container.clone(),
        };
        until("Mosquitto to answer its probe", async || {
            mosquitto.probe("startupProbe").then_some(())
        })
        .await;
        mosquitto
    }

    /// Whether a probe of its container, typed in here, says yes.
    fn probe(&self, probe: &str) -> bool {
        let typed = typed(&self.container[probe]["exec"]["command"], &self.folder);
        let out = command(&typed[0]).args(&typed[1..]).output();
        out.expect("it runs").status.success()
    }

    /// How many descriptors it may have, and may ask for.
    fn descriptors(&self) -> [String; 2] {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id()));
        let limits = limits.expect("it runs");
        let mut lines = limits.lines();
        let line = lines.find_map(|line| line.strip_prefix("Max open files"));
        let mut words = line.expect("a line").split_whitespace();
        [(); 2].map(|()| words.next().expect("a number").to_owned())
    }

    fn stop(mut self) -> Self {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ends");
        self
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of a container, to be typed in here.
fn typed(command: &Value, folder: &Path) -> Vec<String> {
    let words = command.as_array().expect("a command").iter();
    let words = words.map(|word| word.as_str().expect("a text"));
    words.map(|word| moved(word, folder)).collect()
}

/// What stands in a pod, for a folder of this host; the name of the listener is that which [`Gate`] waits for.
fn moved(text: &str, folder: &Path) -> String {
    let here = folder.display().to_string();
    [
        PLACE,
        "/run/mosquitto",
        "/mosquitto/config",
        "/mosquitto/data",
    ]
    .iter()
    .fold(text.to_owned(), |text, place| text.replace(place, &here))
    .replace("name = \"devices\"", "name = \"default\"")
}

/// The folder that a pod has its files in: those that are rendered, and certificates and secrets for the others, each under a mount.
fn laid_out(rendered: &Rendered, pod: &Pod<'_>, authority: &Authority) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let container = pod.tidegate();
    let mounts: Vec<_> = container["volumeMounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .map(|mount| mount["mountPath"].as_str().expect("a path"))
        .filter_map(|path| path.strip_prefix(PLACE))
        .collect();
    let put = |path: &str, text: &str| {
        let folders = path.rsplit_once('/').expect("in a folder").0;
        assert!(
            mounts.contains(&folders),
            "{}: {path} is not mounted",
            rendered.name
        );
        place(&folder.path().join(path.trim_start_matches('/')), text);
    };
    let text = config(rendered, pod);
    put("/config/tidegate.toml", &moved(&text, folder.path()));
    let environment: Vec<_> = environment(container).into_values().collect();
    let server = authority
        .server(&["localhost", "127.0.0.1"])
        .expect("issued");
    let client = authority
        .device(&"tidegate".parse().expect("an id"))
        .expect("issued");
    let none: [&[u8]; 0] = [];
    let span = Validity::days(30);
    let next = Authority::new("Next").expect("a CA");
    let [list, next_list] = [authority, &next].map(|ca| {
        let list = ca.crl(&none, span.not_before, span.not_after);
        list.expect("a list").pem().expect("PEM")
    });
    for path in named(&(text + "\n" + &environment.join("\n"))) {
        let issued = if path.starts_with("/broker/") {
            &client
        } else {
            &server
        };
        let other = Authority::new(&path).expect("a CA");
        match path.rsplit_once('/').expect("in a folder").1 {
            "tls.crt" => put(&path, &issued.chain_pem()),
            "tls.key" => put(&path, &issued.key_pem()),
            "ca.crt" | "devices-ca.pem" => put(&path, authority.certificate_pem()),
            "devices.crl" => put(&path, &list),
            "devices-ca-next.pem" => put(&path, next.certificate_pem()),
            "devices-next.crl" => put(&path, &next_list),
            "secret" | "token-key" | "password" => {
                put(
                    &path,
                    &hex::encode(std::array::from_fn::<u8, 32, _>(|_| fastrand::u8(..))),
                );
            }
            name if name.ends_with(".pem") => put(&path, other.certificate_pem()),
            name => panic!("{}: what is {name}?", rendered.name),
        }
    }
    folder
}

/// Puts a file into a volume as the kubelet does: a link into `..data`, which is a link to a folder with a name of its own.
fn place(path: &Path, text: &str) {
    let volume = path.parent().expect("a folder");
    let data = volume.join("..data");
    if !data.is_symlink() {
        std::fs::create_dir_all(volume.join("..2026_01")).expect("made");
        symlink("..2026_01", &data).expect("linked");
    }
    let name = path.file_name().expect("a name");
    let file = data.join(name);
    std::fs::write(&file, text).expect("written");
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file, own).expect("its own file");
    symlink(Path::new("..data").join(name), path).expect("linked");
}

/// Exchanges files of a volume as the kubelet does: all at once, by a new folder, whose name was never there before.
fn exchange(volume: &Path, files: &[(&str, &str)]) {
    let data = volume.join("..data");
    let old = volume.join(std::fs::read_link(&data).expect("a link"));
    let new = format!("..{:016x}", fastrand::u64(..));
    std::fs::create_dir(volume.join(&new)).expect("made");
    for entry in std::fs::read_dir(&old).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = volume.join(&new).join(entry.file_name());
        std::fs::copy(entry.path(), to).expect("copied");
    }
    for (name, text) in files {
        std::fs::write(volume.join(&new).join(name), text).expect("written");
    }
    symlink(&new, volume.join("..data_tmp")).expect("linked");
    std::fs::rename(volume.join("..data_tmp"), data).expect("renamed");
    std::fs::remove_dir_all(old).expect("removed");
}

/// The paths under [`PLACE`] that a text names, without it.
fn named(text: &str) -> BTreeSet<String> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
    let paths = text.split(PLACE).skip(1);
    paths
        .map(|rest| rest.split(ends).next().expect("one piece").to_owned())
        .collect()
}

/// The configuration of a pod as `tidegate config` tells it, defaults and all.
fn in_force(rendered: &Rendered, pod: &Pod<'_>) -> toml::Table {
    let authority = Authority::new("Fleet").expect("a CA");
    let out = tidegate("config", &laid_out(rendered, pod, &authority), pod);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {said}", rendered.name);
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    text.parse().expect("TOML")
}

/// A command of tidegate, with the configuration and the environment of the pod's container.
fn tidegate(word: &str, folder: &TempDir, pod: &Pod<'_>) -> Output {
    let arguments = pod.tidegate()["args"].as_array().expect("arguments");
    assert_eq!(arguments[2], format!("{PLACE}/config/tidegate.toml"));
    let environment = environment(pod.tidegate());
    let moved = environment
        .iter()
        .map(|(k, v)| (k, moved(v, folder.path())));
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args([word, "--config"])
        .arg(folder.path().join("config/tidegate.toml"))
        .env_clear()
        .envs(moved)
        .output()
        .expect("it runs")
}

fn environment(container: &Value) -> BTreeMap<String, String> {
    let variables = container["env"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    variables
        .map(|v| (text(&v["name"]), text(&v["value"])))
        .collect()
}

fn config(rendered: &Rendered, pod: &Pod<'_>) -> String {
    let source = &pod.volume("config")["configMap"]["name"];
    let map = rendered.find("ConfigMap", source.as_str().expect("a name"));
    let text = &map.expect("its configuration")["data"]["tidegate.toml"];
    text.as_str().expect("a text").to_owned()
}

fn ports(container: &Value) -> impl Iterator<Item = &str> {
    let ports = container["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| port["name"].as_str())
}

/// The ports that a rule of a policy opens; one without any opens all.
fn opened(rule: &Value) -> impl Iterator<Item = String> {
    let ports = rule["ports"].as_array().into_iter().flatten();
    ports.map(|port| match &port["port"] {
        Value::String(name) => name.clone(),
        number => number.to_string(),
    })
}
