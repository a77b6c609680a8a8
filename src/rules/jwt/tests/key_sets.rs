//! Which sets of keys are taken.

use super::*;

fn read(keys: &[Value]) -> Result<Keys, BadKeys> {
    Keys::read(&jwks(keys), &Algorithm::ALL)
}

fn with_member(issuer: &Issuer, name: &str, value: Value) -> Value {
    let mut jwk = issuer.jwk();
    if value.is_null() {
        jwk.as_object_mut().expect("an object").remove(name);
    } else {
        jwk[name] = value;
    }
    jwk
}

/// What is told of the second key of a set.
fn told(jwk: Value) -> String {
    match read(&[WORLD.ed.jwk(), jwk]) {
        Err(BadKeys::Key { number: 2, what }) => what.to_owned(),
        other => panic!("{other:?}"),
    }
}

/// RFC 7638 §3.1.
#[test]
fn a_thumbprint_is_that_of_the_rfc() {
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let keys =
        read(&[json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})])
            .expect("good");
    let print = URL_SAFE_NO_PAD
        .decode("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
        .expect("base64");
    assert!(keys.holds(&print.try_into().expect("32 bytes")));
    assert!(!keys.holds(&[0; 32]));
    // RFC 8037 §A.3.
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let keys = read(&[json!({"kty": "OKP", "crv": "Ed25519", "x": x})]).expect("good");
    let print = URL_SAFE_NO_PAD
        .decode("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
        .expect("base64");
    assert!(keys.holds(&print.try_into().expect("32 bytes")));
}

#[test]
fn keys_for_something_else_are_passed_over() {
    let others = [
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA"}),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "ed"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AAAA"}),
        with_member(&WORLD.rsa, "use", json!("enc")),
        with_member(&WORLD.rsa, "alg", json!("RSA-OAEP")),
        with_member(&WORLD.rsa, "key_ops", json!(["encrypt"])),
    ];
    let mut all = others.to_vec();
    all.push(WORLD.ed.jwk());
    assert_eq!(read(&all).expect("one is good").count(), 1);
    let none = read(&others).expect_err("none is good");
    assert!(
        none.to_string().starts_with("it has no key for ES256, "),
        "{none}"
    );
    assert!(read(&[]).is_err());
    let only = Keys::read(&jwks(&[WORLD.ed.jwk()]), &[Algorithm::Rs256]).expect_err("none fits");
    assert_eq!(only.to_string(), "it has no key for RS256");
    for extra in [
        ("key_ops", json!(["verify", "encrypt"])),
        ("x5c", json!(["MIIB"])),
        ("x", WORLD.ed.jwk()["x"].clone()),
    ] {
        let jwk = with_member(&WORLD.ed, extra.0, extra.1);
        assert_eq!(read(&[jwk]).expect("good").count(), 1);
    }
}

/// threats.md T8
#[test]
fn one_bad_key_spoils_the_set() {
    for (name, issuer) in [
        ("d", &WORLD.rsa),
        ("d", &WORLD.p256),
        ("d", &WORLD.ed),
        ("p", &WORLD.rsa),
        ("oth", &WORLD.rsa),
        ("k", &WORLD.ed),
    ] {
        let private = with_member(issuer, name, json!("AAAA"));
        assert!(told(private).starts_with("is a private key"), "{name}");
    }
    // Also where it says that it is for something else: it is out in the open all the same.
    let mut private = with_member(&WORLD.rsa, "d", json!("AAAA"));
    private["use"] = "enc".into();
    assert!(told(private).starts_with("is a private key"));
    assert!(told(json!({"kty": "oct", "k": "AAAA"})).starts_with("is a symmetric key"));
    assert_eq!(told(WORLD.ed.jwk()), "has the kid of another");
}

/// threats.md T8
#[test]
fn a_garbled_key_spoils_the_set() {
    for jwk in [json!(1), json!("x"), json!([]), json!(null)] {
        assert_eq!(told(jwk), "is no object");
    }
    assert_eq!(told(json!({})), "has no kty");
    for (name, value, expected) in [
        ("n", json!(null), "has no n"),
        ("e", json!(null), "has no e"),
        (
            "n",
            json!(1),
            "has a member that should be a text and is not",
        ),
        (
            "kid",
            json!(1),
            "has a member that should be a text and is not",
        ),
        (
            "alg",
            json!(["RS256"]),
            "has a member that should be a text and is not",
        ),
        (
            "use",
            json!(["sig"]),
            "has a member that should be a text and is not",
        ),
        ("key_ops", json!("verify"), "has key_ops that are no list"),
        (
            "n",
            json!("AQ=="),
            "has a member that is not base64url without padding",
        ),
        (
            "n",
            json!("AQ+/"),
            "has a member that is not base64url without padding",
        ),
        ("e", json!("AQAC"), "has an n or e that no RSA key has"),
        ("e", json!("AQ"), "has an n or e that no RSA key has"),
        ("e", json!("AQAAAAE"), "has an n or e that no RSA key has"),
        (
            "e",
            json!(""),
            "has an n or e that is empty or begins with a zero byte",
        ),
        (
            "e",
            json!("AAEAAQ"),
            "has an n or e that is empty or begins with a zero byte",
        ),
        (
            "n",
            json!(base64([0xff; 255])),
            "is an RSA key of less than 2048 bits",
        ),
        (
            "n",
            json!(base64([&[0x7f][..], &[0xff; 255]].concat())),
            "is an RSA key of less than 2048 bits",
        ),
        (
            "n",
            json!(base64([0xff; 1025])),
            "is an RSA key of more than 8192 bits",
        ),
        (
            "alg",
            json!("ES256"),
            "is not of the kind that its alg is for",
        ),
    ] {
        assert_eq!(
            told(with_member(&WORLD.rsa, name, value.clone())),
            expected,
            "{name} {value:.20}"
        );
    }
    let p256 = |name, value| told(with_member(&WORLD.p256, name, value));
    assert_eq!(p256("crv", json!(null)), "has no crv");
    assert_eq!(p256("y", json!(null)), "has no y");
    assert_eq!(
        p256("x", json!(base64([1; 31]))),
        "has an x of another length than its curve"
    );
    assert_eq!(
        p256("y", json!(base64([1; 33]))),
        "has a y of another length than its curve"
    );
    assert_eq!(
        p256("y", json!(base64([1; 32]))),
        "is no point on its curve"
    );
    assert_eq!(
        told(json!({"kty": "OKP", "crv": "Ed25519", "x": base64([1; 33])})),
        "has an x of another length than its curve"
    );
}

#[test]
fn what_is_no_set_is_refused() {
    let read = |text: &str| Keys::read(text.as_bytes(), &Algorithm::ALL).expect_err("no set");
    assert_eq!(read("{\n\"keys\": [\n}"), BadKeys::NotJson { line: 3 });
    assert_eq!(read(""), BadKeys::NotJson { line: 1 });
    for text in [
        "[]",
        "null",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":"x"}"#,
        r#"{"Keys":[]}"#,
        &WORLD.ed.jwk().to_string(),
    ] {
        assert_eq!(read(text), BadKeys::NotASet, "{text}");
    }
    let jwk = WORLD.ed.jwk().to_string();
    let twice = format!("{},\"kid\":\"other\"}}", &jwk[..jwk.len() - 1]);
    assert_eq!(read(&format!("{{\"keys\":[{twice}]}}")), BadKeys::Twice);
    assert_eq!(
        read(&format!("{{\"keys\":[{jwk}],\"keys\":[{jwk}]}}")),
        BadKeys::Twice
    );
    assert!(matches!(read("<html>"), BadKeys::NotJson { line: 1 }));
}

#[test]
fn sets_are_compared_by_what_they_vouch_for() {
    let set = |keys: &[Value]| read(keys).expect("good");
    let (ed, rsa) = (WORLD.ed.jwk(), WORLD.rsa.jwk());
    let both = set(&[ed.clone(), rsa.clone()]);
    assert!(both.are_those_of(&set(&[rsa.clone(), ed.clone()])));
    assert!(!both.are_those_of(&set(std::slice::from_ref(&ed))));
    let renamed = with_member(&WORLD.rsa, "kid", json!("new"));
    assert!(!both.are_those_of(&set(&[ed, renamed])));
}
