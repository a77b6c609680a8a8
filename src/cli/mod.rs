//! Commands: arguments in, one call, text out. One file for each.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
pub mod ca;
mod check;
mod completions;
mod config;
pub mod device;
mod explain;
mod healthcheck;
mod man;
mod reload;
mod run;
mod settings;

/// A TLS gate in front of your MQTT broker: it finds out which device is calling and tells the broker.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tidegate check                          what is wrong with ./tidegate.toml and the files it names
  tidegate explain meter-7.pem            what the gate would make of this certificate, and why
  tidegate run --config /etc/tidegate/tidegate.toml
  tidegate reload --config /etc/tidegate/tidegate.toml
  tidegate run --listen 0.0.0.0:8883 --mode mutual-tls --certificate s.pem --key s.key \\
      --client-ca ca.pem --broker mqtt://127.0.0.1:1883

Exit codes: 0 done or drained; 1 it failed; 2 asked wrongly (usage, configuration);
3 drained, but bytes were lost at the end of the window.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Config(config::Args),
    Explain(Box<explain::Args>),
    Healthcheck(healthcheck::Args),
    Reload(reload::Args),
    /// A private CA for trials and small fleets
    #[command(subcommand, after_help = ca::EXAMPLES)]
    Ca(ca::Command),
    /// Keys and certificates for devices
    #[command(subcommand, after_help = device::EXAMPLES)]
    Device(device::Command),
    /// Loads an endpoint that speaks MQTT over TLS, and tells what it took
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(Box<bench::Command>),
    Completions(completions::Args),
    Man(man::Args),
}

/// Why a command did not do what it was asked: an exit code and a sentence, or several, one a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The exit code: 1 it failed, 2 asked wrongly, 3 drained with a loss.
    pub code: u8,
    /// What, where, and the way out.
    pub sentence: String,
}

impl Failure {
    /// It failed: exit code 1.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self {
            code: 1,
            sentence: sentence.into(),
        }
    }

    /// It was asked wrongly, by its arguments or its configuration: exit code 2.
    pub fn asked_wrongly(sentence: impl Into<String>) -> Self {
        Self {
            code: 2,
            sentence: sentence.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_fault) => {
            // A closed pipe is no reason to fail.
            let _ = help_or_fault.print();
            return ExitCode::from(u8::from(help_or_fault.use_stderr()) * 2);
        }
    };
    let done = match cli.command {
        Command::Run(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::Explain(args) => args.run(),
        Command::Healthcheck(args) => args.run(),
        Command::Reload(args) => args.run(),
        Command::Ca(command) => command.run(),
        Command::Device(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Completions(args) => {
            args.run();
            Ok(())
        }
        Command::Man(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, sentence }) => {
            let mut err = std::io::stderr().lock();
            for line in sentence.lines() {
                let _ = writeln!(err, "tidegate: {line}");
            }
            ExitCode::from(code)
        }
    }
}

/// Writes to standard output; whoever reads it may go away early, as `head` does.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Of each command, and of those that it holds.
    #[test]
    fn every_command_shows_examples() {
        fn shows(command: &mut clap::Command, name: &str) {
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                let examples = help.split_once("Examples:\n").map(|(_, rest)| rest);
                assert!(
                    examples.is_some_and(|examples| examples.contains(name)),
                    "{name}: {help}"
                );
            }
            let below = command.get_subcommands_mut();
            for below in below.filter(|one| one.get_name() != "help") {
                let name = format!("{name} {}", below.get_name());
                shows(below, &name);
            }
        }
        shows(&mut Cli::command(), "tidegate");
    }

    #[test]
    fn the_sidecar_form_of_the_design_is_understood() {
        let line = "tidegate run --listen 0.0.0.0:8883 --mode mutual-tls --certificate s.pem --key s.key \
                    --client-ca ca.pem --broker mqtt://127.0.0.1:1883";
        Cli::try_parse_from(line.split_whitespace()).expect("a good command line");
        let twice = "tidegate run --broker mqtt://a --broker mqtt://b --client-ca a --client-ca b --crl c --crl d";
        Cli::try_parse_from(twice.split_whitespace()).expect("repeatable flags");
        assert!(Cli::try_parse_from(["tidegate", "run", "--lisen", "x"]).is_err());
    }
}
