//! `trust.pattern`: which part of a field is the device id.

use std::fmt;

use regex_lite::Regex;

/// A regular expression with a group named `device`, matched against a whole value.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    /// Anchored at both ends.
    whole: Regex,
}

/// The pattern cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPattern {
    /// It is no regular expression.
    #[error(
        "{text:?} is not a regular expression ({why}); correct it, or leave trust.pattern out to take the whole field"
    )]
    NoRegex {
        /// What was written.
        text: String,
        /// What the expression's parser said.
        why: String,
    },
    /// No group is named `device`.
    #[error(
        "{text:?} has no group named `device`; put (?<device>…) around the part that is the device id, as in ^urn:device:(?<device>.+)$"
    )]
    NoDevice {
        /// What was written.
        text: String,
    },
}

impl Pattern {
    /// Reads `trust.pattern`.
    ///
    /// # Errors
    /// [`BadPattern`], with the way out.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let compile = |expression: &str| {
            Regex::new(expression).map_err(|e| BadPattern::NoRegex {
                text: text.to_owned(),
                why: e.to_string(),
            })
        };
        // Alone first: what is no expression by itself (`a)|(b`) must not become one inside the anchors.
        let alone = compile(text)?;
        if !alone.capture_names().flatten().any(|name| name == "device") {
            return Err(BadPattern::NoDevice {
                text: text.to_owned(),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            whole: compile(&format!(r"\A(?:{text})\z"))?,
        })
    }

    /// The part of `value` that the group `device` matched; `None` unless the pattern matches all of `value`.
    pub fn device<'v>(&self, value: &'v str) -> Option<&'v str> {
        Some(self.whole.captures(value)?.name("device")?.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_picks_the_device() {
        let pattern = Pattern::parse("^(?:urn:device:)?(?<device>.+)$").unwrap();
        assert_eq!(pattern.device("urn:device:meter-7"), Some("meter-7"));
        assert_eq!(pattern.device("meter-7"), Some("meter-7"));
        assert_eq!(pattern.device(""), None);
        assert_eq!(pattern.to_string(), "^(?:urn:device:)?(?<device>.+)$");
    }

    /// threats.md I5: alternatives and line modes do not loosen the anchors.
    #[test]
    fn a_pattern_is_anchored_however_it_is_written() {
        let either = Pattern::parse("(?<device>a)|b(?<x>c)").unwrap();
        assert_eq!(either.device("a"), Some("a"));
        assert_eq!(either.device("ax"), None);
        assert_eq!(either.device("bc"), None, "the group took no part");
        let prefix = Pattern::parse("(?<device>a|ab)").unwrap();
        assert_eq!(prefix.device("ab"), Some("ab"));
        let lines = Pattern::parse("(?m)^(?<device>[a-z]+)$").unwrap();
        assert_eq!(lines.device("a\nb"), None);
    }

    #[test]
    fn a_pattern_that_cannot_work_says_why() {
        for (text, expected) in [
            ("(?<device>", "is not a regular expression"),
            ("(?<device>a))(b", "is not a regular expression"),
            ("a)|(?<device>b", "is not a regular expression"),
            ("(?x)(?<device>a) # no end", "is not a regular expression"),
            (
                "(?<device>a){1000}{1000}{1000}",
                "is not a regular expression",
            ),
            ("meter-[0-9]+", "has no group named `device`"),
            ("(?<Device>.+)", "has no group named `device`"),
            ("", "has no group named `device`"),
        ] {
            let why = Pattern::parse(text).unwrap_err().to_string();
            assert!(why.contains(expected), "{text:?}: {why}");
        }
    }
}
