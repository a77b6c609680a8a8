//! File, environment and flags, laid over each other: flags > environment > file.

use std::path::{Path, PathBuf};

use super::fault::{Fault, Origin};
use super::node::{self, Fields, Node, Value};
use crate::tls::files::read_regular;

/// What a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; `None`: no file is read.
    pub path: Option<PathBuf>,
    /// Environment variables, as of [`std::env::vars_os`]; those without our prefix are passed over.
    pub env: Vec<(String, String)>,
    /// What flags say.
    pub flags: Flags,
}

/// What flags say. The flags of a listener speak of the first listener, those of trust of the first trust group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// `--listen`: `listener[0].bind`
    pub listen: Vec<String>,
    /// `--mode`: `listener[0].mode`
    pub mode: Option<String>,
    /// `--certificate`: `listener[0].tls.certificate`
    pub certificate: Option<String>,
    /// `--key`: `listener[0].tls.key`
    pub key: Option<String>,
    /// `--client-ca`: `trust[0].ca`
    pub client_ca: Vec<String>,
    /// `--crl`: `trust[0].crl`
    pub crl: Vec<String>,
    /// `--device-field`: `trust[0].device`
    pub device_field: Option<String>,
    /// `--broker`: `broker.addresses`
    pub broker: Vec<String>,
    /// `--broker-ca`: `broker.tls.ca`
    pub broker_ca: Option<String>,
    /// `--broker-certificate`: `broker.tls.certificate`
    pub broker_certificate: Option<String>,
    /// `--broker-key`: `broker.tls.key`
    pub broker_key: Option<String>,
    /// `--broker-name`: `broker.tls.server_name`
    pub broker_name: Option<String>,
    /// `--admin`: `admin.bind`
    pub admin: Option<String>,
}

impl Source {
    /// Whether nobody has written anything: no file is named, no flag is given, no variable is meant for us.
    pub fn is_silent(&self) -> bool {
        let ours = |(name, _): &(String, String)| {
            let rest = name.strip_prefix(PREFIX);
            rest.is_some_and(|rest| !is_service_link(rest))
        };
        self.path.is_none() && self.flags == Flags::default() && !self.env.iter().any(ours)
    }
}

/// The tree of all that was written, and what is wrong with the writing.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) fields: Fields,
    pub(super) faults: Vec<Fault>,
    /// Whether the file could be read: without it, whatever seems missing may well stand in it.
    pub(super) readable: bool,
    /// The absolute folder that paths in the file start from.
    pub(super) file_folder: PathBuf,
    /// The absolute folder that paths in variables and flags start from.
    pub(super) own_folder: PathBuf,
}

/// The prefix of our environment variables.
const PREFIX: &str = "TIDEGATE_";

/// Reads the file and lays environment and flags over it.
pub(super) fn read(source: &Source) -> Written {
    let mut written = Written {
        readable: true,
        own_folder: absolute(Path::new("")),
        ..Written::default()
    };
    written.file_folder.clone_from(&written.own_folder);
    if let Some(path) = &source.path {
        let folder = path.parent().unwrap_or(Path::new(""));
        written.file_folder = absolute(folder);
        let name = path.display().to_string();
        match read_file(path).and_then(|text| node::parse(&text, &name)) {
            Ok(fields) => written.fields = fields,
            Err(faults) => {
                written.faults.extend(faults);
                written.readable = false;
            }
        }
    }
    let mut root = Node {
        value: Value::Table(written.fields),
        origin: Origin::Absent,
    };
    lay_environment(&mut root, &source.env, &mut written.faults);
    lay_flags(&mut root, &source.flags);
    written.fields = std::mem::take(root.as_fields());
    written
}

fn absolute(folder: &Path) -> PathBuf {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let path = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    path.components().collect() // drops "." and doubled slashes
}

/// The largest configuration file that is read. A mistyped path must not fill the memory.
const LARGEST_FILE: u64 = 4 << 20;

fn read_file(path: &Path) -> Result<String, Vec<Fault>> {
    let fault = |what: String, way_out: &str| {
        vec![Fault {
            key: path.display().to_string(),
            what,
            way_out: way_out.into(),
            origin: Origin::Absent,
        }]
    };
    let cannot = |error: std::io::Error| {
        let way_out = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "write one, name another by --config FILE, or use flags alone (tidegate run --help)"
            }
            std::io::ErrorKind::PermissionDenied => "let the user that runs tidegate read it",
            _ => "name another by --config FILE",
        };
        fault(
            format!("cannot read the configuration: {}", plain(&error)),
            way_out,
        )
    };
    let bytes = read_regular(path, LARGEST_FILE).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        fault(
            format!("is not UTF-8 at byte {at}"),
            "save the file as UTF-8",
        )
    })
}

/// The sentence of an error of the system, without its number.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "it failed".into(),
    }
}

fn lay_environment(root: &mut Node, env: &[(String, String)], faults: &mut Vec<Fault>) {
    let mut ours: Vec<(Vec<String>, &String, &String)> = env
        .iter()
        .filter_map(|(name, value)| {
            let rest = name.strip_prefix(PREFIX)?;
            let steps = rest.split("__").map(str::to_ascii_lowercase).collect();
            (!is_service_link(rest)).then_some((steps, name, value))
        })
        .collect();
    // Lower positions first, 9 before 10: so that variables can write a list one after another.
    let rank = |steps: &[String]| -> Vec<(Option<usize>, String)> {
        steps.iter().map(|s| (s.parse().ok(), s.clone())).collect()
    };
    ours.sort_by_cached_key(|(steps, name, _)| (rank(steps), (*name).clone()));
    for (steps, name, value) in ours {
        let origin = Origin::Variable(name.clone());
        let fault = |what: String, way_out: String| Fault {
            key: steps.join("."),
            what,
            way_out,
            origin: origin.clone(),
        };
        if steps.len() < 2 || steps.iter().any(String::is_empty) {
            faults.push(fault(
                "is not the name of a key".into(),
                "write the section, two underscores and the key: TIDEGATE_LIMITS__CONNECTIONS"
                    .into(),
            ));
        } else if let Err(Misplaced { before }) =
            lay(root, &steps, Node::text(value, origin.clone()))
        {
            faults.push(fault(
                format!("leaves a gap in a list of {before}"),
                format!("count from 0; the next position is {before}"),
            ));
        }
    }
}

/// Kubernetes gives every container variables such as `TIDEGATE_SERVICE_HOST` and `TIDEGATE_PORT_8883_TCP_ADDR` when a
/// service is called `tidegate` (or `tidegate-mqtt` …). They are not meant for us.
fn is_service_link(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let port = |at: usize| {
        let after = &rest[at + "_PORT".len()..];
        let Some(after) = after.strip_prefix('_') else {
            return after.is_empty();
        };
        let mut words = after.split('_');
        words.next().is_some_and(|n| n.parse::<u16>().is_ok())
            && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(words.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && words.next().is_none()
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.match_indices("_PORT").any(|(at, _)| port(at))
}

/// Puts `new` at `steps` below `node`; a number is a position in a list.
fn lay(node: &mut Node, steps: &[String], new: Node) -> Result<(), Misplaced> {
    let Some((step, further)) = steps.split_first() else {
        *node = new;
        return Ok(());
    };
    let Ok(position) = step.parse::<usize>() else {
        return lay(
            node.as_fields().entry(step.clone()).or_default(),
            further,
            new,
        );
    };
    let items = node.as_items();
    if position > items.len() {
        return Err(Misplaced {
            before: items.len(),
        });
    }
    if position == items.len() {
        items.push(Node::default());
    }
    lay(&mut items[position], further, new)
}

/// A position that leaves a gap in its list.
struct Misplaced {
    before: usize,
}

fn lay_flags(root: &mut Node, flags: &Flags) {
    let mut put = |key: &str, node: Node| {
        let steps: Vec<String> = key.split('.').map(str::to_owned).collect();
        // Flags speak of the first item of a list, which never leaves a gap.
        let _ = lay(root, &steps, node);
    };
    let many = |values: &[String], flag| {
        let items = values
            .iter()
            .map(|value| Node::text(value, Origin::Flag(flag)))
            .collect();
        Node {
            value: Value::List(items),
            origin: Origin::Flag(flag),
        }
    };
    for (values, flag, key) in [
        (&flags.listen, "--listen", "listener.0.bind"),
        (&flags.client_ca, "--client-ca", "trust.0.ca"),
        (&flags.crl, "--crl", "trust.0.crl"),
        (&flags.broker, "--broker", "broker.addresses"),
    ] {
        if !values.is_empty() {
            put(key, many(values, flag));
        }
    }
    for (value, flag, key) in [
        (&flags.mode, "--mode", "listener.0.mode"),
        (
            &flags.certificate,
            "--certificate",
            "listener.0.tls.certificate",
        ),
        (&flags.key, "--key", "listener.0.tls.key"),
        (&flags.device_field, "--device-field", "trust.0.device"),
        (&flags.broker_ca, "--broker-ca", "broker.tls.ca"),
        (
            &flags.broker_certificate,
            "--broker-certificate",
            "broker.tls.certificate",
        ),
        (&flags.broker_key, "--broker-key", "broker.tls.key"),
        (
            &flags.broker_name,
            "--broker-name",
            "broker.tls.server_name",
        ),
        (&flags.admin, "--admin", "admin.bind"),
    ] {
        if let Some(value) = value {
            put(key, Node::text(value, Origin::Flag(flag)));
        }
    }
}
