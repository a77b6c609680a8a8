//! `tidegate check --deployment`: what can be seen from here of brokers, clocks and this host (threats.md N3, T6).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use super::brokers::Visitor;
use super::finding::{Finding, Level};
use super::host::{Host, Wanted};
use super::{clock, ends, files, flights, incoming};
use crate::config::{Config, Source};
use crate::gate::LoadedListener;

/// For everything together, from when the command began.
pub(super) const WHOLE: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Deployment {
    /// How many calls to brokers were made.
    calls: usize,
    /// Whether it was looked at to its end.
    finished: bool,
    pub(super) findings: Vec<Finding>,
}

impl Deployment {
    /// Looks, until [`WHOLE`] after `began` at the most. `warned`: what `check` warns of anyway.
    pub(super) fn look(
        config: &Config,
        source: &Source,
        warned: &[String],
        began: Instant,
    ) -> Self {
        let mut findings = Vec::new();
        let gate = &config.gate;
        for listener in &gate.listeners {
            let pins = gate.registry.is_some();
            let loaded = LoadedListener::load(listener, &gate.trust, pins);
            findings.extend(flights::judge(listener, &loaded.flights()));
            findings.extend(ends::of_lists(&loaded.list_periods(), now()));
            findings.extend(incoming::judge(listener));
        }
        let host = Host::read();
        findings.extend(host.judge(Wanted::of(config), &gate.broker, warned));
        findings.extend(files::judge(config, source));
        findings.extend(clock::of_this_host(config, source, now()));
        let (called, calls, finished) = call(config, began);
        findings.extend(called);
        findings.sort_by_key(|finding| finding.level); // stable: what was found first comes first
        let mut deployment = Self {
            calls,
            finished,
            findings: Vec::new(),
        };
        for finding in findings {
            if !deployment.findings.contains(&finding) {
                deployment.findings.push(finding);
            }
        }
        deployment
    }

    /// Nothing was looked at.
    pub(super) fn none() -> Self {
        Self {
            findings: vec![Finding::note(
                "not_looked_at",
                "deployment",
                "was not looked at: the configuration has faults",
                "mend them first",
            )],
            ..Self::default()
        }
    }

    pub(super) fn count(&self, level: Level) -> usize {
        let of = |finding: &&Finding| finding.level == level;
        self.findings.iter().filter(of).count()
    }
}

/// Calls everybody whom the gate would call, all at once.
fn call(config: &Config, began: Instant) -> (Vec<Finding>, usize, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(fault) => {
            let what = format!("nobody could be called: {fault}");
            let finding = Finding::warning("unfinished", "deployment", what, "try again");
            return (vec![finding], 0, false);
        }
    };
    let progress = progress(config.gate.broker.addresses.len());
    let deadline = began + WHOLE;
    let visitor = Visitor::new(&config.gate, deadline);
    let mut found = runtime.block_on(async {
        let (mut brokers, clocks) = tokio::join!(
            visitor.look(now()),
            clock::of_others(&config.gate, deadline)
        );
        brokers.extend(clocks);
        brokers
    });
    progress.finish_and_clear();
    // A look-up of a name may hang.
    runtime.shutdown_background();
    let finished = !visitor.was_cut();
    if !finished {
        found.push(Finding::warning(
            "unfinished",
            "deployment",
            format!("not everything was called within {WHOLE:?}"),
            "see to what is silent or away first, and ask again",
        ));
    }
    (found, visitor.calls(), finished)
}

/// A line on a terminal that shows that something happens; elsewhere nothing.
fn progress(brokers: usize) -> ProgressBar {
    let what = match brokers {
        1 => "1 broker".to_owned(),
        many => format!("{many} brokers"),
    };
    let bar = ProgressBar::new_spinner(); // on standard error, if that is a terminal
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(format!("calling {what}, for {WHOLE:?} at the most:"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// In seconds since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place of this command that reads the clock: what it finds takes the time as an argument"
)]
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}
