//! Attacks on tokens, and the tokens that must pass.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::testing::{Issuer, base64, jwks};
use super::*;

mod key_sets;

/// In seconds since 1970.
const NOW: i64 = 1_800_000_000;

fn settings() -> Settings {
    Settings {
        issuer: "https://issuer.example".into(),
        audience: "mqtt".into(),
        algorithms: Algorithm::ALL.to_vec(),
        device_claim: "sub".into(),
        alphabet: Alphabet::default(),
    }
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "mqtt", "sub": "meter-7", "exp": NOW + 300, "iat": NOW - 10})
}

/// [`claims`] with one changed, or taken away where it is null.
fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().expect("an object").remove(claim);
    } else {
        claims[claim] = value;
    }
    claims
}

/// One key of each kind; what it makes costs little.
struct World {
    rsa: Issuer,
    p256: Issuer,
    ed: Issuer,
    keys: Keys,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (rsa, p256, ed) = (
        Issuer::new("rsa", "RS256"),
        Issuer::new("p256", "ES256"),
        Issuer::new("ed", "EdDSA"),
    );
    let keys = jwks(&[rsa.jwk(), p256.jwk(), ed.jwk()]);
    let keys = Keys::read(&keys, &Algorithm::ALL).expect("good keys");
    World {
        rsa,
        p256,
        ed,
        keys,
    }
});

fn judge(token: impl AsRef<[u8]>) -> Result<Claims, Bad> {
    verify(token.as_ref(), &settings(), &WORLD.keys, NOW)
}

/// What becomes of these claims, well signed.
fn judge_claims(claims: &Value) -> Result<Claims, Bad> {
    judge(WORLD.ed.token(&WORLD.ed.header(), claims))
}

/// What becomes of claims that are written just so, well signed.
fn judge_text(claims: &str) -> Result<Claims, Bad> {
    judge(WORLD.ed.token_of(&WORLD.ed.header().to_string(), claims))
}

fn judge_header(header: &Value) -> Result<Claims, Bad> {
    judge(WORLD.ed.token(header, &claims()))
}

#[test]
fn a_token_of_every_algorithm_says_who_the_device_is() {
    let rsa = Issuer::new("k", "RS256");
    for algorithm in Algorithm::ALL {
        let alg = algorithm.word();
        let is_rsa = alg.starts_with(['R', 'P']);
        let one = if is_rsa {
            rsa.with_alg(alg)
        } else {
            Issuer::new("k", alg)
        };
        let keys = Keys::read(&jwks(&[one.jwk()]), &[algorithm]).expect("good keys");
        let only = Settings {
            algorithms: vec![algorithm],
            ..settings()
        };
        let token = one.token(&one.header(), &claims());
        let good = verify(token.as_bytes(), &only, &keys, NOW).expect("a good token");
        assert_eq!(good.device.as_str(), "meter-7", "{alg}");
        assert_eq!(good.not_after, NOW + 300 + LEEWAY);
        assert!(keys.holds(&good.key));
        // Each other algorithm is another: also those of the same key.
        for other in Algorithm::ALL
            .into_iter()
            .filter(|other| *other != algorithm)
        {
            let others = Settings {
                algorithms: vec![other],
                ..settings()
            };
            assert_eq!(
                verify(token.as_bytes(), &others, &keys, NOW),
                Err(Bad::Algorithm)
            );
            let mut header = one.header();
            header["alg"] = other.word().into();
            let relabelled = one.token(&header, &claims());
            let judged = verify(relabelled.as_bytes(), &settings(), &keys, NOW);
            assert!(
                matches!(judged, Err(Bad::Signature | Bad::KeyOfAnotherKind)),
                "{alg} as {}",
                other.word()
            );
        }
    }
}

/// threats.md K1: neither "no signature" nor one that the verifier's key could make.
#[test]
fn no_token_chooses_how_it_is_checked() {
    for alg in [
        "none", "None", "NoNe", "NONE", "", "HS256", "HS384", "HS512", "es256", "ES256 ", "ES512",
        "ES256K", "Ed25519", "RSA1_5", "dir",
    ] {
        let header = json!({"alg": alg, "kid": "ed"});
        assert_eq!(judge_header(&header), Err(Bad::Algorithm), "{alg}");
        let unsigned = format!(
            "{}.{}.",
            base64(header.to_string()),
            base64(claims().to_string())
        );
        assert_eq!(judge(&unsigned), Err(Bad::NotAJwt));
        assert_eq!(judge(format!("{unsigned}AA")), Err(Bad::Algorithm));
    }
    for alg in [json!(null), json!(["EdDSA"]), json!({"EdDSA": 1}), json!(1)] {
        assert_eq!(
            judge_header(&json!({"alg": alg, "kid": "ed"})),
            Err(Bad::Header("alg"))
        );
    }
    assert_eq!(judge_header(&json!({"kid": "ed"})), Err(Bad::Header("alg")));
}

/// threats.md K1: CVE-2016-5431 and its many likes.
#[test]
fn the_public_key_is_no_secret_to_sign_with() {
    let pem = WORLD.rsa.public_pem();
    let n = WORLD.rsa.jwk()["n"].as_str().expect("a text").to_owned();
    for secret in [pem.as_str(), pem.trim_end(), &n, ""] {
        for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
            let header = json!({"alg": alg, "kid": "rsa"}).to_string();
            let message = format!("{}.{}", base64(header), base64(claims().to_string()));
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
            let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
            let judged = judge(format!("{message}.{}", base64(tag)));
            let expected = match alg {
                "HS256" => Bad::Algorithm,
                "RS256" => Bad::Signature,
                _ => Bad::KeyOfAnotherKind,
            };
            assert_eq!(judged, Err(expected), "{alg}");
        }
    }
}

/// A kid is a name among ours, compared exactly, and nothing else.
#[test]
fn a_kid_opens_nothing_but_its_own_key() {
    for kid in [
        "../../../../dev/null",
        "/etc/passwd",
        "ed' OR '1'='1",
        "ed\0",
        "ED",
        " ed",
        "",
        "0",
        "https://evil.example/jwks.json",
        "| id",
        &"k".repeat(4000),
    ] {
        assert_eq!(
            judge_header(&json!({"alg": "EdDSA", "kid": kid})),
            Err(Bad::UnknownKey),
            "{kid:.20}"
        );
    }
    for kid in [json!(null), json!(1), json!(["ed"]), json!({"ed": 1})] {
        assert_eq!(
            judge_header(&json!({"alg": "EdDSA", "kid": kid})),
            Err(Bad::Header("kid"))
        );
    }
    assert_eq!(
        judge_header(&json!({"alg": "EdDSA", "kid": "p256"})),
        Err(Bad::KeyOfAnotherKind)
    );
    assert_eq!(
        judge_header(&json!({"alg": "ES384", "kid": "p256"})),
        Err(Bad::KeyOfAnotherKind)
    );
    // A key of the issuer that is for another algorithm only.
    let mut jwk = WORLD.rsa.jwk();
    jwk["alg"] = "PS256".into();
    let keys = Keys::read(&jwks(&[jwk]), &Algorithm::ALL).expect("good");
    let token = WORLD.rsa.token(&WORLD.rsa.header(), &claims());
    assert_eq!(
        verify(token.as_bytes(), &settings(), &keys, NOW),
        Err(Bad::KeyOfAnotherKind)
    );
}

#[test]
fn without_a_kid_exactly_one_key_must_fit() {
    let header = json!({"alg": "EdDSA"});
    assert!(judge_header(&header).is_ok());
    assert_eq!(judge_header(&json!({"alg": "ES384"})), Err(Bad::UnknownKey));
    let (ed, other) = (&WORLD.ed, Issuer::new("other", "EdDSA"));
    let two = Keys::read(&jwks(&[ed.jwk(), other.jwk()]), &Algorithm::ALL).expect("good");
    let token = ed.token(&header, &claims());
    assert_eq!(
        verify(token.as_bytes(), &settings(), &two, NOW),
        Err(Bad::NoKid)
    );
    let none = verify(token.as_bytes(), &settings(), &Keys::default(), NOW);
    assert_eq!(none, Err(Bad::UnknownKey));
}

/// A token that brings its own key along is judged by ours.
#[test]
fn keys_in_the_header_are_not_looked_at() {
    let own = Issuer::new("ed", "EdDSA");
    for (name, value) in [
        ("jwk", own.jwk()),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        let mut header = own.header();
        header[name] = value;
        assert_eq!(
            judge(own.token(&header, &claims())),
            Err(Bad::Signature),
            "{name}"
        );
        assert!(
            judge(WORLD.ed.token(&header, &claims())).is_ok(),
            "{name} does not disturb a good token"
        );
    }
    for crit in [json!(["b64"]), json!([]), json!(null), json!(["exp"])] {
        let mut header = WORLD.ed.header();
        header["crit"] = crit;
        assert_eq!(judge_header(&header), Err(Bad::Critical));
    }
}

#[test]
fn the_issuer_is_ours_to_the_letter() {
    for iss in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "https://issuer.example.evil",
        "",
        " https://issuer.example",
    ] {
        let judged = judge_claims(&with("iss", json!(iss)));
        assert_eq!(
            judged,
            Err(Bad::Issuer("https://issuer.example".into())),
            "{iss}"
        );
    }
    assert_eq!(
        judge_claims(&with("iss", Value::Null)),
        Err(Bad::Missing("iss".into()))
    );
    for iss in [
        json!(["https://issuer.example"]),
        json!(1),
        json!({}),
        json!(true),
    ] {
        let judged = judge_claims(&with("iss", iss));
        assert!(matches!(judged, Err(Bad::Unreadable { .. })), "{judged:?}");
    }
}

#[test]
fn the_audience_is_or_holds_ours() {
    for aud in [
        json!("mqtt"),
        json!(["mqtt"]),
        json!(["web", "mqtt", "mqtt"]),
    ] {
        assert!(judge_claims(&with("aud", aud)).is_ok());
    }
    for aud in [
        json!("MQTT"),
        json!("mqtt "),
        json!("web,mqtt"),
        json!([]),
        json!(["web"]),
        json!(""),
    ] {
        assert_eq!(
            judge_claims(&with("aud", aud)),
            Err(Bad::Audience("mqtt".into()))
        );
    }
    for aud in [
        json!(["mqtt", 1]),
        json!([["mqtt"]]),
        json!({"mqtt": 1}),
        json!(1),
        json!(["mqtt", null]),
    ] {
        let judged = judge_claims(&with("aud", aud));
        assert!(matches!(judged, Err(Bad::Unreadable { .. })), "{judged:?}");
    }
    assert_eq!(
        judge_claims(&with("aud", Value::Null)),
        Err(Bad::Missing("aud".into()))
    );
}

#[test]
fn clocks_may_differ_by_30_seconds_and_no_more() {
    let good = |claim, value: i64| judge_claims(&with(claim, json!(value)));
    let ended = good("exp", NOW - 30).expect("30 s ago");
    assert_eq!(ended.not_after, NOW, "what is taken now counts now");
    assert_eq!(good("exp", NOW - 31), Err(Bad::Expired));
    assert_eq!(good("exp", 0), Err(Bad::Expired));
    for claim in ["nbf", "iat"] {
        assert!(good(claim, NOW + 30).is_ok(), "{claim}");
        assert_eq!(good(claim, NOW + 31), Err(Bad::NotYet(claim)));
        assert!(
            judge_claims(&with(claim, Value::Null)).is_ok(),
            "{claim} may be missing"
        );
        assert!(good(claim, 0).is_ok());
    }
    assert_eq!(
        judge_claims(&with("exp", Value::Null)),
        Err(Bad::Missing("exp".into()))
    );
}

/// threats.md K1: a claim of the wrong kind is a failure, not an absence.
#[test]
fn times_are_numbers_within_range() {
    for claim in ["exp", "nbf", "iat"] {
        for value in [
            "\"1800000300\"",
            "null",
            "true",
            "[1800000300]",
            "{}",
            "-1",
            "-0.5",
            "1e300",
            "253402300800",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551616",
            "\"\"",
        ] {
            let mut text = with(claim, Value::Null).to_string();
            text.truncate(text.len() - 1);
            let judged = judge_text(&format!("{text},\"{claim}\":{value}}}"));
            assert!(
                matches!(&judged, Err(Bad::Unreadable { claim: told, .. }) if told == claim),
                "{claim} {value}: {judged:?}"
            );
        }
    }
    // RFC 7519 §2 allows fractions; they are rounded against the token.
    let not_after = |exp: Value| judge_claims(&with("exp", exp)).map(|good| good.not_after);
    assert_eq!(not_after(json!(1_800_000_100.9)), Ok(NOW + 100 + LEEWAY));
    assert_eq!(not_after(json!(1.8e9)), Ok(NOW + LEEWAY));
    assert_eq!(not_after(json!(LATEST)), Ok(LATEST + LEEWAY));
    let ahead = |claim| judge_claims(&with(claim, json!(1_800_000_030.1)));
    assert_eq!(ahead("nbf"), Err(Bad::NotYet("nbf")));
    for now in [i64::MIN, -1, i64::MAX] {
        let token = WORLD.ed.token(&WORLD.ed.header(), &claims());
        assert!(
            verify(token.as_bytes(), &settings(), &WORLD.keys, now).is_err(),
            "and no overflow"
        );
    }
}

#[test]
fn the_device_is_named_by_one_claim() {
    assert_eq!(
        judge_claims(&with("sub", Value::Null)),
        Err(Bad::Missing("sub".into()))
    );
    for name in [
        "",
        "+",
        "#",
        "a/b",
        "$SYS",
        "a b",
        "meter-7\n",
        "é",
        &"x".repeat(129),
    ] {
        assert_eq!(
            judge_claims(&with("sub", json!(name))),
            Err(Bad::Device("sub".into())),
            "{name:.20}"
        );
    }
    for name in [
        json!(7),
        json!(["meter-7"]),
        json!({"id": "meter-7"}),
        json!(true),
    ] {
        let judged = judge_claims(&with("sub", name));
        assert!(matches!(judged, Err(Bad::Unreadable { .. })), "{judged:?}");
    }
    let other = Settings {
        device_claim: "device_id".into(),
        alphabet: Alphabet::with_extra(":").expect("harmless"),
        ..settings()
    };
    let mut claims = claims();
    claims["device_id"] = "urn:meter-8".into();
    let token = WORLD.ed.token(&WORLD.ed.header(), &claims);
    let good = verify(token.as_bytes(), &other, &WORLD.keys, NOW).expect("good");
    assert_eq!(good.device.as_str(), "urn:meter-8");
}

#[test]
fn no_member_stands_twice() {
    let text = claims().to_string();
    for again in [
        "\"sub\":\"meter-8\"",
        "\"s\\u0075b\":\"meter-8\"",
        "\"exp\":1800000300",
        "\"x\":1,\"x\":1",
    ] {
        let twice = format!("{},{again}}}", &text[..text.len() - 1]);
        assert_eq!(judge_text(&twice), Err(Bad::Twice(Part::Claims)), "{again}");
    }
    for header in [
        r#"{"alg":"EdDSA","kid":"ed","alg":"EdDSA"}"#,
        r#"{"alg":"none","alg":"EdDSA","kid":"ed"}"#,
        r#"{"alg":"EdDSA","kid":"x","k\u0069d":"ed"}"#,
    ] {
        let token = WORLD.ed.token_of(header, &text);
        assert_eq!(judge(token), Err(Bad::Twice(Part::Header)), "{header}");
    }
}

#[test]
fn what_is_no_compact_jws_is_refused() {
    let good = WORLD.ed.token(&WORLD.ed.header(), &claims());
    assert!(judge(&good).is_ok());
    let [header, body, signature] =
        <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).expect("three");
    for text in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!("{header}..{signature}"),
        format!(".{body}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}.{body}.{signature}.{body}.{signature}"), // an encrypted one has five (RFC 7516 §7.1)
        "not a token".into(),
        "tdg_AAAA".into(),
    ] {
        assert_eq!(judge(&text), Err(Bad::NotAJwt), "{text:.60}");
    }
    for text in [
        format!("{good}="),
        format!("{good}=="),
        format!("{good} "),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{good}\0"),
        format!("{header}=.{body}.{signature}"),
        format!("{header}.{body}=.{signature}"),
        format!("{header}.{body}.+{signature}"),
        format!("{header}.{body}./{signature}"),
        format!("{header}.\u{e9}{body}.{signature}"),
    ] {
        assert!(judge(&text).is_err(), "{text:?}");
    }
    let json = json!({"payload": body, "protected": header, "signature": signature}).to_string();
    assert!(judge(json).is_err(), "the other form of JWS");
    assert!(judge(b"\xff\xfe.\x00.\x01").is_err());
}

/// 64 bytes are 85 and a third characters of base64: four low bits of the last one are in no byte.
#[test]
fn a_signature_has_one_spelling() {
    let good = WORLD.ed.token(&WORLD.ed.header(), &claims());
    let (rest, last) = good.split_at(good.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let good_ones: Vec<_> = alphabet
        .chars()
        .filter(|c| judge(format!("{rest}{c}")).is_ok())
        .collect();
    assert_eq!(good_ones, last.chars().collect::<Vec<_>>());
}

/// threats.md K1: size and depth are bounded before anything is read.
#[test]
fn huge_and_deep_tokens_are_turned_away_at_once() {
    for size in [LONGEST + 1, 1 << 20] {
        assert_eq!(judge(vec![b'A'; size]), Err(Bad::TooLong));
    }
    let padded = |n| {
        WORLD
            .ed
            .token(&WORLD.ed.header(), &with("x", json!("x".repeat(n))))
    };
    let (mut fits, mut n) = (false, 5_800);
    while padded(n).len() <= LONGEST {
        fits = judge(padded(n)).is_ok();
        n += 1;
    }
    assert!(
        fits && judge(padded(n)) == Err(Bad::TooLong),
        "just above the cap"
    );
    let deep = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
    let text = claims().to_string();
    let nested = format!("{},\"x\":{deep}}}", &text[..text.len() - 1]);
    assert_eq!(judge_text(&nested), Err(Bad::NotAnObject(Part::Claims)));
    let header = format!("{{\"alg\":\"EdDSA\",\"kid\":\"ed\",\"x\":{deep}}}");
    assert_eq!(
        judge(WORLD.ed.token_of(&header, &text)),
        Err(Bad::NotAnObject(Part::Header))
    );
}

#[test]
fn claims_are_one_object_and_nothing_behind_it() {
    for text in ["", "null", "[]", "\"x\"", "1", "{}{}", "{}x", "\u{feff}{}"] {
        let judged = judge_text(text);
        let expected = if text.is_empty() {
            Bad::NotAJwt
        } else {
            Bad::NotAnObject(Part::Claims)
        };
        assert_eq!(judged, Err(expected), "{text}");
    }
    assert_eq!(judge_text("{}"), Err(Bad::Missing("iss".into())));
    assert!(
        judge_text(&format!(" {}\n", claims())).is_ok(),
        "white space is JSON's own"
    );
    // Claims are not even read before the signature is good.
    let header = base64(WORLD.ed.header().to_string());
    assert_eq!(judge(format!("{header}.!!!.AAAA")), Err(Bad::Signature));
}

#[test]
fn a_signature_is_for_its_own_message_and_key() {
    let good = WORLD.ed.token(&WORLD.ed.header(), &claims());
    let other = WORLD
        .ed
        .token(&WORLD.ed.header(), &with("sub", json!("meter-8")));
    let part = |token: &str, i: usize| token.split('.').nth(i).expect("a part").to_owned();
    let mixed = format!("{}.{}.{}", part(&good, 0), part(&other, 1), part(&good, 2));
    assert_eq!(judge(mixed), Err(Bad::Signature));
    for signature in [
        "AA",
        "AAAA",
        &base64([0; 64]),
        &base64([0; 63]),
        &base64([0xff; 64]),
    ] {
        for issuer in [&WORLD.ed, &WORLD.p256, &WORLD.rsa] {
            let token = issuer.token(&issuer.header(), &claims());
            let forged = format!("{}.{}.{signature}", part(&token, 0), part(&token, 1));
            assert_eq!(judge(forged), Err(Bad::Signature));
        }
    }
    let stranger = Issuer::new("ed", "EdDSA");
    assert_eq!(
        judge(stranger.token(&stranger.header(), &claims())),
        Err(Bad::Signature)
    );
}

/// threats.md K2
#[test]
fn no_sentence_holds_anything_of_the_token() {
    let secret = "hunter2";
    let mut told = Vec::new();
    for claim in ["iss", "aud", "sub", "exp", "nbf", "iat"] {
        for value in [
            json!(secret),
            json!([secret]),
            json!({ secret: secret }),
            json!(format!("{secret}+")),
        ] {
            told.extend(judge_claims(&with(claim, value)).err());
        }
    }
    for name in ["alg", "kid", "crit"] {
        for value in [json!(secret), json!([secret])] {
            let mut header = WORLD.ed.header();
            header[name] = value;
            told.extend(judge_header(&header).err());
        }
    }
    told.extend(judge(format!("{secret}.{secret}.{secret}")).err());
    told.extend(judge_text(&format!("{{\"{secret}\":1,\"{secret}\":1}}")).err());
    assert!(told.len() > 25, "{}", told.len());
    for bad in told {
        assert!(!format!("{bad} {bad:?}").contains(secret), "{bad}");
        assert_eq!(bad.label(), "token_bad");
    }
    assert_eq!(
        [Bad::Expired, Bad::KeysAway].map(|bad| bad.label()),
        ["token_expired", "token_keys_away"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_token_with_one_character_changed_is_taken(at in 0_usize..10_000, to in 0_u8..=255, which in 0_usize..3) {
        let world = &WORLD;
        let issuer = [&world.ed, &world.p256, &world.rsa][which];
        let mut token = issuer.token(&issuer.header(), &claims()).into_bytes();
        let at = at % token.len();
        prop_assume!(token[at] != to);
        token[at] = to;
        prop_assert!(judge(&token).is_err());
    }

    #[test]
    fn no_token_with_a_character_more_or_less_is_taken(at in 0_usize..10_000, extra in proptest::option::of(0_u8..=255)) {
        let issuer = &WORLD.ed;
        let mut token = issuer.token(&issuer.header(), &claims()).into_bytes();
        let at = at % token.len();
        match extra {
            Some(byte) => token.insert(at, byte),
            None => { token.remove(at); }
        }
        prop_assert!(judge(&token).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0_u8..=255, 0..600)) {
        prop_assert!(judge(&bytes).is_err());
        let signed = WORLD.ed.token_of(&WORLD.ed.header().to_string(), &String::from_utf8_lossy(&bytes));
        prop_assert!(judge(signed).is_err());
    }
}
