//! How a line looks: JSON for machines, text for people.

use std::fmt::{self, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::escape::{self, Form};

/// The most characters of a value; client ids may have 65 535.
pub(super) const MOST: usize = 256;
/// The most characters of `why`, which may quote a value.
const MOST_WHY: usize = 1024;
/// The most characters of `backtrace`: ours, never from the wire.
const MOST_BACKTRACE: usize = 16_384;

/// Writes each event as one line.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) form: Form,
    /// ANSI colours, in text: on a terminal only.
    pub(super) colour: bool,
    /// What time it is, in UTC.
    pub(super) clock: fn() -> OffsetDateTime,
}

/// The form that lines have now.
pub(super) type LinesNow = Arc<ArcSwap<Lines>>;

/// Writes each event as one line, in the form of the moment.
pub(super) struct Now(pub(super) LinesNow);

impl<S, N> FormatEvent<S, N> for Now
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let lines = self.0.load();
        let mut fields = Fields::new(lines.form);
        event.record(&mut fields);
        lines.write(&mut writer, *event.metadata().level(), &fields)
    }
}

impl Lines {
    /// Writes one whole line, its end included.
    pub(super) fn write(&self, to: &mut dyn Write, level: Level, fields: &Fields) -> fmt::Result {
        let Fields {
            event,
            reason,
            why,
            rest,
            ..
        } = fields;
        let time = Rfc3339((self.clock)());
        let word = word(level);
        match (self.form, self.colour) {
            (Form::Json, _) => writeln!(
                to,
                r#"{{"time":"{time}","level":"{word}"{event}{reason}{why}{rest}}}"#
            ),
            (Form::Text, false) => {
                writeln!(to, "{time} {word:<5} {event:<9}{reason}{why}{rest}")
            }
            (Form::Text, true) => {
                let colour = colour(level);
                writeln!(
                    to,
                    "\x1b[2m{time}\x1b[0m \x1b[{colour}m{word:<5}\x1b[0m \x1b[1m{event:<9}\x1b[0m{reason}{why}{rest}"
                )
            }
        }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The ANSI colour of a level.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31, // red
        Level::WARN => 33,  // yellow
        Level::INFO => 32,  // green
        Level::DEBUG | Level::TRACE => 34,
    }
}

/// A time as RFC 3339 §5.6 has it, to the millisecond, in UTC.
struct Rfc3339(OffsetDateTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((year, month, day), (hour, minute, second, milli)) =
            (self.0.to_calendar_date(), self.0.to_hms_milli());
        let month = u8::from(month);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
        )
    }
}

/// The fields of one line, escaped and cut, as they will stand in it.
///
/// `event`, `reason` and `why` come first wherever they were given; the rest keeps its order.
pub(super) struct Fields {
    form: Form,
    event: String,
    reason: String,
    why: String,
    rest: String,
}

impl Fields {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            event: String::new(),
            reason: String::new(),
            why: String::new(),
            rest: String::new(),
        }
    }

    /// Adds text, escaped and cut.
    pub(super) fn text(&mut self, key: &str, value: fmt::Arguments<'_>) {
        let (form, slot) = (self.form, self.begin(key));
        let most = match key {
            "why" | "message" => MOST_WHY,
            "backtrace" => MOST_BACKTRACE,
            _ => MOST,
        };
        escape::append(slot, form, value, most);
    }

    /// Adds a number or truth value, which needs no quotes in either form.
    pub(super) fn bare(&mut self, key: &str, value: impl fmt::Display) {
        let slot = self.begin(key);
        let _ = write!(slot, "{value}"); // a String takes it
    }

    /// Writes the key, and gives the place for its value.
    fn begin(&mut self, key: &str) -> &mut String {
        let (slot, key) = match key {
            "event" => (&mut self.event, key),
            "reason" => (&mut self.reason, key),
            "why" | "message" => (&mut self.why, "why"),
            _ => (&mut self.rest, key),
        };
        // A String takes it.
        let _ = match self.form {
            Form::Json => write!(slot, r#","{key}":"#),
            Form::Text if key == "event" => Ok(()), // a column of its own
            Form::Text => write!(slot, " {key}="),
        };
        slot
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), format_args!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), format_args!("{value}"));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field.name(), value);
        } else {
            self.text(field.name(), format_args!("{value}")); // JSON has no number for it
        }
    }
}
