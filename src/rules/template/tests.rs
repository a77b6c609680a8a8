//! What templates promise: plain words, honest faults, and one name per device.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A certificate with a CN, a URI and a DNS name; a field with an empty list of values is not there.
fn certificate(cn: &[&str], uri: &[&str], dns: &[&str]) -> Certificate {
    Certificate::for_tests(cn, uri, dns)
}

fn name(text: &str) -> Result<Template, TemplateFault> {
    Template::parse(text, Use::Name, &Alphabet::default())
}

fn free(text: &str) -> Template {
    Template::parse(text, Use::Free, &Alphabet::default()).expect("a good template")
}

fn device(id: &str) -> DeviceId {
    Alphabet::with_extra(":@").unwrap().device(id).unwrap()
}

/// A device that sent nothing but an empty client id.
fn bare(device: &DeviceId) -> Facts<'_> {
    Facts {
        device,
        client_id: "",
        username: None,
        mode: Mode::ServerTls,
        listener: "devices",
        trust: None,
        ip: [192, 0, 2, 7].into(),
        certificate: None,
    }
}

#[test]
fn every_placeholder_has_its_text() {
    let (id, shown) = (
        device("meter-7"),
        certificate(&["m 7"], &["urn:7"], &["m7.example.net"]),
    );
    let facts = Facts {
        client_id: "c",
        username: Some("u"),
        mode: Mode::MutualTls,
        trust: Some("fleet"),
        certificate: Some(&shown),
        ip: "2001:db8::7".parse().unwrap(),
        ..bare(&id)
    };
    for (text, expected) in [
        ("{device}", "meter-7"),
        ("{client_id}|{username}", "c|u"),
        ("{mode} {listener} {trust}", "mutual-tls devices fleet"),
        ("{ip}", "2001:db8::7"),
        (
            "{cert.cn},{cert.san.uri},{cert.san.dns}",
            "m 7,urn:7,m7.example.net",
        ),
        ("{cert.serial}", "ab01"),
        ("{cert.fingerprint}", &shown.fingerprint()),
        ("{{{device}}} }}{{", "{meter-7} }{"),
        ("", ""),
    ] {
        let template = free(text);
        assert_eq!(template.render(&facts).as_deref(), Ok(expected), "{text}");
        assert_eq!(template.to_string(), text, "it prints as it was written");
    }
}

#[test]
fn what_is_not_known_is_empty_where_text_is_free() {
    let id = device("meter-7");
    let all = free(
        "[{username}{trust}{cert.cn}{cert.serial}{cert.fingerprint}{cert.san.uri}{cert.san.dns}]",
    );
    assert_eq!(all.render(&bare(&id)).unwrap(), "[]");
    let nameless = certificate(&[], &[], &[]);
    let facts = Facts {
        certificate: Some(&nameless),
        ..bare(&id)
    };
    assert_eq!(free("[{cert.cn}]").render(&facts).unwrap(), "[]");
}

/// threats.md I3, I6: a name is whole or it is refused.
#[test]
fn what_is_not_known_makes_no_name() {
    let id = device("meter-7");
    let refused = |text: &str, facts: &Facts<'_>| {
        let why = name(text)
            .expect("a good template")
            .render(facts)
            .unwrap_err();
        assert!(!why.to_string().is_empty());
        why.label()
    };
    let none = bare(&id);
    assert_eq!(
        refused("{device}/{username}", &none),
        "username_not_allowed"
    );
    assert_eq!(refused("{trust}/{device}", &none), "identity_missing");
    assert_eq!(refused("{cert.serial}/{device}", &none), "identity_missing");

    let odd = certificate(&["a", "b"], &[], &["a b"]);
    let facts = Facts {
        certificate: Some(&odd),
        ..none
    };
    assert_eq!(refused("{device}/{cert.cn}", &facts), "identity_repeated");
    assert_eq!(
        refused("{device}/{cert.san.uri}", &facts),
        "identity_missing"
    );
    assert_eq!(
        refused("{device}/{cert.san.dns}", &facts),
        "identity_not_allowed"
    );
    let repeated = free("{cert.cn}").render(&facts).unwrap_err();
    assert_eq!(
        repeated.label(),
        "identity_repeated",
        "two values are not none"
    );
}

/// threats.md I5: text from the device is held to the alphabet before it becomes part of a name.
#[test]
fn a_device_cannot_write_wildcards_into_its_name() {
    let id = device("meter-7");
    let both = name("{client_id}/{username}/{device}").unwrap();
    for bad in ["#", "+", "a/b", "a b", "a\u{1}", "ä", "$SYS", "a:b"] {
        let client_id = Facts {
            client_id: bad,
            username: Some(""),
            ..bare(&id)
        };
        assert_eq!(
            both.render(&client_id),
            Err(Unrenderable::ClientId),
            "{bad:?}"
        );
        let username = Facts {
            username: Some(bad),
            ..bare(&id)
        };
        assert_eq!(
            both.render(&username),
            Err(Unrenderable::Username),
            "{bad:?}"
        );
    }
    let empty = Facts {
        username: Some(""),
        ..bare(&id)
    };
    assert_eq!(both.render(&empty).unwrap(), "//meter-7");
    assert_eq!(Unrenderable::ClientId.label(), "client_id_not_allowed");

    for bad in ["#", "a+", "$x", "a b", "a\u{a0}b"] {
        let shown = certificate(&[bad], &[], &[]);
        let facts = Facts {
            certificate: Some(&shown),
            ..bare(&id)
        };
        let why = name("{cert.cn}/{device}").unwrap().render(&facts);
        assert_eq!(why, Err(Unrenderable::CertificateValue(Field::SubjectCn)));
    }
}

/// MQTT 5.0 §1.5.4.
#[test]
fn no_text_is_longer_than_mqtt_can_carry() {
    let id = device("meter-7");
    let long = "x".repeat(65_535);
    let facts = Facts {
        client_id: &long,
        ..bare(&id)
    };
    assert_eq!(free("{client_id}").render(&facts).unwrap().len(), 65_535);
    let why = free("{client_id}.").render(&facts).unwrap_err();
    assert_eq!(why.label(), "text_too_long");
    let too_long = Template::parse(&"x".repeat(65_536), Use::Free, &Alphabet::default());
    assert_eq!(
        too_long.unwrap_err(),
        TemplateFault::TooLong { bytes: 65_536 }
    );
}

#[test]
fn a_fault_tells_what_where_and_the_way_out() {
    for (text, expected) in [
        (
            "é{device",
            "the { at character 2 is never closed; close it with }, or write {{ for a brace that stays",
        ),
        (
            "{device}}",
            "the } at character 9 closes nothing; remove it, or write }} for a brace that stays",
        ),
        (
            "{devise}",
            r#"there is no placeholder "{devise}" (character 1); did you mean {device}?"#,
        ),
        (
            "a/{clientid}",
            r#"there is no placeholder "{clientid}" (character 3); did you mean {client_id}?"#,
        ),
        (
            "{ Device }",
            r#"there is no placeholder "{ Device }" (character 1); did you mean {device}?"#,
        ),
        (
            "{cert.san.url}",
            r#"there is no placeholder "{cert.san.url}" (character 1); did you mean {cert.san.uri}?"#,
        ),
        (
            "{device} x",
            "' ' at character 9 has a meaning of its own to brokers (+ # $ and white space never stand in a name); replace it, for example with / or -",
        ),
        (
            "{device}\u{7}",
            r"'\u{7}' at character 9 is a control character; remove it",
        ),
        (
            "fleet",
            "{device} is not in it, so devices would share one name; put {device} into it",
        ),
        (
            "{client_id}{device}",
            "{device} runs into {client_id}, so two devices could get one name; put a character between them that no device id can hold, such as /",
        ),
        (
            "{cert.cn}/{device}/{client_id}",
            "{cert.cn} and {client_id} stand on either side of {device}, where their texts could pass for another device's name; put both on the same side of {device}",
        ),
    ] {
        assert_eq!(name(text).unwrap_err().to_string(), expected);
    }
    let unknown = name("{}").unwrap_err().to_string();
    assert!(
        unknown.contains("known are {device} {client_id} {username}"),
        "{unknown}"
    );
    let long = name(&format!("{{{}}}", "x".repeat(9_000)))
        .unwrap_err()
        .to_string();
    assert!(long.len() < 500, "{long}");
    let control = Template::parse("a\0", Use::Free, &Alphabet::default());
    assert!(matches!(
        control,
        Err(TemplateFault::Control {
            character: '\0',
            at: 2
        })
    ));
}

/// threats.md I3.
#[test]
fn a_name_must_set_the_device_off() {
    for good in [
        "{device}",
        "fleet-{device}",
        "{device}-fleet",
        "{device}/{client_id}",
        "{username}@{client_id}:{device}",
        "{trust}/{device}",
        "{mode}/{device}/{ip}",
        "{ip}/{device}/{cert.cn}",
        "{client_id}/{device}/{ip}",
        "{device}/{device}",
        "{{{device}}}",
    ] {
        assert!(name(good).is_ok(), "{good}: {:?}", name(good));
    }
    for bad in [
        "",
        "{client_id}",
        "{device}{client_id}",
        "{device}-{client_id}",
        "{ip}.{device}",
        "{device}{device}",
        "{client_id}/{device}/{username}",
        "{cert.cn}/{device}/{listener}",
        "{cert.cn}:{device}:{ip}",
        "{trust}/{device}/{listener}",
    ] {
        assert!(name(bad).is_err(), "{bad}");
    }
    let colon = Alphabet::with_extra(":").unwrap();
    assert!(Template::parse("{device}:{ip}", Use::Name, &Alphabet::default()).is_ok());
    let fault = Template::parse("{device}:{ip}", Use::Name, &colon).unwrap_err();
    assert_eq!(fault, TemplateFault::RunsInto { neighbour: "{ip}" });
}

/// threats.md I7: where `{trust}` sets groups apart, and where it does not.
#[test]
fn a_name_may_tell_the_group_too() {
    for good in [
        "{trust}:{device}",
        "{device}@{trust}",
        "{trust}/{device}/{client_id}",
        "{client_id}/{trust}:{device}",
        "{device}:{trust}/{ip}",
        "{cert.cn}/{trust}/{device}",
    ] {
        let template = name(good).expect(good);
        assert!(template.tells_groups_apart(), "{good}");
    }
    for bad in [
        "{device}",
        "{listener}:{device}",
        "{device}/{trust}{client_id}",
        "{device}/{client_id}-{trust}",
        "{device}/{client_id}/{trust}.{ip}",
    ] {
        // What does not even tell devices apart is no template.
        let apart = name(bad).is_ok_and(|template| template.tells_groups_apart());
        assert!(!apart, "{bad}");
    }
}

/// Texts that are made to be mistaken for each other.
struct World {
    devices: Vec<DeviceId>,
    client_ids: &'static [&'static str],
    ips: Vec<IpAddr>,
    words: &'static [&'static str],
    groups: &'static [&'static str],
    certificates: Vec<Certificate>,
}

impl World {
    fn new(alphabet: &Alphabet) -> Self {
        let ids = ["a", "b", "aa", "ab", "a-a", "2001", "a:a", "a:b"];
        let certificates = ["a", "a/b", "a:b", "b/a", "b:a"]
            .map(|value| certificate(&[value], &[value], &["a/b"]));
        Self {
            devices: ids
                .iter()
                .filter_map(|id| alphabet.device(id).ok())
                .collect(),
            client_ids: &["", "a", "b", "a-a"],
            ips: ["2001:db8::1", "db8::1", "::a:a", "10.0.0.1"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            words: &["a", "a/a", "a:b", "b/a", "b:a"],
            groups: &["a", "a/a", "a:b", "b/a", "b:a"],
            certificates: certificates.into(),
        }
    }

    /// Every text that `template` has, with the device that got it and its group; at most `most` of them.
    fn names(
        &self,
        template: &Template,
        most: usize,
    ) -> impl Iterator<Item = (String, (&DeviceId, &str))> {
        let text = template.to_string();
        // What the template does not mention need not vary.
        let count =
            |placeholder: &str, all: usize| if text.contains(placeholder) { all } else { 1 };
        let counts = [
            self.devices.len(),
            count("{client_id}", self.client_ids.len()),
            count("{username}", self.client_ids.len()),
            count("{listener}", self.words.len()),
            count("{trust}", self.groups.len()),
            count("{ip}", self.ips.len()),
            count("{cert.", self.certificates.len()),
        ];
        let total: usize = counts.iter().product();
        // A stride that shares no factor with the counts (2, 3, 5, 7) visits all of them in some order.
        (0..total.min(most)).filter_map(move |n| {
            let mut left = (n * 7_919) % total;
            let [id, asked, user, listener, trust, ip, shown] = counts.map(|count| {
                let at = left % count;
                left /= count;
                at
            });
            let facts = Facts {
                device: &self.devices[id],
                client_id: self.client_ids[asked],
                username: Some(self.client_ids[user]),
                mode: Mode::MutualTls,
                listener: self.words[listener],
                trust: Some(self.groups[trust]),
                ip: self.ips[ip],
                certificate: Some(&self.certificates[shown]),
            };
            Some((
                template.render(&facts).ok()?,
                (facts.device, self.groups[trust]),
            ))
        })
    }
}

/// Templates with up to three pieces on each side of a `{device}`, most of them set off somehow.
fn templates() -> impl Strategy<Value = String> {
    let literals = [
        "/", ":", "/", ":", "a", "-", "a/", "/a", ":a", "a:", "::", "/:", "@",
    ];
    let literal = select(literals.to_vec());
    let placeholder = prop_oneof![
        3 => select(Placeholder::ALL.map(Placeholder::word).to_vec()),
        // An address holds colons, as fences do.
        1 => Just("{ip}"),
    ];
    let side = (
        literal.clone(),
        placeholder.clone(),
        prop_oneof![Just(""), literal, placeholder],
        0..=3_usize,
    )
        .prop_map(|(fence, first, second, pieces)| match pieces {
            0 => vec![],
            1 => vec![first],
            _ => vec![fence, first, second],
        });
    (side.clone(), side).prop_map(|(mut left, right)| {
        left.reverse();
        left.concat() + "{device}" + &right.concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// threats.md I3: two devices never get the same name, whatever is configured and whatever else they send.
    #[test]
    fn no_template_gives_two_devices_one_name(text in templates(), extra in select(vec!["", ":", "@"])) {
        let alphabet = Alphabet::with_extra(extra).unwrap();
        let Ok(template) = Template::parse(&text, Use::Name, &alphabet) else {
            return Ok(());
        };
        let world = World::new(&alphabet);
        let mut owners: HashMap<String, &DeviceId> = HashMap::new();
        for (name, (device, _)) in world.names(&template, 4_000) {
            let owner = *owners.entry(name.clone()).or_insert(device);
            prop_assert_eq!(owner, device, "{} gives both the name {:?}", text, name);
        }
    }

    /// threats.md I3, I7: nor do two groups give one name, though each of them names a device as it likes.
    #[test]
    fn no_template_with_groups_gives_two_groups_one_name(text in templates(), extra in select(vec!["", ":", "@"])) {
        let alphabet = Alphabet::with_extra(extra).unwrap();
        let template = Template::parse(&text, Use::Name, &alphabet);
        let Some(template) = template.ok().filter(Template::tells_groups_apart) else {
            return Ok(());
        };
        let groups: &[&str] = &["a", "b", "a-a", "a.b", "ab", "2001"];
        let world = World { groups, ..World::new(&alphabet) };
        let mut owners: HashMap<String, (&DeviceId, &str)> = HashMap::new();
        for (name, owner) in world.names(&template, 4_000) {
            let first = *owners.entry(name.clone()).or_insert(owner);
            prop_assert_eq!(first, owner, "{} gives both the name {:?}", text, name);
        }
    }

    /// Whatever an operator writes: a template or a fault, and a template prints as it was written.
    #[test]
    fn any_text_is_a_template_or_a_fault(text in r"[{}a/.:\n]{0,12}|\PC{0,24}|(\{|\}|device|client_id|/){0,8}") {
        for use_ in [Use::Name, Use::Free] {
            match Template::parse(&text, use_, &Alphabet::default()) {
                Ok(template) => prop_assert_eq!(template.to_string(), text.clone()),
                Err(fault) => prop_assert!(!fault.to_string().contains('\n')),
            }
        }
    }
}
