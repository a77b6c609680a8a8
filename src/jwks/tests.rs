//! When the source is asked, and what becomes of tokens meanwhile. Time is paused, the source is a script.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::ready;

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::*;
use crate::rules::device::Alphabet;
use crate::rules::jwt::Algorithm;
use crate::rules::jwt::testing::{Issuer, jwks};

const NOW: i64 = 1_800_000_000;

fn settings(keys: Place) -> Settings {
    Settings {
        keys,
        ca: None,
        tokens: jwt::Settings {
            issuer: "https://issuer.example".into(),
            audience: "mqtt".into(),
            algorithms: vec![Algorithm::EdDsa],
            device_claim: "sub".into(),
            alphabet: Alphabet::default(),
        },
    }
}

fn token(issuer: &Issuer) -> String {
    let claims =
        json!({"iss": "https://issuer.example", "aud": "mqtt", "sub": "meter-7", "exp": NOW + 300});
    issuer.token(&issuer.header(), &claims)
}

fn set(keys: &[&Issuer]) -> Vec<u8> {
    jwks(&keys.iter().map(|key| key.jwk()).collect::<Vec<_>>())
}

/// A source at an address that is never asked: the script answers.
fn at_an_address() -> KeySource {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    std::fs::write(&ca, certified.cert.pem()).expect("written");
    let url = "https://localhost/jwks.json".parse().expect("an address");
    let settings = Settings {
        ca: Some(ca),
        ..settings(Place::Url(url))
    };
    KeySource::load(&settings).expect("a good CA")
}

/// What the source answers: the script, and its last line again and again. Counts how often it was asked.
struct Script {
    answers: RefCell<VecDeque<Result<Vec<u8>, &'static str>>>,
    asked: Cell<u32>,
    next: Duration,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<Vec<u8>, &'static str>>) -> Self {
        Self {
            answers: RefCell::new(answers.into_iter().collect()),
            asked: Cell::new(0),
            next: USUAL,
        }
    }

    fn answer(&self) -> Result<Got, String> {
        self.asked.set(self.asked.get() + 1);
        let mut answers = self.answers.borrow_mut();
        let answer = if answers.len() > 1 {
            answers.pop_front().expect("two")
        } else {
            answers[0].clone()
        };
        let content = answer?;
        let next = self.next;
        Ok(Got { content, next })
    }

    /// Lets the source be kept for so long.
    async fn for_a(&self, source: &KeySource, time: Duration) {
        let _ = timeout(time, source.keep_by(|| ready(self.answer()))).await;
    }

    /// Keeps the source while `what` happens.
    async fn while_(&self, source: &KeySource, what: impl Future<Output = ()>) {
        tokio::select! {
            () = source.keep_by(|| ready(self.answer())) => {}
            () = what => {}
        }
    }
}

/// threats.md K4: single flight, and never faster because of hostile input.
#[tokio::test(start_paused = true)]
async fn a_storm_of_unknown_keys_is_one_fetch_a_minute() {
    let (ours, stranger) = (Issuer::new("a", "EdDSA"), Issuer::new("b", "EdDSA"));
    let source = at_an_address();
    let script = Script::new([Ok(set(&[&ours]))]);
    let unknown = token(&stranger);
    let storm = |count| {
        for _ in 0..count {
            assert_eq!(source.judge(unknown.as_bytes(), NOW), Err(Bad::UnknownKey));
        }
    };
    script
        .while_(&source, async {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(script.asked.get(), 1, "at the start");
            storm(1_000);
            sleep(Duration::from_secs(58)).await;
            assert_eq!(script.asked.get(), 1, "a minute is not over");
            sleep(Duration::from_secs(2)).await;
            assert_eq!(script.asked.get(), 2, "one fetch for a thousand");
            for _ in 0..600 {
                storm(10);
                sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(script.asked.get(), 12, "ten minutes of it");
            sleep(Duration::from_mins(50)).await;
            let quiet = script.asked.get();
            storm(1);
            sleep(Duration::from_millis(1)).await;
            assert_eq!(script.asked.get(), quiet + 1, "after a quiet time at once");
        })
        .await;
    assert!(source.judge(token(&ours).as_bytes(), NOW).is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_rotate_and_the_gate_hears_of_it() {
    let (one, two) = (Issuer::new("one", "EdDSA"), Issuer::new("two", "EdDSA"));
    let source = at_an_address();
    let script = Script::new([
        Ok(set(&[&one])),
        Ok(set(&[&two, &one])),
        Ok(set(&[&one, &two])),
        Ok(set(&[&two])),
    ]);
    let mut changes = source.changes();
    script
        .while_(&source, async {
            sleep(Duration::from_secs(1)).await;
            let admitted = source.judge(token(&one).as_bytes(), NOW).expect("good");
            assert!(
                !changes.has_changed().expect("alive"),
                "the first set is no change"
            );
            assert_eq!(
                source.judge(token(&two).as_bytes(), NOW),
                Err(Bad::UnknownKey)
            );
            changes.changed().await.expect("alive");
            assert!(
                source.judge(token(&two).as_bytes(), NOW).is_ok(),
                "the token that was asked for"
            );
            assert!(source.still_holds(&admitted.key));
            sleep(USUAL + Duration::from_secs(1)).await;
            assert_eq!(script.asked.get(), 3);
            assert!(
                !changes.has_changed().expect("alive"),
                "the same keys in another order"
            );
            changes.changed().await.expect("alive");
            assert!(!source.still_holds(&admitted.key), "taken away");
            assert_eq!(
                source.judge(token(&one).as_bytes(), NOW),
                Err(Bad::UnknownKey)
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_had_count_for_a_day() {
    let ours = Issuer::new("a", "EdDSA");
    let source = at_an_address();
    let token = token(&ours);
    let judge = || source.judge(token.as_bytes(), NOW);
    assert_eq!(judge(), Err(Bad::KeysAway), "nothing is known yet");
    let garbled = b"<html>".to_vec();
    let script = Script::new([Ok(set(&[&ours])), Ok(garbled), Err("it answers 503")]);
    script
        .while_(&source, async {
            sleep(Duration::from_secs(1)).await;
            let key = judge().expect("good").key;
            sleep(Duration::from_secs(24 * 3_600 - 3)).await;
            assert!(judge().is_ok(), "a day is not over");
            sleep(Duration::from_secs(3)).await;
            assert_eq!(judge(), Err(Bad::KeysAway), "it is");
            assert!(source.still_holds(&key), "nobody took it away");
            assert_eq!(
                source.judge(b"x", NOW),
                Err(Bad::NotAJwt),
                "what no key could mend"
            );
        })
        .await;
    // At once when it answers again, though with the same bytes.
    let script = Script::new([Ok(set(&[&ours]))]);
    script.for_a(&source, Duration::from_secs(1)).await;
    assert!(judge().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_source_in_trouble_is_asked_ever_more_rarely_whoever_asks() {
    let ours = Issuer::new("a", "EdDSA");
    let source = at_an_address();
    let script = Script::new([Err("it answers 503")]);
    let asked = async |time| {
        let before = script.asked.get();
        script.for_a(&source, time).await;
        script.asked.get() - before
    };
    assert!((3..=5).contains(&asked(Duration::from_secs(30)).await));
    let quiet = asked(Duration::from_hours(1)).await;
    assert!((12..=35).contains(&quiet), "{quiet}");
    let hurried = Cell::new(0);
    script
        .while_(&source, async {
            let before = script.asked.get();
            for _ in 0..3_600 {
                source.missing();
                sleep(Duration::from_secs(1)).await;
            }
            hurried.set(script.asked.get() - before);
        })
        .await;
    assert!((12..=35).contains(&hurried.get()), "{}", hurried.get());
    // One that never answered is no reason to take a token.
    assert_eq!(
        source.judge(token(&ours).as_bytes(), NOW),
        Err(Bad::KeysAway)
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_is_asked_again_when_it_says() {
    let ours = Issuer::new("a", "EdDSA");
    for (next, asked) in [(SOONEST, 12), (USUAL, 1), (LATEST, 1)] {
        let source = at_an_address();
        let mut script = Script::new([Ok(set(&[&ours]))]);
        script.next = next;
        script.for_a(&source, Duration::from_mins(59)).await;
        assert_eq!(script.asked.get(), asked);
    }
}

/// threats.md R2, R3, T8
#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let (one, two) = (Issuer::new("one", "EdDSA"), Issuer::new("two", "EdDSA"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    let write = |bytes: &[u8]| {
        // As editors and orchestrators swap files.
        let new = folder.path().join("new");
        std::fs::write(&new, bytes).expect("written");
        std::fs::rename(&new, &path).expect("renamed");
    };
    let settings = settings(Place::File(path.clone()));
    let fault = KeySource::load(&settings).expect_err("no file");
    assert_eq!(fault.key, "keys");
    assert!(
        fault.sentence.ends_with("jwks.json: there is no such file"),
        "{fault}"
    );
    write(b"{\"keys\":[]}");
    let fault = KeySource::load(&settings).expect_err("no key");
    assert!(
        fault.sentence.ends_with("it has no key for EdDSA"),
        "{fault}"
    );

    write(&set(&[&one]));
    let source = KeySource::load(&settings).expect("good");
    let [one, two] = [&one, &two].map(|issuer| (token(issuer), set(&[issuer])));
    let taken = |token: &str| source.judge(token.as_bytes(), NOW).is_ok();
    assert!(taken(&one.0), "at once");
    let what = async {
        let longest = LOOK + Duration::from_millis(1);
        let half = &two.1[..two.1.len() / 2];
        for bad in [
            b"".as_slice(),
            half,
            b"{\"keys\":[]}",
            &vec![b' '; LARGEST + 1],
        ] {
            write(bad);
            sleep(longest).await;
            assert!(taken(&one.0), "the last good set goes on");
        }
        std::fs::remove_file(&path).expect("removed");
        sleep(longest).await;
        assert!(taken(&one.0));
        let mut changes = source.changes();
        write(&two.1);
        sleep(longest).await;
        assert!(!taken(&one.0) && taken(&two.0));
        assert!(changes.borrow_and_update().eq(&()) && !changes.has_changed().expect("alive"));
    };
    tokio::select! {
        () = source.keep() => {}
        () = what => {}
    }
}

#[test]
fn an_address_is_https_and_holds_no_secret() {
    for text in [
        "https://issuer.example/jwks.json",
        "https://127.0.0.1:8443",
        "https://[::1]/a?b=c",
        "HTTPS://issuer.example/",
    ] {
        assert!(text.parse::<HttpsUrl>().is_ok(), "{text}");
    }
    for (text, expected) in [
        ("http://issuer.example/", NotAnUrl::NotHttps),
        ("ftp://issuer.example/", NotAnUrl::NotHttps),
        ("/jwks.json", NotAnUrl::NotHttps),
        ("https://user:hunter2@issuer.example/", NotAnUrl::Secret),
        ("https://issuer.example/#a", NotAnUrl::Garbled),
        ("https://", NotAnUrl::Garbled),
        ("https:///a", NotAnUrl::Garbled),
        ("https://a b/", NotAnUrl::Garbled),
        ("", NotAnUrl::Garbled),
    ] {
        assert_eq!(text.parse::<HttpsUrl>(), Err(expected), "{text}");
    }
}
