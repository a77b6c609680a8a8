//! `tidegate ca`: a private CA for trials and small fleets.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::pki::index::{self, Entry};
use crate::pki::revoke::{self, Wanted, Written as List};
use crate::pki::{self, Authority, Fault, Order, Validity, folder};
use crate::tls::files;
use crate::{gate, registry::form};

/// Makes a private CA for trials and small fleets, and a server certificate signed by it.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes a CA: ca.pem, ca.key (readable by you alone) and ca.crl, an empty list of revoked certificates
    #[command(after_help = INIT_EXAMPLES)]
    Init(Init),
    /// Makes a server certificate signed by the CA: server.pem and server.key (readable by you alone)
    #[command(after_help = SERVER_EXAMPLES)]
    Server(Server),
    /// Revokes certificates: ca.crl lists them from now on
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(Revoke),
    /// Renews ca.crl, or begins one where there is none
    #[command(after_help = CRL_EXAMPLES)]
    Crl(Crl),
}

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate ca init pki
  tidegate ca server --ca pki --san gate.example.net --out pki
  tidegate ca revoke --ca pki meter-7";

const INIT_EXAMPLES: &str = "\
Examples:
  tidegate ca init pki
  tidegate ca init pki --name \"Harbour meters CA\" --days 1825
  tidegate ca init pki --if-missing          at every start of a container, say";

const SERVER_EXAMPLES: &str = "\
Examples:
  tidegate ca server --ca pki --san gate.example.net --out pki
  tidegate ca server --ca pki --san localhost --san 127.0.0.1 --out pki";

const REVOKE_EXAMPLES: &str = "\
What to revoke is a certificate's file; or a device, that is every certificate of it that has
not ended, by the CA's own notes (index.jsonl, which a CA of before there were notes begins with
its next certificate); or a serial in hex. The new list takes the old one's place in one step; a
gate whose trust.crl names it takes it by itself.

Examples:
  tidegate ca revoke --ca pki devices/meter-7.pem
  tidegate ca revoke --ca pki meter-7
  tidegate ca revoke --ca pki 5f3a9c0e8d7b6a594837261504f3e2d1";

const CRL_EXAMPLES: &str = "\
A list of this CA is good for as long as the CA, unless --days says otherwise; from then on each
list is good for as long as the one before.

Examples:
  tidegate ca crl --ca pki
  tidegate ca crl --ca pki --days 30";

/// `tidegate ca revoke`
#[derive(Args, Debug)]
pub struct Revoke {
    /// A certificate's file, a device's id, or a serial in hex
    #[arg(value_name = "CERT|DEVICE|SERIAL", required = true)]
    what: Vec<String>,
    /// The CA's folder, as `tidegate ca init` made it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// For machines: one JSON object
    #[arg(long)]
    json: bool,
}

/// `tidegate ca crl`
#[derive(Args, Debug)]
pub struct Crl {
    /// The CA's folder, as `tidegate ca init` made it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// How many days the list is good for; left out: as long as the one before
    #[arg(long, value_name = "DAYS", value_parser = days())]
    days: Option<u32>,
    /// For machines: one JSON object
    #[arg(long)]
    json: bool,
}

/// `tidegate ca init`
#[derive(Args, Debug)]
pub struct Init {
    /// The CA's folder; made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The CA's common name
    #[arg(long, value_name = "NAME", default_value = "tidegate trial CA", value_parser = common_name)]
    name: String,
    /// How many days the CA is good for
    #[arg(long, value_name = "DAYS", default_value_t = pki::CA_DAYS, value_parser = days())]
    days: u32,
    /// Does nothing where the CA is there already: for a service that runs at every start
    #[arg(long)]
    if_missing: bool,
}

/// `tidegate ca server`
#[derive(Args, Debug)]
pub struct Server {
    /// The CA's folder, as `tidegate ca init` made it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// A DNS name or IP address that devices call; give it once for each name
    #[arg(long, value_name = "NAME", required = true, num_args = 1..)]
    san: Vec<String>,
    /// The folder for server.pem and server.key; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many days the certificate is good for
    #[arg(long, value_name = "DAYS", default_value_t = pki::SERVER_DAYS, value_parser = days())]
    days: u32,
    /// Does nothing where the certificate is there already: for a service that runs at every start
    #[arg(long)]
    if_missing: bool,
}

impl Command {
    /// Does it, and tells what was written and what to type next.
    ///
    /// # Errors
    /// The sentence and the exit code: 2 for a name that cannot be one, else 1.
    pub fn run(self) -> Result<(), Failure> {
        let text = match self {
            Self::Init(init) => init.run(),
            Self::Server(server) => server.run(),
            Self::Revoke(revoke) => return revoke.run(),
            Self::Crl(crl) => return crl.run(),
        };
        super::say(&text.map_err(|fault| failure(&fault))?);
        Ok(())
    }
}

impl Init {
    fn run(self) -> Result<String, Fault> {
        if self.if_missing && folder::has_authority(&self.folder) {
            return Ok(there_already(&self.folder, folder::CERTIFICATE));
        }
        let order = Order::ca(&self.name).valid(Validity::days(self.days));
        let authority = Authority::root(order)?;
        let [certificate, key, list] = folder::save_authority(&self.folder, &authority)?;
        let ends = authority.validity().last_day();
        let folder = shell(&self.folder);
        let written = Written::default()
            .file(
                &certificate,
                &format!("the CA, good until {ends}: let the gate trust it"),
            )
            .file(
                &key,
                "its private key, readable by you alone: keep it off the gate",
            )
            .file(
                &list,
                &format!("what it has revoked: nothing yet; good until {ends}"),
            );
        Ok(format!(
            "{written}\nNext, a certificate for the gate, by the name that devices call:\n  \
             tidegate ca server --ca {folder} --san gate.example.net --out {folder}\n"
        ))
    }
}

impl Server {
    fn run(self) -> Result<String, Fault> {
        if self.if_missing && folder::has_issued(&self.out, "server") {
            return Ok(there_already(&self.out, "server.pem"));
        }
        let authority = folder::open_authority(&self.ca)?;
        let validity = Validity::days(self.days).within(authority.validity());
        let issued = authority.issue(Order::server(&self.san)?.valid(validity))?;
        let name = self.san.first().map_or("", String::as_str);
        index::note(&self.ca, &Entry::server(name, issued.certified()))?;
        let [certificate, key] = folder::save_issued(&self.out, "server", &issued)?;
        let ends = validity.last_day();
        let names = self.san.join(", ");
        let (ca, trusted) = (shell(&self.ca), shell(&self.ca.join(folder::CERTIFICATE)));
        let written = Written::default()
            .file(&certificate, &format!("for {names}, good until {ends}"))
            .file(&key, "its private key, readable by you alone");
        Ok(format!(
            "{written}\nNext, a device:\n  tidegate device add meter-7 --ca {ca} --out devices\n\
             and the gate, in front of the broker on this host:\n  \
             tidegate run --listen 0.0.0.0:8883 --mode mutual-tls --certificate {} --key {} --client-ca {trusted} \
             --broker mqtt://127.0.0.1:1883\n",
            shell(&certificate),
            shell(&key),
        ))
    }
}

/// The list that was written, for machines.
#[derive(serde::Serialize)]
struct Told<'l> {
    file: &'l Path,
    revoked: &'l [String],
    listed: usize,
    dropped: usize,
    number: &'l str,
    next_update: String,
    /// Serials that were asked for, and of which this CA has no note: they may be of nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    without_note: Option<Vec<&'l str>>,
}

impl Revoke {
    fn run(self) -> Result<(), Failure> {
        let authority = folder::open_authority(&self.ca).map_err(|fault| failure(&fault))?;
        let known = index::read(&self.ca).map_err(|fault| failure(&fault))?;
        let now = gate::now();
        let mut wanted = Vec::new();
        for what in &self.what {
            wanted.extend(meant(what, &authority, &known, now)?);
        }
        let list =
            revoke::revoke(&self.ca, &authority, &wanted, None).map_err(|fault| failure(&fault))?;
        let is_without_note = |one: &Wanted| {
            one.not_after.is_none() && !known.iter().any(|entry| entry.serial == one.serial)
        };
        if self.json {
            let without = wanted.iter().filter(|one| is_without_note(one));
            let without = without.map(|one| one.serial.as_str()).collect();
            return told_json(&list, Some(without));
        }
        let mut text = String::new();
        for one in &wanted {
            let how = if list.added.contains(&one.serial) {
                "revoked"
            } else {
                "was revoked already:"
            };
            let noted = known.iter().find(|entry| entry.serial == one.serial);
            let who = match noted.and_then(|entry| entry.device.as_ref().or(entry.server.as_ref()))
            {
                Some(name) => format!(", of {name}"),
                None if is_without_note(one) => {
                    ", of which this CA has no note: see that it is the right one".to_owned()
                }
                None => String::new(),
            };
            let _ = writeln!(text, "{how} {}{who}", one.serial);
        }
        text += &told(&list);
        text += "\nNext: a gate whose trust.crl names this file takes the new list by itself, and ends the connections that it \
                 concerns; copy it to gates elsewhere.\n";
        super::say(&text);
        Ok(())
    }
}

impl Crl {
    fn run(self) -> Result<(), Failure> {
        let authority = folder::open_authority(&self.ca).map_err(|fault| failure(&fault))?;
        let list = revoke::revoke(&self.ca, &authority, &[], self.days)
            .map_err(|fault| failure(&fault))?;
        if self.json {
            return told_json(&list, None);
        }
        super::say(&told(&list));
        Ok(())
    }
}

fn told(list: &List) -> String {
    let what = format!(
        "{} revoked, {} ended and left out; number {}, good until {}",
        list.listed,
        list.dropped,
        list.number,
        form::time_text(list.next_update)
    );
    Written::default().file(&list.path, &what).to_string()
}

fn told_json(list: &List, without_note: Option<Vec<&str>>) -> Result<(), Failure> {
    let told = Told {
        file: &list.path,
        revoked: &list.added,
        listed: list.listed,
        dropped: list.dropped,
        number: &list.number,
        next_update: form::time_text(list.next_update),
        without_note,
    };
    let text = serde_json::to_string(&told).map_err(|error| Failure::failed(error.to_string()))?;
    super::say(&(text + "\n"));
    Ok(())
}

/// The certificates that are meant by a file, a device or a serial.
fn meant(
    what: &str,
    authority: &Authority,
    known: &[Entry],
    now: i64,
) -> Result<Vec<Wanted>, Failure> {
    let file = Path::new(what);
    if file.is_file() {
        let der = match files::certificates(file) {
            // With its intermediates, its own is the first.
            Ok(chain) => chain.into_iter().next().map(|der| der.to_vec()),
            Err(_) => None,
        };
        let der = der.map_or_else(|| files::certificate(file), Ok);
        let der = der.map_err(|fault| Failure::failed(fault.to_string()))?;
        let found = revoke::issued_by(authority, &der).ok_or_else(|| {
            Failure::failed(format!(
                "{what} was not issued by this CA; name the folder of the CA that issued it by --ca"
            ))
        })?;
        return Ok(vec![found]);
    }
    let wanted = |entry: &Entry| Wanted {
        serial: entry.serial.clone(),
        not_after: Some(entry.not_after),
    };
    let of_device: Vec<&Entry> = known
        .iter()
        .filter(|entry| entry.device.as_deref() == Some(what))
        .collect();
    let serial = revoke::serial(what);
    let noted = known
        .iter()
        .any(|entry| Some(&entry.serial) == serial.as_ref());
    match (of_device.is_empty(), serial) {
        (false, Some(_)) if noted => Err(Failure::asked_wrongly(format!(
            "{what} is a device and the serial of a certificate; name the certificate's file"
        ))),
        (false, _) => {
            let good: Vec<Wanted> = of_device
                .into_iter()
                .filter(|entry| entry.not_after >= now)
                .map(wanted)
                .collect();
            if good.is_empty() {
                Err(Failure::failed(format!(
                    "every certificate of {what} has ended; there is nothing to revoke"
                )))
            } else {
                Ok(good)
            }
        }
        (true, Some(serial)) => {
            let not_after = known.iter().find(|entry| entry.serial == serial);
            let not_after = not_after.map(|entry| entry.not_after);
            Ok(vec![Wanted { serial, not_after }])
        }
        (true, None) => Err(Failure::failed(format!(
            "{what} is no file, no device that this CA has issued a certificate for, and no serial in hex; name the certificate's \
             file, or its serial (openssl x509 -noout -serial -in FILE)"
        ))),
    }
}

/// What is told instead of making it once more.
pub(super) fn there_already(folder: &Path, name: &str) -> String {
    format!("{}: there already\n", folder.join(name).display())
}

/// The exit code that a fault of the pki room means.
pub(super) fn failure(fault: &Fault) -> Failure {
    match fault {
        Fault::NotAServerName(_) => Failure::asked_wrongly(fault.to_string()),
        _ => Failure::failed(fault.to_string()),
    }
}

/// One day to a hundred years: a number that no certificate or clock chokes on.
pub(super) fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

/// X.520 bounds a common name to 64 characters, and stacks hold CAs to it.
fn common_name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    let why = "a CA's name is 1 to 64 characters, none of them a control character";
    fits.then(|| text.to_owned()).ok_or_else(|| why.to_owned())
}

/// A list of written files, each with a word on what it is, in two columns.
#[derive(Default)]
pub(super) struct Written(Vec<(String, String)>);

impl Written {
    /// Adds a file.
    #[must_use]
    pub(super) fn file(mut self, path: &Path, what: &str) -> Self {
        self.0.push((path.display().to_string(), what.to_owned()));
        self
    }
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.0.iter().map(|(path, _)| path.chars().count()).max();
        let width = width.unwrap_or_default();
        self.0
            .iter()
            .try_for_each(|(path, what)| writeln!(f, "wrote {path:width$}  {what}"))
    }
}

/// A path or another argument as it can be pasted into a shell.
pub(super) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Subcommand};

    use super::*;

    fn typed(line: &[&str]) -> Result<Command, clap::Error> {
        let command = Command::augment_subcommands(clap::Command::new("ca"));
        let matches = command.try_get_matches_from([&["ca"], line].concat())?;
        Command::from_arg_matches(&matches)
    }

    #[test]
    fn a_ca_is_made_and_then_signs_a_server() -> Result<(), Box<dyn std::error::Error>> {
        let home = tempfile::tempdir()?;
        let folder = home.path().join("my pki").display().to_string();
        let Command::Init(init) = typed(&["init", &folder])? else {
            panic!("init")
        };
        let text = init.run()?;
        assert!(text.contains(&format!("--ca '{folder}'")), "{text}");

        let line = ["server", "--ca", &folder, "--out", &folder];
        let Command::Server(server) = typed(&[&line[..], &["--san", "localhost"]].concat())? else {
            panic!("server")
        };
        let text = server.run()?;
        assert!(text.contains("for localhost, good until"), "{text}");
        assert!(text.contains("--client-ca"), "{text}");
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() {
        for line in [
            &["init"][..],
            &["init", "d", "--days", "0"],
            &["init", "d", "--days", "36501"],
            &["init", "d", "--name", ""],
            &["init", "d", "--name", "a\nb"],
            &["server", "--ca", "d", "--out", "d"],
        ] {
            assert!(typed(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_path_is_told_so_that_it_can_be_pasted() {
        assert_eq!(shell(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(shell(Path::new("it's $here")), r"'it'\''s $here'");
    }
}
