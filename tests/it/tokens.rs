//! Devices without a certificate: opaque tokens of the registry, and JWTs (threats.md K1 to K4, I8).

use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password};
use tidegate::pki::Authority;
use tidegate::rules::device::Mode;
use tidegate::rules::identity::Field;
use tidegate::rules::record::{Proof, Valid};
use tidegate::rules::token::{Token, TokenKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::device::{Answer, Device, connect};
use crate::support::estate::{Estate, KEY, MIXED, admitted, ends, now, record, with_token};
use crate::support::gate::{Gate, Plan};
use crate::support::until;

/// Listeners of the two modes in which a token is all there is.
const WEAK: &str = r#"
[[listener]]
name = "devices"
bind = "127.0.0.1:0"
mode = "server-tls"
[listener.tls]
certificate = "server.pem"
key = "server.key"

[[listener]]
name = "open"
bind = "127.0.0.1:0"
mode = "plain"
"#;

fn token() -> Token {
    Token::from_chance(&[1; 32])
}

/// An issuer of JWTs with one P-256 key.
struct Issuer {
    kid: String,
    key: EcdsaKeyPair,
}

impl Issuer {
    fn new(kid: &str) -> Self {
        Self {
            kid: kid.into(),
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
        }
    }

    /// The set of this one key.
    fn keys(&self) -> Vec<u8> {
        let point = self.key.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({
            "kty": "EC", "crv": "P-256", "kid": self.kid, "x": part(&point[1..33]), "y": part(&point[33..]),
        });
        json!({ "keys": [key] }).to_string().into_bytes()
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// A token for `device` that ends in so many seconds.
    fn token(&self, device: &str, seconds: i64) -> String {
        self.sign(&json!({
            "iss": "https://issuer.example", "aud": "mqtt", "sub": device, "exp": now() + seconds,
        }))
    }
}

/// A gate that takes the JWTs of `issuer`.
async fn gate(issuer: &Issuer, more: &str) -> Gate {
    let section = "[token.jwt]\nkeys = \"jwks.json\"\nissuer = \"https://issuer.example\"\naudience = \"mqtt\"\n";
    let mut gate = Gate::plan(Plan {
        listeners: Some(WEAK.into()),
        more: format!("{section}{more}"),
        files: vec![
            ("jwks.json".into(), issuer.keys()),
            ("token.key".into(), hex::encode(KEY).into_bytes()),
        ],
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    gate
}

fn shows(password: &str, version: Version) -> Connect {
    let mut asks = connect("any", version);
    asks.username = Some("whatever".into());
    asks.password = Some(Password::new(password.as_bytes().to_vec()));
    asks
}

/// A JWT is who it says it is; whatever is wrong with one gets one answer, and is told in the log.
#[tokio::test]
async fn a_jwt_names_its_device_and_a_bad_one_nobody() {
    let issuer = Issuer::new("1");
    let gate = gate(&issuer, "").await;
    let device = gate.stranger();
    let good = issuer.token("meter-7", 60);
    admitted(&device, &shows(&good, Version::V311)).await;

    let claims = |change: fn(&mut Value)| {
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": "mqtt", "sub": "meter-7", "exp": now() + 60,
        });
        change(&mut claims);
        issuer.sign(&claims)
    };
    let (front, signature) = good.rsplit_once('.').expect("three parts");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let payload = front.split_once('.').expect("two parts").1;
    let bad = [
        (
            "another issuer's",
            claims(|c| c["iss"] = json!("https://evil.example")),
        ),
        ("for somebody else", claims(|c| c["aud"] = json!("http"))),
        ("over", claims(|c| c["exp"] = json!(now() - 31))),
        (
            "without an end",
            claims(|c| drop(c.as_object_mut().expect("claims").remove("exp"))),
        ),
        (
            "a text for a number",
            claims(|c| c["exp"] = json!((now() + 60).to_string())),
        ),
        ("no device id", claims(|c| c["sub"] = json!("a/#"))),
        ("unsigned", format!("{none}.{payload}.")),
        (
            "signed by nobody known",
            Issuer::new("1").token("meter-7", 60),
        ),
        ("of an unknown key", Issuer::new("2").token("meter-7", 60)),
        ("cut", format!("{front}.{}", &signature[1..])),
        ("long", "a.b.".to_owned() + &"c".repeat(15_000)),
        ("nothing like one", "hunter2".into()),
    ];
    for (what, token) in &bad {
        let told = device.asks(&shows(token, Version::V5)).await.0;
        assert_eq!(told, Answer::Refused(0x86), "{what}");
        let told = device.asks(&shows(token, Version::V311)).await.0;
        assert_eq!(told, Answer::Refused(0x04), "{what}");
    }
    let log = gate.log_text();
    assert!(
        !log.contains(signature) && !log.contains("hunter2"),
        "K2: {log}"
    );
}

/// threats.md R1, T5: the connection ends with its token, 30 s of leeway included.
#[tokio::test]
async fn a_connection_ends_when_its_jwt_does() {
    let issuer = Issuer::new("1");
    let gate = gate(&issuer, "").await;
    let short = issuer.token("meter-7", -28);
    let mut link = admitted(&gate.stranger(), &shows(&short, Version::V5)).await;
    assert_eq!(link.packet().await.expect("a DISCONNECT")[2], 0xa0);
    gate.line("closed", |line| line["reason"] == "expired")
        .await;
}

/// threats.md R1: a key that its issuer takes away takes the connections along that it vouched for.
#[tokio::test]
async fn a_key_taken_away_ends_the_connections_that_it_vouched_for() {
    let (old, new) = (Issuer::new("1"), Issuer::new("2"));
    let gate = gate(&old, "").await;
    let device = gate.stranger();
    let mut link = admitted(&device, &shows(&old.token("meter-7", 60), Version::V5)).await;
    std::fs::write(gate.file("jwks.json"), new.keys()).expect("written");
    assert_eq!(link.packet().await.expect("a DISCONNECT")[2], 0x87);
    gate.line("closed", |line| line["reason"] == "trust_ended")
        .await;
    admitted(&device, &shows(&new.token("meter-7", 60), Version::V5)).await;
}

/// threats.md R2: what is asked of a token is another question after a reload, and who was let in by the old one cannot answer it.
#[tokio::test]
async fn another_audience_ends_the_connections_of_the_old_one() {
    let issuer = Issuer::new("1");
    let gate = gate(&issuer, "").await;
    let device = gate.stranger();
    let asks = shows(&issuer.token("meter-7", 60), Version::V5);
    let mut link = admitted(&device, &asks).await;
    gate.signal("HUP");
    gate.line("reloaded", |_| true).await;
    link.say(&[0xc0, 0]).await.expect("the same is asked");

    let config = gate.file("tidegate.toml");
    let text = std::fs::read_to_string(&config).expect("its file");
    let text = text.replace("audience = \"mqtt\"", "audience = \"other\"");
    std::fs::write(&config, text).expect("written");
    assert_eq!(link.packet().await.expect("a DISCONNECT")[2], 0x87);
    let (answer, _) = device.asks(&asks).await;
    assert_ne!(answer, Answer::Admitted);
}

/// A set of keys at an https address, which shows a certificate of that CA; the tests' own.
async fn served(ca: &Authority, keys: Vec<u8>) -> String {
    let own = ca.server(&["localhost"]).expect("issued");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ));
    let config = config
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(own.chain(), own.key())
        .expect("a key that fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", keys.len());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&[head.as_bytes(), &keys].concat()).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("https://localhost:{port}/jwks.json")
}

/// threats.md R2, K1: another place of the keys counts once it has given some; connections of keys that are not there end, and a place
/// that gives none changes nothing.
#[tokio::test]
async fn another_address_of_the_keys_counts_once_it_has_answered() {
    let (old, new) = (Issuer::new("1"), Issuer::new("2"));
    let gate = gate(&old, "").await;
    let device = gate.stranger();
    let mut link = admitted(&device, &shows(&old.token("meter-7", 60), Version::V5)).await;
    let config = gate.file("tidegate.toml");
    let text = std::fs::read_to_string(&config).expect("its file");
    let written = "keys = \"jwks.json\"";
    assert!(text.contains(written), "{text}");
    let put = |keys: &str| {
        let keys = format!("keys = {keys:?}\nca = \"ca.pem\"");
        std::fs::write(gate.file("draft.toml"), text.replace(written, &keys)).expect("written");
        std::fs::rename(gate.file("draft.toml"), &config).expect("renamed");
    };
    put("https://localhost:1/jwks.json");
    let fault = gate.line("reload_failed", |_| true).await;
    assert!(
        fault["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("token.jwt.keys: ")),
        "{fault}"
    );
    let stranger = Authority::new("Another CA").expect("a CA");
    put(&served(&stranger, new.keys()).await);
    gate.signal("HUP");
    gate.next_line("reload_failed", 1).await;
    link.say(&[0xc0, 0]).await.expect("it stays");
    let fresh = shows(&new.token("meter-8", 60), Version::V5);
    assert_ne!(device.asks(&fresh).await.0, Answer::Admitted);

    put(&served(&gate.authority, new.keys()).await);
    assert_eq!(link.packet().await.expect("a DISCONNECT")[2], 0x87);
    admitted(&device, &fresh).await;
    let again = shows(&old.token("meter-7", 60), Version::V5);
    assert_ne!(device.asks(&again).await.0, Answer::Admitted);
    assert_eq!(gate.count("reloaded"), 1);
}

/// threats.md R2, K2: the key of the registry's tokens is swapped for the right one only, and neither is told.
#[tokio::test]
async fn a_token_key_counts_if_it_is_the_registrys() {
    let (right, wrong) = (hex::encode(KEY), hex::encode([8; 32]));
    let mut gate = Gate::plan(Plan {
        listeners: Some(MIXED.into()),
        more: "[registry]\nurl = \"sqlite://tidegate.db\"\n".into(),
        files: vec![("token.key".into(), wrong.clone().into_bytes())],
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    let estate = Estate::of(gate).await;
    let own = TokenKey::new(KEY).check_value();
    estate.registry.token_key_check(&own).await.expect("kept");
    estate.add(record("meter-7", Some(&token()))).await;
    let device = estate.gate.stranger();
    let asks = with_token("meter-7", &token(), Version::V5);
    assert_eq!(device.asks(&asks).await.0, Answer::Refused(0x86));

    let file = estate.gate.file("token.key");
    std::fs::write(&file, &right).expect("written");
    estate.gate.line("reloaded", |_| true).await;
    let mut link = admitted(&device, &asks).await;
    for other in [wrong.as_str(), "no key", ""] {
        let before = estate.gate.count("reload_failed");
        std::fs::write(&file, other).expect("written");
        estate.gate.signal("HUP");
        let fault = estate.gate.next_line("reload_failed", before).await;
        let why = fault["why"].as_str().expect("text");
        assert!(why.starts_with("token.key_file: "), "{why}");
        admitted(&device, &asks).await;
    }
    let before = estate.gate.count("reload_failed");
    std::fs::remove_file(&file).expect("removed");
    estate.gate.signal("HUP");
    estate.gate.next_line("reload_failed", before).await;
    let before = estate.gate.count("reloaded");
    std::fs::write(&file, &right).expect("written");
    estate.gate.next_line("reloaded", before).await;
    admitted(&device, &asks).await;
    link.say(&[0xc0, 0]).await.expect("it stayed");
    let log = estate.gate.log_text();
    assert!(!log.contains(&right) && !log.contains(&wrong), "K2");
}

/// threats.md K3, I8: where nothing hides it, a token counts only for devices whose owner says so.
#[tokio::test]
async fn a_token_over_plain_is_for_devices_whose_owner_says_so() {
    let issuer = Issuer::new("1");
    let gate = gate(&issuer, "[registry]\nurl = \"sqlite://tidegate.db\"\n").await;
    let estate = Estate::of(gate).await;
    let mut careful = record("careful", Some(&token()));
    let issuers = Proof::Vouched {
        group: "jwt".into(),
        field: Field::SubjectCn,
        pin: None,
    };
    careful.add_credential(issuers, Valid::since(now()));
    estate.add(careful).await;
    let mut careless = record("careless", Some(&token()));
    careless.min_mode = Mode::Plain;
    estate.add(careless).await;
    let plain = Device::plain(estate.gate.addresses["open"]);
    let asks = |name| with_token(name, &token(), Version::V5);
    assert_eq!(plain.asks(&asks("careful")).await.0, Answer::Refused(0x87));
    estate.gate.refusal("mode_not_allowed").await;
    admitted(&plain, &asks("careless")).await;
    admitted(&estate.gate.stranger(), &asks("careful")).await;

    // The same for a JWT, of a device that is bound to its issuer.
    let jwt = issuer.token("careful", 60);
    let told = plain.asks(&shows(&jwt, Version::V5)).await.0;
    assert_eq!(told, Answer::Refused(0x87));
    admitted(&estate.gate.stranger(), &shows(&jwt, Version::V5)).await;
    let unbound = shows(&issuer.token("careless", 60), Version::V5);
    let told = estate.gate.stranger().asks(&unbound).await.0;
    assert_eq!(
        told,
        Answer::Refused(0x86),
        "loosened for its own token only"
    );
    let unknown = shows(&issuer.token("nobody", 60), Version::V5);
    let told = estate.gate.stranger().asks(&unknown).await.0;
    assert_eq!(told, Answer::Refused(0x86), "unknown = refuse");
}

/// threats.md K2: the broker never hears of a token, unless the operator says so.
#[tokio::test]
async fn a_token_stays_at_the_gate() {
    for (connect_section, reaches) in [("", false), ("password = \"{password}\"", true)] {
        let more =
            format!("[registry]\nurl = \"sqlite://tidegate.db\"\n[connect]\n{connect_section}\n");
        let gate = Gate::plan(Plan {
            listeners: Some(WEAK.into()),
            more,
            files: vec![("token.key".into(), hex::encode(KEY).into_bytes())],
            ..Plan::default()
        })
        .await;
        let estate = Estate::of(gate).await;
        estate.add(record("meter-7", Some(&token()))).await;
        let device = estate.gate.stranger();
        let asks = with_token("meter-7", &token(), Version::V5);
        let (answer, visit) = tokio::join!(device.asks(&asks), estate.gate.broker().welcome());
        assert_eq!(answer.0, Answer::Admitted);
        let heard = visit.packet.windows(4).any(|four| four == b"tdg_");
        assert_eq!(heard, reaches, "{connect_section:?}");
        assert_eq!(visit.connect.username.as_deref(), Some("meter-7"));
    }
}

/// Old and new tokens are both good while they overlap; afterwards the old one is nobody's, and its connection ends.
#[tokio::test]
async fn a_rotated_token_goes_when_its_overlap_is_over() {
    let estate = Estate::new().await;
    let (old, new) = (token(), Token::from_chance(&[2; 32]));
    estate.add(record("meter-7", Some(&old))).await;
    let device = estate.gate.stranger();
    let asks = |token: &Token| with_token("meter-7", token, Version::V5);
    let mut link = admitted(&device, &asks(&old)).await;
    let hash = TokenKey::new(KEY).hash(&new);
    estate
        .change("meter-7", move |record| {
            record.credentials[1].valid.until = Some(now() + 2);
            record.add_credential(Proof::Token(hash), Valid::since(now()));
        })
        .await;
    until("the new token to count", async || {
        (device.asks(&asks(&new)).await.0 == Answer::Admitted).then_some(())
    })
    .await;
    ends(
        &estate,
        &mut link,
        Version::V5,
        "expired",
        0xa0,
        Instant::now(),
    )
    .await;
    assert_eq!(
        device.asks(&asks(&old)).await.0,
        Answer::Refused(0x86),
        "replay"
    );
    admitted(&device, &asks(&new)).await;
}

/// A token that was put into the wrong field is not in the log either.
#[tokio::test]
async fn a_token_in_the_wrong_field_is_not_told() {
    let estate = Estate::new().await;
    let mut asks = connect(token().reveal(), Version::V5);
    asks.username = Some(token().reveal().into());
    let device = estate.gate.stranger();
    assert_eq!(device.asks(&asks).await.0, Answer::Refused(0x86));
    estate.gate.refusal("token_bad").await;
    assert!(
        !estate.gate.log_text().contains("tdg_"),
        "{}",
        estate.gate.log_text()
    );
}
