//! The CONNECT that is asked about, captured or made up; and how what the broker is told differs from it.

use std::path::Path;

use serde::Serialize;

use super::{Failure, unreadable};
use crate::mqtt::Version;
use crate::mqtt::connect::{self, Connect, Fault, Password, Will};
use crate::mqtt::properties::{Id, Properties, Property, Value};
use crate::rules::jwt;
use crate::rules::policy::TokenPlace;
use crate::rules::token::Token;
use crate::tls::files::read_regular;

/// A CONNECT, and where it is from.
pub(super) struct Packet {
    /// As far as it could be read.
    pub(super) connect: Result<Connect, Fault>,
    /// The file it was captured in; `None`: it is made up.
    pub(super) source: Option<String>,
    /// How many bytes were captured behind it.
    pub(super) behind: usize,
}

/// The most bytes of a captured CONNECT, in hex, and of a token.
const LARGEST: u64 = 1 << 20;
/// The most characters that are shown of a text.
const LONGEST: usize = 200;
/// The most bytes that are shown of what is no text.
const LONGEST_HEX: usize = 32;

impl Packet {
    /// What most devices send, but for names: MQTT 5.0, no client id.
    pub(super) fn plain() -> Self {
        Self {
            connect: Ok(Connect {
                version: Version::V5,
                clean_start: true,
                keep_alive: 60,
                properties: Properties::new(),
                client_id: String::new(),
                will: None,
                username: None,
                password: None,
            }),
            source: None,
            behind: 0,
        }
    }

    /// The same with a token, and, if it is told, whose it is.
    pub(super) fn with_token(
        path: &Path,
        place: TokenPlace,
        device: Option<&str>,
    ) -> Result<Self, Failure> {
        let token = read_regular(path, LARGEST).map_err(|fault| unreadable(path, &fault))?;
        let token = token.trim_ascii();
        let no_text = |_| {
            let path = path.display();
            Failure::asked_wrongly(format!("{path}: what is in it is no token, which is text"))
        };
        let token = str::from_utf8(token).map_err(no_text)?;
        if token.is_empty() {
            let path = path.display();
            return Err(Failure::asked_wrongly(format!("{path}: it is empty")));
        }
        let mut packet = Self::plain();
        if let Ok(connect) = &mut packet.connect {
            let password = |text: &str| Password::new(text.as_bytes().to_vec());
            (connect.username, connect.password) = match place {
                TokenPlace::Password => (device.map(str::to_owned), Some(password(token))),
                TokenPlace::Username => (Some(token.to_owned()), device.map(password)),
            };
        }
        Ok(packet)
    }

    /// Reads a captured one, of at most `most` bytes.
    pub(super) fn captured(path: &Path, most: usize) -> Result<Self, Failure> {
        let bytes = read_regular(path, LARGEST).map_err(|fault| unreadable(path, &fault))?;
        let bytes = from_hex(&bytes).unwrap_or(bytes);
        let no_connect = |what: String| {
            Failure::asked_wrongly(format!(
                "{}: {what}; give the packet from its first byte, 0x10, on, raw or in hex",
                path.display()
            ))
        };
        match bytes.first() {
            Some(0x10) => {}
            Some(first) => {
                let what = format!("it is no CONNECT: its first byte is {first:#04x}");
                return Err(no_connect(what));
            }
            None => return Err(no_connect("it is empty".into())),
        }
        let (connect, behind) = match connect::measure(&bytes, most) {
            Ok(None) => {
                let what = format!("the CONNECT is cut off after {} bytes", bytes.len());
                return Err(no_connect(what));
            }
            Ok(Some(length)) => (Connect::decode(&bytes[..length]), bytes.len() - length),
            Err(fault) => (Err(fault), 0),
        };
        Ok(Self {
            connect,
            source: Some(path.display().to_string()),
            behind,
        })
    }
}

/// The bytes that hex digits spell, with or without `0x`, spaces, commas and colons between; `None`: it is something else.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(text).ok()?;
    let words = text.split(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ':' | ';'));
    let digits: String = words
        .map(|word| word.strip_prefix("0x").unwrap_or(word))
        .collect();
    hex::decode(digits).ok()
}

/// One field of a CONNECT: as the device asks, and as the broker would see it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Field {
    pub(super) name: String,
    /// `null`: it is not there.
    pub(super) asked: Option<String>,
    /// `null`: it is not there.
    pub(super) told: Option<String>,
    pub(super) changed: bool,
}

/// A name and a value to show; and, if it must not be shown, what it really is.
#[derive(Clone, Eq, PartialEq)]
struct Line {
    name: String,
    shown: String,
    hidden: Vec<u8>,
}

/// Every field, in the order of the packet for the broker; then what is not in it any more.
pub(super) fn fields(asked: &Connect, told: &Connect) -> Vec<Field> {
    let mut left = lines(asked);
    let told = lines(told);
    let same: Vec<bool> = told
        .iter()
        .map(|line| {
            let place = left.iter().position(|one| one == line);
            place.map(|place| left.remove(place)).is_some()
        })
        .collect();
    let mut fields = Vec::new();
    for (line, same) in told.into_iter().zip(same) {
        let mut before = || {
            // One of ours does not replace another one that goes.
            let is = |one: &Line| one.name == line.name && !one.name.ends_with("User Property");
            let place = left.iter().position(is)?;
            Some(left.remove(place).shown)
        };
        let shown = line.shown.clone();
        let asked = if same { Some(shown) } else { before() };
        fields.push(Field {
            name: line.name,
            asked,
            told: Some(line.shown),
            changed: !same,
        });
    }
    fields.extend(left.into_iter().map(|line| Field {
        name: line.name,
        asked: Some(line.shown),
        told: None,
        changed: true,
    }));
    fields
}

fn lines(connect: &Connect) -> Vec<Line> {
    let line = |name: &str, shown: String| Line {
        name: name.to_owned(),
        shown,
        hidden: Vec::new(),
    };
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let name = |field: &str, name: &str| Line {
        hidden: name.as_bytes().to_vec(), // what is shown may be cut
        ..line(field, text(name))
    };
    let mut lines = vec![name("client id", &connect.client_id)];
    let username = connect.username.as_deref();
    lines.extend(username.map(|username| name("username", username)));
    lines.extend(connect.password.as_ref().map(|password| Line {
        hidden: password.reveal().to_vec(),
        ..line(
            "password",
            format!("({} bytes, not shown)", password.reveal().len()),
        )
    }));
    let keep_alive = match connect.keep_alive {
        0 => "none".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let clean = match connect.version {
        Version::V5 => "clean start",
        Version::V31 | Version::V311 => "clean session",
    };
    lines.push(line(clean, yes(connect.clean_start)));
    lines.push(line("keep alive", keep_alive));
    let properties = |place: &str, properties: &Properties| {
        let all = properties.iter().map(|one| property(place, one));
        all.collect::<Vec<_>>()
    };
    lines.extend(properties("", &connect.properties));
    if let Some(will) = &connect.will {
        let Will {
            qos,
            retain,
            topic,
            payload,
            ..
        } = will;
        lines.push(name("will topic", topic));
        lines.push(Line {
            hidden: payload.clone(),
            ..line("will message", message(payload))
        });
        lines.push(line("will QoS", qos.to_string()));
        lines.push(line("will retain", yes(*retain)));
        lines.extend(properties("will ", &will.properties));
    }
    lines
}

fn property(place: &str, property: &Property) -> Line {
    let (shown, hidden) = match &property.value {
        Value::Byte(number) => (number.to_string(), Vec::new()),
        Value::Two(number) => (number.to_string(), Vec::new()),
        Value::Four(number) | Value::Variable(number) => (number.to_string(), Vec::new()),
        Value::Text(value) => (text(value), value.clone().into_bytes()),
        Value::Binary(value) => (message(value), value.clone()),
        Value::Pair(name, value) => {
            let hidden = [name.as_bytes(), b"\0", value.as_bytes()].concat();
            (format!("{} = {}", text(name), text(value)), hidden)
        }
    };
    let shown = match property.id {
        Id::AuthenticationData => format!("({} bytes, not shown)", hidden.len()),
        _ => shown,
    };
    Line {
        name: format!("{place}{}", property.id),
        shown,
        hidden,
    }
}

/// Text from the wire: escaped, cut, and not if it is a token (threats.md K2).
fn text(text: &str) -> String {
    if Token::is_meant(text.as_bytes()) || jwt::is_meant(text.as_bytes()) {
        return format!("(a token of {} bytes, not shown)", text.len());
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// Bytes from the wire: as text, if they are one.
fn message(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(readable) if !readable.chars().any(char::is_control) => text(readable),
        _ if bytes.len() <= LONGEST_HEX => format!("0x{}", hex::encode(bytes)),
        _ => format!("{} bytes", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_as_tools_write_it() {
        for text in ["10 0c 00", "100c00\n", "0x10, 0x0c, 0x00", "10:0C:00"] {
            assert_eq!(
                from_hex(text.as_bytes()),
                Some(vec![0x10, 0x0c, 0]),
                "{text}"
            );
        }
        for text in ["", "10 0", "10 0g"] {
            assert!(from_hex(text.as_bytes()).is_none_or(|bytes| bytes.is_empty()));
        }
    }

    /// threats.md K2
    #[test]
    fn neither_token_nor_password_is_shown_and_a_change_of_either_is_told() {
        let token = Token::from_chance(&[7; 32]);
        let mut asked = Packet::plain().connect.expect("well-formed");
        asked.username = Some(token.reveal().to_owned());
        asked.password = Some(Password::new(b"hunter2".to_vec()));
        let mut told = asked.clone();
        told.password = Some(Password::new(b"hunter3".to_vec()));
        let shown = fields(&asked, &told);
        let printed = format!("{shown:?}");
        assert!(
            !printed.contains("tdg_") && !printed.contains("hunter"),
            "{printed}"
        );
        let changed: Vec<_> = shown.iter().filter(|field| field.changed).collect();
        assert_eq!(changed.len(), 1, "{changed:?}");
        assert_eq!(changed[0].name, "password");
    }

    #[test]
    fn what_is_removed_and_what_is_added_is_told() {
        let mut asked = Packet::plain().connect.expect("well-formed");
        asked
            .properties
            .push(Property::user("x-mode", "mutual-tls!"));
        asked.properties.push(Property::user("kept", "1"));
        let mut told = asked.clone();
        told.client_id = "meter-7".into();
        told.properties.remove_user("x-mode");
        told.properties.push(Property::user("x-mode", "server-tls"));
        let changed: Vec<_> = fields(&asked, &told)
            .into_iter()
            .filter(|field| field.changed)
            .map(|field| (field.asked, field.told))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            changed,
            [
                (some("\"\""), some("\"meter-7\"")),
                (None, some("\"x-mode\" = \"server-tls\"")),
                (some("\"x-mode\" = \"mutual-tls!\""), None),
            ]
        );
    }
}
