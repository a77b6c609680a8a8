//! `tidegate reload`

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::healthcheck::{ask, within_reach};
use super::{Failure, say, settings};
use crate::config::{self, AdminPort, Source};
use crate::rules::secret::Secret;
use crate::tls::files::read_regular;

/// Has a running gate read its configuration and files anew, all or nothing, and tells every fault
///
/// It asks the admin port, with the token of admin.token_file, and so hears how it went. Where there is no token, --pid and
/// --pid-file send HUP instead: then the log, /readyz?verbose and the metrics tell. The gate reads what it was started with:
/// --config only says where its admin port is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration file, of which [admin] alone is read; left out: ./tidegate.toml, if there is one
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin address of the gate; left out: admin.bind of the configuration
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// The file with the token; left out: admin.token_file of the configuration
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Sends HUP to this process instead
    #[arg(long, conflicts_with_all = ["config", "address", "token_file", "pid_file"])]
    pid: Option<i32>,
    /// Sends HUP to the process whose number this file holds
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "address", "token_file"])]
    pid_file: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  tidegate reload --config /etc/tidegate/tidegate.toml
  tidegate reload --address 127.0.0.1:9883 --token-file admin.token
  tidegate reload --pid-file /run/tidegate.pid     (HUP; what comes of it is in the log)

Exit codes: 0 it is in force, or HUP was sent; 1 it has faults and what was in force stays, or
nobody answers; 2 usage, or the configuration does not say where to ask.";

/// What the gate answers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    generation: u64,
    warnings: Vec<String>,
    faults: Vec<String>,
    detail: String,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(pid) = self.pid {
            return hang_up(pid);
        }
        if let Some(file) = &self.pid_file {
            return hang_up(pid_in(file)?);
        }
        let (address, token) = self.port()?;
        let token = String::from_utf8_lossy(token.reveal()).into_owned();
        let request = format!(
            "POST /v1/reload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = ask(address, &request, self.timeout).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => format!(
                    "no answer within {}; the log tells how it ends",
                    humantime::format_duration(self.timeout)
                ),
                io::ErrorKind::ConnectionRefused => "nothing listens there".into(),
                _ => error.to_string(),
            };
            Failure::failed(format!("cannot ask http://{address}/v1/reload: {why}"))
        })?;
        tell(&answer, address)
    }

    /// Where to ask, and what to show.
    fn port(&self) -> Result<(SocketAddr, Secret<Vec<u8>>), Failure> {
        let written = match (&self.address, &self.token_file) {
            (Some(_), Some(_)) => AdminPort {
                bind: None,
                token_file: None,
            },
            _ => self.written()?,
        };
        let address = match (self.address, written.bind) {
            (Some(address), _) => address,
            (None, Some(bind)) if bind.port() != 0 => within_reach(bind),
            (None, Some(_)) => {
                let way_out = "admin.bind has port 0; name the port that the log tells: --address 127.0.0.1:PORT";
                return Err(Failure::asked_wrongly(way_out));
            }
            (None, None) => {
                let way_out = "admin.bind is \"off\": there is nothing to ask; send HUP, by --pid or --pid-file";
                return Err(Failure::asked_wrongly(way_out));
            }
        };
        let file = self.token_file.as_ref().or(written.token_file.as_ref());
        let file = file.ok_or_else(|| {
            Failure::asked_wrongly(
                "there is no admin.token_file, so nobody can be asked; name one, or send HUP: --pid or --pid-file",
            )
        })?;
        Ok((address, token(file)?))
    }

    fn written(&self) -> Result<AdminPort, Failure> {
        let source = Source {
            path: settings::file(self.config.as_deref(), false),
            env: settings::environment(),
            ..Source::default()
        };
        config::admin_port(&source).map_err(|faults| {
            let lines: Vec<String> = faults
                .iter()
                .map(|fault| settings::told(fault, &source))
                .collect();
            let told = lines.join("\n");
            Failure::asked_wrongly(format!(
                "{told}\nthe gate was not asked, and what it has in force stays; --address and --token-file need no configuration"
            ))
        })
    }
}

/// The token, without the end of its line.
fn token(file: &Path) -> Result<Secret<Vec<u8>>, Failure> {
    let read = read_regular(file, 1 << 16).map_err(|error| {
        let file = file.display();
        Failure::failed(format!(
            "cannot read the token in {file}: {error}; run this as a user who may"
        ))
    })?;
    let token = read.trim_ascii_end();
    if !token.iter().all(u8::is_ascii_graphic) || token.is_empty() {
        let file = file.display();
        return Err(Failure::failed(format!("{file} holds no token")));
    }
    Ok(Secret::new(token.to_vec()))
}

fn tell(answer: &[u8], address: SocketAddr) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let told: Option<Told> = serde_json::from_str(body).ok();
    let status = head.split(' ').nth(1).unwrap_or_default();
    let (Some(told), true) = (told, head.starts_with("HTTP/1.")) else {
        return Err(Failure::failed(format!(
            "what listens at {address} does not answer as tidegate does"
        )));
    };
    match status {
        "200" => {
            for warning in &told.warnings {
                say(&format!("warning: {}\n", clean(warning)));
            }
            say(&format!("reloaded, generation {}\n", told.generation));
            Ok(())
        }
        _ if told.faults.is_empty() => Err(Failure::failed(clean(&told.detail))),
        _ => {
            let mut lines: Vec<_> = told.faults.iter().map(|fault| clean(fault)).collect();
            lines.push("nothing was changed: what was in force stays".into());
            Err(Failure::failed(lines.join("\n")))
        }
    }
}

/// For a terminal.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn pid_in(file: &Path) -> Result<i32, Failure> {
    let name = file.display();
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::failed(format!(
            "cannot read {name}: {error}; name the file that whoever starts the gate writes, or its process by --pid"
        )))?;
    let pid = text.trim().parse();
    pid.map_err(|_| Failure::failed(format!("{name} holds no number of a process")))
}

/// Sends HUP, which ends most programs: so only to this one.
fn hang_up(number: i32) -> Result<(), Failure> {
    // 0 and below would be groups of processes.
    let pid = (number > 0).then(|| Pid::from_raw(number)).flatten();
    let pid = pid.ok_or_else(|| Failure::asked_wrongly(format!("{number} is no process")))?;
    let name = fs::read_to_string(format!("/proc/{number}/comm"));
    let name = name.map_err(|_| Failure::failed(format!("there is no process {number}")))?;
    if name.trim_end() != "tidegate" {
        return Err(Failure::failed(format!(
            "process {number} is not tidegate but {}, which HUP may end; nothing was sent",
            clean(&name)
        )));
    }
    kill_process(pid, Signal::HUP).map_err(|error| {
        Failure::failed(format!("cannot send HUP to process {number}: {error}"))
    })?;
    say(&format!(
        "sent HUP to process {number}; its log tells how it goes (reloaded, reload_failed)\n"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(answer: &str) -> Result<(), Failure> {
        tell(answer.as_bytes(), ([127, 0, 0, 1], 9883).into())
    }

    #[test]
    fn every_fault_is_told() {
        assert_eq!(
            told("HTTP/1.1 200 OK\r\n\r\n{\"generation\":2,\"warnings\":[]}\n"),
            Ok(())
        );
        let answer = "HTTP/1.1 409 Conflict\r\n\r\n{\"reason\":\"reload_failed\",\"detail\":\"x\",\"faults\":[\"a: b\\u001b\",\"c: d\"]}";
        let failure = told(answer).expect_err("faults");
        assert_eq!(failure.code, 1);
        assert_eq!(
            failure.sentence,
            "a: b\nc: d\nnothing was changed: what was in force stays"
        );
        let failure = told("HTTP/1.1 401 Unauthorized\r\n\r\n{\"detail\":\"wrong\"}");
        assert_eq!(failure, Err(Failure::failed("wrong")));
        for garbage in ["", "220 smtp\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\nready\n"] {
            let failure = told(garbage).expect_err("no tidegate");
            assert!(failure.sentence.contains("does not answer as tidegate"));
        }
    }

    /// Not even to a process that has the number of one which has ended.
    #[test]
    fn nobody_else_is_sent_hup() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let failure = hang_up(own).expect_err("this is a test");
        assert!(failure.sentence.contains("is not tidegate"), "{failure}");
        for none in [0, -1, i32::MAX] {
            assert!(hang_up(none).is_err());
        }
    }
}
