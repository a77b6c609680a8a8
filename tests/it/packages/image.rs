//! The image, started by a real container engine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tidegate::mqtt::Version;

use super::{VERSION, made};
use crate::sandbox::landlock;
use crate::support::device::{Answer, BOTH, Device, connect};
use crate::support::gate::{Plan, lay_out};
use crate::support::podman::Podman;
use crate::support::{free_port, until};

/// All that is in it, but for what the engine puts there.
const FILES: &[&str] = &[
    "etc/group",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "tidegate",
    "usr/share/doc/tidegate/LICENSE-APACHE",
    "usr/share/doc/tidegate/LICENSE-MIT",
    "usr/share/doc/tidegate/LICENSE-THIRD-PARTY",
];

/// It holds no shell and nothing else that could be run.
#[test]
fn the_image_holds_the_program_and_hardly_more() {
    let Some(folder) = made("rootfs") else {
        return;
    };
    let found = super::files(&folder.join("rootfs"));
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), FILES);
}

/// As an operator runs it, with a registry in a volume: root of the file system read-only, no capabilities, no new ones. A device gets to the broker, the
/// health check says so, the program is nobody in particular, and `stop` drains it.
#[tokio::test]
async fn a_device_gets_through_the_image_to_its_broker() {
    let archive = format!("tidegate-{VERSION}-image.tar");
    let Some(folder) = made(&archive) else {
        return;
    };
    let podman = Podman::new();
    let image = podman.load(&folder.join(archive));
    assert_eq!(image, format!("localhost/tidegate:{VERSION}"));
    assert_eq!(
        podman.done(&[
            "image",
            "inspect",
            "--format",
            "{{.User}} {{.Config.StopSignal}}",
            &image
        ]),
        "65532:65532 SIGTERM"
    );

    let (listens, admin) = (free_port(), free_port());
    let plan = Plan {
        more:
            "[registry]\nurl = \"sqlite:///var/lib/tidegate/tidegate.db\"\nunknown = \"register\"\n"
                .into(),
        ..Plan::default()
    };
    let (config, broker) = lay_out(&plan).await;
    let broker = broker.expect("a recording broker");
    for_anybody(config.path());
    let mounted = format!("{}:/etc/tidegate:ro", config.path().display());
    let (bind, admin_bind) = (
        format!("TIDEGATE_LISTENER__0__BIND={listens}"),
        format!("TIDEGATE_ADMIN__BIND={admin}"),
    );
    // The engine's filter of system calls lets the gate build its own sandbox.
    let sandbox = if landlock() < 6 { "auto" } else { "required" };
    let sandbox = format!("TIDEGATE_SANDBOX__MODE={sandbox}");
    let id = podman.done(&[
        "run",
        "--detach",
        "--network",
        "host",
        "--volume",
        &mounted,
        "--volume",
        "state:/var/lib/tidegate",
        "--env",
        &bind,
        "--env",
        &admin_bind,
        "--env",
        &sandbox,
        "--env",
        "TIDEGATE_LIMITS__DRAIN_TIMEOUT=1s",
        "--read-only",
        "--read-only-tmpfs=false",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        // Asked for by the test; the engine's own clockwork needs systemd. And no more than this host may give.
        "--health-interval",
        "disable",
        "--ulimit",
        "nofile=4096:4096",
        "--ulimit",
        "nproc=4096:4096",
        &image,
    ]);

    until("the health check to be well", async || {
        let checked = podman.run(&["healthcheck", "run", &id]);
        checked.status.success().then_some(())
    })
    .await;
    let ca = plan.authority.certificate();
    let issued = plan.authority.device(&"meter-7".parse().expect("an id"));
    let device = Device::issued(listens, ca, &issued.expect("issued"), BOTH);
    let asks = connect("anybody", Version::V5);
    let ((answer, link), visit) = tokio::join!(device.asks(&asks), broker.welcome());
    assert_eq!(answer, Answer::Admitted);
    assert_eq!(visit.connect.client_id, "meter-7");

    let pid = podman.done(&["inspect", "--format", "{{.State.Pid}}", &id]);
    let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it lives");
    let status = proc("status");
    assert!(!status.contains("\nUid:\t0"), "{status}");
    assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
    assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    let mounts = proc("mounts");
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(3)).expect(&mounts);
    assert!(options.split(',').any(|option| option == "ro"), "{options}");
    assert!(
        !podman
            .run(&["exec", &id, "/bin/sh", "-c", "true"])
            .status
            .success()
    );

    podman.done(&["stop", "--time", "20", &id]);
    let code = podman.done(&["inspect", "--format", "{{.State.ExitCode}}", &id]);
    assert_eq!(code, "0", "drained");
    drop(link);
}

/// The user of the container is nobody that this host knows.
fn for_anybody(folder: &Path) {
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    };
    set(folder, 0o755);
    for name in super::files(folder) {
        set(&folder.join(name), 0o644);
    }
}
