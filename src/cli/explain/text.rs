//! The answer for people: the verdict first, then what led to it.

use std::fmt::Write as _;

use super::fingerprint;
use super::packet::Field;
use super::registry::{Credential, InRegistry, Told};
use super::report::{AtListener, ForBroker, Identity, Report, Sees, Shown};

/// A column is not widened further for what is longer, in characters.
const WIDEST: usize = 40;

/// Writes lines of a name and what there is to say of it. Writing to a String never fails.
#[derive(Default)]
struct Page(String);

impl Page {
    fn heading(&mut self, words: &str) {
        let _ = writeln!(self.0, "\n{words}");
    }

    fn line(&mut self, name: &str, what: &str) {
        let _ = writeln!(self.0, "  {name:<13} {what}");
    }

    /// Several lines under one name.
    fn lines(&mut self, name: &str, all: impl IntoIterator<Item = String>) {
        for (at, what) in all.into_iter().enumerate() {
            self.line(if at == 0 { name } else { "" }, &what);
        }
    }

    fn indented(&mut self, what: &str) {
        let _ = writeln!(self.0, "  {what}");
    }
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut page = Page::default();
        for one in &self.listeners {
            verdict(&mut page, one);
        }
        if let Some(shown) = &self.certificate {
            page.heading(&format!("Certificate, as of {}", self.at));
            certificate(&mut page, shown, self.now);
        }
        for one in &self.listeners {
            let mode = one
                .mode
                .map_or(String::new(), |mode| format!(", by {mode}"));
            page.heading(&format!(
                "At listener {} ({}){mode}",
                one.listener, one.offers
            ));
            at_listener(&mut page, one);
        }
        notes(&mut page, &self.notes);
        page.0
    }
}

/// The answer to a fingerprint.
pub(super) fn of_fingerprint(report: &fingerprint::Report) -> String {
    let mut page = Page::default();
    let registry = if report.admitted {
        "ADMITTED, as far as the registry goes"
    } else {
        "REFUSED by the registry"
    };
    let _ = match (report.reason, &report.until) {
        (Some(reason), _) => writeln!(page.0, "{registry}: {reason}"),
        (None, Some(until)) => writeln!(page.0, "{registry}, until {until}"),
        (None, None) => writeln!(page.0, "{registry}"),
    };
    if let Some(why) = &report.why {
        page.indented(why);
    }
    page.heading(&format!("As of {}", report.at));
    page.line("fingerprint", &report.fingerprint);
    if let Some(told) = &report.record {
        record(&mut page, told, "");
    }
    notes(&mut page, &report.notes);
    page.0
}

fn verdict(page: &mut Page, one: &AtListener) {
    let listener = &one.listener;
    let device = one.device.as_deref();
    let _ = match one.reason {
        None => {
            let until = one
                .until
                .as_ref()
                .map_or(String::new(), |at| format!(", until {at}"));
            let device = device.unwrap_or_default();
            writeln!(page.0, "ADMITTED as {device} by listener {listener}{until}")
        }
        Some(reason) => {
            let device = device.map_or(String::new(), |device| format!(" as {device}"));
            writeln!(page.0, "REFUSED{device} by listener {listener}: {reason}")
        }
    };
    if let Some(why) = &one.why {
        page.indented(why);
        page.indented(&one.sees.words());
    }
}

impl Sees {
    fn words(&self) -> String {
        if let Some(alert) = &self.alert {
            return format!("The device sees the TLS alert {alert}.");
        }
        let codes = self.connack.iter().filter_map(|(version, code)| {
            let code = code.as_ref()?;
            Some(format!("{code} (MQTT {version})"))
        });
        let codes: Vec<_> = codes.collect();
        if codes.is_empty() {
            return "The device sees a close.".to_owned();
        }
        format!("The device sees a CONNACK with {}.", codes.join(", "))
    }
}

fn certificate(page: &mut Page, shown: &Shown, now: i64) {
    let Some(facts) = &shown.facts else {
        page.indented("It cannot be read as a certificate.");
        return;
    };
    page.line("subject", &facts.subject);
    page.line("issuer", &facts.issuer);
    page.line("serial", &facts.serial);
    page.line("fingerprint", &facts.fingerprint);
    page.line(
        "key",
        &format!("{}, SHA-256 {}", facts.key, facts.key_fingerprint),
    );
    let (from, until) = facts.valid;
    let left = match now {
        _ if now < from => format!("begins in {}", span(from - now)),
        _ if now > until => format!("ended {} ago", span(now - until)),
        _ => format!("{} left", span(until - now)),
    };
    let (from, until) = (&facts.not_before, &facts.not_after);
    page.line("valid", &format!("{from} to {until}: {left}"));
    if shown.sent > 1 {
        let above = shown.sent - 1;
        page.line("sent along", &format!("{above} more, of its issuers"));
    }
}

/// A time as people tell it.
fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        172_800..94_608_000 => format!("{} days", seconds / 86_400),
        _ => format!("{} years", seconds / 31_557_600),
    }
}

fn at_listener(page: &mut Page, one: &AtListener) {
    if !one.chain.is_empty() {
        let widest = one
            .chain
            .iter()
            .map(|link| link.subject.chars().count())
            .max();
        let widest = widest.unwrap_or_default().min(WIDEST);
        let links = one.chain.iter().map(|link| {
            let until = link
                .not_after
                .as_ref()
                .map_or(String::new(), |at| format!(", until {at}"));
            format!("{:<widest$}  {}{until}", link.subject, link.source)
        });
        page.lines("chain", links);
        if !one.chain_verified {
            page.line("", "(by their names only: no way up was good)");
        }
    }
    if let Some(identity) = &one.identity {
        page.line("trust", &identity.trust_words());
        page.line("identity", &identity.words());
    } else if !one.chain.is_empty() {
        page.line("trust", "no trust group of this listener");
    }
    registry(page, &one.registry);
    match &one.connect {
        Some(connect) => for_broker(page, connect),
        None => page.line("broker", "hears nothing of the device"),
    }
}

impl Identity {
    fn trust_words(&self) -> String {
        if self.vouched {
            self.trust.clone()
        } else {
            format!("{} would, if the chain were good", self.trust)
        }
    }

    fn words(&self) -> String {
        let field = self.field;
        let value = match &self.value {
            Some(value) => format!("{field} is {value:?}"),
            None => format!("{field} is not there once, as plain text"),
        };
        let pattern = self.pattern.as_ref();
        let pattern = pattern.map_or(String::new(), |pattern| format!(" (pattern {pattern})"));
        match &self.device {
            Some(device) => format!("{value}{pattern}: {device}"),
            None => format!("{value}{pattern}: it names no device"),
        }
    }
}

fn registry(page: &mut Page, registry: &InRegistry) {
    let why = registry.why.as_deref().unwrap_or_default();
    let words = match registry.state {
        "none" => "there is none: whoever is vouched for is a device".to_owned(),
        "not_asked" => "is not asked".to_owned(),
        "unknown" => format!("does not know the device; {why}"),
        "away" => format!("is away: {why}"),
        "full" => why.to_owned(),
        "would_register" => "would register the device now, as".to_owned(),
        _ => "knows the device".to_owned(),
    };
    page.line("registry", &words);
    if let Some(told) = &registry.record {
        let shows = if registry.state == "would_register" {
            " (would be)"
        } else {
            ""
        };
        record(page, told, shows);
    }
}

fn record(page: &mut Page, told: &Told, shows: &str) {
    let enabled = if told.enabled { "enabled" } else { "DISABLED" };
    let device = &told.device;
    page.line("  device", &format!("{device}{shows}, {enabled}"));
    page.line("  min_mode", told.min_mode);
    if let Some(group) = &told.registered_by {
        page.line(
            "  registered",
            &format!("by itself; trust[{group}] vouched for it"),
        );
    }
    if let Some(seen) = &told.last_seen {
        let (at, address, mode) = (&seen.at, &seen.address, seen.mode);
        page.line("  last seen", &format!("{at}, from {address} by {mode}"));
    }
    if told.credentials.is_empty() {
        page.line("  may show", "nothing, so it cannot enter");
    }
    page.lines("  may show", told.credentials.iter().map(Credential::words));
}

impl Credential {
    fn words(&self) -> String {
        let when = match (&self.until, self.counts) {
            (None, true) => "without an end".to_owned(),
            (Some(until), true) => format!("until {until}"),
            (Some(until), false) => format!("from {} until {until}: NOT NOW", self.from),
            (None, false) => format!("from {}: NOT NOW", self.from),
        };
        let shown = if self.shown { "  <- shown" } else { "" };
        format!("{}: {}; {when}{shown}", self.number, self.what)
    }
}

fn for_broker(page: &mut Page, connect: &ForBroker) {
    let of = match &connect.source {
        Some(source) => source.as_str(),
        None => "made up",
    };
    let version = connect.mqtt_version;
    page.heading(&format!(
        "CONNECT for the broker (MQTT {version}; {of}); what the gate changes is marked *"
    ));
    let names = connect.fields.iter().map(|field| field.name.len());
    let names = names.max().unwrap_or_default();
    let values = connect.fields.iter().filter(|field| field.changed);
    let values = values.map(|field| value(field).chars().count()).max();
    let values = values.unwrap_or_default().min(WIDEST);
    for field in &connect.fields {
        let mark = if field.changed { '*' } else { ' ' };
        let (name, value) = (&field.name, value(field));
        let asked = match (field.changed, &field.asked) {
            (false, _) => String::new(),
            (true, Some(asked)) => format!("   asked: {asked}"),
            (true, None) => "   asked: nothing".to_owned(),
        };
        let line = format!("{mark} {name:<names$}  {value:<values$}{asked}");
        page.indented(line.trim_end());
    }
    if connect.tells_client_id {
        page.indented("  The device is told its client id in the CONNACK.");
    }
}

fn value(field: &Field) -> &str {
    field.told.as_deref().unwrap_or("(taken out)")
}

fn notes(page: &mut Page, notes: &[String]) {
    if !notes.is_empty() {
        let _ = writeln!(page.0);
    }
    for note in notes {
        let _ = writeln!(page.0, "{note}");
    }
}
