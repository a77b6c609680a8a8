//! What was written, as a tree: each value with the place it was written in.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin};

/// A value and where it was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

pub(super) type Fields = BTreeMap<String, Node>;

/// A value of TOML.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Table(Fields),
    List(Vec<Node>),
    Text(String),
    /// `None`: it does not fit into 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Moment,
}

impl Default for Value {
    fn default() -> Self {
        Self::Table(Fields::new())
    }
}

impl Value {
    /// What it is, for a sentence.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float => "a decimal number",
            Self::Boolean(_) => "true or false",
            Self::Moment => "a date or time",
        }
    }
}

impl Node {
    pub(super) fn text(text: impl Into<String>, origin: Origin) -> Self {
        Self {
            value: Value::Text(text.into()),
            origin,
        }
    }

    /// A text that was written without types, in a variable or a flag.
    pub(super) fn loose(&self) -> Option<&str> {
        match (&self.value, &self.origin) {
            (Value::Text(text), Origin::Variable(_) | Origin::Flag(_)) => Some(text),
            _ => None,
        }
    }

    /// Makes a table of it, if it is none, and gives its fields.
    pub(super) fn as_fields(&mut self) -> &mut Fields {
        if !matches!(self.value, Value::Table(_)) {
            *self = Self::default();
        }
        match &mut self.value {
            Value::Table(fields) => fields,
            _ => unreachable!("made a table above"),
        }
    }

    /// Makes a list of it, if it is none (a single value becomes its only item), and gives its items.
    pub(super) fn as_items(&mut self) -> &mut Vec<Self> {
        if !matches!(self.value, Value::List(_)) {
            let single = std::mem::take(self);
            let origin = single.origin.clone();
            let items = match &single.value {
                Value::Table(fields) if fields.is_empty() => Vec::new(),
                _ => vec![single],
            };
            *self = Self {
                value: Value::List(items),
                origin,
            };
        }
        match &mut self.value {
            Value::List(items) => items,
            _ => unreachable!("made a list above"),
        }
    }
}

/// Reads TOML text; `name` names it in faults.
///
/// # Errors
/// Every fault of its syntax, with line and column, without the line itself: it may hold a secret.
pub(super) fn parse(text: &str, name: &str) -> Result<Fields, Vec<Fault>> {
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(fields(document.into_inner(), &lines));
    }
    let fault = |error: &toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let (line, column) = (lines.line(at), lines.column(at));
        let rule = error.message().lines().collect::<Vec<_>>().join(", ");
        Fault {
            key: name.to_owned(),
            what: format!("line {line}, column {column} is not TOML: {rule}"),
            way_out: "see https://toml.io; texts stand in quotes, sections in [brackets]".into(),
            origin: Origin::Line(line),
        }
    };
    Err(errors.iter().map(fault).collect())
}

/// One value written as in TOML, such as `["a", "b"]`; `None`, if it is none.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Value> {
    let value = DeValue::parse(text).ok()?.into_inner();
    let mut node = Node {
        value: convert(value, &Lines::of(text)),
        origin: origin.clone(),
    };
    came_from(&mut node, origin);
    Some(node.value)
}

fn came_from(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::Table(fields) => fields.values_mut().for_each(|node| came_from(node, origin)),
        Value::List(items) => items.iter_mut().for_each(|node| came_from(node, origin)),
        _ => {}
    }
}

fn fields(table: DeTable<'_>, lines: &Lines) -> Fields {
    let field = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| {
        let origin = Origin::Line(lines.line(key.span().start));
        (
            key.into_inner().into_owned(),
            Node {
                value: convert(value.into_inner(), lines),
                origin,
            },
        )
    };
    table.into_iter().map(field).collect()
}

fn convert(value: DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(s) => Value::Text(s.into_owned()),
        DeValue::Integer(i) => Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).ok()),
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(b) => Value::Boolean(b),
        DeValue::Datetime(_) => Value::Moment,
        DeValue::Array(items) => {
            let item = |item: Spanned<DeValue<'_>>| {
                let origin = Origin::Line(lines.line(item.span().start));
                Node {
                    value: convert(item.into_inner(), lines),
                    origin,
                }
            };
            Value::List(items.into_iter().map(item).collect())
        }
        DeValue::Table(table) => Value::Table(fields(table, lines)),
    }
}

/// Where each line of a text ends.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line, from 1, that the byte `at` stands on.
    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }

    /// The column, from 1 and in bytes, of the byte `at`.
    fn column(&self, at: usize) -> usize {
        match self.line(at) {
            1 => at + 1,
            line => at - self.0[line - 2],
        }
    }
}
