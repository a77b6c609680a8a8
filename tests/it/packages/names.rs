//! Names of brokers, looked up where there is nothing but the program and the files of the image.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tidegate::mqtt::Version;
use tokio::net::UdpSocket;

use super::{done, made};
use crate::support::broker::Broker;
use crate::support::device::{Answer, connect};
use crate::support::gate::{Gate, Plan};
use crate::support::namespaces::has_its_own_namespaces;

const TEST: &str = "packages::names::a_root_with_nothing_else_finds_names_in_hosts_and_by_dns";

/// `/etc/hosts` knows one name and DNS another. What stands in the file is not asked of DNS: who runs containers writes there.
#[tokio::test]
async fn a_root_with_nothing_else_finds_names_in_hosts_and_by_dns() {
    let Some(folder) = made("rootfs") else {
        return;
    };
    // For a root of its own, and for a port 53 of its own.
    if !has_its_own_namespaces(TEST) {
        return;
    }
    lay_root(&folder.join("rootfs"));
    let put =
        |name: &str, text: &str| fs::write(Path::new(ROOT).join(name), text).expect("written");
    put("etc/hosts", "127.0.0.1 broker.hosts.test\n");
    put("etc/resolv.conf", "nameserver 127.0.0.1\n");
    let asked = answer_dns("broker.dns.test").await;
    let chroot = ["/usr/sbin/chroot", "/usr/bin/chroot"];
    let chroot = chroot.into_iter().find(|path| Path::new(path).exists());
    let chroot = chroot.expect("chroot, of the package coreutils");

    for name in ["broker.hosts.test", "broker.dns.test"] {
        let broker = Broker::start().await;
        let gate = Gate::plan(Plan {
            under: vec![chroot.into(), ROOT.into()],
            addresses: Some(format!("\"mqtt://{name}:{}\"", broker.address.port())),
            broker: "allow_plaintext = true".into(),
            ..Plan::default()
        })
        .await;
        let device = gate.device("meter-7");
        let asks = connect("anybody", Version::V5);
        let ((answer, _link), visit) = tokio::join!(device.asks(&asks), broker.welcome());
        assert_eq!(answer, Answer::Admitted, "by {name}");
        assert!(gives_memory_back(&gate), "by {name}");
        assert_eq!(visit.connect.client_id, "meter-7");
    }
    let asked = asked.lock().expect("no panic while held");
    assert!(asked.contains(&"broker.dns.test".to_owned()), "{asked:?}");
    assert!(
        !asked.contains(&"broker.hosts.test".to_owned()),
        "{asked:?}"
    );
}

/// Whether it has the allocator of what is handed out, and its threads.
fn gives_memory_back(gate: &Gate) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", gate.pid())).expect("it lives");
    let names = tasks.map(|task| fs::read_to_string(task.expect("it lives").path().join("comm")));
    names
        .into_iter()
        .any(|name| name.is_ok_and(|name| name.starts_with("jemalloc_bg_thd")))
}

/// A file system in memory, over a folder that every Linux has. It goes with the namespaces: nothing here is ever deleted, since
/// the folders of the host are mounted in it.
const ROOT: &str = "/mnt";

/// The files of the image, and beside them the program by the path that tests know it by, and their folders to read.
fn lay_root(image: &Path) {
    let at = |path: &Path| Path::new(ROOT).join(path.strip_prefix("/").expect("from the root"));
    let mount = |arguments: &[&str]| done(Command::new("mount").args(arguments), "mount");
    mount(&["-t", "tmpfs", "tmpfs", ROOT]);
    done(
        Command::new("cp").arg("-a").arg(image.join(".")).arg(ROOT),
        "coreutils",
    );
    let program = at(Path::new(env!("CARGO_BIN_EXE_tidegate")));
    fs::create_dir_all(program.parent().expect("a folder")).expect("made");
    fs::rename(at(Path::new("/tidegate")), program).expect("renamed");
    let folders = std::env::temp_dir();
    let inside = at(&folders);
    fs::create_dir_all(&inside).expect("made");
    let (folders, inside) = (
        folders.to_str().expect("UTF-8"),
        inside.to_str().expect("UTF-8"),
    );
    // With what is mounted below it, as by a test with containers: without, the kernel refuses (mount_namespaces(7)).
    mount(&["--rbind", folders, inside]);
    mount(&["-o", "remount,bind,ro", inside]);
}

/// Answers at port 53: this name is 127.0.0.1, and there is no other. Gives the names that were asked for.
async fn answer_dns(known: &'static str) -> Arc<Mutex<Vec<String>>> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let socket = UdpSocket::bind(at).await.expect("a port 53 of its own");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let names = asked.clone();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let (name, answer) = answered(&question[..length], known);
            names.lock().expect("no panic while held").push(name);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    asked
}

/// The name that a question asks for, and its answer (RFC 1035 §4).
fn answered(question: &[u8], known: &str) -> (String, Vec<u8>) {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).into_owned());
        at = end;
    }
    let name = labels.join(".");
    let (kind, end) = (&question[at + 1..at + 3], at + 5);
    let found = name == known;
    let address = found && kind == [0, 1];
    let mut answer = question[..2].to_vec();
    // A response, recursion asked for and there; no such name, where there is none.
    answer.extend([0x81, if found { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if address {
        // The name of the question, A, IN, for a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    (name, answer)
}
