//! OpenSSL as a device: another TLS stack finds what it should, and is told what it should (threats.md T3, T6).

use std::process::Stdio;

use tidegate::mqtt::Version;
use tidegate::pki::{Authority, Issued, KeyKind, Order, Validity};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStderr, Command};

use crate::support::device::connect;
use crate::support::gate::{Gate, MUTUAL, Plan};
use crate::support::mosquitto::Mosquitto;
use crate::support::soon;

/// What `openssl s_client` saw.
#[derive(Debug)]
struct Seen {
    /// The first bytes over TLS.
    answer: Vec<u8>,
    /// What it says of the handshake.
    words: String,
}

/// A CONNECT by `openssl s_client` with these arguments, in the gate's folder.
async fn s_client(gate: &Gate, arguments: &[&str]) -> Seen {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-brief",
            "-ign_eof",
            "-verify_return_error",
            "-connect",
        ])
        .arg(gate.address().to_string())
        .args(arguments)
        .current_dir(gate.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("there is no openssl: run ./check, or apt-get install openssl");
    let asks = connect("x", Version::V311).encode().expect("fits");
    let mut stdin = child.stdin.take().expect("piped");
    // It may have ended by now: what it says is judged.
    let _ = stdin.write_all(&asks).await;
    let mut answer = Vec::new();
    let mut stdout = child.stdout.take().expect("piped");
    soon("openssl to hear or end", async {
        while answer.len() < 4 && stdout.read_buf(&mut answer).await.expect("bytes") > 0 {}
    })
    .await;
    child.start_kill().expect("killed, or gone already");
    let ended = soon("openssl to end", child.wait_with_output()).await;
    let words = String::from_utf8(ended.expect("a child").stderr).expect("UTF-8");
    Seen { answer, words }
}

/// CONNACK with code 3, server unavailable: there is no broker here, and to be told so a device must have been let in.
const LET_IN: [u8; 4] = [0x20, 2, 0, 3];

fn nobody() -> Plan {
    Plan {
        addresses: Some("[\"unix:///nobody/is/here\"]".into()),
        ..Plan::default()
    }
}

/// Puts a certificate into the gate's folder, as `NAME.pem` and `NAME.key`.
fn keep(gate: &Gate, name: &str, issued: &Issued) {
    let put = |end: &str, text: &str| {
        std::fs::write(gate.file(&format!("{name}.{end}")), text).expect("written");
    };
    put("pem", &issued.chain_pem());
    put("key", &issued.key_pem());
}

fn shows(name: &str) -> Vec<String> {
    let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
    vec!["-cert".into(), pem, "-key".into(), key]
}

#[tokio::test]
async fn openssl_is_let_in_by_either_tls_version_with_any_key() {
    let gate = Gate::plan(nobody()).await;
    let kinds = [
        ("p256", KeyKind::EcdsaP256),
        ("p384", KeyKind::EcdsaP384),
        ("p521", KeyKind::EcdsaP521),
        ("ed25519", KeyKind::Ed25519),
        ("rsa", KeyKind::Rsa2048),
    ];
    for (name, kind) in kinds {
        let order = Order::device_named(name).key(kind);
        keep(&gate, name, &gate.authority.issue(order).expect("issued"));
        for (flag, version) in [("-tls1_2", "1.2"), ("-tls1_3", "1.3")] {
            let mut arguments = vec![flag, "-CAfile", "ca.pem"];
            let shows = shows(name);
            arguments.extend(shows.iter().map(String::as_str));
            let seen = s_client(&gate, &arguments).await;
            assert_eq!(seen.answer, LET_IN, "{name} over {version}: {seen:?}");
            let words = format!("Protocol version: TLSv{version}");
            assert!(seen.words.contains(&words), "{seen:?}");
            let is_it =
                |line: &serde_json::Value| line["device"] == name && line["tls_version"] == version;
            gate.line("refused", is_it).await;
        }
    }
}

/// Which alert says what: RFC 8446 §6.2, RFC 5246 §7.2.2.
#[tokio::test]
async fn openssl_is_told_what_is_wrong_by_name() {
    let stranger = Authority::new("Stranger").expect("a CA");
    let authority = Authority::new("Test CA").expect("a CA");
    let usual = Validity::days(30);
    let past = Validity {
        not_before: usual.not_before - 86_400,
        not_after: usual.not_before,
    };
    let issue = |order: Order| authority.issue(order).expect("issued");
    let good = || Order::device_named("meter-7");
    let revoked = issue(good());
    let crl = authority
        .crl(&[revoked.serial()], usual.not_before, usual.not_after)
        .expect("a list");
    let server = Order::server(&["localhost"]).expect("a name");
    let wrong = [
        (
            "expired",
            issue(good().valid(past)),
            "certificate expired",
            "certificate_expired",
        ),
        (
            "revoked",
            revoked,
            "certificate revoked",
            "certificate_revoked",
        ),
        (
            "purpose",
            issue(server),
            "unsupported certificate",
            "certificate_wrong_purpose",
        ),
        (
            "stranger",
            stranger.issue(good()).expect("issued"),
            "unknown ca",
            "certificate_unknown_issuer",
        ),
    ];
    let gate = Gate::plan(Plan {
        files: vec![("ca.crl".into(), crl.pem().expect("PEM").into_bytes())],
        trust: "crl = [\"ca.crl\"]".into(),
        authority,
        ..nobody()
    })
    .await;
    for (name, issued, alert, reason) in &wrong {
        keep(&gate, name, issued);
        for (nth, flag) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
            let mut arguments = vec![flag, "-CAfile", "ca.pem"];
            let shows = shows(name);
            arguments.extend(shows.iter().map(String::as_str));
            let seen = s_client(&gate, &arguments).await;
            let words = format!("alert {alert}");
            assert!(seen.words.contains(&words), "{name} by {flag}: {seen:?}");
            assert!(seen.answer.is_empty(), "{name} by {flag}: {seen:?}");
            let counted = [("reason", *reason)];
            let so_far = f64::from(u8::try_from(nth).expect("small") + 1);
            gate.metric_becomes("tidegate_refusals_total", &counted, so_far)
                .await;
        }
    }

    for flag in ["-tls1_2", "-tls1_3"] {
        let seen = s_client(&gate, &[flag, "-CAfile", "ca.pem"]).await;
        assert!(
            seen.words.contains("alert certificate required"),
            "{flag}: {seen:?}"
        );
    }
    gate.refusal("no_certificate").await;
}

/// A device that is too old for the listener hears so, whether it is too old for the gate or for this listener only.
#[tokio::test]
async fn openssl_is_told_when_its_tls_is_too_old() {
    let old = ["-cipher", "ALL:@SECLEVEL=0", "-CAfile", "ca.pem"];
    let listener = MUTUAL.to_owned() + "min_version = \"1.3\"\n";
    let trust = "[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n";
    let plans = [
        (nobody(), &["-tls1", "-tls1_1"][..]),
        (
            Plan {
                listeners: Some(listener + trust),
                ..nobody()
            },
            &["-tls1", "-tls1_1", "-tls1_2"],
        ),
    ];
    for (plan, flags) in plans {
        let gate = Gate::plan(plan).await;
        for flag in flags {
            let seen = s_client(&gate, &[&[*flag], &old[..]].concat()).await;
            assert!(
                seen.words.contains("alert protocol version"),
                "{flag}: {seen:?}"
            );
        }
        gate.metric_becomes(
            "tidegate_refusals_total",
            &[("reason", "nothing_in_common")],
            f64::from(u8::try_from(flags.len()).expect("small")),
        )
        .await;
        for line in gate.lines("refused") {
            let why = line["why"].as_str().expect("text");
            assert!(why.contains("TLS 1."), "it should say which version: {why}");
        }
    }
}

/// `[[listener.tls.also]]`: a device that knows ECDSA only and one that knows RSA only call the same name, and each
/// gets the certificate that it can verify.
#[tokio::test]
async fn a_device_gets_the_certificate_that_its_signatures_ask_for() {
    let names = ["localhost"];
    let rsa_ca = Order::ca("RSA CA").key(KeyKind::Rsa2048);
    let rsa_ca = Authority::root(rsa_ca).expect("a CA");
    let order = Order::server(&names).expect("names").key(KeyKind::Rsa2048);
    let rsa = rsa_ca.issue(order).expect("issued");
    let device = |kind| Order::device_named("meter-7").key(kind);
    let by_rsa = rsa_ca.issue(device(KeyKind::Rsa2048)).expect("issued");
    let also = "[[listener.tls.also]]\nnames = [\"localhost\"]\ncertificate = \"rsa.pem\"\nkey = \"rsa.key\"\n";
    let trust = "[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\", \"rsa-ca.pem\"]\n";
    let gate = Gate::plan(Plan {
        listeners: Some([MUTUAL, also, trust].concat()),
        files: vec![
            ("rsa.pem".into(), rsa.chain_pem().into_bytes()),
            ("rsa.key".into(), rsa.key_pem().as_bytes().to_vec()),
            (
                "rsa-ca.pem".into(),
                rsa_ca.certificate_pem().as_bytes().to_vec(),
            ),
        ],
        ..nobody()
    })
    .await;
    keep(&gate, "by-rsa", &by_rsa);
    let by_ecdsa = device(KeyKind::EcdsaP256);
    keep(
        &gate,
        "by-ecdsa",
        &gate.authority.issue(by_ecdsa).expect("issued"),
    );

    let rsa_only = "rsa_pss_rsae_sha256:rsa_pkcs1_sha256";
    let ecdsa_only = "ecdsa_secp256r1_sha256";
    for (device, ca, signatures, word) in [
        ("by-ecdsa", "ca.pem", ecdsa_only, "ECDSA"),
        ("by-rsa", "rsa-ca.pem", rsa_only, "RSA-PSS"),
    ] {
        for flag in ["-tls1_2", "-tls1_3"] {
            let mut arguments = vec![flag, "-servername", "localhost", "-CAfile", ca];
            arguments.extend(["-sigalgs", signatures]);
            let shows = shows(device);
            arguments.extend(shows.iter().map(String::as_str));
            let seen = s_client(&gate, &arguments).await;
            assert_eq!(seen.answer, LET_IN, "{device} by {flag}: {seen:?}");
            let words = format!("Signature type: {word}\n");
            assert!(seen.words.contains(&words), "{device} by {flag}: {seen:?}");
        }
    }
}

/// What small TLS stacks do: one curve, one suite, small records, no server name or one of its own making, protocols
/// that nobody configured.
#[tokio::test]
async fn a_small_tls_stack_is_let_in() {
    let gate = Gate::plan(nobody()).await;
    let order = Order::device_named("meter-7").key(KeyKind::Rsa2048);
    keep(
        &gate,
        "small",
        &gate.authority.issue(order).expect("issued"),
    );
    let shows = shows("small");
    for extra in [
        &[
            "-curves",
            "P-256",
            "-cipher",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ][..],
        &[
            "-curves",
            "P-384:P-256",
            "-cipher",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ],
        &["-max_send_frag", "512"],
        &["-maxfraglen", "512"],
        &["-servername", "nobody.example.net"],
        &["-alpn", "mqtt,x-amzn-mqtt-ca"],
        &["-status"],
    ] {
        let mut arguments = [&["-tls1_2", "-CAfile", "ca.pem"], extra].concat();
        arguments.extend(shows.iter().map(String::as_str));
        let seen = s_client(&gate, &arguments).await;
        assert_eq!(seen.answer, LET_IN, "{extra:?}: {seen:?}");
    }
}

/// TLS 1.3: either side may change its keys at any time (RFC 8446 §4.6.3), and the connection goes on.
#[tokio::test]
async fn a_connection_outlives_its_keys() {
    let mosquitto = Mosquitto::start().await;
    let gate = Gate::plan(Plan {
        addresses: Some(format!("[\"{}\"]", mosquitto.address())),
        ..Plan::default()
    })
    .await;
    let order = Order::device_named("meter-7");
    keep(
        &gate,
        "meter-7",
        &gate.authority.issue(order).expect("issued"),
    );
    let mut child = Command::new("openssl")
        .args([
            "s_client", "-brief", "-tls1_3", "-CAfile", "ca.pem", "-connect",
        ])
        .arg(gate.address().to_string())
        .args(shows("meter-7"))
        .current_dir(gate.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("there is no openssl: run ./check, or apt-get install openssl");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut heard = async |bytes: usize| {
        let mut answer = vec![0; bytes];
        soon("an answer", stdout.read_exact(&mut answer))
            .await
            .expect("an answer");
        answer
    };
    let asks = connect("x", Version::V311).encode().expect("fits");
    stdin.write_all(&asks).await.expect("sent");
    assert_eq!(heard(4).await, [0x20, 2, 0, 0]);
    // k: it changes its keys; K: and asks the gate to change its own.
    for command in ["k\n", "K\n", "K\n", "k\n"] {
        stdin.write_all(command.as_bytes()).await.expect("sent");
        until_it_says(&mut stderr, "KEYUPDATE").await;
        stdin.write_all(&[0xc0, 0]).await.expect("a ping");
        assert_eq!(heard(2).await, [0xd0, 0], "a pong after {command:?}");
    }
}

async fn until_it_says(lines: &mut Lines<BufReader<ChildStderr>>, word: &str) {
    soon(word, async {
        while lines.next_line().await.expect("UTF-8").as_deref() != Some(word) {}
    })
    .await;
}
