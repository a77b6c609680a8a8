//! `[token.jwt]`

use super::*;
use crate::jwks::Place;
use crate::rules::jwt::Algorithm;

/// With it, devices of a CA and of the issuer cannot have one name.
const APART: &str =
    "[connect]\nclient_id = \"{trust}:{device}\"\nusername = \"{trust}:{device}\"\n";

const JWT: &str = "[token.jwt]\nkeys = \"jwks.json\"\nissuer = \"i\"\naudience = \"a\"\n";

fn told(jwt: &str) -> Vec<String> {
    Operator::writes(&format!("{GOOD}{APART}{jwt}")).tells()
}

/// What is told of [`JWT`] with one of its lines replaced.
fn told_with(line: &str) -> Vec<String> {
    let key = line.split(" =").next().expect("a key");
    let rest = JWT
        .lines()
        .filter(|other| !other.starts_with(&format!("{key} =")));
    told(&format!(
        "{}\n{line}\n",
        rest.collect::<Vec<_>>().join("\n")
    ))
}

#[test]
fn a_jwt_section_is_off_when_it_is_not_written_and_strict_when_it_is() {
    let jwt = |file: &str| Operator::writes(file).loads().expect("good").gate.token.jwt;
    assert!(jwt(GOOD).is_none());
    assert!(jwt(&format!("{GOOD}[token]\n")).is_none());
    let jwt = jwt(&format!("{GOOD}{APART}{JWT}")).expect("it is there");
    assert!(
        matches!(&jwt.keys, Place::File(path) if path.is_absolute() && path.ends_with("jwks.json"))
    );
    assert_eq!(jwt.tokens.device_claim, "sub");
    assert_eq!(
        jwt.tokens.algorithms,
        [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa]
    );
    assert_eq!(
        told("[token.jwt]\ndevice_claim = \"sub\"\n"),
        [
            "token.jwt.keys: is missing; write keys = \"https://issuer.example/.well-known/jwks.json\", or the path of a JWKS file",
            "token.jwt.issuer: is missing: tokens of any issuer would do; write issuer = \"https://issuer.example\"",
            "token.jwt.audience: is missing: tokens for anybody would do; write audience = \"mqtt\"",
        ]
    );
}

/// threats.md I3, I7: a CA and an issuer could name two devices alike.
#[test]
fn where_a_ca_and_an_issuer_count_a_name_must_tell_them_apart() {
    let told = Operator::writes(&format!("{GOOD}{JWT}")).tells();
    assert!(
        told.len() == 2 && told[0].contains("default, jwt count"),
        "{told:?}"
    );
    let reserved = GOOD.replace("[[trust]]", "[[trust]]\nname = \"jwt\"");
    let told = Operator::writes(&reserved).tells();
    assert!(
        told.iter().any(|told| told.contains("stands for devices")),
        "{told:?}"
    );
}

#[test]
fn keys_come_from_a_file_or_by_https() {
    assert_eq!(told_with("keys = \"https://issuer.example/jwks\""), [""; 0]);
    assert_eq!(
        told_with("keys = \"http://issuer.example/jwks\""),
        [
            "token.jwt.keys: is not an https address: keys that come unprotected could be anybody's; write https://, or the path of a JWKS file"
        ]
    );
    let secret = told_with("keys = \"https://user:hunter2@issuer.example/\"");
    assert!(
        secret.len() == 1 && !secret[0].contains("hunter2"),
        "{secret:?}"
    );
    assert_eq!(told_with("keys = \"\"").len(), 1);
    let ca = Operator::writes(&format!("{GOOD}{APART}{JWT}ca = \"ca.pem\"\n"))
        .loads()
        .expect("good");
    assert_eq!(
        ca.warnings,
        ["token.jwt.ca: has no effect: the keys come from a file"]
    );
}

/// threats.md K1
#[test]
fn no_algorithm_is_taken_by_which_a_verifier_could_sign() {
    assert_eq!(
        told_with("algorithms = [\"none\", \"HS256\", \"es256\", \"ES256\", \"ES256\"]"),
        [
            "token.jwt.algorithms[0]: \"none\" would let others than the issuer make tokens; write some of ES256 | ES384 | RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | EdDSA",
            "token.jwt.algorithms[1]: \"HS256\" would let others than the issuer make tokens; write some of ES256 | ES384 | RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | EdDSA",
            "token.jwt.algorithms[2]: \"es256\" is not known here; did you mean \"ES256\"? write some of ES256 | ES384 | RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | EdDSA",
            "token.jwt.algorithms[4]: \"ES256\" is there twice; write it once",
        ]
    );
    assert_eq!(told_with("algorithms = []").len(), 1);
    assert_eq!(told_with("algorithms = \"PS512\""), [""; 0]);
}

#[test]
fn names_are_plain() {
    for line in [
        "issuer = \"\"",
        "audience = \"a\\nb\"",
        "device_claim = \"\"",
        "device_claim = \"aud\"",
        "issuer = 1",
        "audience = [\"a\"]",
    ] {
        assert_eq!(told_with(line).len(), 1, "{line}: {:?}", told_with(line));
    }
}
