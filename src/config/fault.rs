//! What is wrong with a configuration, and what an operator should look after.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Origin {
    /// Nowhere: it is missing, or a default.
    #[default]
    Absent,
    /// In the file, on this line (from 1).
    Line(usize),
    /// In this environment variable.
    Variable(String),
    /// In this flag, such as `--listen`.
    Flag(&'static str),
}

/// One thing that is wrong: which key, what, and the way out.
///
/// Displayed as `key: what; way out`, or as `key: what` where that says all. A value that did not come from the file is told by its source:
/// `limits.connections (environment variable TIDEGATE_LIMITS__CONNECTIONS): …`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The key, such as `limits.connections` or `listener[devices].bind`; for a whole file its path.
    pub key: String,
    /// What is wrong. Never holds a secret; text of others is escaped.
    pub what: String,
    /// What to write instead; empty where `what` says it.
    pub way_out: String,
    /// Where the value was written.
    pub origin: Origin,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            what,
            way_out,
            origin,
        } = self;
        match origin {
            Origin::Variable(name) => write!(f, "{key} (environment variable {name}): {what}")?,
            Origin::Flag(name) => write!(f, "{key} ({name}): {what}")?,
            Origin::Absent | Origin::Line(_) => write!(f, "{key}: {what}")?,
        }
        if way_out.is_empty() {
            return Ok(());
        }
        write!(f, "; {way_out}")
    }
}

/// The value at fault, quoted and escaped, cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
