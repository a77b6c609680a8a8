//! JSON read strictly: no object, at whatever depth, holds a member twice.
//!
//! Of two members of one name one reader takes the first, another the last: whoever signed and whoever checks might mean
//! different things (RFC 7519 §4; threats.md K1).

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool,
    /// A number that an `i64` holds.
    Whole(i64),
    /// Any other number.
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Object),
}

/// The members of an object, by name.
pub(super) type Object = BTreeMap<String, Json>;

/// Why bytes are not one object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoObject {
    /// They are no JSON, or something follows it, or it is nested deeper than 127 levels.
    NotJson {
        /// From 1.
        line: usize,
    },
    /// A member stands twice in one object.
    Twice,
    /// It is JSON, but no object.
    Other,
}

/// Reads exactly one object. Takes time and memory in proportion to the bytes; serde_json bounds the depth.
pub(super) fn object(bytes: &[u8]) -> Result<Object, NoObject> {
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(NoObject::Other),
        // Any shape is taken, so what does not fit as data is a member that stands twice. The error's own words may quote
        // what was read, and go nowhere.
        Err(fault) if fault.classify() == Category::Data => Err(NoObject::Twice),
        Err(fault) => Err(NoObject::NotJson { line: fault.line() }),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "what no i64 holds is out of any range that is asked for"
    )]
    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(i64::try_from(number).map_or(Json::Number(number as f64), Json::Whole))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some((name, value)) = members.next_entry()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Object, NoObject> {
        object(text.as_bytes())
    }

    #[test]
    fn an_object_is_read_whole() {
        let all = read(
            r#"{"a":null,"b":true,"c":-1,"d":1.5,"e":"é\u0041","f":[1,[]],"g":{"a":18446744073709551615}}"#,
        );
        let all = all.expect("an object");
        assert_eq!(all["a"], Json::Null);
        assert_eq!(all["b"], Json::Bool);
        assert_eq!(all["c"], Json::Whole(-1));
        assert_eq!(all["d"], Json::Number(1.5));
        assert_eq!(all["e"], Json::Text("éA".into()));
        assert_eq!(
            all["f"],
            Json::List(vec![Json::Whole(1), Json::List(vec![])])
        );
        assert!(
            matches!(&all["g"], Json::Object(inner) if matches!(inner["a"], Json::Number(n) if n > 1e19))
        );
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_however_it_is_spelt() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":1}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"":1,"":2}"#,
        ] {
            assert_eq!(read(text), Err(NoObject::Twice), "{text}");
        }
        assert!(
            read(r#"{"a":1,"A":1,"x":{"a":1}}"#).is_ok(),
            "names are exact"
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["null", "1", "\"a\"", "[]", "[{}]", "true"] {
            assert_eq!(read(text), Err(NoObject::Other), "{text}");
        }
        let deep = |n| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(read(&deep(100)).is_ok());
        for text in [
            "",
            "{",
            "{}x",
            "{}{}",
            "{}\0",
            "{'a':1}",
            "{a:1}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\n\"}",
            "\u{feff}{}",
            "// a\n{}",
            &deep(200),
            &deep(100_000),
        ] {
            assert!(
                matches!(read(text), Err(NoObject::NotJson { .. })),
                "{text:.20}"
            );
        }
        assert!(matches!(
            object(b"{\"a\":\"\xff\"}"),
            Err(NoObject::NotJson { .. })
        ));
    }
}
