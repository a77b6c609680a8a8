//! Logs: one line per connection, JSON or text, never in the way of a device.
//!
//! A line is formatted where it happens and queued; one thread of its own writes it to standard error. The queue is
//! bounded and never waited for: when nobody reads the log, lines are lost and counted, and devices notice nothing
//! (threats.md V4). Whatever stands in a line is escaped and cut (V11). docs/logs.md is the promise to operators.

mod connection;
mod escape;
mod format;
mod sink;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{Registry, fmt};

pub use connection::{CertificateLine, Event, Line, Logger};
use escape::Form;
use format::{Fields, Lines, LinesNow};

/// The most characters of a value that a line shows.
pub const LONGEST_VALUE: usize = format::MOST;
pub use sink::Losses;
use sink::Sink;

/// `[log]` as the gate obeys it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// The least level that is written.
    pub level: Level,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Lines that may wait for the reader of the log. At some 600 bytes each, 2.5 MB.
const QUEUE: usize = 4096;

/// The longest that the end of the process waits for the reader of the log.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum NoLog {
    /// A process has one log, for all its threads.
    #[error("the log was started twice; a process has one")]
    AlreadyStarted,
    /// Standard error is closed, or no descriptor is left.
    #[error("cannot write the log to standard error: {0}")]
    NoStandardError(#[source] std::io::Error),
}

/// Starts the log of this process: from here on every line of every thread goes to standard error, and panics too.
///
/// # Errors
/// [`NoLog`], when there is one already or standard error cannot be had.
pub fn start(settings: &Settings) -> Result<Guard, NoLog> {
    let stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    // A descriptor of our own: `Stderr` has a lock, which a stuck write would hold against everyone else.
    let own = stderr.as_fd().try_clone_to_owned();
    let out = File::from(own.map_err(NoLog::NoStandardError)?);
    let lines: LinesNow = Arc::new(ArcSwap::from_pointee(lines(settings.format, terminal)));
    let (writer, mut guard) = queue(out, lines.clone());
    let (subscriber, level) = subscriber(lines.clone(), settings.level, writer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| NoLog::AlreadyStarted)?;
    std::panic::set_hook(Box::new(tell_panic));
    guard.chosen = Some(Chosen {
        lines,
        level,
        terminal,
    });
    Ok(guard)
}

/// What of the log may change while it runs.
struct Chosen {
    lines: LinesNow,
    level: Handle<LevelFilter, Registry>,
    terminal: bool,
}

fn lines(format: Format, terminal: bool) -> Lines {
    Lines {
        form: form(format, terminal),
        colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        clock: OffsetDateTime::now_utc,
    }
}

fn form(format: Format, terminal: bool) -> Form {
    match format {
        Format::Text => Form::Text,
        Format::Auto if terminal => Form::Text,
        Format::Auto | Format::Json => Form::Json,
    }
}

/// Everything that is logged, and the line to its level.
fn subscriber<W>(
    lines: LinesNow,
    level: Level,
    writer: W,
) -> (impl Subscriber + Send + Sync, Handle<LevelFilter, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (least, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let writes = fmt::layer()
        .event_format(format::Now(lines))
        .with_writer(writer);
    let subscriber = tracing_subscriber::registry().with(least).with(writes);
    (subscriber, handle)
}

/// A queue to `out` that nobody ever waits for, and the thread that empties it.
fn queue(out: impl Write + Send + 'static, lines: LinesNow) -> (NonBlocking, Guard) {
    let losses = Losses::default();
    let tell = move |lost| loss(**lines.load(), lost);
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE)
        .thread_name("log")
        .finish(Sink::new(out, losses.clone(), tell));
    losses.count_queue(writer.error_counter());
    let guard = Guard {
        worker: Some(worker),
        losses,
        chosen: None,
    };
    (writer, guard)
}

/// The line that tells of lost ones.
fn loss(lines: Lines, lost: u64) -> String {
    let mut fields = Fields::new(lines.form);
    fields.text("event", format_args!("log_lost"));
    let why = "whoever reads the log did not keep up, or writing failed: lines before this one are missing";
    fields.text("why", format_args!("{why}"));
    fields.bare("lost", lost);
    let mut line = String::new();
    let _ = lines.write(&mut line, Level::WARN, &fields); // a String takes it
    line
}

/// Tells a panic like everything else: in one line, in the form of the log, without waiting for its reader; no more of them
/// than a log should hold.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    if !connection::PANICS.passes() {
        return;
    }
    let what = panic.payload_as_str().unwrap_or("a panic without words");
    let at = panic.location().map(tracing::field::display);
    let backtrace = std::backtrace::Backtrace::capture(); // only when RUST_BACKTRACE asks for it
    let backtrace = (backtrace.status() == std::backtrace::BacktraceStatus::Captured)
        .then(|| tracing::field::display(backtrace));
    tracing::error!(event = "panicked", why = what, at, backtrace);
}

/// Keeps the log running. When it is dropped, what waits is written, for a second and a half at most.
#[must_use = "dropping the guard ends the log"]
pub struct Guard {
    worker: Option<WorkerGuard>,
    losses: Losses,
    /// `None`: not the log of the process.
    chosen: Option<Chosen>,
}

impl Guard {
    /// How many lines were lost: for [`super::metrics::Metrics::watch_log`].
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// From now on lines have this form, and this is the least level that is written.
    pub fn change(&self, settings: &Settings) {
        let Some(chosen) = &self.chosen else { return };
        let lines = lines(settings.format, chosen.terminal);
        chosen.lines.store(Arc::new(lines));
        // It fails only for a log that is gone.
        let _ = chosen.level.reload(LevelFilter::from_level(settings.level));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The worker's own farewell prints to standard output when the queue stays full, which may be the very pipe
        // that nobody reads. On a thread of its own it can hang there without keeping the process (threats.md V10).
        let worker = self.worker.take();
        let (done, wait) = mpsc::channel();
        let farewell = std::thread::Builder::new().spawn(move || {
            drop(worker);
            let _ = done.send(());
        });
        if farewell.is_ok() {
            let _ = wait.recv_timeout(FAREWELL);
        }
    }
}

#[cfg(test)]
mod tests;
