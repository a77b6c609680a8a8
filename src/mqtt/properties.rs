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

    /// Removes every User Property of that name, compared byte for byte; tells how many there were.
    pub fn remove_user(&mut self, name: &str) -> usize {
        let before = self.0.len();
        self.0
            .retain(|property| !matches!(&property.value, Value::Pair(found, _) if found == name));
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
