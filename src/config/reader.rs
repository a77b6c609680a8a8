//! A typed reader of what was written: takes keys out one by one, collects faults, tells what is left over.
//!
//! serde stops at the first fault; an operator wants them all. So every method here gives a [`Got`] and goes on:
//! a faulty value is noted once and is neither "missing" nor wrong a second time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::fault::{Fault, Origin, quoted};
use super::node::{self, Fields, Node, Value};

/// What a key gave.
#[derive(Debug)]
pub(super) enum Got<T> {
    /// It was not written.
    Absent,
    /// It was written wrongly; the fault is noted.
    Faulty,
    /// It was written well.
    Good(T),
}

impl<T> Got<T> {
    pub(super) fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Faulty => None,
        }
    }

    /// The value, or the default; a faulty one gives the default too: the configuration will not be used.
    pub(super) fn or(self, default: T) -> T {
        self.good().unwrap_or(default)
    }
}

/// What was found on the way through a configuration.
#[derive(Debug, Default)]
pub(super) struct Notes {
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<String>>,
    /// Every key that was asked for, with `[]` for the items of a list of tables.
    known: RefCell<BTreeSet<String>>,
    /// Every file that was named.
    files: RefCell<Vec<PathBuf>>,
    file_folder: PathBuf,
    own_folder: PathBuf,
}

impl Notes {
    /// Paths in the file start from `file_folder`, those in variables and flags from `own_folder`.
    pub(super) fn starting_from(file_folder: PathBuf, own_folder: PathBuf) -> Self {
        Self {
            file_folder,
            own_folder,
            ..Self::default()
        }
    }

    pub(super) fn fault(&self, mut fault: Fault) {
        // Sentences of other rooms may quote what was written: one fault stays one line.
        fault.what = fault.what.replace(char::is_control, " ");
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    pub(super) fn fault_count(&self) -> usize {
        self.faults.borrow().len()
    }

    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    pub(super) fn take_faults(&self) -> Vec<Fault> {
        self.faults.take()
    }

    pub(super) fn take_files(&self) -> Vec<PathBuf> {
        self.files.take()
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }
}

/// A section and what is left of it to read.
pub(super) struct Section<'n> {
    /// As faults name it, such as `listener[devices].tls`; empty for the whole file.
    path: String,
    /// As the reference names it, such as `listener[].tls`.
    pattern: String,
    fields: Fields,
    origins: BTreeMap<String, Origin>,
    asked: BTreeSet<String>,
    notes: &'n Notes,
}

impl<'n> Section<'n> {
    pub(super) fn whole(fields: Fields, notes: &'n Notes) -> Self {
        Self::new(String::new(), String::new(), fields, notes)
    }

    fn new(path: String, pattern: String, fields: Fields, notes: &'n Notes) -> Self {
        let origins = fields
            .iter()
            .map(|(key, node)| (key.clone(), node.origin.clone()))
            .collect();
        Self {
            path,
            pattern,
            fields,
            origins,
            asked: BTreeSet::new(),
            notes,
        }
    }

    /// The key as faults name it.
    pub(super) fn name_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes a fault of `key`, which may hold a position: `addresses[1]`.
    pub(super) fn fault(&self, key: &str, what: impl Into<String>, way_out: impl Into<String>) {
        let bare = key.split('[').next().unwrap_or(key);
        let origin = self.origins.get(bare).cloned().unwrap_or_default();
        self.fault_at(key, origin, what, way_out);
    }

    pub(super) fn fault_at(
        &self,
        key: &str,
        origin: Origin,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) {
        let (what, way_out) = (what.into(), way_out.into());
        self.notes.fault(Fault {
            key: self.name_of(key),
            what,
            way_out,
            origin,
        });
    }

    pub(super) fn warn(&self, key: &str, sentence: &str) {
        self.notes
            .warn(format!("{}: {sentence}", self.name_of(key)));
    }

    /// That file is named here.
    pub(super) fn note_file(&self, file: &Path) {
        self.notes.files.borrow_mut().push(file.to_owned());
    }

    /// Whether anything was written here.
    pub(super) fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Whether `key` was written.
    pub(super) fn wrote(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        self.asked.insert(key.to_owned());
        self.notes
            .known
            .borrow_mut()
            .insert(join(&self.pattern, key));
        self.fields.remove(key)
    }

    pub(super) fn wrong_kind<T>(
        &self,
        key: &str,
        node: &Node,
        wanted: &str,
        example: &str,
    ) -> Got<T> {
        // The value itself is not told: it may be a secret in the wrong place.
        self.fault_at(
            key,
            node.origin.clone(),
            format!("is {}, where {wanted} belongs", node.value.kind()),
            format!("write {example}"),
        );
        Got::Faulty
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str, example: &str) -> Got<String> {
        match self.take(key) {
            None => Got::Absent,
            Some(Node {
                value: Value::Text(text),
                ..
            }) => Got::Good(text),
            Some(node) => self.wrong_kind(key, &node, "a text", &format!("{key} = {example:?}")),
        }
    }

    /// A text that `read` makes something of; its error is what is wrong and the way out.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, (String, String)>,
    ) -> Got<T> {
        match self.text(key, example) {
            Got::Absent => Got::Absent,
            Got::Faulty => Got::Faulty,
            Got::Good(text) => match read(&text) {
                Ok(value) => Got::Good(value),
                Err((what, way_out)) => {
                    self.fault(key, what, way_out);
                    Got::Faulty
                }
            },
        }
    }

    /// One of a few words.
    pub(super) fn word<T>(
        &mut self,
        key: &str,
        words: &[&str],
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Got<T> {
        let choice = words.join(" | ");
        self.parsed(key, words[0], |text| {
            read(text).ok_or_else(|| {
                let near = nearest(text, words.iter().copied());
                let hint = near.map_or(String::new(), |word| format!("did you mean {word:?}? "));
                (
                    format!("{} is not known here", quoted(text)),
                    format!("{hint}write one of {choice}"),
                )
            })
        })
    }

    /// A text or a list of texts, each with the key that faults name it by.
    pub(super) fn texts(&mut self, key: &str, example: &str) -> Got<Vec<(String, String)>> {
        let Some(mut node) = self.take(key) else {
            return Got::Absent;
        };
        if let Some(list) = node.loose().filter(|text| text.starts_with('['))
            && let Some(value @ Value::List(_)) = node::parse_value(list, &node.origin)
        {
            node.value = value;
        }
        match node.value {
            Value::Text(text) => Got::Good(vec![(key.to_owned(), text)]),
            Value::List(items) => {
                let mut texts = Vec::new();
                let mut whole = true;
                for (i, item) in items.into_iter().enumerate() {
                    let at = format!("{key}[{i}]");
                    if let Value::Text(text) = item.value {
                        texts.push((at, text));
                    } else {
                        let _: Got<()> =
                            self.wrong_kind(&at, &item, "a text", &format!("{example:?}"));
                        whole = false;
                    }
                }
                if whole { Got::Good(texts) } else { Got::Faulty }
            }
            _ => self.wrong_kind(
                key,
                &node,
                "a text or a list of texts",
                &format!("{key} = [{example:?}]"),
            ),
        }
    }

    /// A path, made absolute: in the file it starts from the file's folder, else from the working directory.
    pub(super) fn path(&mut self, key: &str, example: &str) -> Got<PathBuf> {
        let read = |text: &str| match text {
            "" => Err(("is empty".to_owned(), format!("write {key} = {example:?}"))),
            _ if text.contains('\0') => {
                Err(("holds a NUL character".to_owned(), "name a file".to_owned()))
            }
            _ => Ok(text.to_owned()),
        };
        match self.parsed(key, example, read) {
            Got::Good(text) => {
                let path = self.folder(key).join(text);
                self.note_file(&path);
                Got::Good(path)
            }
            Got::Absent => Got::Absent,
            Got::Faulty => Got::Faulty,
        }
    }

    /// A path or a list of paths, made absolute.
    pub(super) fn paths(&mut self, key: &str, example: &str) -> Got<Vec<PathBuf>> {
        let Got::Good(texts) = (match self.texts(key, example) {
            Got::Absent => return Got::Absent,
            got => got,
        }) else {
            return Got::Faulty;
        };
        let mut whole = true;
        for (at, text) in &texts {
            if text.is_empty() || text.contains('\0') {
                self.fault(at, format!("{} is no path", quoted(text)), "name a file");
                whole = false;
            }
        }
        let folder = self.folder(key);
        let paths: Vec<_> = texts
            .into_iter()
            .map(|(_, text)| folder.join(text))
            .collect();
        for path in &paths {
            self.note_file(path);
        }
        if whole { Got::Good(paths) } else { Got::Faulty }
    }

    /// Where a path starts that is, or would be, written at `key`.
    pub(super) fn folder(&self, key: &str) -> &'n Path {
        match self.origins.get(key) {
            Some(Origin::Variable(_) | Origin::Flag(_)) => &self.notes.own_folder,
            _ => &self.notes.file_folder,
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str) -> Got<bool> {
        let Some(node) = self.take(key) else {
            return Got::Absent;
        };
        match (&node.value, node.loose()) {
            (Value::Boolean(value), _) => Got::Good(*value),
            (_, Some("true")) => Got::Good(true),
            (_, Some("false")) => Got::Good(false),
            _ => self.wrong_kind(key, &node, "true or false", &format!("{key} = true")),
        }
    }

    /// A table of texts, in the order of its names.
    pub(super) fn pairs(&mut self, key: &str, example: &str) -> Got<Vec<(String, String)>> {
        let Some(mut node) = self.take(key) else {
            return Got::Absent;
        };
        if let Some(table) = node.loose().filter(|text| text.starts_with('{'))
            && let Some(value @ Value::Table(_)) = node::parse_value(table, &node.origin)
        {
            node.value = value;
        }
        let Value::Table(fields) = node.value else {
            return self.wrong_kind(
                key,
                &node,
                "a table of texts",
                &format!("{key} = {example}"),
            );
        };
        let mut pairs = Vec::new();
        let mut whole = true;
        for (name, field) in fields {
            if let Value::Text(text) = field.value {
                pairs.push((name, text));
            } else {
                let at = join(key, &name);
                let _: Got<()> =
                    self.wrong_kind(&at, &field, "a text", &format!("{key} = {example}"));
                whole = false;
            }
        }
        if whole { Got::Good(pairs) } else { Got::Faulty }
    }

    /// A section below; one that was not written is empty.
    pub(super) fn section(&mut self, key: &str) -> Self {
        let fields = match self.take(key) {
            None => Fields::new(),
            Some(Node {
                value: Value::Table(fields),
                ..
            }) => fields,
            Some(node) => {
                let name = join(&plain_path(&self.pattern), key);
                let _: Got<()> = self.wrong_kind(key, &node, "a section", &format!("[{name}]"));
                Fields::new()
            }
        };
        Self::new(
            self.name_of(key),
            join(&self.pattern, key),
            fields,
            self.notes,
        )
    }

    /// A list of sections below, such as `[[listener]]`. Those with a name of their own are told by it in faults.
    pub(super) fn sections(&mut self, key: &str) -> Vec<Self> {
        let header = format!("[[{}]]", join(&plain_path(&self.pattern), key));
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Node {
                value: Value::List(items),
                ..
            }) => items,
            Some(node) => {
                let _: Got<()> = self.wrong_kind(key, &node, "a list of sections", &header);
                // What it holds is read all the same, so that its faults are told too.
                vec![node]
            }
        };
        let name = |node: &Node| match &node.value {
            Value::Table(fields) => match fields.get("name").map(|node| &node.value) {
                Some(Value::Text(name)) => Some(name.clone()).filter(|name| is_label(name)),
                _ => None,
            },
            _ => None,
        };
        let names: Vec<Option<String>> = items.iter().map(name).collect();
        let mut sections = Vec::new();
        for (i, node) in items.into_iter().enumerate() {
            let own = names[i]
                .as_ref()
                .filter(|name| names.iter().flatten().filter(|n| n == name).count() == 1);
            let at = own.map_or(format!("{key}[{i}]"), |name| format!("{key}[{name}]"));
            let fields = if let Value::Table(fields) = node.value {
                fields
            } else {
                let at = format!("{key}[{i}]");
                let _: Got<()> = self.wrong_kind(&at, &node, "a section", &header);
                Fields::new()
            };
            let pattern = format!("{}[]", join(&self.pattern, key));
            sections.push(Self::new(self.name_of(&at), pattern, fields, self.notes));
        }
        sections
    }

    /// Notes every key that nobody asked for as unknown. To be called when all keys have been read.
    pub(super) fn finish(&mut self) {
        for (key, node) in std::mem::take(&mut self.fields) {
            let all: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            let way_out = match nearest(&key, all.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", all.join(", ")),
            };
            let shown = if is_bare(&key) { key } else { quoted(&key) };
            self.fault_at(&shown, node.origin, "is not a known key", way_out);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A pattern as a TOML header writes it: `listener[].tls` is `listener.tls`.
fn plain_path(pattern: &str) -> String {
    pattern.replace("[]", "")
}

/// A key that TOML takes without quotes.
pub(super) fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 64
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// A name of a listener or a trust group: 1 to 64 of `A–Z a–z 0–9 . _ -`.
pub(super) fn is_label(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The word that was probably meant.
pub(super) fn nearest<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let written: String = written
        .chars()
        .take(64)
        .collect::<String>()
        .to_lowercase()
        .replace('-', "_");
    let likeness = |word: &str| strsim::jaro_winkler(&written, &word.replace('-', "_"));
    let near = words
        .map(|word| (likeness(word), word))
        .filter(|(likeness, _)| *likeness > 0.8 && written.contains(char::is_alphabetic));
    near.max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}
