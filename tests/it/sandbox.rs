//! The gate gives up what it never needs; where the kernel cannot help, it says so.
//!
//! Whether this kernel has Landlock is asked of the kernel, not of the gate ([`landlock`]). Where it has none, these tests see that the gate says so
//! and runs all the same; that is less than they are for, and ./check tells it.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::sandbox::{self, Mode, Needs, Settings};

use crate::support::device::Answer;
use crate::support::free_port;
use crate::support::gate::{Gate, MUTUAL, Plan, lay_out, tidegate};

/// What asks the kernel: landlock_create_ruleset(2).
const ASK: &str = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))";

const WITHOUT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/sandbox/without_landlock.py"
);

/// Which version of Landlock this kernel has; 0: none.
pub(crate) fn landlock() -> i64 {
    let asked = Command::new("python3")
        .args(["-c", ASK])
        .output()
        .expect("python3");
    let told = String::from_utf8(asked.stdout).expect("text");
    let version = told.trim().parse::<i64>().expect("a number").max(0);
    if version < 6 {
        eprintln!(
            "THIS KERNEL HAS LANDLOCK {version}, WHERE 6 IS WANTED: WHAT IT WOULD KEEP THE GATE FROM WAS NOT ALL SEEN"
        );
    }
    version
}

/// A plan with this `[sandbox]`.
fn plan(sandbox: &str) -> Plan {
    Plan {
        more: format!("[sandbox]\n{sandbox}\n"),
        ..Plan::default()
    }
}

/// `NoNewPrivs` of each thread of the gate.
fn new_privileges(gate: &Gate) -> Vec<bool> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gate.pid())).expect("it lives");
    let status = tasks.map(|task| {
        fs::read_to_string(task.expect("it lives").path().join("status")).expect("it lives")
    });
    status
        .map(|status| status.contains("NoNewPrivs:\t0"))
        .collect()
}

async fn serves(gate: &Gate) {
    let device = gate.device("meter-7");
    let (answer, _) = tokio::join!(
        device.connects_as("anybody", Version::V5),
        gate.broker().welcome()
    );
    assert_eq!(answer, Answer::Admitted);
}

/// In every thread, and told in one line.
#[tokio::test]
async fn the_gate_is_inside_before_it_takes_the_first_device() {
    let gate = Gate::start().await;
    let told = gate.line("sandbox", |_| true).await;
    assert_eq!(told["landlock"], landlock(), "{told}");
    assert_eq!(told["no_new_privs"], true, "{told}");
    assert_eq!(told["level"], "info");
    serves(&gate).await;
    let all = new_privileges(&gate);
    assert!(all.len() > 2 && all.iter().all(|new| !new), "{all:?}");
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let gate = Gate::plan(plan("mode = \"off\"")).await;
    let told = gate.line("sandbox", |_| true).await;
    assert_eq!(
        (&told["landlock"], &told["no_new_privs"]),
        (&0.into(), &false.into()),
        "{told}"
    );
    let ours = fs::read_to_string("/proc/self/status")
        .expect("Linux")
        .contains("NoNewPrivs:\t0");
    assert!(new_privileges(&gate).iter().all(|new| *new == ours));
    serves(&gate).await;
}

/// Every worker binds the port that is configured, and devices come in there.
#[tokio::test]
async fn listeners_bind_their_ports_from_inside() {
    let gate = Gate::plan(Plan {
        listeners: Some(format!(
            "{}\n[[trust]]\nname = \"fleet\"\nca = [\"ca.pem\"]\n",
            MUTUAL.replace("127.0.0.1:0", &free_port().to_string())
        )),
        env: vec![("TIDEGATE_ADMIN__BIND".into(), free_port().to_string())],
        ..Plan::default()
    })
    .await;
    serves(&gate).await;
}

/// As on an old kernel: `auto` goes on with less and says so, `required` does not.
#[tokio::test]
async fn without_landlock_it_goes_on_unless_it_is_required() {
    let under = ["python3", WITHOUT].map(str::to_owned).to_vec();
    let gate = Gate::plan(Plan {
        under,
        env: path(),
        ..plan("")
    })
    .await;
    let told = gate.line("sandbox", |_| true).await;
    assert_eq!(
        (&told["landlock"], &told["no_new_privs"]),
        (&0.into(), &true.into()),
        "{told}"
    );
    assert!(
        told["why"].as_str().expect("text").contains("no Landlock"),
        "{told}"
    );
    assert!(new_privileges(&gate).iter().all(|new| !new));
    serves(&gate).await;

    let (folder, _broker) = lay_out(&plan("mode = \"required\"")).await;
    let required = Command::new("python3")
        .args([WITHOUT, env!("CARGO_BIN_EXE_tidegate"), "run"])
        .current_dir(folder.path())
        .env_clear()
        .envs(path())
        .output()
        .expect("python3");
    let told = String::from_utf8(required.stderr).expect("text");
    assert_eq!(required.status.code(), Some(2), "{told}");
    assert!(
        told.contains("sandbox.mode: this kernel has no Landlock") && told.contains("\"auto\""),
        "{told}"
    );
}

/// Where there is all of it, `required` starts.
#[tokio::test]
async fn what_is_required_and_there_is_no_fault() {
    if landlock() < 6 {
        return;
    }
    let gate = Gate::plan(plan("mode = \"required\"")).await;
    let told = gate.line("sandbox", |_| true).await;
    assert_eq!(told["why"], "the sandbox is whole");
    serves(&gate).await;
}

fn path() -> Vec<(String, String)> {
    vec![("PATH".into(), std::env::var("PATH").expect("a PATH"))]
}

/// A folder that the gate has not heard of when it starts, with a CA in it.
fn elsewhere(gate: &Gate) -> (TempDir, PathBuf) {
    let place = TempDir::new().expect("a folder");
    let ca = place.path().join("ca.pem");
    fs::write(&ca, gate.authority.certificate_pem()).expect("written");
    (place, ca)
}

fn name_ca(gate: &Gate, ca: &Path) {
    let file = gate.file("tidegate.toml");
    let text = fs::read_to_string(&file).expect("its file");
    fs::write(
        &file,
        text.replace("ca = [\"ca.pem\"]", &format!("ca = [{ca:?}]")),
    )
    .expect("written");
}

/// A reload may name files in folders that were named before; of others it says why it cannot, and what was in force stays (threats.md R2).
#[tokio::test]
async fn a_reload_that_names_a_file_out_of_reach_says_so() {
    if landlock() < 1 {
        return;
    }
    let gate = Gate::start().await;
    let (_place, ca) = elsewhere(&gate);
    name_ca(&gate, &ca);
    gate.signal("HUP");
    let told = gate.line("reload_failed", |_| true).await;
    let why = told["why"].as_str().expect("text");
    assert!(
        why.starts_with(&format!("files: {}: ", ca.display())) && why.contains("sandbox.read"),
        "{why}"
    );
    gate.metric_becomes("tidegate_config_last_reload_successful", &[], 0.0)
        .await;
    serves(&gate).await;

    // The same CA, beside the others.
    let within = gate.file("another-ca.pem");
    fs::rename(&ca, &within).expect("moved");
    let file = gate.file("tidegate.toml");
    let text = fs::read_to_string(&file).expect("its file");
    fs::write(
        &file,
        text.replace(ca.to_str().expect("text"), "another-ca.pem"),
    )
    .expect("written");
    gate.signal("HUP");
    gate.metric_becomes("tidegate_config_last_reload_successful", &[], 1.0)
        .await;
    serves(&gate).await;
}

/// Whoever knows where new files will be says so beforehand.
/// A pipe that nobody writes to is a fault like any other: no reload hangs on it, neither the next (threats.md T8).
#[tokio::test]
async fn a_reload_that_names_a_pipe_goes_on() {
    let gate = Gate::start().await;
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let pipe = gate.file("pipe.pem");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("coreutils").success());
    let file = gate.file("tidegate.toml");
    let good = fs::read_to_string(&file).expect("its file");
    name_ca(&gate, &pipe);
    gate.signal("HUP");
    let told = gate.line("reload_failed", |_| true).await;
    assert!(
        told["why"].as_str().expect("text").contains("a pipe"),
        "{told}"
    );
    serves(&gate).await;
    fs::write(&file, good).expect("written");
    gate.signal("HUP");
    gate.line("reloaded", |_| true).await;
}

/// threats.md T8: a link to a device is told as that, and where it leads, not as something that the sandbox is in the way of.
#[tokio::test]
async fn a_reload_that_names_a_device_says_so() {
    let gate = Gate::start().await;
    let link = gate.file("zero.pem");
    std::os::unix::fs::symlink("/dev/zero", &link).expect("linked");
    name_ca(&gate, &link);
    gate.signal("HUP");
    let told = gate.line("reload_failed", |_| true).await;
    let why = told["why"].as_str().expect("text");
    assert!(
        why.contains("it leads to /dev/zero, which is no regular file") && !why.contains("sandbox"),
        "{why}"
    );
}

/// Nothing gives back what was given up; a reload that meets another `[sandbox]` says so.
#[tokio::test]
async fn a_sandbox_that_changes_counts_at_the_next_start() {
    let gate = Gate::plan(plan("mode = \"auto\"")).await;
    let file = gate.file("tidegate.toml");
    let text = fs::read_to_string(&file).expect("its file");
    fs::write(&file, text.replace("\"auto\"", "\"off\"")).expect("written");
    gate.signal("HUP");
    let about = |line: &serde_json::Value| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("sandbox: "))
    };
    gate.line("configuration", about).await;
    gate.line("reloaded", |_| true).await;
}

/// Folders that a reload will name may be named before.
#[tokio::test]
async fn a_folder_that_is_named_by_sandbox_read_is_within_reach() {
    let place = TempDir::new().expect("a folder");
    let gate = Gate::plan(plan(&format!("read = {:?}", place.path()))).await;
    let ca = place.path().join("new").join("ca.pem");
    fs::create_dir(ca.parent().expect("a folder")).expect("made");
    fs::write(&ca, gate.authority.certificate_pem()).expect("written");
    name_ca(&gate, &ca);
    gate.signal("HUP");
    gate.line("reloaded", |_| true).await;
    serves(&gate).await;
}

/// The registry's folder is the one that may be written.
#[tokio::test]
async fn the_log_tells_where_the_gate_may_write() {
    let place = TempDir::new().expect("a folder");
    let state = place.path().canonicalize().expect("there");
    let url = format!("sqlite://{}/tidegate.db", state.display());
    let gate = Gate::plan(Plan {
        more: format!("[registry]\nurl = {url:?}\nunknown = \"admit\"\n"),
        ..Plan::default()
    })
    .await;
    let told = gate.line("sandbox", |_| true).await;
    assert_eq!(told["write"], state.to_str().expect("text"), "{told}");
    serves(&gate).await;
    assert!(
        state.join("tidegate.db").exists(),
        "it was made there, from inside"
    );
}

/// What Landlock keeps from whoever is inside; seen in a thread of its own, for which alone it counts.
#[test]
fn whoever_is_inside_can_do_no_more_than_it_needs() {
    if landlock() < 6 {
        return;
    }
    let [read, write, closed] = [(); 3].map(|()| TempDir::new().expect("a folder"));
    for folder in [&read, &write, &closed] {
        fs::write(folder.path().join("file"), "text").expect("written");
    }
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    let free = || port(&TcpListener::bind("127.0.0.1:0").expect("a port"));
    let (ours, foreign) = (free(), free());
    let name = format!("tidegate-test-{:016x}", fastrand::u64(..));
    let abstractly = SocketAddr::from_abstract_name(&name).expect("a name");
    let _manager = UnixDatagram::bind_addr(&abstractly).expect("bound");
    let before = UnixDatagram::unbound().expect("a socket");
    before.connect_addr(&abstractly).expect("it listens");
    let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
    let child_pid = rustix::process::Pid::from_child(&child);
    let needs = Needs {
        read: vec![read.path().join("file")],
        write: vec![write.path().to_owned()],
        sockets: Vec::new(),
        bind: vec![ours],
    };
    let settings = Settings {
        mode: Mode::Required,
        read: Vec::new(),
    };

    let inside = std::thread::spawn(move || {
        let inside = sandbox::enter(&settings, &needs).expect("it is all there");
        let denied = |what: &str, fault: std::io::Result<()>| {
            let fault = fault.expect_err(what);
            assert_eq!(fault.kind(), ErrorKind::PermissionDenied, "{what}: {fault}");
        };
        let file = |folder: &TempDir| folder.path().join("file");

        assert_eq!(
            fs::read_to_string(file(&read)).expect("it was named"),
            "text"
        );
        assert_eq!(
            fs::read_to_string(file(&write)).expect("it may be written"),
            "text"
        );
        denied("reading elsewhere", fs::read(file(&closed)).map(drop));
        assert_eq!(
            inside.bars(&[file(&read), file(&closed), closed.path().join("none")]),
            [file(&closed)]
        );

        fs::write(file(&write), "more").expect("it may be written");
        fs::write(write.path().join("new"), "more").expect("made");
        fs::remove_file(write.path().join("new")).expect("removed");
        denied("writing what may be read", fs::write(file(&read), "more"));
        denied("making a file", fs::write(read.path().join("new"), "more"));
        denied("removing a file", fs::remove_file(file(&read)));
        denied(
            "making a folder",
            fs::create_dir(write.path().join("folder")),
        );

        denied("a program", Command::new("/bin/true").status().map(drop));
        TcpListener::bind(("127.0.0.1", ours)).expect("a port of ours");
        TcpListener::bind("127.0.0.1:0").expect("a port of the system's choice");
        denied(
            "another port",
            TcpListener::bind(("127.0.0.1", foreign)).map(drop),
        );
        let kill = rustix::process::test_kill_process(child_pid);
        denied("a signal to another process", kill.map_err(Into::into));
        let late = UnixDatagram::unbound().expect("a socket");
        denied(
            "an abstract socket of another process",
            late.connect_addr(&abstractly),
        );
        before.send(b"READY=1").expect("it was connected before");

        for file in [
            "/etc/passwd",
            "/proc/self/stat",
            "/proc/sys/net/ipv4/ip_local_port_range",
            "/dev/urandom",
        ] {
            fs::File::open(file).unwrap_or_else(|fault| panic!("{file}: {fault}"));
        }
        use std::net::ToSocketAddrs as _;
        ("localhost", 1)
            .to_socket_addrs()
            .expect("names are looked up");
    });
    let done = inside.join();
    child.kill().expect("a child");
    child.wait().expect("a child");
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// Also what is faulty in the section is told by its key.
#[tokio::test]
async fn an_unknown_mode_is_a_fault() {
    let (folder, _broker) = lay_out(&plan("mode = \"on\"")).await;
    let (code, out, _) = tidegate(&["check"], folder.path());
    assert_eq!(code, 2);
    assert!(
        out.contains("sandbox.mode") && out.contains("auto | required | off"),
        "{out}"
    );
}
