//! `tidegate explain`: what the gate would make of a device, and why.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Failure, say, settings::Settings};
use crate::gate::explain::{Explainer, Question};
use crate::gate::{self, ListenerSettings, StartFault};
use crate::rules::device::{Mode, Offer};
use crate::rules::policy::Password;
use crate::rules::record::Print;
use crate::tls::files;
use packet::Packet;
use report::Report;

mod fingerprint;
mod packet;
mod registry;
mod report;
mod text;

/// Tells what the gate would make of a certificate: chain, identity, registry, verdict, and the CONNECT for the broker
///
/// The steps are those of the path, with the files and the registry as they are now. Nothing is written, no broker hears of
/// it, and that the device holds the key of its certificate is taken for granted: the gate asks for the proof in every handshake.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// The certificate that the device shows, PEM (the chain, its own first) or DER; or the fingerprint of one in the registry
    ///
    /// A fingerprint is the SHA-256 of the DER, 64 hex digits, as logs have it. The registry keeps no certificates, so for a
    /// fingerprint only the registry's part can be told. Left out: the device has no certificate.
    #[arg(value_name = "CERT", required_unless_present_any = ["token_file", "connect"])]
    shown: Option<PathBuf>,
    /// The listener it comes to; left out: each that asks for certificates (without CERT: each that does without one)
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Its CONNECT as it was captured, raw bytes or hex; left out: a plain one of MQTT 5.0 without a client id
    #[arg(long, value_name = "FILE")]
    connect: Option<PathBuf>,
    /// A file with the token that it brings, for a CONNECT that is made up here
    #[arg(long, value_name = "FILE", conflicts_with = "connect")]
    token_file: Option<PathBuf>,
    /// Who it says it is, beside its token
    #[arg(long, value_name = "ID", requires = "token_file")]
    device: Option<String>,
    /// When: 2027-01-31T12:00:00Z, or seconds since 1970; left out: now
    ///
    /// Counts for certificates, revocation lists, credentials and tokens. Files and records are as they are now.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<i64>,
    /// Where it calls from, for {ip} in [connect]; left out: 127.0.0.1
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  tidegate explain meter-7.pem
  tidegate explain meter-7.pem --at 2027-01-31T12:00:00Z      will it still get in then?
  tidegate explain meter-7.pem --connect meter-7.connect      the CONNECT that it really sends
  tidegate explain meter-7.pem --listener vendor --config /etc/tidegate/tidegate.toml
  tidegate explain 3f0c…64 digits…9a                          the registry's part only
  tidegate explain --token-file meter-9.token --device meter-9
  tidegate explain meter-7.pem --json | jq -r '.listeners[].reason'

Exit codes: 0 admitted, by one listener at least; 1 refused; 2 usage, configuration, or files that cannot be read.";

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|fault| Failure::failed(format!("cannot start: {fault}")))?;
        let done = runtime.block_on(self.answer());
        runtime.shutdown_background();
        done
    }

    async fn answer(self) -> Result<(), Failure> {
        let print = self.shown.as_deref().and_then(fingerprint);
        if print.is_some() && (self.token_file.is_some() || self.connect.is_some()) {
            return Err(Failure::asked_wrongly(
                "for a fingerprint only the registry's part can be told, without a CONNECT; give the certificate's file",
            ));
        }
        let config = self.settings.load()?.gate;
        let chain = match (&self.shown, print) {
            (Some(path), None) => chain(path)?,
            _ => Vec::new(),
        };
        let packet = self.packet(&config)?;
        let listeners = match print {
            Some(_) => Vec::new(),
            None => self.listeners(&config)?,
        };
        let explainer = Explainer::open(config).await;
        let explainer = explainer.map_err(|fault| told(&[fault]))?;
        let now = self.at.unwrap_or_else(gate::now);
        if let Some(print) = print {
            return fingerprint::answer(&explainer, print, now, self.json).await;
        }
        let mut report = Report::of(&chain, now);
        for listener in &listeners {
            let asked = Question {
                listener,
                chain: &chain,
                connect: &packet.connect,
                ip: self.from.unwrap_or(Ipv4Addr::LOCALHOST.into()),
                now,
            };
            let explained = explainer.explain(&asked).await;
            let explained = explained.map_err(|faults| told(&faults))?;
            report.add(listener, &packet, explained);
        }
        let notes = self.notes(&explainer, &packet, &report);
        report.notes.extend(notes);
        let admitted = report.admitted;
        say(&if self.json {
            json(&report)?
        } else {
            report.text()
        });
        outcome(admitted)
    }

    fn packet(&self, config: &gate::Settings) -> Result<Packet, Failure> {
        let most = config.limits.connect_bytes as usize;
        match (&self.connect, &self.token_file) {
            (Some(path), _) => Packet::captured(path, most),
            (None, Some(path)) => {
                Packet::with_token(path, config.token.place, self.device.as_deref())
            }
            (None, None) => Ok(Packet::plain()),
        }
    }

    /// The listeners to look at.
    fn listeners(&self, config: &gate::Settings) -> Result<Vec<ListenerSettings>, Failure> {
        let all = &config.listeners;
        if let Some(name) = &self.listener {
            let found = all.iter().find(|listener| *listener.name == **name);
            return found.cloned().map(|found| vec![found]).ok_or_else(|| {
                let names: Vec<_> = all.iter().map(|listener| &*listener.name).collect();
                let names = names.join(", ");
                Failure::asked_wrongly(format!(
                    "there is no listener {name:?}; the configuration has {names}"
                ))
            });
        }
        let wants = |listener: &&ListenerSettings| match self.shown {
            Some(_) => listener.offer.asks_for_certificate(),
            None => listener.offer != Offer::Only(Mode::MutualTls),
        };
        let found: Vec<_> = all.iter().filter(wants).cloned().collect();
        match (found.is_empty(), &self.shown) {
            (false, _) => Ok(found),
            (true, Some(_)) => Err(Failure::asked_wrongly(
                "no listener asks for a certificate; --listener NAME tells what becomes of the device there",
            )),
            (true, None) => Err(Failure::asked_wrongly(
                "every listener needs a certificate; name the device's, or a listener by --listener NAME",
            )),
        }
    }

    /// What there is to know about the answer.
    fn notes(&self, explainer: &Explainer, packet: &Packet, report: &Report) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |sentence: &str| notes.push(sentence.to_owned());
        if report.certificate.is_some() {
            note(
                "That the device holds the key of its certificate is not shown here; every handshake asks for the proof.",
            );
        }
        if packet.source.is_none() {
            note("The CONNECT is made up; --connect FILE takes the one that the device sends.");
        }
        if packet.behind > 0 {
            note("What was captured behind the CONNECT is not looked at.");
        }
        if self.at.is_some() {
            note(
                "Only the time is another: trust groups, revocation lists and registry are as they are now.",
            );
        }
        let connect = &explainer.settings().connect;
        let properties = connect.user_properties.iter().map(|(_, value)| value);
        let mut templates = properties.chain([&connect.client_id, &connect.username]);
        if self.from.is_none() && templates.any(|one| one.to_string().contains("{ip}")) {
            note("{ip} is 127.0.0.1 here; --from IP tells where the device calls from.");
        }
        if report.is_registry_away() {
            note(
                "A gate that runs may go on from memory with devices it knows, for registry.grace.",
            );
        }
        if report.admitted && matches!(connect.password, Password::Fixed(_)) {
            note("The password for the broker is that of connect.password_file.");
        }
        if report.admitted {
            note("The broker has the last word.");
        }
        notes.extend(explainer.notes.iter().cloned());
        notes
    }
}

/// The exit code.
fn outcome(admitted: bool) -> Result<(), Failure> {
    if admitted {
        return Ok(());
    }
    // All is said on standard output.
    Err(Failure::failed(""))
}

fn json(report: &impl serde::Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(report);
    let json = json.map_err(|fault| Failure::failed(fault.to_string()))?;
    Ok(json + "\n")
}

fn told(faults: &[StartFault]) -> Failure {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Failure::asked_wrongly(lines.join("\n"))
}

/// A fingerprint as logs have it, or with colons and capitals as other tools do.
fn fingerprint(text: &Path) -> Option<Print> {
    let digits = text.to_str()?.replace(':', "");
    let mut print = Print::default();
    hex::decode_to_slice(digits, &mut print).ok()?;
    Some(print)
}

/// The certificates of a PEM file, or that of a DER file.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    /// The first byte of every certificate (X.690): in PEM it is a hyphen, or words.
    const SEQUENCE: u8 = 0x30;
    const LARGEST: u64 = 1 << 20;
    let bytes = files::read_regular(path, LARGEST).map_err(|fault| unreadable(path, &fault))?;
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![bytes.into()]);
    }
    files::certificates(path).map_err(|fault| Failure::asked_wrongly(fault.to_string()))
}

fn unreadable(path: &Path, fault: &std::io::Error) -> Failure {
    Failure::asked_wrongly(format!("{}: cannot be read: {fault}", path.display()))
}

/// Reads a moment: RFC 3339, or seconds since 1970.
fn moment(text: &str) -> Result<i64, String> {
    const LAST: i64 = 253_402_300_799; // the end of the year 9999
    let read = match text.parse() {
        Ok(seconds) => Some(seconds),
        Err(_) => {
            let read = OffsetDateTime::parse(text, &Rfc3339);
            read.ok().map(OffsetDateTime::unix_timestamp)
        }
    };
    read.filter(|at| (0..=LAST).contains(at)).ok_or_else(|| {
        "it is no moment from 1970 to 9999; write 2027-01-31T12:00:00Z, or seconds since 1970"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_in_two_forms() {
        assert_eq!(moment("1801396800"), Ok(1_801_396_800));
        assert_eq!(moment("2027-01-31T12:00:00Z"), Ok(1_801_396_800));
        assert_eq!(moment("2027-01-31T13:00:00+01:00"), Ok(1_801_396_800));
        for text in ["", "soon", "2027-01-31", "-1", "9999999999999"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_tools_write_it() {
        let plain = "0a".repeat(32);
        let colons = vec!["0A"; 32].join(":");
        for text in [&plain, &colons] {
            assert_eq!(fingerprint(Path::new(text)), Some([10; 32]), "{text}");
        }
        for text in ["meter-7.pem", &plain[1..], "", &plain.replace('a', "g")] {
            assert_eq!(fingerprint(Path::new(text)), None, "{text}");
        }
    }
}
