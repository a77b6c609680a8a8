//! Files that change are noticed however they are swapped, and a CA can be exchanged without a gap (threats.md R3, R4).

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidegate::mqtt::Version;
use tidegate::pki::Authority;

use crate::support::device::{Answer, BOTH, Device, Link, connect};
use crate::support::gate::{Gate, MUTUAL, Plan, nothing_kept};
use crate::support::until;

/// A gate that trusts the CAs in the file at `ca`.
async fn gate_trusting(ca: &Path) -> Gate {
    let mut gate = Gate::plan(Plan {
        listeners: Some(format!(
            "{MUTUAL}\n[[trust]]\nname = \"fleet\"\nca = [{ca:?}]\n"
        )),
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    gate
}

/// A device of that CA, which trusts the server as every device does.
fn device_of(gate: &Gate, ca: &Authority, name: &str) -> Device {
    let issued = ca.device(&name.parse().expect("an id")).expect("issued");
    let server = gate.authority.certificate();
    Device::issued(gate.address(), server, &issued, BOTH)
}

async fn let_in(device: &Device) -> Link {
    let (answer, link) = device.asks(&connect("anybody", Version::V5)).await;
    assert_eq!(answer, Answer::Admitted);
    link.expect("admitted")
}

async fn becomes(device: &Device, admitted: bool) {
    until("the swapped file to count", async || {
        let answer = device.connects_as("anybody", Version::V5).await;
        ((answer == Answer::Admitted) == admitted).then_some(())
    })
    .await;
}

/// A name beside `path`, for what is to be renamed over it.
fn new_name(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a file").to_str().expect("text");
    path.with_file_name(format!("{name}_new"))
}

/// Writes a file beside `path`, and gives where.
fn beside(path: &Path, bytes: &[u8]) -> PathBuf {
    let new = new_name(path);
    fs::write(&new, bytes).expect("written");
    new
}

/// A link at `path`, in one step, whatever was there.
fn link(path: &Path, to: &str) {
    let new = new_name(path);
    symlink(to, &new).expect("linked");
    fs::rename(new, path).expect("renamed");
}

/// A volume of Kubernetes: `ca.pem` is a link into `..data`, which is a link to a folder with a name of its own.
fn volume(folder: &Path, generation: &str, bytes: &[u8]) {
    fs::create_dir(folder.join(generation)).expect("made");
    fs::write(folder.join(generation).join("ca.pem"), bytes).expect("written");
    let old = fs::read_link(folder.join("..data"));
    link(&folder.join("..data"), generation);
    if let Ok(old) = old {
        fs::remove_dir_all(folder.join(old)).expect("removed");
    }
}

/// How a file is laid out, and how it is swapped.
type Way = (&'static str, fn(&Path, &[u8]), fn(&Path, &[u8]));

fn plainly(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("ca.pem"), bytes).expect("written");
}

/// The ways in which people and platforms swap files.
const WAYS: [Way; 7] = [
    ("written in place", plainly, plainly),
    ("renamed over", plainly, |folder, bytes| {
        let path = folder.join("ca.pem");
        fs::rename(beside(&path, bytes), path).expect("renamed");
    }),
    ("in place, of the same time", plainly, |folder, bytes| {
        let path = folder.join("ca.pem");
        let time = fs::metadata(&path).expect("there").modified();
        fs::write(&path, bytes).expect("written");
        let file = File::options().append(true).open(&path).expect("there");
        file.set_modified(time.expect("Linux")).expect("its owner");
    }),
    (
        "a link that leads elsewhere",
        |folder, bytes| {
            fs::write(folder.join("one.pem"), bytes).expect("written");
            link(&folder.join("ca.pem"), "one.pem");
        },
        |folder, bytes| {
            fs::write(folder.join("two.pem"), bytes).expect("written");
            link(&folder.join("ca.pem"), "two.pem");
        },
    ),
    (
        "a volume of Kubernetes",
        |folder, bytes| {
            volume(folder, "..2026_01", bytes);
            link(&folder.join("ca.pem"), "..data/ca.pem");
        },
        |folder, bytes| volume(folder, "..2026_02", bytes),
    ),
    ("removed and made anew", plainly, |folder, bytes| {
        let path = folder.join("ca.pem");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, bytes).expect("written");
    }),
    ("its folder exchanged", plainly, |folder, bytes| {
        let (old, new) = (folder.with_extension("old"), folder.with_extension("new"));
        fs::create_dir(&new).expect("made");
        fs::write(new.join("ca.pem"), bytes).expect("written");
        fs::rename(folder, old).expect("renamed");
        fs::rename(new, folder).expect("renamed");
    }),
];

/// R3: without a signal, a file counts soon after it was swapped, in whatever way; R1: also for who is connected.
#[tokio::test]
async fn a_file_is_noticed_however_it_is_swapped() {
    let old = Authority::new("Test CA").expect("a CA");
    let new = Authority::new("Test CA").expect("a CA");
    // Of one size, so that it tells nothing.
    let [old_pem, new_pem] = [&old, &new].map(|ca| format!("{:<2000}", ca.certificate_pem()));
    for (way, lay_out, swap) in WAYS {
        let place = TempDir::new().expect("a folder");
        let folder = place.path().join("pki");
        fs::create_dir(&folder).expect("made");
        lay_out(&folder, old_pem.as_bytes());
        let gate = gate_trusting(&folder.join("ca.pem")).await;
        let (of_old, of_new) = (
            device_of(&gate, &old, "meter-7"),
            device_of(&gate, &new, "meter-8"),
        );
        let mut open = let_in(&of_old).await;
        let refused = of_new.connects_as("anybody", Version::V5).await;
        assert_ne!(refused, Answer::Admitted, "{way}");

        swap(&folder, new_pem.as_bytes());

        becomes(&of_new, true).await;
        becomes(&of_old, false).await;
        assert_eq!(open.packet().await, Some(vec![0xe0, 1, 0x87]), "{way}");
        assert_eq!(open.packet().await, None, "{way}");
    }
}

/// R2, R3: while a file is away, what was in force stays, and that is told; it counts again when it is back.
#[tokio::test]
async fn while_a_file_is_away_what_was_in_force_stays() {
    let ca = Authority::new("Fleet CA").expect("a CA");
    let place = TempDir::new().expect("a folder");
    let path = place.path().join("ca.pem");
    fs::write(&path, ca.certificate_pem()).expect("written");
    let gate = gate_trusting(&path).await;
    let device = device_of(&gate, &ca, "meter-7");
    let mut open = let_in(&device).await;

    fs::remove_file(&path).expect("removed");
    gate.line("reload_failed", |_| true).await;
    let metric = "tidegate_config_last_reload_successful";
    gate.metric_becomes(metric, &[], 0.0).await;
    drop(let_in(&device).await);
    open.say(&[0xc0, 0]).await.expect("it stays");

    fs::write(&path, ca.certificate_pem()).expect("written");
    gate.metric_becomes(metric, &[], 1.0).await;
    drop(let_in(&device).await);
    assert_eq!(gate.count("reload_failed"), 1, "told once");
}

/// R3, V9: however often the configuration is read anew, and whatever is new in it, nothing grows, and nobody who is in notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reloads_leave_nothing_behind() {
    const DEVICES: usize = 1000;
    const RELOADS: usize = 500;
    /// How many more threads the pool that reads files may keep for a while: it has as many as it once needed at one moment.
    const POOL: u64 = 4;
    /// What an allocator may keep for reasons of its own, in kB. 500 reloads that left 10 KiB each would show.
    const MARGIN: u64 = 4 * 1024;
    let mut gate = Gate::plan(Plan {
        broker: "dial_timeout = \"3s\"".into(),
        limits: "connections = 5000\nconnections_per_address = 4000\nhandshakes = 1000".into(),
        env: vec![nothing_kept()],
        ..Plan::default()
    })
    .await;
    gate.take_broker().welcome_all();
    gate.metric_becomes("tidegate_broker_up", &[], 1.0).await;
    let device = gate.device("meter-7");
    let mut open = Vec::with_capacity(DEVICES);
    while open.len() < DEVICES {
        let some = (0..20).map(|_| let_in(&device));
        open.extend(futures_util::future::join_all(some).await);
    }
    let config = gate.file("tidegate.toml");
    let one = fs::read_to_string(&config).expect("its file");
    let other = one
        .replace(
            "dial_timeout = \"3s\"",
            "dial_timeout = \"2s\"\nbalance = \"round-robin\"",
        )
        .replace("connections = 5000", "connections = 6000")
        .replace(
            "connections_per_address = 4000",
            "connections_per_address = 3000",
        )
        .replace("handshakes = 1000", "handshakes = 900")
        + "[connect]\nusername = \"{device}/{listener}\"\n";
    let ca = fs::read(gate.file("ca.pem")).expect("its file");
    let reload = async |times: usize| {
        for number in 0..times {
            let before = gate.count("reloaded");
            let text = if number % 2 == 0 { &other } else { &one };
            fs::rename(beside(&config, text.as_bytes()), &config).expect("renamed");
            if number % 100 == 0 {
                // Trust, too: every connection is judged again.
                let more = [&ca[..], "\n".repeat(1 + number / 100).as_bytes()].concat();
                fs::write(gate.file("ca.pem"), more).expect("written");
            }
            gate.signal("HUP");
            gate.next_line("reloaded", before).await;
        }
    };
    reload(150).await; // warms up
    let descriptors = gate.descriptors();
    let (memory, threads) = (gate.proc_status("VmRSS"), gate.proc_status("Threads"));

    reload(RELOADS).await;

    let now = gate.proc_status("VmRSS");
    assert!(now <= memory + MARGIN, "{memory} kB before, {now} kB after");
    until("the descriptors to be as before", async || {
        (gate.descriptors() <= descriptors && gate.proc_status("Threads") <= threads + POOL)
            .then_some(())
    })
    .await;
    gate.metric_becomes("tidegate_connections_open", &[], 1000.0)
        .await;
    assert_eq!(gate.count("reload_failed"), 0);
    for link in &mut open {
        link.say(&[0xc0, 0]).await.expect("it stays");
    }
    drop(let_in(&device).await);
}

/// R4: a CA is exchanged for another of the same name: while both count, all devices come in and stay; then those of the new
/// one do, and those of the old one are gone.
#[tokio::test]
async fn a_ca_is_exchanged_for_one_of_the_same_name() {
    let old = Authority::new("Fleet CA").expect("a CA");
    let new = Authority::new("Fleet CA").expect("a CA");
    let place = TempDir::new().expect("a folder");
    let path = place.path().join("ca.pem");
    let put = |cas: &[&Authority]| {
        let pem: String = cas.iter().map(|ca| ca.certificate_pem()).collect();
        fs::rename(beside(&path, pem.as_bytes()), &path).expect("renamed");
    };
    put(&[&old]);
    let gate = gate_trusting(&path).await;
    let (of_old, of_new) = (
        device_of(&gate, &old, "meter-7"),
        device_of(&gate, &new, "meter-8"),
    );
    let mut before = let_in(&of_old).await;

    for both in [[&new, &old], [&old, &new]] {
        put(&both);
        becomes(&of_new, true).await;
        drop(let_in(&of_old).await);
        before.say(&[0xc0, 0]).await.expect("both count");
    }
    let mut renewed = let_in(&of_new).await;

    put(&[&new]);
    assert_eq!(before.packet().await, Some(vec![0xe0, 1, 0x87]));
    let answer = of_old.connects_as("anybody", Version::V5).await;
    assert!(matches!(answer, Answer::NoTls(_)), "{answer:?}");
    gate.refusal("certificate_bad_signature").await;
    drop(let_in(&of_new).await);
    renewed.say(&[0xc0, 0]).await.expect("it stays");
}
