//! The properties of MQTT 5.0 packets, in order.

use std::fmt;

use super::fields::{Reader, TooLong, put_binary};
use super::{Malformed, length, text};

/// The packet, or the part of one, that a list of properties stands in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// The variable header of CONNECT (MQTT 5.0 §3.1.2.11).
    Connect,
    /// The will in the payload of CONNECT (MQTT 5.0 §3.1.3.2).
    Will,
    /// CONNACK (MQTT 5.0 §3.2.2.3).
    Connack,
    /// DISCONNECT (MQTT 5.0 §3.14.2.2).
    Disconnect,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::Will => "a will",
            Self::Connack => "CONNACK",
            Self::Disconnect => "DISCONNECT",
        })
    }
}

/// How the value of a property is spelt (MQTT 5.0 §1.5).
#[derive(Clone, Copy)]
enum Type {
    Byte,
    Two,
    Four,
    Variable,
    Text,
    Binary,
    Pair,
}

/// Spells the table of MQTT 5.0 §2.2.2.2 once: identifier, name, type, where it is described, where it may stand.
macro_rules! table {
    ($($name:ident = $byte:literal, $words:literal, $type:ident, $section:literal, [$($place:ident),*];)*) => {
        /// A property identifier (MQTT 5.0 §2.2.2.2).
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Id {
            $(#[doc = $words] $name = $byte,)*
        }

        impl Id {
            /// Every identifier, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name that the standard gives it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }

            /// The section of the standard that describes it.
            pub(super) fn section(self) -> &'static str {
                match self { $(Self::$name => $section,)* }
            }

            fn type_(self) -> Type {
                match self { $(Self::$name => Type::$type,)* }
            }

            /// Whether the standard lets it stand there.
            pub fn belongs(self, place: Place) -> bool {
                let places: &[Place] = match self { $(Self::$name => &[$(Place::$place),*],)* };
                places.contains(&place)
            }
        }
    };
}

table! {
    PayloadFormatIndicator = 0x01, "Payload Format Indicator", Byte, "3.1.3.2.3", [Will];
    MessageExpiryInterval = 0x02, "Message Expiry Interval", Four, "3.1.3.2.4", [Will];
    ContentType = 0x03, "Content Type", Text, "3.1.3.2.5", [Will];
    ResponseTopic = 0x08, "Response Topic", Text, "3.1.3.2.6", [Will];
    CorrelationData = 0x09, "Correlation Data", Binary, "3.1.3.2.7", [Will];
    SubscriptionIdentifier = 0x0b, "Subscription Identifier", Variable, "3.3.2.3.8", [];
    SessionExpiryInterval = 0x11, "Session Expiry Interval", Four, "3.1.2.11.2", [Connect, Connack, Disconnect];
    AssignedClientIdentifier = 0x12, "Assigned Client Identifier", Text, "3.2.2.3.7", [Connack];
    ServerKeepAlive = 0x13, "Server Keep Alive", Two, "3.2.2.3.14", [Connack];
    AuthenticationMethod = 0x15, "Authentication Method", Text, "3.1.2.11.9", [Connect, Connack];
    AuthenticationData = 0x16, "Authentication Data", Binary, "3.1.2.11.10", [Connect, Connack];
    RequestProblemInformation = 0x17, "Request Problem Information", Byte, "3.1.2.11.7", [Connect];
    WillDelayInterval = 0x18, "Will Delay Interval", Four, "3.1.3.2.2", [Will];
    RequestResponseInformation = 0x19, "Request Response Information", Byte, "3.1.2.11.6", [Connect];
    ResponseInformation = 0x1a, "Response Information", Text, "3.2.2.3.15", [Connack];
    ServerReference = 0x1c, "Server Reference", Text, "3.2.2.3.16", [Connack, Disconnect];
    ReasonString = 0x1f, "Reason String", Text, "3.2.2.3.9", [Connack, Disconnect];
    ReceiveMaximum = 0x21, "Receive Maximum", Two, "3.1.2.11.3", [Connect, Connack];
    TopicAliasMaximum = 0x22, "Topic Alias Maximum", Two, "3.1.2.11.5", [Connect, Connack];
    TopicAlias = 0x23, "Topic Alias", Two, "3.3.2.3.4", [];
    MaximumQos = 0x24, "Maximum QoS", Byte, "3.2.2.3.4", [Connack];
    RetainAvailable = 0x25, "Retain Available", Byte, "3.2.2.3.5", [Connack];
    UserProperty = 0x26, "User Property", Pair, "3.1.2.11.8", [Connect, Will, Connack, Disconnect];
    MaximumPacketSize = 0x27, "Maximum Packet Size", Four, "3.1.2.11.4", [Connect, Connack];
    WildcardSubscriptionAvailable = 0x28, "Wildcard Subscription Available", Byte, "3.2.2.3.11", [Connack];
    SubscriptionIdentifierAvailable = 0x29, "Subscription Identifier Available", Byte, "3.2.2.3.12", [Connack];
    SharedSubscriptionAvailable = 0x2a, "Shared Subscription Available", Byte, "3.2.2.3.13", [Connack];
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The value of a property. Which kind it is, hangs on the [`Id`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// A byte.
    Byte(u8),
    /// A Two Byte Integer.
    Two(u16),
    /// A Four Byte Integer.
    Four(u32),
    /// A Variable Byte Integer, at most 268 435 455.
    Variable(u32),
    /// A UTF-8 string.
    Text(String),
    /// Binary data.
    Binary(Vec<u8>),
    /// A name and a value.
    Pair(String, String),
}

/// One property.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Property {
    /// Which.
    pub id: Id,
    /// Its value, of the type that the standard gives to `id`.
    pub value: Value,
}

impl Property {
    /// A User Property.
    pub fn user(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            id: Id::UserProperty,
            value: Value::Pair(name.into(), value.into()),
        }
    }

    fn read(reader: &mut Reader<'_>, place: Place) -> Result<Self, Malformed> {
        // The identifier is a Variable Byte Integer, though none yet needs a second byte (§2.2.2.2).
        let number = reader.variable("a property identifier")?;
        let unknown = || Malformed::UnknownProperty {
            id: u32::try_from(number).unwrap_or(u32::MAX),
        };
        let id = u8::try_from(number)
            .ok()
            .and_then(Id::from_byte)
            .ok_or_else(unknown)?;
        if !id.belongs(place) {
            return Err(Malformed::MisplacedProperty { id, place });
        }
        let what = id.word();
        let value = match id.type_() {
            Type::Byte => Value::Byte(reader.byte(what)?),
            Type::Two => Value::Two(reader.two(what)?),
            Type::Four => Value::Four(reader.four(what)?),
            Type::Variable => Value::Variable(
                u32::try_from(reader.variable(what)?).map_err(|_| Malformed::Length)?,
            ),
            Type::Text => Value::Text(reader.text(what)?.to_owned()),
            Type::Binary => Value::Binary(reader.binary(what)?.to_owned()),
            Type::Pair => Value::Pair(reader.text(what)?.to_owned(), reader.text(what)?.to_owned()),
        };
        let property = Self { id, value };
        property.judge()?;
        Ok(property)
    }

    /// Whether the value is in its range.
    fn judge(&self) -> Result<(), Malformed> {
        match (self.id, &self.value) {
            // Each byte among the properties is a boolean, or Maximum QoS, which is 0 or 1 as well (§3.2.2.3.4).
            (_, Value::Byte(2..)) |
            // A Protocol Error by §3.1.2.11.3 and §3.2.2.3.3; §3.1.2.11.4 and §3.2.2.3.6; §3.3.2.3.8 and §3.3.2.3.4.
            (Id::ReceiveMaximum | Id::TopicAlias, Value::Two(0)) |
            (Id::MaximumPacketSize, Value::Four(0)) |
            (Id::SubscriptionIdentifier, Value::Variable(0)) => Err(Malformed::PropertyValue { id: self.id }),
            // [MQTT-3.3.2-14]
            (Id::ResponseTopic, Value::Text(name)) => text::topic(name, self.id.word()),
            _ => Ok(()),
        }
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let what = self.id.word();
        out.push(self.id as u8);
        match &self.value {
            Value::Byte(byte) => out.push(*byte),
            Value::Two(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Four(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Variable(number) => match usize::try_from(*number) {
                Ok(number) if number <= length::MOST => length::put(number, out),
                other => {
                    return Err(TooLong {
                        what,
                        bytes: other.unwrap_or(usize::MAX),
                        most: length::MOST,
                    });
                }
            },
            Value::Text(text) => put_binary(text.as_bytes(), what, out)?,
            Value::Binary(bytes) => put_binary(bytes, what, out)?,
            Value::Pair(name, value) => {
                put_binary(name.as_bytes(), what, out)?;
                put_binary(value.as_bytes(), what, out)?;
            }
        }
        Ok(())
    }

    /// Whether `value` is of the type that `id` asks for.
    fn fits(&self) -> bool {
        matches!(
            (self.id.type_(), &self.value),
            (Type::Byte, Value::Byte(_))
                | (Type::Two, Value::Two(_))
                | (Type::Four, Value::Four(_))
                | (Type::Variable, Value::Variable(_))
                | (Type::Text, Value::Text(_))
                | (Type::Binary, Value::Binary(_))
                | (Type::Pair, Value::Pair(..))
        )
    }
}

/// A list of properties. Their order and their values are kept to the byte; empty for MQTT 3.1 and 3.1.1.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Properties(Vec<Property>);

impl Properties {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `bytes`, the whole list without its Property Length, as it may stand in `place`.
    ///
    /// Takes memory in proportion to `bytes`: one [`Property`] for each, at two bytes or more, and their text once.
    ///
    /// # Errors
    /// The first rule that is broken. Only a User Property may come more than once.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut list = Vec::new();
        let mut seen = 0u64; // a bit for each identifier: the highest is 0x2a
        while !reader.is_empty() {
            let property = Property::read(&mut reader, place)?;
            let bit = 1 << property.id as u8;
            if property.id != Id::UserProperty && seen & bit != 0 {
                return Err(Malformed::RepeatedProperty { id: property.id });
            }
            seen |= bit;
            list.push(property);
        }
        let has = |id: Id| seen & (1 << id as u8) != 0;
        if place == Place::Connect && has(Id::AuthenticationData) && !has(Id::AuthenticationMethod)
        {
            return Err(Malformed::AuthenticationDataAlone); // §3.1.2.11.10: a Protocol Error
        }
        Ok(Self(list))
    }

    /// The bytes of the list, without a Property Length.
    ///
    /// # Errors
    /// [`TooLong`] when a text or binary value has more than 65 535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut out = Vec::new();
        for property in &self.0 {
            debug_assert!(property.fits(), "{property:?} has a value of another type");
            property.put(&mut out)?;
        }
        Ok(out)
    }

    /// Reads a Property Length and the list behind it.
    pub(super) fn read(reader: &mut Reader<'_>, place: Place) -> Result<Self, Malformed> {
        let count = reader.variable("the property length")?;
        Self::decode(reader.bytes(count, "the properties")?, place)
    }

    /// Appends a Property Length and the list.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let bytes = self.encode()?;
        if bytes.len() > length::MOST {
            return Err(TooLong {
                what: "the properties",
                bytes: bytes.len(),
                most: length::MOST,
            });
        }
        length::put(bytes.len(), out);
        out.extend_from_slice(&bytes);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Property> {
        self.0.iter()
    }

    /// The value of the first `id`.
    pub fn get(&self, id: Id) -> Option<&Value> {
        self.0
            .iter()
            .find(|property| property.id == id)
            .map(|property| &property.value)
    }

    /// Appends one.
    pub fn push(&mut self, property: Property) {
        debug_assert!(property.fits(), "{property:?} has a value of another type");
        self.0.push(property);
    }

    /// Removes every `id`; gives back the first value.
    pub fn remove(&mut self, id: Id) -> Option<Value> {
        let mut first = None;
        self.0.retain_mut(|property| {
            if property.id != id {
                return true;
            }
            let value = std::mem::replace(&mut property.value, Value::Byte(0));
            first.get_or_insert(value);
            false
        });
        first
    }

    /// Removes every User Property of that name, in any ASCII letter case; tells how many there were.
    ///
    /// MQTT compares names byte for byte, but a reader behind the broker may not: HTTP bridges, for one, do not.
    pub fn remove_user(&mut self, name: &str) -> usize {
        let before = self.0.len();
        self.0
            .retain(|property| !matches!(&property.value, Value::Pair(found, _) if found.eq_ignore_ascii_case(name)));
        before - self.0.len()
    }

    /// The User Properties, in order: name and value.
    pub fn users(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|property| match &property.value {
            Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
            _ => None,
        })
    }
}

impl FromIterator<Property> for Properties {
    fn from_iter<I: IntoIterator<Item = Property>>(list: I) -> Self {
        Self(list.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Properties {
    type Item = &'a Property;
    type IntoIter = std::slice::Iter<'a, Property>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary;
    use super::*;
    use proptest::prelude::*;

    const PLACES: [Place; 4] = [
        Place::Connect,
        Place::Will,
        Place::Connack,
        Place::Disconnect,
    ];

    fn decode(bytes: &[u8]) -> Result<Properties, Malformed> {
        Properties::decode(bytes, Place::Connect)
    }

    #[test]
    fn each_property_stands_where_table_2_4_lets_it() {
        let numbers = |place| -> Vec<u8> {
            Id::ALL
                .iter()
                .filter(|id| id.belongs(place))
                .map(|&id| id as u8)
                .collect()
        };
        assert_eq!(
            numbers(Place::Connect),
            [0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]
        );
        assert_eq!(
            numbers(Place::Will),
            [0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]
        );
        let connack = [
            0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27,
            0x28, 0x29, 0x2a,
        ];
        assert_eq!(numbers(Place::Connack), connack);
        assert_eq!(numbers(Place::Disconnect), [0x11, 0x1c, 0x1f, 0x26]);
    }

    #[test]
    fn a_property_in_the_wrong_place_is_malformed() {
        let misplaced = Malformed::MisplacedProperty {
            id: Id::MaximumQos,
            place: Place::Connect,
        };
        assert_eq!(decode(b"\x24\x01"), Err(misplaced));
        assert_eq!(
            misplaced.to_string(),
            "Maximum QoS does not belong into CONNECT (MQTT 5.0 §2.2.2.2)"
        );
    }

    #[test]
    fn an_unknown_identifier_is_malformed() {
        assert_eq!(decode(b"\x00"), Err(Malformed::UnknownProperty { id: 0 }));
        assert_eq!(
            decode(b"\x7f\x00"),
            Err(Malformed::UnknownProperty { id: 0x7f })
        );
        assert_eq!(
            decode(b"\x91\x01\x00"),
            Err(Malformed::UnknownProperty { id: 0x91 })
        );
        // 0x11 in two bytes
        assert!(matches!(
            decode(b"\x91\x00\x00\x00\x00\x01"),
            Err(Malformed::NotMinimal { .. })
        ));
    }

    #[test]
    fn only_a_user_property_comes_twice() {
        assert_eq!(
            decode(b"\x22\x00\x01\x22\x00\x01"),
            Err(Malformed::RepeatedProperty {
                id: Id::TopicAliasMaximum
            })
        );
        let users = decode(b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01b").unwrap();
        assert_eq!(users.users().collect::<Vec<_>>(), [("a", "b"), ("a", "b")]);
    }

    #[test]
    fn values_out_of_range_are_protocol_errors() {
        for (bytes, id) in [
            (&b"\x21\x00\x00"[..], Id::ReceiveMaximum),
            (b"\x27\x00\x00\x00\x00", Id::MaximumPacketSize),
            (b"\x17\x02", Id::RequestProblemInformation),
            (b"\x19\xff", Id::RequestResponseInformation),
        ] {
            let fault = decode(bytes).unwrap_err();
            assert_eq!(fault, Malformed::PropertyValue { id });
            assert_eq!(fault.kind(), super::super::Kind::Protocol);
        }
    }

    #[test]
    fn authentication_data_needs_a_method_in_any_order() {
        assert_eq!(
            decode(b"\x16\x00\x00"),
            Err(Malformed::AuthenticationDataAlone)
        );
        assert!(decode(b"\x16\x00\x00\x15\x00\x00").is_ok());
    }

    #[test]
    fn a_response_topic_is_a_topic_name() {
        let will = |bytes| Properties::decode(bytes, Place::Will);
        assert!(will(b"\x08\x00\x01a").is_ok());
        assert!(matches!(
            will(b"\x08\x00\x01#"),
            Err(Malformed::Wildcard { .. })
        ));
        assert!(matches!(
            will(b"\x08\x00\x00"),
            Err(Malformed::EmptyTopic { .. })
        ));
    }

    #[test]
    fn removal_keeps_the_order_of_the_rest() {
        let bytes =
            b"\x26\x00\x01a\x00\x01x\x22\x00\x0a\x26\x00\x01b\x00\x01y\x26\x00\x01a\x00\x01z";
        let mut list = decode(bytes).unwrap();
        assert_eq!(list.remove_user("a"), 2);
        assert_eq!(
            list.encode().unwrap(),
            b"\x22\x00\x0a\x26\x00\x01b\x00\x01y"
        );
        assert_eq!(list.remove(Id::TopicAliasMaximum), Some(Value::Two(10)));
        assert_eq!(list.remove(Id::TopicAliasMaximum), None);
        list.push(Property::user("c", ""));
        assert_eq!(
            list.encode().unwrap(),
            b"\x26\x00\x01b\x00\x01y\x26\x00\x01c\x00\x00"
        );
    }

    #[test]
    fn text_of_65_536_bytes_cannot_be_written() {
        let list: Properties = [Property::user("a", "x".repeat(65_536))]
            .into_iter()
            .collect();
        assert_eq!(
            list.encode().unwrap_err().to_string(),
            "User Property has 65536 bytes, and 65535 fit"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (place, list) in proptest::sample::select(&PLACES[..])
                .prop_flat_map(|place| (Just(place), arbitrary::properties(place)))
        ) {
            let bytes = list.encode().unwrap();
            prop_assert_eq!(Properties::decode(&bytes, place), Ok(list));
        }

        #[test]
        fn what_is_read_is_written_to_the_byte(
            place in proptest::sample::select(&PLACES[..]),
            list in arbitrary::properties(Place::Connack),
            at: proptest::sample::Index,
            byte: u8,
        ) {
            let mut bytes = list.encode().unwrap();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(list) = Properties::decode(&bytes, place) {
                prop_assert_eq!(list.encode().unwrap(), bytes);
            }
        }
    }
}
