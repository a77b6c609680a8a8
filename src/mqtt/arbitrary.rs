//! Models at random, all of them valid, for property tests.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::Version;
use super::connack::Connack;
use super::connect::{Connect, Password, Will};
use super::properties::{Id, Place, Properties, Property, Value};

/// Text of a few characters of every width, or one as long as can be.
pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => "[a-z/$+#\u{1}\u{7f}ä計🜛\u{feff}]{0,12}",
        1 => prop_oneof![Just(127), Just(128), Just(65_535)].prop_map(|count| "x".repeat(count)),
    ]
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z/$ ä計🜛]{1,12}"
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

/// A property of `id` with a value that it may have.
fn property(id: Id) -> BoxedStrategy<Property> {
    let value = match id {
        Id::SessionExpiryInterval | Id::WillDelayInterval | Id::MessageExpiryInterval => {
            any::<u32>().prop_map(Value::Four).boxed()
        }
        Id::MaximumPacketSize => (1..=u32::MAX).prop_map(Value::Four).boxed(),
        Id::ReceiveMaximum => (1..=u16::MAX).prop_map(Value::Two).boxed(),
        Id::TopicAliasMaximum | Id::ServerKeepAlive => any::<u16>().prop_map(Value::Two).boxed(),
        Id::CorrelationData | Id::AuthenticationData => binary().prop_map(Value::Binary).boxed(),
        Id::ResponseTopic => topic().prop_map(Value::Text).boxed(),
        Id::ContentType
        | Id::AssignedClientIdentifier
        | Id::AuthenticationMethod
        | Id::ResponseInformation
        | Id::ServerReference
        | Id::ReasonString => text().prop_map(Value::Text).boxed(),
        Id::UserProperty => ("[a-z-]{0,9}", text())
            .prop_map(|(name, value)| Value::Pair(name, value))
            .boxed(),
        Id::SubscriptionIdentifier | Id::TopicAlias => {
            unreachable!("these stand in no list that we read")
        }
        _ => (0..=1u8).prop_map(Value::Byte).boxed(),
    };
    value.prop_map(move |value| Property { id, value }).boxed()
}

/// Properties that may stand in `place`: some of them, in any order, User Properties more than once.
pub(super) fn properties(place: Place) -> impl Strategy<Value = Properties> {
    let ids: Vec<Id> = Id::ALL
        .iter()
        .copied()
        .filter(|id| id.belongs(place))
        .collect();
    let users = [Id::UserProperty; 3];
    let count = ids.len();
    (subsequence(ids, 0..=count), 0..=users.len())
        .prop_map(move |(mut ids, more)| {
            let orphan = place == Place::Connect && !ids.contains(&Id::AuthenticationMethod);
            ids.retain(|id| !(orphan && *id == Id::AuthenticationData));
            ids.extend(&users[..more]);
            ids
        })
        .prop_shuffle()
        .prop_flat_map(|ids| ids.into_iter().map(property).collect::<Vec<_>>())
        .prop_map(Properties::from_iter)
}

fn properties_in(version: Version, place: Place) -> BoxedStrategy<Properties> {
    match version {
        Version::V5 => properties(place).boxed(),
        Version::V31 | Version::V311 => Just(Properties::new()).boxed(),
    }
}

pub(super) fn version() -> impl Strategy<Value = Version> {
    proptest::sample::select(&Version::ALL[..])
}

fn will(version: Version) -> impl Strategy<Value = Will> {
    (
        0..=2u8,
        any::<bool>(),
        properties_in(version, Place::Will),
        topic(),
        binary(),
    )
        .prop_map(|(qos, retain, properties, topic, payload)| Will {
            qos,
            retain,
            properties,
            topic,
            payload,
        })
}

/// A CONNECT that is valid in `version`.
pub(super) fn connect(version: Version) -> impl Strategy<Value = Connect> {
    (
        any::<bool>(),
        any::<u16>(),
        properties_in(version, Place::Connect),
        text(),
        proptest::option::of(will(version)),
        proptest::option::of(text()),
        proptest::option::of(binary().prop_map(Password::new)),
    )
        .prop_map(
            move |(
                clean_start,
                keep_alive,
                properties,
                mut client_id,
                will,
                username,
                mut password,
            )| {
                if client_id.is_empty()
                    && (version == Version::V31 || version == Version::V311 && !clean_start)
                {
                    client_id = "meter-7".into();
                }
                if version != Version::V5 && username.is_none() {
                    password = None;
                }
                Connect {
                    version,
                    clean_start,
                    keep_alive,
                    properties,
                    client_id,
                    will,
                    username,
                    password,
                }
            },
        )
}

/// A CONNACK that is valid in `version`.
pub(super) fn connack(version: Version) -> impl Strategy<Value = Connack> {
    (
        any::<bool>(),
        any::<u8>(),
        properties_in(version, Place::Connack),
    )
        .prop_map(|(session, code, properties)| Connack {
            session_present: session && code == 0,
            code,
            properties,
        })
}
