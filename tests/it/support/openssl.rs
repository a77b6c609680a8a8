//! The `openssl` command: for what our own tools cannot make, and as a device that is not rustls.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// Runs `openssl` in `folder` and gives its standard output.
///
/// # Panics
/// When it fails, or is not there.
pub fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let run = run(folder, arguments, b"");
    assert!(
        run.status.success(),
        "openssl {arguments:?} failed:\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
    run.stdout
}

// Kinds of keys, as [`private_key`] takes them.
pub const RSA_1024: &str = "RSA -pkeyopt rsa_keygen_bits:1024";
pub const RSA_2048: &str = "RSA -pkeyopt rsa_keygen_bits:2048";
pub const RSA_3072: &str = "RSA -pkeyopt rsa_keygen_bits:3072";
pub const RSA_4096: &str = "RSA -pkeyopt rsa_keygen_bits:4096";
pub const P_256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
pub const P_384: &str = "EC -pkeyopt ec_paramgen_curve:P-384";
pub const P_521: &str = "EC -pkeyopt ec_paramgen_curve:P-521";
pub const ED25519: &str = "ED25519";

/// A new private key in PEM (PKCS #8): `kind` as behind `openssl genpkey -algorithm`.
///
/// RSA keys take seconds: there is one of each kind, and [`make_ahead`] begins early.
pub fn private_key(kind: &str) -> String {
    static RSA: Mutex<BTreeMap<String, Arc<OnceLock<String>>>> = Mutex::new(BTreeMap::new());
    let make = || {
        let arguments: Vec<&str> = ["genpkey", "-algorithm"]
            .into_iter()
            .chain(kind.split(' '))
            .collect();
        let key = openssl(&std::env::temp_dir(), &arguments);
        String::from_utf8(key).expect("PEM is ASCII")
    };
    if !kind.starts_with("RSA ") {
        return make();
    }
    let mut keys = RSA.lock().expect("no panic while held");
    let key = keys.entry(kind.to_owned()).or_default().clone();
    drop(keys);
    key.get_or_init(make).clone()
}

/// Begins to make keys, for a test that has something else to do first.
pub fn make_ahead(kinds: &[&'static str]) {
    for &kind in kinds {
        std::thread::spawn(move || private_key(kind));
    }
}

/// Runs `openssl` in `folder` with `input`, which is all that it gets to read.
fn run(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(folder, arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("openssl is needed here: `apt-get install openssl`, or run ./check, which does");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What `openssl s_client` met with.
#[derive(Debug)]
pub struct Met {
    /// Its standard output.
    pub answer: Vec<u8>,
    /// All that openssl said about it.
    pub said: String,
}

/// `openssl s_client` to `gate`: does a handshake, sends `bytes`, and reads until the server closes. With `-quiet` the
/// answer holds what came inside TLS and nothing else.
pub async fn s_client(folder: &Path, gate: SocketAddr, arguments: &[&str], bytes: &[u8]) -> Met {
    let folder = folder.to_owned();
    let connect = gate.to_string();
    let mut all = vec!["s_client", "-connect", &connect, "-ign_eof"];
    all.extend(arguments);
    let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
    let bytes = bytes.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        run(&folder, &all, &bytes)
    });
    let run = super::soon("openssl s_client to end", run)
        .await
        .expect("no panic");
    Met {
        answer: run.stdout,
        said: String::from_utf8_lossy(&run.stderr).into_owned(),
    }
}
