//! The arguments that say which configuration: shared by `run`, `check` and `config`.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::{self, Config, Fault, Flags, Origin, Source};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "tidegate.toml";

/// Which configuration.
///
/// Flags win over environment variables (TIDEGATE_LIMITS__CONNECTIONS=5000), these over the file, the file over defaults.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub(super) struct Settings {
    /// The configuration file.
    ///
    /// Left out: ./tidegate.toml, if there is one and no --listen is given; else no file is read, and flags and
    /// environment say everything. With a file, flags change its first listener and its first trust group.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; repeatable
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<String>,
    /// mutual-tls (the default) | server-tls | mixed-tls | plain; without a certificate a device needs a token
    ///
    /// In server-tls and plain, and in mixed-tls without a certificate, a device is known by its token. Tokens are
    /// those of [registry] and [token.jwt] in a configuration file; without one, such a device is refused.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// The server's certificate chain, leaf first (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: Option<String>,
    /// The server's private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// A CA whose word counts for devices (PEM); repeatable
    #[arg(long, value_name = "FILE")]
    client_ca: Vec<String>,
    /// A revocation list of that CA (PEM or DER); repeatable
    #[arg(long, value_name = "FILE")]
    crl: Vec<String>,
    /// The one field of a certificate that names the device; default subject.cn
    #[arg(long, value_name = "FIELD")]
    device_field: Option<String>,
    /// A broker: mqtt://host, mqtts://host or unix:///path; repeatable, and connections are spread over them
    #[arg(long, value_name = "ADDRESS")]
    broker: Vec<String>,
    /// The CA that judges brokers at mqtts:// (PEM)
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<String>,
    /// The gate's certificate chain for such brokers, leaf first (PEM)
    #[arg(long, value_name = "FILE")]
    broker_certificate: Option<String>,
    /// The private key of that (PEM)
    #[arg(long, value_name = "FILE")]
    broker_key: Option<String>,
    /// The name that the broker's certificate is for; default the host that is dialled
    #[arg(long, value_name = "NAME")]
    broker_name: Option<String>,
    /// Where /metrics, /livez and /readyz are; default 127.0.0.1:9883; "off" for nowhere
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<String>,
}

impl Settings {
    /// What the configuration is read from.
    pub(super) fn source(&self) -> Source {
        let mut source = Source {
            path: file(self.config.as_deref(), !self.listen.is_empty()),
            env: environment(),
            flags: Flags {
                listen: self.listen.clone(),
                mode: self.mode.clone(),
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                client_ca: self.client_ca.clone(),
                crl: self.crl.clone(),
                device_field: self.device_field.clone(),
                broker: self.broker.clone(),
                broker_ca: self.broker_ca.clone(),
                broker_certificate: self.broker_certificate.clone(),
                broker_key: self.broker_key.clone(),
                broker_name: self.broker_name.clone(),
                admin: self.admin.clone(),
            },
        };
        // Where nothing is said at all, what is missing is the file, and not each key that it would have.
        if source.is_silent() {
            source.path = Some(DEFAULT_FILE.into());
        }
        source
    }

    /// Reads the configuration; every fault of it is one line of the failure.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let source = self.source();
        config::load(&source).map_err(|faults| {
            let lines = faults.iter().map(|fault| told(fault, &source));
            nothing_started(lines.collect(), &source)
        })
    }
}

/// The failure that tells these faults, one a line.
pub(super) fn nothing_started(mut faults: Vec<String>, source: &Source) -> Failure {
    let wrong = things(faults.len());
    let summary = format!("{}: {wrong} wrong; nothing was started", name(source));
    faults.push(summary);
    Failure::asked_wrongly(faults.join("\n"))
}

/// The file to read: the one named; else, unless flags alone speak, the default one if it is there.
pub(super) fn file(named: Option<&Path>, flags_alone: bool) -> Option<PathBuf> {
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| !flags_alone && path.exists());
    named.map(Path::to_owned).or_else(default)
}

/// The environment; what is not UTF-8 is read as far as it goes, and then judged like the rest.
pub(super) fn environment() -> Vec<(String, String)> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// What a configuration is called in a summary.
pub(super) fn name(source: &Source) -> String {
    source
        .path
        .as_ref()
        .map_or("flags and environment".into(), |path| {
            path.display().to_string()
        })
}

/// A fault, and the line of the file it is in.
pub(super) fn told(fault: &Fault, source: &Source) -> String {
    match (&fault.origin, &source.path) {
        (Origin::Line(line), Some(path)) if fault.key != name(source) => {
            format!("{fault} ({}:{line})", path.display())
        }
        _ => fault.to_string(),
    }
}

/// "1 thing is", "2 things are".
fn things(count: usize) -> String {
    if count == 1 {
        "1 thing is".into()
    } else {
        format!("{count} things are")
    }
}
