//! `tidegate run`

use std::io::{IsTerminal as _, Write as _};

use super::{Failure, settings::Settings};
use crate::gate::{self, Outcome, StartFault};
use crate::observe::logging::Format;

/// Runs the gate
///
/// TERM and INT drain: the gate is not ready any more, takes no new connections, and ends the open ones spread over
/// limits.drain_timeout. A second signal ends it at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  tidegate run                            with ./tidegate.toml
  tidegate run --config /etc/tidegate/tidegate.toml
  TIDEGATE_LOG__LEVEL=debug tidegate run
  tidegate run --listen 0.0.0.0:8883 --mode mutual-tls --certificate s.pem --key s.key \\
      --client-ca ca.pem --broker mqtt://127.0.0.1:1883

Exit codes: 0 drained; 1 it failed; 2 usage or configuration; 3 drained, but bytes were lost
at the end of the window.";

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.settings.load()?;
        warn(&config.warnings, config.log.format);
        match gate::run(config.gate, config.admin, config.log) {
            Ok(Outcome::Drained) => Ok(()),
            Ok(Outcome::Cut) => Err(Failure {
                code: 3,
                sentence: "drained, but connections were cut at the end of the window; a longer limits.drain_timeout gives them more time".into(),
            }),
            Err(fault @ StartFault::Files(_)) => Err(Failure::asked_wrongly(fault.to_string())),
            Err(fault @ StartFault::System(_)) => Err(Failure::failed(fault.to_string())),
        }
    }
}

/// Tells the warnings in the form that the log will have: it is not there yet.
fn warn(warnings: &[String], format: Format) {
    let mut err = std::io::stderr().lock();
    let text = match format {
        Format::Text => true,
        Format::Json => false,
        Format::Auto => err.is_terminal(),
    };
    for warning in warnings {
        let _ = if text {
            writeln!(err, "tidegate: warning: {warning}")
        } else {
            writeln!(
                err,
                "{}",
                serde_json::json!({ "level": "warn", "event": "configuration", "why": warning })
            )
        };
    }
}
