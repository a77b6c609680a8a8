//! The verdict, case by case: no network, no store.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use super::*;
use crate::rules::device::{Alphabet, Mode};
use crate::rules::identity::crafted::{Parts, common_name};
use crate::rules::identity::{Certificate, Field, Naming};
use crate::rules::record::{Pin, Proof, Valid};
use crate::rules::template::Use;
use crate::rules::token::{Token, TokenKey};

const NOW: i64 = 2_000_000_000;

/// A certificate of `meter-7`, and the group that vouches for it.
struct Fleet {
    certificate: Arc<Certificate>,
    naming: Naming,
    group: Arc<str>,
}

static FLEET: LazyLock<Fleet> = LazyLock::new(|| {
    let parts = Parts {
        subject: common_name("meter-7"),
        ..Parts::default()
    };
    Fleet {
        certificate: Arc::new(Certificate::read(&parts.der()).expect("readable")),
        naming: Naming {
            field: Field::SubjectCn,
            pattern: None,
            alphabet: Alphabet::default(),
        },
        group: "fleet".into(),
    }
});

fn id(name: &str) -> DeviceId {
    name.parse().expect("a good name")
}

fn key() -> TokenKey {
    TokenKey::new([9; 32])
}

fn token(seed: u8) -> Token {
    Token::from_chance(&[seed; 32])
}

fn vouched() -> Shown<'static> {
    vouched_by(&FLEET.group)
}

fn vouched_by(group: &'static Arc<str>) -> Shown<'static> {
    Shown::Vouched(Credential {
        certificate: &FLEET.certificate,
        trust: group,
        naming: &FLEET.naming,
        not_after: NOW + 1000,
        direct: true,
    })
}

fn unvouched() -> Shown<'static> {
    Shown::Unvouched(Unvouched {
        certificate: &FLEET.certificate,
        label: "certificate_unknown_issuer",
        why: "nobody knows its issuer",
    })
}

/// A device that calls: its mode, what it showed, and the token in its password.
#[derive(Clone)]
struct Call {
    mode: Mode,
    shown: Option<Shown<'static>>,
    token: Option<Token>,
    username: &'static str,
    version: Version,
    at: i64,
}

impl Call {
    fn mutual() -> Self {
        Self {
            mode: Mode::MutualTls,
            shown: Some(vouched()),
            token: None,
            username: "meter-7",
            version: Version::V5,
            at: NOW,
        }
    }

    fn with_token(mode: Mode) -> Self {
        Self {
            mode,
            shown: None,
            token: Some(token(1)),
            ..Self::mutual()
        }
    }

    fn connect(&self) -> Connect {
        Connect {
            version: self.version,
            clean_start: true,
            keep_alive: 60,
            properties: Properties::new(),
            client_id: "any".into(),
            will: None,
            username: Some(self.username.into()),
            password: self
                .token
                .as_ref()
                .map(|token| MqttPassword::new(token.reveal().as_bytes().to_vec())),
        }
    }

    fn decide(&self, standing: Standing<'_>) -> Result<Admission, Refusal> {
        let caller = Caller {
            listener: "devices",
            mode: self.mode,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: self.shown,
        };
        let key = key();
        let tokens = Tokens {
            key: Some(&key),
            ..Tokens::default()
        };
        let asks = self.connect();
        let claim = claim(&caller, &asks, &tokens, self.at)?;
        decide(&caller, &claim, asks, standing, &settings(), self.at)
            .map_err(|refused| refused.refusal)
    }

    /// "admitted", or the label and the CONNACK codes for 3.1.1 and 5.0.
    fn told(&self, standing: Standing<'_>) -> String {
        match self.decide(standing) {
            Ok(_) => "admitted".into(),
            Err(refusal) => {
                let code = |version| {
                    let answer = refusal.answer(Some(version));
                    answer.map_or_else(|| "-".into(), |(_, code)| format!("{code:02x}"))
                };
                format!(
                    "{} {}/{}",
                    refusal.label(),
                    code(Version::V311),
                    code(Version::V5)
                )
            }
        }
    }
}

fn settings() -> ConnectSettings {
    let device = || Template::parse("{device}", Use::Name, &Alphabet::default()).expect("good");
    ConnectSettings {
        client_id: device(),
        username: device(),
        password: super::Password::Devices,
        asked_client_id: AskedClientId::Any,
        user_properties: Vec::new(),
    }
}

/// `meter-7`, enrolled in the fleet, with token 1.
fn record(least: Mode) -> Record {
    let mut record = Record::new(id("meter-7"), NOW - 100);
    record.min_mode = least;
    record.add_credential(in_group("fleet", None), Valid::since(NOW - 100));
    record.add_credential(Proof::Token(key().hash(&token(1))), Valid::since(NOW - 100));
    record
}

fn in_group(group: &str, pin: Option<Pin>) -> Proof {
    Proof::Vouched {
        group: group.into(),
        field: Field::SubjectCn,
        pin,
    }
}

fn ended(mut record: Record) -> Record {
    for credential in &mut record.credentials {
        credential.valid.until = Some(NOW - 1);
    }
    record
}

/// threats.md I2, I8: three modes, three `min_mode`s, and every standing: one function, one table.
#[test]
fn each_mode_enters_where_its_owner_allows_it_and_nowhere_else() {
    use Mode::{MutualTls, Plain, ServerTls};
    let call = |mode| match mode {
        MutualTls => Call::mutual(),
        weaker => Call::with_token(weaker),
    };
    for mode in [Plain, ServerTls, MutualTls] {
        let by_token = mode != MutualTls;
        for least in [Plain, ServerTls, MutualTls] {
            let good = record(least);
            let expected = if mode >= least {
                "admitted"
            } else {
                "mode_not_allowed 05/87"
            };
            assert_eq!(
                call(mode).told(Standing::Known(&good)),
                expected,
                "{mode} {least}"
            );

            let disabled = Record {
                enabled: false,
                ..good.clone()
            };
            let told = call(mode).told(Standing::Known(&disabled));
            assert_eq!(told, "device_disabled 05/87", "{mode} {least}");

            let told = call(mode).told(Standing::Known(&ended(good.clone())));
            let expected = if by_token {
                "token_expired 04/86"
            } else {
                "credential_expired 05/87"
            };
            assert_eq!(told, expected, "{mode} {least}");

            let mut disagrees = call(mode);
            disagrees.shown = Some(vouched());
            disagrees.mode = MutualTls;
            disagrees.token = Some(token(1));
            disagrees.username = "meter-8";
            let told = disagrees.told(Standing::Known(&good));
            assert_eq!(told, "credentials_disagree 04/86", "{mode} {least}");
        }
        let unknown = if by_token {
            "device_unknown 04/86"
        } else {
            "device_unknown 05/87"
        };
        assert_eq!(call(mode).told(Standing::Unknown(Unknown::Refuse)), unknown);
        let told = call(mode).told(Standing::Away("it is away"));
        assert_eq!(told, "registry_away 03/88");
    }
}

/// threats.md I8: a registry's token is nobody's word without the registry.
#[test]
fn without_a_record_only_a_voucher_admits() {
    for standing in [Standing::NoRegistry, Standing::Unknown(Unknown::Admit)] {
        assert_eq!(Call::mutual().told(standing), "admitted");
        let told = Call::with_token(Mode::ServerTls).told(standing);
        assert_eq!(told, "device_unknown 04/86");
        let mut odd = Call::mutual();
        odd.shown = Some(unvouched());
        assert_eq!(odd.told(standing), "certificate_unknown_issuer 05/87");
    }
}

/// threats.md §5: one answer for a wrong token, another device's, and a device that is not there.
#[test]
fn a_stranger_learns_no_names() {
    let known = record(Mode::ServerTls);
    let mut wrong = Call::with_token(Mode::ServerTls);
    wrong.token = Some(token(2));
    let code = |refusal: Refusal| refusal.answer(Some(Version::V5));
    let answer = |call: &Call, standing| code(call.decide(standing).expect_err("refused"));
    let told = answer(&wrong, Standing::Known(&known));
    assert_eq!(told, answer(&wrong, Standing::Unknown(Unknown::Refuse)));
    let disabled = Record {
        enabled: false,
        ..known.clone()
    };
    assert_eq!(
        told,
        answer(&wrong, Standing::Known(&disabled)),
        "nor who is disabled"
    );
}

/// threats.md I7: the group that it was enrolled under, and no other.
#[test]
fn another_trusted_ca_cannot_mint_an_enrolled_device() {
    static VENDOR: LazyLock<Arc<str>> = LazyLock::new(|| "vendor".into());
    let mut minted = Call::mutual();
    minted.shown = Some(vouched_by(&VENDOR));
    let record = record(Mode::MutualTls);
    let refusal = minted
        .decide(Standing::Known(&record))
        .expect_err("refused");
    assert_eq!(refusal.label(), "certificate_not_registered");
    assert!(refusal.to_string().contains("trust[fleet]"), "{refusal}");
}

/// Another certificate of the same group and name does not do where one was registered.
#[test]
fn a_registered_certificate_is_the_only_one() {
    let (own, other) = (FLEET.certificate.print, [0; 32]);
    for (pin, told) in [
        (Pin::Certificate(own), "admitted"),
        (Pin::Key(FLEET.certificate.key), "admitted"),
        (Pin::Certificate(other), "certificate_not_registered 05/87"),
        (Pin::Key(other), "certificate_not_registered 05/87"),
    ] {
        let mut record = Record::new(id("meter-7"), NOW);
        record.add_credential(in_group("fleet", Some(pin)), Valid::since(NOW));
        assert_eq!(
            Call::mutual().told(Standing::Known(&record)),
            told,
            "{pin:?}"
        );
    }
}

/// threats.md T1: a pin makes up for whatever the trust groups say, and gives the name.
#[test]
fn a_pinned_certificate_needs_no_group() {
    let mut record = Record::new(id("pump-1"), NOW);
    record.add_credential(
        Proof::Pinned(Pin::Certificate(FLEET.certificate.print)),
        Valid::since(NOW),
    );
    let mut odd = Call::mutual();
    for shown in [unvouched(), vouched()] {
        odd.shown = Some(shown);
        let admission = odd.decide(Standing::Known(&record)).expect("pinned");
        assert_eq!(admission.device, id("pump-1"));
        assert_eq!(admission.until, None, "its chain does not matter");
    }
}

/// Found by its pin, a device is not let in by a certificate that names another one, once the pin is gone.
#[test]
fn a_certificate_that_names_one_device_is_no_credential_of_another() {
    let mut record = record(Mode::MutualTls);
    record.device = id("meter-8"); // enrolled in the fleet, for whatever names it
    let told = Call::mutual().told(Standing::Known(&record));
    assert_eq!(told, "certificate_not_registered 05/87");
}

/// A bad certificate never falls back to a token (design.md §1).
#[test]
fn a_good_token_makes_up_for_no_certificate() {
    let mut both = Call::mutual();
    both.shown = Some(unvouched());
    both.token = Some(token(1));
    let record = record(Mode::Plain);
    let told = both.told(Standing::Known(&record));
    assert_eq!(told, "certificate_unknown_issuer 05/87");
}

/// Beside a certificate a password that is no token is the broker's; one that is must be good.
#[test]
fn a_password_beside_a_certificate_is_a_token_only_if_it_looks_like_one() {
    let record = record(Mode::MutualTls);
    let caller = Caller {
        listener: "devices",
        mode: Mode::MutualTls,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: Some(vouched()),
    };
    let key = key();
    let tokens = Tokens {
        key: Some(&key),
        ..Tokens::default()
    };
    let verdict = |password: &[u8]| {
        let mut asks = Call::mutual().connect();
        asks.password = Some(MqttPassword::new(password.to_vec()));
        let claim = claim(&caller, &asks, &tokens, NOW)?;
        decide(
            &caller,
            &claim,
            asks,
            Standing::Known(&record),
            &settings(),
            NOW,
        )
        .map_err(|refused| refused.refusal)
    };
    assert!(verdict(b"hunter2").is_ok());
    assert!(verdict(token(1).reveal().as_bytes()).is_ok());
    assert_eq!(
        verdict(token(2).reveal().as_bytes())
            .expect_err("refused")
            .label(),
        "token_bad"
    );
    assert_eq!(
        verdict(b"tdg_slip").expect_err("refused").label(),
        "token_bad"
    );
}

/// threats.md T5: whatever ends first ends the connection.
#[test]
fn an_admission_ends_with_the_first_thing_that_it_rests_on() {
    let mut record = record(Mode::MutualTls);
    let until = |record: &Record| {
        Call::mutual()
            .decide(Standing::Known(record))
            .expect("in")
            .until
    };
    assert_eq!(until(&record), Some(NOW + 1000), "the chain");
    record.credentials[0].valid.until = Some(NOW + 10);
    assert_eq!(until(&record), Some(NOW + 10), "the credential");
    let mut late = Call::mutual();
    late.at = NOW + 11;
    assert_eq!(
        late.told(Standing::Known(&record)),
        "credential_expired 05/87"
    );
    late.at = NOW + 1001;
    assert_eq!(
        late.told(Standing::Known(&record)),
        "certificate_expired 05/87"
    );
}

/// During a rotation old and new are both good, and the connection lasts as long as the longer one.
#[test]
fn of_two_valid_credentials_the_longer_counts() {
    let mut record = record(Mode::ServerTls);
    record.credentials[1].valid.until = Some(NOW + 10);
    record.add_credential(Proof::Token(key().hash(&token(1))), Valid::since(NOW));
    let admission = Call::with_token(Mode::ServerTls).decide(Standing::Known(&record));
    assert_eq!(admission.expect("in").until, None);
}

/// threats.md K2: a token in the username goes no further, whatever the templates say.
#[test]
fn a_token_in_the_username_never_reaches_the_broker() {
    let caller = Caller {
        listener: "devices",
        mode: Mode::ServerTls,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: None,
    };
    let key = key();
    let tokens = Tokens {
        place: TokenPlace::Username,
        key: Some(&key),
        ..Tokens::default()
    };
    let mut asks = Call::mutual().connect();
    asks.client_id = "meter-7".into();
    asks.username = Some(token(1).reveal().into());
    let mut settings = settings();
    settings.user_properties = vec![(
        "x-said".into(),
        Template::parse("{username}", Use::Free, &Alphabet::default()).expect("good"),
    )];
    let record = record(Mode::ServerTls);
    let claim = claim(&caller, &asks, &tokens, NOW).expect("a claim");
    let admission = decide(
        &caller,
        &claim,
        asks,
        Standing::Known(&record),
        &settings,
        NOW,
    );
    let encoded = admission.expect("in").connect.encode().expect("fits");
    assert!(!encoded.windows(4).any(|four| four == b"tdg_"));
}

/// `registry.unknown = "register"`: what it writes is what the same device is then admitted by.
#[test]
fn a_device_registers_itself_for_what_vouched_for_it() {
    let caller = Caller {
        listener: "devices",
        mode: Mode::MutualTls,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: Some(vouched()),
    };
    let asks = Call::mutual().connect();
    let claim = claim(&caller, &asks, &Tokens::default(), NOW).expect("a claim");
    for approval in [false, true] {
        let record = registration(&claim, approval, NOW).expect("vouched for");
        assert_eq!(record.min_mode, Mode::MutualTls);
        assert_eq!(record.registered_by.as_deref(), Some("fleet"));
        let told = Call::mutual().told(Standing::Known(&record));
        let expected = if approval {
            "device_disabled 05/87"
        } else {
            "admitted"
        };
        assert_eq!(told, expected);
    }
}

/// What a JWT of `meter-7` shows, by this mode.
fn jwt_claim(mode: Mode) -> (Caller<'static>, Connect, Claim) {
    let caller = Caller {
        listener: "devices",
        mode,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: None,
    };
    let mut call = Call::with_token(mode);
    call.token = None;
    let evidence = Evidence {
        mode,
        certificate: None,
        token: Some(Box::new(TokenEvidence::Jwt {
            not_after: NOW + 60,
            key: [3; 32],
        })),
    };
    (caller, call.connect(), Claim::of(id("meter-7"), evidence))
}

fn decide_jwt(mode: Mode, standing: Standing<'_>, settings: &ConnectSettings) -> String {
    let (caller, asks, claim) = jwt_claim(mode);
    match decide(&caller, &claim, asks, standing, settings, NOW) {
        Ok(admission) => admission.connect.client_id,
        Err(refused) => refused.refusal.label().to_owned(),
    }
}

/// threats.md K3: nobody has loosened `plain` for a device without a record.
#[test]
fn a_jwt_over_plain_needs_its_owners_word() {
    for standing in [Standing::NoRegistry, Standing::Unknown(Unknown::Admit)] {
        assert_eq!(
            decide_jwt(Mode::ServerTls, standing, &settings()),
            "meter-7"
        );
        assert_eq!(
            decide_jwt(Mode::Plain, standing, &settings()),
            "mode_not_allowed"
        );
    }
}

/// threats.md I8: the issuer's word opens no device that was loosened for a token of its own.
#[test]
fn a_jwt_counts_for_devices_that_are_bound_to_its_issuer() {
    let mut record = record(Mode::ServerTls);
    let told = |record: &Record| decide_jwt(Mode::ServerTls, Standing::Known(record), &settings());
    assert_eq!(told(&record), "token_bad");
    let number = record.add_credential(
        in_group(super::super::record::ISSUER, None),
        Valid::since(NOW),
    );
    assert_eq!(told(&record), "meter-7");
    record.changed = NOW;
    record.end_credential(number, NOW).expect("it is there");
    assert_eq!(told(&record), "token_expired");
}

/// threats.md I3, I7: whoever vouches is in the name, where `{trust}` is.
#[test]
fn a_device_of_the_issuer_is_no_device_of_a_group() {
    let mut settings = settings();
    settings.client_id =
        Template::parse("{trust}/{device}", Use::Name, &Alphabet::default()).expect("good");
    let told = decide_jwt(Mode::ServerTls, Standing::NoRegistry, &settings);
    assert_eq!(told, "jwt/meter-7");
}

/// threats.md I4: of a certificate whose key alone is pinned, the rest is the device's own text.
#[test]
fn what_a_device_wrote_beside_its_pinned_key_is_nobodys_word() {
    let mut settings = settings();
    settings.user_properties = vec![(
        "x-serial".into(),
        Template::parse("{cert.serial}", Use::Free, &Alphabet::default()).expect("good"),
    )];
    let shown = FLEET.certificate.serial.as_str();
    for (pin, told) in [
        (Pin::Certificate(FLEET.certificate.print), true),
        (Pin::Key(FLEET.certificate.key), false),
    ] {
        let mut record = Record::new(id("pump-1"), NOW);
        record.add_credential(Proof::Pinned(pin), Valid::since(NOW));
        let mut odd = Call::mutual();
        odd.shown = Some(unvouched());
        let caller = Caller {
            listener: "devices",
            mode: Mode::MutualTls,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: odd.shown,
        };
        let asks = odd.connect();
        let claim = claim(&caller, &asks, &Tokens::default(), NOW).expect("a claim");
        let standing = Standing::Known(&record);
        let connect = decide(&caller, &claim, asks, standing, &settings, NOW)
            .expect("pinned")
            .connect;
        let said = format!("{:?}", connect.properties);
        assert_eq!(said.contains(shown), told, "{pin:?}: {said}");
    }
}

/// threats.md K2: a token in the wrong field is refused before anybody is told.
#[test]
fn a_token_as_client_id_goes_nowhere() {
    let mut asks = Call::mutual().connect();
    asks.client_id = token(1).reveal().into();
    let caller = Caller {
        listener: "devices",
        mode: Mode::MutualTls,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        certificate: Some(vouched()),
    };
    let key = key();
    let tokens = Tokens {
        key: Some(&key),
        ..Tokens::default()
    };
    let refusal = claim(&caller, &asks, &tokens, NOW).expect_err("refused");
    assert!(
        refusal.label() == "token_bad" && !refusal.to_string().contains("tdg_"),
        "{refusal}"
    );
}

/// threats.md R1: an end that its owner wrote is one, also where the clocks differ; and so is a beginning.
#[test]
fn the_clocks_of_owner_and_gate_may_differ() {
    let mut record = record(Mode::MutualTls);
    record.credentials[0].valid = Valid::since(NOW + 200);
    assert_eq!(Call::mutual().told(Standing::Known(&record)), "admitted");
    record.changed = NOW + 200;
    record.end_credential(1, NOW + 200).expect("it is there");
    let told = Call::mutual().told(Standing::Known(&record));
    assert_eq!(told, "credential_expired 05/87");
}
