//! Numbers, sizes and durations: what a [`Section`] reads within bounds.

use std::time::Duration;

use super::fault::quoted;
use super::node::{Node, Value};
use super::reader::{Got, Section};

/// What a quantity may be, and what it is when it is left out.
#[derive(Clone, Copy)]
pub(super) struct Bounds<T> {
    pub(super) least: T,
    pub(super) most: T,
    pub(super) default: T,
}

impl<T: Copy + PartialOrd> Bounds<T> {
    fn hold(&self, found: T) -> bool {
        self.least <= found && found <= self.most
    }
}

impl Section<'_> {
    /// A whole number.
    pub(super) fn number(&mut self, key: &str, bounds: Bounds<u32>) -> Got<u32> {
        let Some(node) = self.take(key) else {
            return Got::Absent;
        };
        let found = match (&node.value, node.loose().map(digits)) {
            (Value::Integer(number), _) => *number,
            (_, Some(number @ Some(_))) => number,
            (Value::Text(text), Some(None)) => {
                let what = format!("{} is no whole number", quoted(text));
                let way_out = format!("leave it out to get {}", bounds.default);
                self.fault_at(key, node.origin.clone(), what, way_out);
                return Got::Faulty;
            }
            _ => {
                let example = format!("{key} = {}", bounds.default);
                return self.wrong_kind(key, &node, "a whole number", &example);
            }
        };
        self.within(key, &node, found, bounds, |number| number.to_string())
    }

    /// A number of bytes: a whole number, or a text such as `"16KiB"`.
    pub(super) fn size(&mut self, key: &str, bounds: Bounds<u32>) -> Got<u32> {
        let Some(node) = self.take(key) else {
            return Got::Absent;
        };
        let example = format!("{key} = {:?}", write_size(bounds.default));
        let found = match &node.value {
            Value::Integer(number) => *number,
            Value::Text(text) => {
                let Some(bytes) = read_size(text) else {
                    let what = format!("{} is no size", quoted(text));
                    let way_out =
                        format!("write bytes as a number, or a text in KiB or MiB: {example}");
                    self.fault_at(key, node.origin.clone(), what, way_out);
                    return Got::Faulty;
                };
                Some(bytes)
            }
            _ => return self.wrong_kind(key, &node, "a size", &example),
        };
        self.within(key, &node, found, bounds, write_size)
    }

    /// Judges a number; `None`: it does not fit into 64 bits.
    fn within(
        &self,
        key: &str,
        node: &Node,
        found: Option<i64>,
        bounds: Bounds<u32>,
        write: fn(u32) -> String,
    ) -> Got<u32> {
        let number = found.and_then(|number| u32::try_from(number).ok());
        if let Some(number) = number.filter(|number| bounds.hold(*number)) {
            return Got::Good(number);
        }
        let found = match (&node.value, found) {
            (Value::Text(text), _) => quoted(text),
            (_, Some(number)) => number.to_string(),
            (_, None) => "a number beyond 64 bits".into(),
        };
        self.out_of_bounds(key, node, &found, bounds, write)
    }

    /// A duration: a text such as `"10s"`.
    pub(super) fn duration(&mut self, key: &str, bounds: Bounds<Duration>) -> Got<Duration> {
        let Some(node) = self.take(key) else {
            return Got::Absent;
        };
        let example = format!("{key} = {:?}", write_duration(bounds.default));
        let (what, way_out) = match &node.value {
            Value::Text(text) => match humantime::parse_duration(text) {
                Ok(found) if bounds.hold(found) => return Got::Good(found),
                Ok(_) => {
                    return self.out_of_bounds(key, &node, &quoted(text), bounds, write_duration);
                }
                Err(_) => (
                    format!("{} is no duration", quoted(text)),
                    format!("write a number and a unit, ms, s, m or h: {example}"),
                ),
            },
            Value::Integer(Some(n)) => (
                format!("{n} has no unit of time"),
                format!("write the unit too: {key} = \"{n}s\", \"{n}ms\""),
            ),
            _ => return self.wrong_kind(key, &node, "a duration", &example),
        };
        self.fault_at(key, node.origin.clone(), what, way_out);
        Got::Faulty
    }

    fn out_of_bounds<T>(
        &self,
        key: &str,
        node: &Node,
        found: &str,
        bounds: Bounds<T>,
        write: fn(T) -> String,
    ) -> Got<T> {
        let Bounds {
            least,
            most,
            default,
        } = bounds;
        let what = format!("{found} is not within {} to {}", write(least), write(most));
        let way_out = format!("leave it out to get {}", write(default));
        self.fault_at(key, node.origin.clone(), what, way_out);
        Got::Faulty
    }
}

/// A duration as it is read.
pub(super) fn write_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A size in the largest unit that makes a whole number.
pub(super) fn write_size(bytes: u32) -> String {
    match bytes {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{}MiB", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// Reads `512`, `512B`, `16KiB`, `1 MiB`.
fn read_size(text: &str) -> Option<i64> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: i64 = match unit.trim_start_matches(' ') {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits(number)?.checked_mul(factor)
}

/// Digits, with `_` between them as in TOML.
fn digits(text: &str) -> Option<i64> {
    let well = text.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && !text.starts_with('_')
        && !text.ends_with('_')
        && !text.contains("__");
    if well {
        text.replace('_', "").parse().ok()
    } else {
        None
    }
}
