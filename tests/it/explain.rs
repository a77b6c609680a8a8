//! `tidegate explain` tells what the gate does: the verdict, its reason, what the device sees, and the CONNECT for the broker.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password, Will};
use tidegate::mqtt::properties::{Id, Properties, Property, Value as PropertyValue};
use tidegate::pki::{Authority, Issued, Order, Validity};
use tidegate::registry::{Registry, StoreSettings};
use tidegate::rules::device::{DeviceId, Mode};
use tidegate::rules::identity::{Certificate, Field};
use tidegate::rules::record::{Pin, Proof, Record, Valid};
use tidegate::rules::token::{Token, TokenKey};

use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{Gate, Plan, group, lay_out, listener, tidegate};
use crate::support::openssl::{openssl, s_client};
use crate::support::shown::Shown;
use crate::support::until;

const KEY: [u8; 32] = [7; 32];
const DAY: i64 = 24 * 3600;

fn now() -> i64 {
    Validity::days(0).not_after
}

fn id(name: &str) -> DeviceId {
    name.parse().expect("a device id")
}

/// One mixed-tls listener, and two groups.
fn mixed() -> String {
    let groups = [
        group("fleet", "ca.pem", "crl = [\"devices.crl\"]"),
        group("vendor", "vendor.pem", ""),
    ];
    listener("devices", "mixed-tls", "", "") + &groups.concat()
}

/// One mixed-tls listener, and one group, which needs no `{trust}` in names.
fn mixed_for_one() -> String {
    listener("devices", "mixed-tls", "", "") + &group("fleet", "ca.pem", "")
}

/// A gate, and what is needed to make devices for it.
struct Estate {
    gate: Gate,
    vendor: Authority,
}

/// A revocation list of the CA's, in PEM, until `until`.
fn list(authority: &Authority, revoked: &[&[u8]], until: i64) -> Vec<u8> {
    let list = authority.crl(revoked, now() - 60, until);
    list.expect("a list").pem().expect("PEM").into_bytes()
}

/// The files of an estate: a list on which `stolen` is, a vendor's CA, the token key.
fn plan(
    listeners: String,
    more: &str,
    stolen: Option<&Issued>,
    fleet: Authority,
) -> (Plan, Authority) {
    let vendor = Authority::new("Vendor CA").expect("a CA");
    let serials: Vec<_> = stolen.iter().map(|issued| issued.serial()).collect();
    let files = vec![
        (
            "devices.crl".into(),
            list(&fleet, &serials, now() + 30 * DAY),
        ),
        ("vendor.pem".into(), vendor.certificate_pem().into()),
        ("token.key".into(), hex::encode(KEY).into_bytes()),
    ];
    let plan = Plan {
        authority: fleet,
        listeners: Some(listeners),
        more: more.into(),
        files,
        ..Plan::default()
    };
    (plan, vendor)
}

const REGISTRY: &str = "[registry]\nurl = \"sqlite://tidegate.db\"\n";
/// Names for two groups.
const CONNECT: &str =
    "[connect]\nclient_id = \"{trust}:{device}\"\nusername = \"{trust}:{device}\"\n";

impl Estate {
    async fn new(listeners: String, more: &str, stolen: Option<&Issued>, fleet: Authority) -> Self {
        let (plan, vendor) = plan(listeners, more, stolen, fleet);
        let mut gate = Gate::plan(plan).await;
        gate.take_broker().welcome_all();
        Self { gate, vendor }
    }

    async fn registry(&self) -> Registry {
        let path = self.gate.file("tidegate.db");
        Registry::open(&StoreSettings::Sqlite { path })
            .await
            .expect("the registry")
    }

    async fn add(&self, records: &[Record]) {
        let added = self.registry().await.add(records, &mut |_| ()).await;
        added.expect("added");
    }

    fn issued(&self, order: Order) -> Shown {
        Shown::from(&self.gate.authority.issue(order).expect("issued"))
    }

    /// Puts a file into the gate's folder.
    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.gate.file(name), bytes).expect("written");
    }

    /// What the command says: exit code and JSON.
    fn explains(&self, case: &Case) -> (i32, Value) {
        let mut line = vec!["explain", "--json", "--connect", "asks"];
        self.put("asks", &case.asks);
        if let Some(shown) = &case.shown {
            self.put("shown.pem", pem(shown).as_bytes());
            line.push("shown.pem");
        }
        told(&line, self.gate.folder.path())
    }

    /// What the gate does: the reason, or `admitted`; the code, or the alert's name, that the device sees.
    async fn does(&self, case: &Case) -> (String, Seen) {
        let ca = self.gate.authority.certificate();
        let (device, _) = Device::showing(self.gate.address(), ca, case.shown.as_ref(), BOTH);
        let before = self.gate.lines("refused").len();
        let version = case.version();
        let (answer, link) = device.sends(&case.asks, version).await;
        drop(link); // the gate tells when it is gone
        let seen = match answer {
            Answer::Admitted => return ("admitted".into(), Seen::Broker),
            Answer::Refused(code) => Seen::Code(code),
            Answer::Closed => Seen::Close,
            Answer::NoTls(_) => Seen::Alert,
        };
        let line = until("the gate to tell why", async || {
            self.gate.lines("refused").into_iter().nth(before)
        });
        let line = line.await;
        (line["reason"].as_str().expect("a reason").to_owned(), seen)
    }

    /// The promise: the command tells what the gate does.
    async fn agree(&self, cases: &[Case]) {
        for case in cases {
            let what = case.what;
            let (code, told) = self.explains(case);
            let (reason, seen) = self.does(case).await;
            let at = &told["listeners"][0];
            eprintln!("{what}: {reason}");
            assert_eq!(reason, case.reason, "{what}: the gate; told: {told:#}");
            assert_eq!(
                at["reason"].as_str().unwrap_or("admitted"),
                reason,
                "{what}: {told:#}"
            );
            assert_eq!(at["admitted"], reason == "admitted", "{what}");
            assert_eq!(told["admitted"], at["admitted"], "{what}");
            assert_eq!(code, i32::from(reason != "admitted"), "{what}");
            let sees = &at["sees"];
            match seen {
                Seen::Broker => assert!(
                    sees["alert"].is_null() && at["connect"].is_object(),
                    "{what}"
                ),
                Seen::Alert => assert!(sees["alert"].is_string(), "{what}: {sees}"),
                Seen::Code(code) => {
                    let told = &sees["connack"][case.version().word()];
                    assert_eq!(*told, format!("{code:#04x}"), "{what}: {sees}");
                }
                Seen::Close => {
                    let mut all = sees["connack"].as_object().expect("a map").values();
                    assert!(
                        sees["alert"].is_null() && all.all(Value::is_null),
                        "{what}: {sees}"
                    );
                }
            }
            if reason != "admitted" {
                assert!(
                    at["why"].as_str().is_some_and(|why| why.len() > 10),
                    "{what}: {at}"
                );
                assert!(at["connect"].is_null(), "{what}");
            }
        }
    }
}

/// What a device sees of a verdict.
enum Seen {
    Broker,
    Code(u8),
    Close,
    Alert,
}

/// A device, and what the gate is expected to do with it.
struct Case {
    what: &'static str,
    shown: Option<Shown>,
    asks: Vec<u8>,
    reason: &'static str,
}

impl Case {
    fn new(what: &'static str, shown: impl Into<Option<Shown>>, reason: &'static str) -> Self {
        Self::asking(what, shown, &connect("", Version::V5), reason)
    }

    fn asking(
        what: &'static str,
        shown: impl Into<Option<Shown>>,
        asks: &Connect,
        reason: &'static str,
    ) -> Self {
        Self {
            what,
            shown: shown.into(),
            asks: asks.encode().expect("it fits"),
            reason,
        }
    }

    fn version(&self) -> Version {
        Connect::decode(&self.asks).map_or(Version::V5, |connect| connect.version)
    }
}

fn pem(shown: &Shown) -> String {
    let section = |der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(String::from_utf8_lossy)
            .collect();
        let lines = lines.join("\n");
        format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    };
    shown.chain.iter().map(|der| section(der)).collect()
}

/// Runs the command: exit code and JSON.
fn told(arguments: &[&str], folder: &Path) -> (i32, Value) {
    let (code, out, err) = tidegate(arguments, folder);
    assert_eq!(err, "", "{arguments:?}");
    let json = serde_json::from_str(&out).unwrap_or_else(|fault| panic!("{fault}: {out}"));
    (code, json)
}

/// A record with what it may show.
fn record(name: &str, proofs: impl IntoIterator<Item = Proof>) -> Record {
    let mut record = Record::new(id(name), now());
    for proof in proofs {
        record.add_credential(proof, Valid::since(now() - 60));
    }
    record
}

fn of_group(group: &str, pin: Option<Pin>) -> Proof {
    Proof::Vouched {
        group: group.into(),
        field: Field::SubjectCn,
        pin,
    }
}

fn fleet() -> Proof {
    of_group("fleet", None)
}

fn print(shown: &Shown) -> [u8; 32] {
    Certificate::read(&shown.chain[0]).expect("readable").print
}

fn pinned(shown: &Shown) -> Proof {
    Proof::Pinned(Pin::Certificate(print(shown)))
}

/// A certificate that its device made itself.
fn self_signed(name: &str) -> Shown {
    let own = Authority::root(Order::ca(name)).expect("a key");
    let key = rustls::pki_types::pem::PemObject::from_pem_slice(own.key_pem().as_bytes());
    let key: PrivateKeyDer<'static> = key.expect("a key");
    Shown {
        chain: vec![own.certificate().clone()],
        key: Arc::new(key),
    }
}

/// What a device with a token sends.
fn with_token(name: &str, token: &Token, version: Version) -> Connect {
    let mut asks = connect(name, version);
    asks.username = Some(name.into());
    asks.password = Some(Password::new(token.reveal().as_bytes().to_vec()));
    asks
}

// ── explain tells what the gate does

fn span(from: i64, until: i64) -> Validity {
    Validity {
        not_before: now() + from,
        not_after: now() + until,
    }
}

/// With a registry, by certificates that groups vouch for, or do not: each usual refusal.
#[tokio::test]
async fn explain_tells_what_a_gate_does_with_certificates() {
    let authority = Authority::new("Test CA").expect("a CA");
    let order = Order::device_named;
    let stolen = authority.issue(order("stolen")).expect("issued");
    let more = format!("{REGISTRY}{CONNECT}");
    let estate = Estate::new(mixed(), &more, Some(&stolen), authority).await;
    let of = |ca: &Authority, name| Shown::from(&ca.issue(order(name)).expect("issued"));
    let below = |ca: &Authority| ca.intermediate(Order::ca("Below")).expect("a CA");
    let (ca, vendor) = (&estate.gate.authority, &estate.vendor);
    let stranger = Authority::new("Nobody's CA").expect("a CA");
    let by_below = of(&below(vendor), "below");
    let enrolled = of(ca, "enrolled");

    let mut disabled = record("disabled", [fleet()]);
    disabled.enabled = false;
    let pin = |print| Some(Pin::Certificate(print));
    let records = [
        record("good", [fleet()]),
        record("below", [of_group("vendor", None)]),
        record("stolen", [fleet()]),
        record("expired", [fleet()]),
        disabled,
        record("enrolled", [of_group("fleet", pin(print(&enrolled)))]),
        record("renewed", [of_group("fleet", pin([9; 32]))]),
        record("sold", [of_group("vendor", None)]),
    ];
    estate.add(&records).await;

    let v311 = connect("x", Version::V311);
    let expired = |validity| estate.issued(order("expired").valid(validity));
    let cases = [
        Case::new("registered", of(ca, "good"), "admitted"),
        Case::asking("in another version", of(ca, "good"), &v311, "admitted"),
        Case::new("by an intermediate", by_below.clone(), "admitted"),
        Case::new(
            "without it",
            by_below.leaf_only(),
            "certificate_unknown_issuer",
        ),
        Case::new(
            "by one without a list",
            of(&below(ca), "good"),
            "crl_missing",
        ),
        Case::new("not registered", of(ca, "nobody"), "device_unknown"),
        Case::asking("the same, 3.1.1", of(ca, "nobody"), &v311, "device_unknown"),
        Case::new("disabled", of(ca, "disabled"), "device_disabled"),
        Case::new("over", expired(span(-2 * DAY, -DAY)), "certificate_expired"),
        Case::new(
            "to come",
            expired(span(DAY, 2 * DAY)),
            "certificate_not_yet_valid",
        ),
        Case::new("revoked", Shown::from(&stolen), "certificate_revoked"),
        Case::new(
            "of nobody's CA",
            of(&stranger, "good"),
            "certificate_unknown_issuer",
        ),
        Case::new(
            "no name",
            estate.issued(Order::device_unnamed()),
            "identity_missing",
        ),
        Case::new("no good name", of(ca, "a/b"), "identity_not_allowed"),
        Case::new("the one that it was enrolled with", enrolled, "admitted"),
        Case::new(
            "another one",
            of(ca, "renewed"),
            "certificate_not_registered",
        ),
        Case::new("of its group", of(vendor, "sold"), "admitted"),
        Case::new(
            "of another group",
            of(ca, "sold"),
            "certificate_not_registered",
        ),
        Case::new(
            "the other way round",
            of(vendor, "good"),
            "certificate_not_registered",
        ),
    ];
    estate.agree(&cases).await;
}

/// With a registry, by pin, by token, or by both; and what the CONNECT itself is refused for.
#[tokio::test]
async fn explain_tells_what_a_gate_does_with_pins_tokens_and_packets() {
    let authority = Authority::new("Test CA").expect("a CA");
    let estate = Estate::new(mixed_for_one(), REGISTRY, None, authority).await;
    let named = |name: &str| estate.issued(Order::device_named(name));
    let [token, old] = [1, 2].map(|chance| Token::from_chance(&[chance; 32]));
    let hash = |token| Proof::Token(TokenKey::new(KEY).hash(token));
    let mut by_token = record("by-token", [hash(&token), fleet(), hash(&old)]);
    by_token.min_mode = Mode::ServerTls;
    by_token.credentials[2].valid.until = Some(now() - 1);
    let strict = record("strict", [hash(&token), fleet()]);
    let selfmade = ["alone", "late", "loose"].map(self_signed);
    let [alone, late_pin, loose] = selfmade;
    let mut late = record("late", [pinned(&late_pin)]);
    late.credentials[0].valid.until = Some(now() - 1);
    let alone_too = record("alone", [pinned(&alone)]);
    estate
        .add(&[by_token, strict, record("good", [fleet()]), late, alone_too])
        .await;

    let v5 = |name, token| with_token(name, token, Version::V5);
    let v311 = |name, token| with_token(name, token, Version::V311);
    let mut enhanced = connect("", Version::V5);
    enhanced.properties.push(Property {
        id: Id::AuthenticationMethod,
        value: PropertyValue::Text("SCRAM".into()),
    });
    let mut long = connect("", Version::V5);
    long.will = Some(will(vec![0; 20_000]));
    let flagged = Case {
        what: "a reserved flag",
        shown: Some(named("good")),
        asks: b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00".to_vec(),
        reason: "connect_malformed",
    };
    let good = || named("good");
    let cases = [
        Case::asking("a token", None, &v5("by-token", &token), "admitted"),
        Case::asking(
            "an old token",
            None,
            &v311("by-token", &old),
            "token_expired",
        ),
        Case::asking(
            "a weaker mode",
            None,
            &v5("strict", &token),
            "mode_not_allowed",
        ),
        Case::asking("another's token", None, &v311("good", &token), "token_bad"),
        Case::asking(
            "nobody's token",
            None,
            &v5("nobody", &token),
            "device_unknown",
        ),
        Case::new("nothing", None, "no_token"),
        Case::new("pinned", alone, "admitted"),
        Case::new("its pin has ended", late_pin, "credential_expired"),
        // It is a CA by its certificate, which is told first.
        Case::new("not pinned", loose, "certificate_wrong_purpose"),
        Case::asking(
            "both",
            named("by-token"),
            &v5("by-token", &token),
            "admitted",
        ),
        Case::asking(
            "of two",
            good(),
            &v5("by-token", &token),
            "credentials_disagree",
        ),
        Case::asking(
            "enhanced authentication",
            good(),
            &enhanced,
            "enhanced_authentication",
        ),
        Case::asking("a large will", good(), &long, "connect_too_large"),
        flagged,
    ];
    estate.agree(&cases).await;
}

fn will(payload: Vec<u8>) -> Will {
    Will {
        qos: 1,
        retain: true,
        properties: Properties::new(),
        topic: "devices/7/gone".into(),
        payload,
    }
}

/// Without a registry a bad certificate ends the handshake, and any good one is a device's.
#[tokio::test]
async fn explain_tells_what_a_gate_without_a_registry_does() {
    let authority = Authority::new("Test CA").expect("a CA");
    let stolen = authority
        .issue(Order::device_named("stolen"))
        .expect("issued");
    let listeners = mixed().replace("mixed-tls", "mutual-tls");
    let more = format!("{CONNECT}asked_client_id = \"device\"\n");
    let estate = Estate::new(listeners, &more, Some(&stolen), authority).await;
    let named = |name: &str| estate.issued(Order::device_named(name));
    let below = estate
        .vendor
        .intermediate(Order::ca("Below"))
        .expect("a CA");
    let by_below = Shown::from(&below.issue(Order::device_named("below")).expect("issued"));
    let nine = Shown {
        chain: vec![named("a").chain[0].clone(); 9],
        ..named("a")
    };
    let own = connect("meter-7", Version::V311);
    let cases = [
        Case::new("good", named("meter-7"), "admitted"),
        Case::asking("its own client id", named("meter-7"), &own, "admitted"),
        Case::asking(
            "another's client id",
            named("meter-8"),
            &own,
            "client_id_not_own",
        ),
        Case::new("by an intermediate", by_below, "admitted"),
        Case::new(
            "over",
            estate.issued(Order::device_named("meter-7").valid(span(-2 * DAY, -DAY))),
            "certificate_expired",
        ),
        Case::new("revoked", Shown::from(&stolen), "certificate_revoked"),
        Case::new(
            "self-signed",
            self_signed("meter-7"),
            "certificate_wrong_purpose",
        ),
        Case::new(
            "no name",
            estate.issued(Order::device_unnamed()),
            "identity_missing",
        ),
        Case::new("too many", nine, "certificate_chain_too_large"),
        Case::new("nothing", None, "no_certificate"),
    ];
    for case in &cases[..cases.len() - 1] {
        estate.agree(std::slice::from_ref(case)).await;
    }
    // Where every listener needs a certificate, one is asked about by name.
    let (code, _, err) = tidegate(&["explain", "--connect", "asks"], estate.gate.folder.path());
    assert_eq!(code, 2);
    assert!(err.contains("--listener NAME"), "{err}");
    let line = [
        "explain",
        "--json",
        "--connect",
        "asks",
        "--listener",
        "devices",
    ];
    let (code, json) = told(&line, estate.gate.folder.path());
    let (reason, _) = estate.does(&cases[cases.len() - 1]).await;
    assert_eq!((code, reason.as_str()), (1, "no_certificate"));
    assert_eq!(json["listeners"][0]["reason"], "no_certificate");
    assert_eq!(
        json["listeners"][0]["sees"]["alert"],
        "certificate_required"
    );
}

/// `registry.unknown = "register"`: told, not done; then the gate does it, as long as there is room.
#[tokio::test]
async fn a_device_that_would_register_itself_is_told_and_not_registered() {
    for (lines, first) in [
        ("unknown = \"register\"\nregister_quota = 1\n", "admitted"),
        (
            "unknown = \"register\"\nregister_approval = true\n",
            "device_disabled",
        ),
        ("unknown = \"admit\"\n", "admitted"),
    ] {
        let more = format!("{REGISTRY}{lines}{CONNECT}");
        let authority = Authority::new("Test CA").expect("a CA");
        let estate = Estate::new(mixed(), &more, None, authority).await;
        let named = |name: &str| estate.issued(Order::device_named(name));
        let registry = estate.registry().await;
        let new = Case::new("new", named("new"), first);

        let (_, told) = estate.explains(&new);
        let in_registry = &told["listeners"][0]["registry"];
        let registers = lines.contains("\"register\"");
        let state = if registers {
            "would_register"
        } else {
            "unknown"
        };
        assert_eq!(in_registry["state"], state, "{told:#}");
        if registers {
            assert_eq!(in_registry["record"]["registered_by"], "fleet");
            assert_eq!(in_registry["record"]["enabled"], first == "admitted");
        }
        assert!(
            registry.find(&id("new")).await.expect("asked").is_none(),
            "only told"
        );

        estate.agree(&[new]).await;
        let is_there = registry.find(&id("new")).await.expect("asked").is_some();
        assert_eq!(is_there, registers);
        let next = match lines {
            _ if lines.contains("quota") => "registration_full",
            _ => first,
        };
        estate
            .agree(&[
                Case::new("the same again", named("new"), first),
                Case::new("one more", named("more"), next),
                // What only a pin could let in does not register itself.
                Case::new(
                    "self-signed",
                    self_signed("own"),
                    "certificate_wrong_purpose",
                ),
            ])
            .await;
    }
}

/// V4: a registry that is away is told, and so is what a device sees.
#[tokio::test]
async fn a_registry_that_is_away_is_told() {
    let more = format!(
        "[registry]\nurl = \"postgres://nobody@127.0.0.1:1/none?sslmode=disable\"\n{CONNECT}"
    );
    let authority = Authority::new("Test CA").expect("a CA");
    let estate = Estate::new(mixed(), &more, None, authority).await;
    let shown = estate.issued(Order::device_named("meter-7"));
    let case = Case::new("registry away", shown.clone(), "registry_away");
    estate.agree(&[case]).await;

    let folder = estate.gate.folder.path();
    let (code, out, _) = tidegate(&["explain", "shown.pem"], folder);
    assert_eq!(code, 1);
    assert!(
        out.starts_with("REFUSED as meter-7 by listener devices: registry_away\n"),
        "{out}"
    );
    assert!(
        out.contains("registry      is away: ") && out.contains("registry.grace"),
        "{out}"
    );
    assert!(out.contains("0x88"), "{out}");
    let (code, told) = told(&["explain", "--json", &hex::encode(print(&shown))], folder);
    assert_eq!((code, &told["reason"]), (1, &"registry_away".into()));
}

// ── --at

/// Certificates, lists and credentials are judged by the time that is asked for.
#[tokio::test]
async fn another_time_counts_for_everything() {
    let authority = Authority::new("Test CA").expect("a CA");
    let (mut plan, _) = plan(mixed(), &format!("{REGISTRY}{CONNECT}"), None, authority);
    let validity = Validity {
        not_before: now() - 10 * DAY,
        not_after: now() + 100 * DAY,
    };
    let order = Order::device_named("meter-7").valid(validity);
    let shown = Shown::from(&plan.authority.issue(order).expect("issued"));
    plan.files
        .push(("meter-7.pem".into(), pem(&shown).into_bytes()));
    let (folder, _broker) = lay_out(&plan).await;
    let path = folder.path().join("tidegate.db");
    let registry = Registry::open(&StoreSettings::Sqlite { path })
        .await
        .expect("the registry");
    let mut record = record("meter-7", [fleet()]);
    record.credentials[0].valid = Valid {
        from: now() - DAY,
        until: Some(now() + DAY),
    };
    registry.add(&[record], &mut |_| ()).await.expect("added");

    for (at, reason) in [
        (0, "admitted"),
        (-2 * DAY, "credential_expired"), // it does not begin yet
        (-11 * DAY, "certificate_not_yet_valid"),
        (2 * DAY, "credential_expired"),
        (31 * DAY, "crl_stale"),
        (101 * DAY, "certificate_expired"),
    ] {
        let at = (now() + at).to_string();
        let line = ["explain", "meter-7.pem", "--json", "--at", &at];
        let (code, told) = told(&line, folder.path());
        let at = &told["listeners"][0];
        assert_eq!(
            at["reason"].as_str().unwrap_or("admitted"),
            reason,
            "{told:#}"
        );
        assert_eq!(code, i32::from(reason != "admitted"));
    }
    let (_, told) = told(&["explain", "meter-7.pem", "--json"], folder.path());
    let until = told["listeners"][0]["until"].as_str().expect("an end");
    let credential = &told["listeners"][0]["registry"]["record"]["credentials"][0];
    assert_eq!(
        (&credential["until"], &credential["shown"]),
        (&until.into(), &true.into())
    );

    // The two forms of a time are one.
    let (_, seconds, _) = tidegate(
        &["explain", "meter-7.pem", "--at", "1801396800"],
        folder.path(),
    );
    let line = [
        "explain",
        "meter-7.pem",
        "--at",
        "2027-01-31T13:00:00+01:00",
    ];
    let (_, spelt, _) = tidegate(&line, folder.path());
    assert!(spelt.contains("2027-01-31T12:00:00Z"), "{spelt}");
    assert_eq!(seconds, spelt);
}

// ── the CONNECT

/// What is told of the CONNECT is what the broker sees: names, properties in their order, will; and no secret.
#[tokio::test]
async fn the_connect_that_is_told_is_the_one_that_the_broker_sees() {
    let connect_lines = "[connect]\nclient_id = \"d:{device}\"\nusername = \"{device}\"\npassword = \"{password}\"\n\
                         user_properties = { \"x-ip\" = \"{ip}\", \"x-mode\" = \"{mode}\" }\n";
    let gate = Gate::plan(Plan {
        more: connect_lines.into(),
        ..Plan::default()
    })
    .await;
    let issued = gate
        .authority
        .issue(Order::device_named("meter-7"))
        .expect("issued");
    let shown = Shown::from(&issued);
    let folder = gate.folder.path();
    std::fs::write(folder.join("shown.pem"), pem(&shown)).expect("written");
    let mut asks = connect("", Version::V5);
    asks.username = Some("anybody".into());
    asks.password = Some(Password::new(b"hunter2".to_vec()));
    asks.properties
        .push(Property::user("X-Mode", "mutual-tls, honestly"));
    asks.properties.push(Property::user("kept", "as it is"));
    asks.properties.push(Property {
        id: Id::SessionExpiryInterval,
        value: PropertyValue::Four(3600),
    });
    let mut gone = will(b"gone".to_vec());
    gone.properties.push(Property::user("x-ip", "10.0.0.1"));
    gone.properties.push(Property {
        id: Id::WillDelayInterval,
        value: PropertyValue::Four(5),
    });
    asks.will = Some(gone);
    let packet = asks.encode().expect("it fits");
    std::fs::write(folder.join("raw"), [&packet[..], b"\xc0\0"].concat()).expect("written");
    let digits: Vec<_> = packet.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(folder.join("hex"), digits.join(" ") + "\n").expect("written");

    let line = ["explain", "shown.pem", "--json", "--connect", "raw"];
    let (code, mut json) = told(&line, folder);
    assert_eq!(code, 0, "{json:#}");
    let notes = json["notes"].to_string();
    assert!(
        notes.contains("behind the CONNECT") && notes.contains("--from IP"),
        "{notes}"
    );
    assert!(!notes.contains("made up"), "{notes}");
    let (_, mut same) = told(
        &["explain", "shown.pem", "--json", "--connect", "hex"],
        folder,
    );
    let of = |json: &mut Value| json["listeners"][0]["connect"]["fields"].take();
    let fields = of(&mut json);
    assert_eq!(fields, of(&mut same), "hex or raw");

    let device = gate.device_with(&issued, BOTH);
    let broker = gate.broker();
    let ((_, _link), visit) = tokio::join!(device.asks(&asks), broker.welcome());
    let sees = &visit.connect;
    let fields = fields.as_array().expect("fields");
    let value = |name: &str| {
        let found = fields
            .iter()
            .find(|field| field["name"] == name && !field["told"].is_null());
        found
            .map_or("", |field| field["told"].as_str().expect("text"))
            .to_owned()
    };
    assert_eq!(value("client id"), format!("{:?}", sees.client_id));
    assert_eq!(
        value("username"),
        format!("{:?}", sees.username.as_ref().expect("one"))
    );
    assert_eq!(value("keep alive"), format!("{} s", sees.keep_alive));
    let will = sees.will.as_ref().expect("a will");
    assert_eq!(value("will topic"), format!("{:?}", will.topic));
    assert_eq!(value("will message"), "\"gone\"");
    let told_in = |place: &str| -> Vec<String> {
        let is_there = fields.iter().filter(|field| !field["told"].is_null());
        let named = is_there.filter_map(|field| {
            let name = field["name"].as_str()?.strip_prefix(place)?;
            let known = Id::ALL.iter().any(|id| id.word() == name);
            known.then(|| format!("{name}: {}", field["told"].as_str().expect("text")))
        });
        named.collect()
    };
    let seen_in = |properties: &Properties| -> Vec<String> {
        let spelt = |one: &Property| match &one.value {
            PropertyValue::Pair(name, value) => format!("{}: {name:?} = {value:?}", one.id),
            PropertyValue::Four(number) => format!("{}: {number}", one.id),
            other => panic!("{other:?}"),
        };
        properties.iter().map(spelt).collect()
    };
    assert_eq!(told_in(""), seen_in(&sees.properties));
    assert_eq!(told_in("will "), seen_in(&will.properties));

    let changed: Vec<_> = fields
        .iter()
        .filter(|field| field["changed"] == true)
        .map(|field| {
            format!(
                "{}: {} for {}",
                field["name"], field["told"], field["asked"]
            )
        })
        .collect();
    let changed = changed.join("\n").replace("\\\"", "'").replace('"', "");
    assert_eq!(
        changed,
        "client id: 'd:meter-7' for ''\n\
         username: 'meter-7' for 'anybody'\n\
         User Property: 'x-ip' = '127.0.0.1' for null\n\
         User Property: 'x-mode' = 'mutual-tls' for null\n\
         User Property: null for 'X-Mode' = 'mutual-tls, honestly'\n\
         will User Property: null for 'x-ip' = '10.0.0.1'"
    );
    let (_, text, _) = tidegate(&["explain", "shown.pem", "--connect", "raw"], folder);
    assert!(
        text.starts_with("ADMITTED as meter-7 by listener devices, until "),
        "{text}"
    );
    assert!(
        text.contains("\n  * client id ") && text.contains("\n    will topic "),
        "{text}"
    );
    assert!(!text.contains("hunter2") && !json.to_string().contains("hunter2"));
    assert!(text.contains("(7 bytes, not shown)"), "{text}");
}

/// threats.md K2: a token is read from a file, and told nowhere.
#[tokio::test]
async fn a_token_is_explained_and_not_shown() {
    let authority = Authority::new("Test CA").expect("a CA");
    let (mut plan, _) = plan(mixed_for_one(), REGISTRY, None, authority);
    let token = Token::from_chance(&[5; 32]);
    plan.files
        .push(("token".into(), format!("{}\n", token.reveal()).into_bytes()));
    let (folder, _broker) = lay_out(&plan).await;
    let path = folder.path().join("tidegate.db");
    let registry = Registry::open(&StoreSettings::Sqlite { path })
        .await
        .expect("the registry");
    let proof = Proof::Token(TokenKey::new(KEY).hash(&token));
    let mut record = record("by-token", [proof]);
    record.min_mode = Mode::ServerTls;
    registry.add(&[record], &mut |_| ()).await.expect("added");

    let line = ["explain", "--token-file", "token", "--device", "by-token"];
    let (code, out, err) = tidegate(&line, folder.path());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.starts_with("ADMITTED as by-token by listener devices\n"),
        "{out}"
    );
    assert!(
        out.contains("1: a token; without an end  <- shown"),
        "{out}"
    );
    assert!(!out.contains(token.reveal()), "{out}");
    let line = ["explain", "--token-file", "token", "--device", "somebody"];
    let (code, out, _) = tidegate(&line, folder.path());
    assert_eq!(code, 1);
    assert!(
        out.contains("device_unknown") && out.contains("0x86"),
        "{out}"
    );
}

/// A key that nobody can prove to hold is told without a handshake, as a gate tells it in one.
#[tokio::test]
async fn a_key_that_no_handshake_takes_is_told() {
    let authority = Authority::new("Test CA").expect("a CA");
    let estate = Estate::new(mixed_for_one(), REGISTRY, None, authority).await;
    let folder = estate.gate.folder.path();
    for (key, reason) in [
        (&["rsa:1024"][..], "certificate_unsupported"),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "admitted"),
        (
            &["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
            "certificate_unsupported",
        ),
    ] {
        let line = "req -x509 -noenc -subj /CN=odd -days 9 -keyout odd.key -out odd.pem -newkey";
        let line: Vec<&str> = line.split(' ').chain(key.iter().copied()).collect();
        openssl(folder, &line);
        openssl(
            folder,
            &[
                "x509", "-in", "odd.pem", "-outform", "der", "-out", "odd.der",
            ],
        );
        let der = std::fs::read(folder.join("odd.der")).expect("written");
        let print = Certificate::read(&der).expect("readable").print;
        let pinned = record(
            &format!("odd-{print:02x?}").replace(['[', ']', ',', ' '], ""),
            [Proof::Pinned(Pin::Certificate(print))],
        );
        estate.add(&[pinned]).await;
        let (_, told) = told(&["explain", "odd.der", "--json"], folder);
        let told = told["listeners"][0]["reason"]
            .as_str()
            .unwrap_or("admitted")
            .to_owned();
        assert_eq!(told, reason);

        if reason == "admitted" {
            continue;
        }
        let before = estate.gate.lines("refused").len();
        let asks = connect("", Version::V5).encode().expect("it fits");
        let line = "-tls1_2 -quiet -cipher DEFAULT@SECLEVEL=0 -cert odd.pem -key odd.key";
        let line: Vec<&str> = line.split(' ').collect();
        let met = s_client(folder, estate.gate.address(), &line, &asks).await;
        let refused = async || estate.gate.lines("refused").into_iter().nth(before);
        let refused = until("the gate to tell why", refused).await;
        assert_eq!(refused["reason"], reason, "{}", met.said);
    }
}

/// A token that its issuer signed says itself whose it is.
#[tokio::test]
async fn a_jwt_is_explained() {
    use aws_lc_rs::signature::KeyPair as _;
    use base64::Engine as _;
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().expect("a key");
    let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let jwks = format!(
        "{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"1\",\"x\":\"{}\"}}]}}",
        text(pair.public_key().as_ref())
    );
    let jwt = |issuer: &str| {
        let claims = serde_json::json!({
            "iss": issuer, "aud": "mqtt", "sub": "meter-7", "exp": now() + DAY,
        });
        let head = text(br#"{"alg":"EdDSA","kid":"1"}"#);
        let body = format!("{head}.{}", text(claims.to_string().as_bytes()));
        let signature = text(pair.sign(body.as_bytes()).as_ref());
        format!("{body}.{signature}")
    };
    let more = "[token.jwt]\nkeys = \"jwks.json\"\nissuer = \"https://issuer.example\"\naudience = \"mqtt\"\n\
                algorithms = [\"EdDSA\"]\n\n[connect]\nclient_id = \"{trust}:{device}\"\nusername = \"{trust}:{device}\"\n";
    let gate = Gate::plan(Plan {
        listeners: Some(mixed_for_one()),
        more: more.into(),
        files: vec![("jwks.json".into(), jwks.into_bytes())],
        ..Plan::default()
    });
    let mut gate = gate.await;
    gate.take_broker().welcome_all();
    let vendor = Authority::new("Vendor CA").expect("a CA");
    let estate = Estate { gate, vendor };
    let asks = |jwt: &str| {
        let mut asks = connect("", Version::V5);
        asks.password = Some(Password::new(jwt.as_bytes().to_vec()));
        asks
    };
    let [good, others] = ["https://issuer.example", "https://other.example"].map(jwt);
    let cases = [
        Case::asking("its issuer's", None, &asks(&good), "admitted"),
        Case::asking("another issuer's", None, &asks(&others), "token_bad"),
    ];
    estate.agree(&cases).await;

    estate.put("jwt", good.as_bytes());
    let folder = estate.gate.folder.path();
    let (code, out, _) = tidegate(&["explain", "--token-file", "jwt"], folder);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.starts_with("ADMITTED as meter-7 by listener devices, until "),
        "{out}"
    );
    assert!(!out.contains(&good[..20]), "{out}");
    let at = (now() + 2 * DAY).to_string();
    let line = ["explain", "--token-file", "jwt", "--at", &at];
    let (code, out, _) = tidegate(&line, folder);
    assert_eq!(code, 1);
    assert!(out.contains("token_expired"), "{out}");
}

// ── what is shown, and how

/// The way up, and where each certificate on it is from.
#[tokio::test]
async fn the_chain_is_told_up_to_its_anchor() {
    let root = Authority::new("Root").expect("a CA");
    let [sent, configured] =
        ["Sent", "Configured"].map(|name| root.intermediate(Order::ca(name)).expect("a CA"));
    let of =
        |ca: &Authority| Shown::from(&ca.issue(Order::device_named("meter-7")).expect("issued"));
    let trust = group("fleet", "ca.pem", "intermediates = [\"below.pem\"]");
    let plan = Plan {
        authority: root,
        listeners: Some(
            listener("devices", "mutual-tls", "", "")
                + &listener("others", "mutual-tls", "[\"vendor\"]", "")
                + &trust
                + &group("vendor", "vendor.pem", ""),
        ),
        more: CONNECT.into(),
        files: vec![
            ("below.pem".into(), configured.certificate_pem().into()),
            (
                "vendor.pem".into(),
                Authority::new("Vendor")
                    .expect("a CA")
                    .certificate_pem()
                    .into(),
            ),
            ("by-sent.pem".into(), pem(&of(&sent)).into_bytes()),
            (
                "by-configured.pem".into(),
                pem(&of(&configured).leaf_only()).into_bytes(),
            ),
            ("leaf.der".into(), of(&configured).chain[0].to_vec()),
        ],
        ..Plan::default()
    };
    let (folder, _broker) = lay_out(&plan).await;
    // Whoever asks need not be able to read the server's key.
    std::fs::remove_file(folder.path().join("server.key")).expect("removed");

    for (file, middle) in [
        ("by-sent.pem", ("CN=Sent", "sent by the device, number 2")),
        (
            "by-configured.pem",
            ("CN=Configured", "intermediates of trust[fleet]"),
        ),
        (
            "leaf.der",
            ("CN=Configured", "intermediates of trust[fleet]"),
        ),
    ] {
        let (code, json) = told(&["explain", "--json", file], folder.path());
        assert_eq!(code, 0, "one listener admits it: {json:#}");
        let [at, other] = [&json["listeners"][0], &json["listeners"][1]];
        assert_eq!(other["reason"], "certificate_unknown_issuer");
        assert_eq!(at["chain_verified"], true);
        let links: Vec<_> = at["chain"]
            .as_array()
            .expect("links")
            .iter()
            .map(|link| {
                (
                    link["subject"].as_str().unwrap(),
                    link["source"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            links,
            [
                ("CN=meter-7", "the device's own"),
                middle,
                ("CN=Root", "ca of trust[fleet]")
            ]
        );
        assert_eq!(at["identity"]["trust"], "fleet");
        assert_eq!(at["identity"]["field"], "subject.cn");
        assert_eq!(json["certificate"]["key"], "ECDSA P-256");
        let line = ["explain", "--json", file, "--listener", "others"];
        assert_eq!(told(&line, folder.path()).0, 1, "the other one does not");
    }
}

/// A fingerprint is known by its pin, by what it was last seen with; and only the registry's part is told.
#[tokio::test]
async fn a_fingerprint_tells_the_part_of_the_registry() {
    let authority = Authority::new("Test CA").expect("a CA");
    let (plan, _) = plan(mixed(), &format!("{REGISTRY}{CONNECT}"), None, authority);
    let (folder, _broker) = lay_out(&plan).await;
    let nobody = "ab".repeat(32);
    let (code, _, err) = tidegate(&["explain", &nobody], folder.path());
    assert_eq!(code, 2);
    assert!(err.contains("give its file"), "{err}");
    assert!(
        !folder.path().join("tidegate.db").exists(),
        "nothing is made"
    );

    let path = folder.path().join("tidegate.db");
    let registry = Registry::open(&StoreSettings::Sqlite { path })
        .await
        .expect("the registry");
    let mut off = record("off", [Proof::Pinned(Pin::Certificate([3; 32]))]);
    off.enabled = false;
    let records = [
        record("by-pin", [Proof::Pinned(Pin::Certificate([1; 32]))]),
        record(
            "enrolled",
            [of_group("fleet", Some(Pin::Certificate([2; 32])))],
        ),
        off,
        record("seen", [fleet()]),
    ];
    registry.add(&records, &mut |_| ()).await.expect("added");
    let seen = tidegate::rules::record::LastSeen {
        at: now(),
        address: "192.0.2.1:5".into(),
        mode: Mode::MutualTls,
        certificate: Some([4; 32]),
    };
    registry
        .note_seen(&[(id("seen"), seen)])
        .await
        .expect("noted");

    for (print, device, reason) in [
        (1, "by-pin", None),
        (2, "enrolled", None),
        (3, "off", Some("device_disabled")),
        (4, "seen", None),
    ] {
        let colons = vec![format!("{print:02X}"); 32].join(":");
        let (code, json) = told(&["explain", "--json", &colons], folder.path());
        assert_eq!(code, i32::from(reason.is_some()), "{json:#}");
        assert_eq!(json["record"]["device"], device);
        assert_eq!(json["reason"].as_str(), reason);
        assert_eq!(json["fingerprint"], format!("{print:02x}").repeat(32));
        assert!(json["notes"].to_string().contains("not kept"), "{json:#}");
    }
    let (_, out, _) = tidegate(&["explain", &"01".repeat(32)], folder.path());
    assert!(
        out.starts_with("ADMITTED, as far as the registry goes\n"),
        "{out}"
    );
    assert!(
        out.contains("whoever issued it; without an end  <- shown"),
        "{out}"
    );
}

/// Exit code 2 and a sentence for what cannot be answered; what a device could send is answered.
#[tokio::test]
async fn what_cannot_be_explained_is_told() {
    let authority = Authority::new("Test CA").expect("a CA");
    let (mut plan, _) = plan(mixed(), &format!("{REGISTRY}{CONNECT}"), None, authority);
    let shown = Shown::from(
        &plan
            .authority
            .issue(Order::device_named("a"))
            .expect("issued"),
    );
    plan.files.extend([
        ("a.pem".to_owned(), pem(&shown).into_bytes()),
        ("empty".to_owned(), Vec::new()),
        ("text".to_owned(), b"no certificate at all\n".to_vec()),
        ("noise".to_owned(), vec![0xff; 300]),
        ("cut".to_owned(), b"\x10\x0c\x00\x04MQ".to_vec()),
        ("garbled.der".to_owned(), b"\x30\x03\x02\x01\x05".to_vec()),
    ]);
    let (folder, _broker) = lay_out(&plan).await;
    let nobody = "ab".repeat(32);
    for (arguments, sentence) in [
        (&[][..], "CERT"),
        (&["nowhere.pem"], "nowhere.pem"),
        (&["empty"], "it is empty"),
        (&["text"], "holds no certificates"),
        (&["noise"], "holds no certificates"),
        (&["server.key"], "PRIVATE KEY"),
        (&["."], "no regular file"),
        (&["a.pem", "--at", "soon"], "2027-01-31T12:00:00Z"),
        (
            &["a.pem", "--listener", "nowhere"],
            "the configuration has devices",
        ),
        (&["a.pem", "--connect", "nowhere"], "nowhere"),
        (&["a.pem", "--connect", "empty"], "it is empty"),
        (&["a.pem", "--connect", "text"], "its first byte is 0x6e"),
        (&["a.pem", "--connect", "cut"], "cut off after 6 bytes"),
        (&["a.pem", "--config", "nowhere.toml"], "nowhere.toml"),
        (&["--token-file", "empty"], "it is empty"),
        (&["--token-file", "noise"], "no token"),
        (&[&nobody, "--token-file", "text"], "registry's part"),
        (&["a.pem", "--device", "a"], "--token-file"),
    ] {
        let line = [&["explain"], arguments].concat();
        let (code, out, err) = tidegate(&line, folder.path());
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {err}");
        assert!(err.contains(sentence), "{line:?}: {err}");
        assert!(!err.contains("panicked"), "{err}");
    }
    let (code, json) = told(&["explain", "--json", "garbled.der"], folder.path());
    assert_eq!(code, 1);
    assert_eq!(json["listeners"][0]["reason"], "certificate_malformed");
    assert!(json["certificate"]["subject"].is_null());
    assert!(
        !folder.path().join("tidegate.db").exists(),
        "nothing is made"
    );
    let (code, json) = told(&["explain", "--json", "a.pem"], folder.path());
    assert_eq!(
        (code, &json["listeners"][0]["reason"]),
        (1, &"device_unknown".into())
    );
    std::fs::write(folder.path().join("ca.pem"), "gone").expect("written");
    let (code, _, err) = tidegate(&["explain", "a.pem"], folder.path());
    assert_eq!(code, 2);
    assert!(err.contains("trust[fleet].ca"), "{err}");
}
