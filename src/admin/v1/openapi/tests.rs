//! docs/openapi.json, docs/admin-api.md and the program say the same.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Visitor};
use serde_json::{Value, json};

use super::super::connections::{ConnectionForm, ConnectionsForm, EndedForm};
use super::super::forms::{DevicesForm, NewCredential, NewDevice, Patch, Rotation, WithToken};
use super::super::reload::ReloadedForm;
use super::super::route::{ENTRIES, Entry, Route};
use super::DOCUMENT;
use crate::gate::Open;
use crate::registry::form::{CredentialForm, Form, LastSeenForm};
use crate::rules::device::Mode;
use crate::rules::record::{LastSeen, Pin, Proof, Record, Valid};

const PAGE: &str = include_str!("../../../../docs/admin-api.md");

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("JSON")
}

fn operation<'d>(document: &'d Value, entry: &Entry) -> &'d Value {
    &document["paths"][entry.path][entry.method.as_str().to_lowercase()]
}

fn names(list: &Value, place: &str) -> BTreeSet<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter(|one| one["in"] == place)
        .map(|one| one["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn set<'s>(names: impl IntoIterator<Item = &'s str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn every_path_is_told_and_no_other() {
    let document = document();
    let told: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods").keys();
            methods.map(move |method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let known = ENTRIES
        .iter()
        .map(|entry| (entry.path.to_owned(), entry.method.to_string()));
    assert_eq!(told, known.collect());
    for entry in &ENTRIES {
        let row = format!("| `{} {}` |", entry.method, entry.path);
        assert!(PAGE.contains(&row), "docs/admin-api.md: {row}");
    }
}

#[test]
fn what_each_path_takes_is_told() {
    let document = document();
    for entry in &ENTRIES {
        let told = operation(&document, entry);
        let path = entry.path;
        let mut id = format!("{:?}", entry.route);
        id[..1].make_ascii_lowercase();
        assert_eq!(told["operationId"], id, "{path}");
        assert_eq!(
            names(&told["parameters"], "query"),
            set(entry.query.iter().copied()),
            "{path}"
        );
        let varies = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(names(&told["parameters"], "path"), set(varies), "{path}");
        assert_eq!(told["requestBody"].is_object(), entry.body, "{path}");
        let open = told["security"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(open, entry.route == Route::OpenApi, "{path}");
    }
}

/// Reads no more than the names of a struct's members.
struct Members<'a>(&'a RefCell<Vec<&'static str>>);

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> de::Deserializer<'de> for Members<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        members: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        self.0.replace(members.to_vec());
        Err(Stop)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn members<'de, T: Deserialize<'de>>() -> BTreeSet<String> {
    let found = RefCell::new(Vec::new());
    assert!(
        T::deserialize(Members(&found)).is_err(),
        "it stops at the names"
    );
    let found = found.into_inner();
    assert!(!found.is_empty(), "a struct");
    set(found)
}

fn properties(schema: &str) -> BTreeSet<String> {
    let document = document();
    let schema = &document["components"]["schemas"][schema];
    assert_eq!(schema["additionalProperties"], false);
    let properties = schema["properties"].as_object().expect("properties");
    set(properties.keys().map(String::as_str))
}

#[test]
fn every_member_of_a_request_is_told_and_no_other() {
    assert_eq!(members::<NewDevice>(), properties("NewDevice"));
    assert_eq!(members::<NewCredential>(), properties("NewCredential"));
    assert_eq!(members::<Patch>(), properties("DevicePatch"));
    assert_eq!(members::<Rotation>(), properties("Rotation"));
}

/// What is needed is what the program cannot do without.
#[test]
fn what_a_request_needs_is_told() {
    let needs = |schema: &str| document()["components"]["schemas"][schema]["required"].clone();
    assert_eq!(needs("NewDevice"), json!(["device"]));
    assert!(serde_json::from_str::<NewDevice>("{\"device\":\"a\"}").is_ok());
    assert!(serde_json::from_str::<NewDevice>("{}").is_err());
    for schema in ["NewCredential", "DevicePatch", "Rotation"] {
        assert_eq!(needs(schema), Value::Null, "{schema}");
    }
    assert!(serde_json::from_str::<NewCredential>("{}").is_ok());
    assert!(serde_json::from_str::<Patch>("{}").is_ok());
    assert!(serde_json::from_str::<Rotation>("{}").is_ok());
}

/// A device with everything that one can have, and one with nothing.
fn devices() -> [Form; 2] {
    let bare = Record::new("meter-7".parse().expect("a device id"), 0);
    let mut full = bare.clone();
    full.connections = Some(2);
    full.registered_by = Some("fleet".into());
    full.labels.insert("a".into(), "b".into());
    let until = Valid {
        from: 0,
        until: Some(9),
    };
    let vouched = Proof::Vouched {
        group: "fleet".into(),
        field: crate::rules::identity::Field::SanUri,
        pin: Some(Pin::Key([1; 32])),
    };
    full.add_credential(vouched, until);
    full.add_credential(Proof::Pinned(Pin::Certificate([2; 32])), Valid::since(0));
    full.add_credential(Proof::Token([3; 32]), Valid::since(0));
    let seen = LastSeen {
        at: 0,
        address: "192.0.2.1:5".into(),
        mode: Mode::Plain,
        certificate: Some([4; 32]),
    };
    [Form::shown(&full, Some(&seen)), Form::shown(&bare, None)]
}

fn connections() -> [ConnectionForm; 2] {
    let bare = Open {
        number: 1,
        device: "meter-7".parse().expect("a device id"),
        listener: "devices".into(),
        address: ([192, 0, 2, 1], 5).into(),
        mode: Mode::Plain,
        trust: None,
        certificate_fingerprint: None,
        open_for: std::time::Duration::from_secs(5),
    };
    let full = Open {
        trust: Some("fleet".into()),
        certificate_fingerprint: Some("00".repeat(32)),
        ..bare.clone()
    };
    [ConnectionForm::of(full), ConnectionForm::of(bare)]
}

fn keys(value: &impl serde::Serialize) -> BTreeSet<String> {
    let value = serde_json::to_value(value).expect("JSON");
    let members = value.as_object().expect("an object");
    set(members.keys().map(String::as_str))
}

/// Compares a full and a bare answer with what the document promises of them, all the way down.
fn compare(schema: &str, full: &impl serde::Serialize, bare: &impl serde::Serialize) {
    let whole = document();
    let told = &whole["components"]["schemas"][schema];
    assert_eq!(keys(full), properties(schema), "{schema}");
    let required = told["required"].as_array().into_iter().flatten();
    let required = set(required.filter_map(Value::as_str));
    assert_eq!(keys(bare), required, "{schema}");
}

#[test]
fn every_member_of_an_answer_is_told_and_no_other() {
    let [full, bare] = devices();
    compare("Device", &full, &bare);
    let next = Some("/v1/devices?after=a".to_owned());
    let page = |next| DevicesForm {
        devices: devices().to_vec(),
        next,
    };
    compare("Devices", &page(next.clone()), &page(None));
    let mut shown = members::<CredentialForm>();
    assert!(shown.remove("hash"), "it is never shown");
    assert_eq!(shown, properties("Credential"));
    assert_eq!(members::<LastSeenForm>(), properties("LastSeen"));
    let with = |device: Form, token: Option<&str>| WithToken {
        device,
        token: token.map(str::to_owned),
    };
    compare(
        "DeviceWithToken",
        &with(full, Some("tdg_")),
        &with(bare, None),
    );

    let [full, bare] = connections();
    compare("Connection", &full, &bare);
    let page = |next| ConnectionsForm {
        connections: connections().into(),
        next,
    };
    compare("Connections", &page(next), &page(None));
    compare("Ended", &EndedForm { ended: 1 }, &EndedForm { ended: 0 });
    let warnings = |warnings: &[&str]| ReloadedForm {
        generation: 2,
        warnings: warnings.iter().map(ToString::to_string).collect(),
    };
    compare("Reloaded", &warnings(&["a"]), &warnings(&[]));
}

#[test]
fn every_reason_is_told_and_no_other() {
    let document = document();
    let reason = &document["components"]["schemas"]["Problem"]["properties"]["reason"]["enum"];
    let told = set(reason
        .as_array()
        .expect("words")
        .iter()
        .filter_map(Value::as_str));
    let made = regex_lite::Regex::new(r#"StatusCode::[A-Z_]+, "([a-z_]+)""#).expect("a pattern");
    let source: String = include_str!("../reply.rs")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let known = made.captures_iter(&source).map(|found| found[1].to_owned());
    assert_eq!(told, known.collect());
    for word in told {
        assert!(
            PAGE.contains(&format!("| `{word}` |")),
            "docs/admin-api.md: {word}"
        );
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| walk(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    walk(&document, &mut found);
    assert!(found.len() > 40, "{}", found.len());
    for reference in found {
        let place = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(place).is_some(), "{reference}");
    }
}
