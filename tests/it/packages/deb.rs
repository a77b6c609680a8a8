//! The package for Debian, read by Debian's own tool.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{VERSION, done, files, made};
use crate::docs::page;

/// The package, if it was made.
fn package() -> Option<PathBuf> {
    let folder = made("")?;
    let entries = fs::read_dir(&folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    let name = names.find(|name| name.ends_with(".deb"));
    made(name.as_deref().unwrap_or("tidegate.deb"))?;
    Some(folder.join(name.expect("it is there")))
}

fn dpkg_deb(arguments: &[&str], package: &Path, to: Option<&Path>) -> String {
    let mut command = Command::new("dpkg-deb");
    command.args(arguments).arg(package);
    done(command.args(to), "dpkg")
}

#[test]
fn the_package_says_what_it_is_and_what_it_needs() {
    let Some(package) = package() else {
        return;
    };
    let field = |name: &str| {
        dpkg_deb(
            &["--show", &format!("--showformat=${{{name}}}")],
            &package,
            None,
        )
    };
    assert_eq!(field("Package"), "tidegate");
    assert_eq!(field("Version"), format!("{VERSION}-1"));
    assert_eq!(field("Section"), "net");
    assert!(field("Maintainer").contains("tidegate contributors"));
    assert!(field("Description").starts_with("A TLS gate in front of your MQTT broker"));
    let depends = field("Depends");
    let library = |one: &str| one.starts_with("libc6 (>= ") || one.starts_with("libgcc-s1");
    let user = "systemd | systemd-standalone-sysusers";
    assert!(
        depends.split(", ").all(|one| library(one) || one == user) && depends.contains(user),
        "{depends}"
    );
    let control = tempfile::tempdir().expect("a folder");
    dpkg_deb(&["--control"], &package, Some(control.path()));
    let text = |name: &str| fs::read_to_string(control.path().join(name)).expect(name);
    assert_eq!(text("conffiles").trim(), "/etc/tidegate/tidegate.toml");
    let first = text("postinst");
    done(
        Command::new("sh")
            .arg("-n")
            .arg(control.path().join("postinst")),
        "dash",
    );
    // A gate without certificates cannot start: an installation enables and starts nothing, and an upgrade only what ran.
    for never in [
        "deb-systemd-invoke start",
        "deb-systemd-invoke restart",
        "was-enabled \"$",
    ] {
        assert!(!first.contains(never), "{first}");
    }
}

/// Who installs the package is told the same steps as who reads its page, or installs by hand: the key is the gate's to read, and it is checked as
/// the user that will run the gate.
#[test]
fn the_printed_steps_lead_to_a_gate_that_starts() {
    let script = page("deploy/debian/scripts/postinst");
    let (_, printed) = script.split_once("<<'NEXT'\n").expect("they are printed");
    let (printed, _) = printed.split_once("\nNEXT\n").expect("to their end");
    let steps = [
        "chown root:tidegate /etc/tidegate/server.key && chmod 640 /etc/tidegate/server.key",
        "runuser -u tidegate -- tidegate check --config /etc/tidegate/tidegate.toml",
        "systemctl enable --now tidegate",
    ];
    for (name, text) in [
        ("postinst", printed),
        ("docs/packages.md", &page("docs/packages.md")),
        ("docs/systemd.md", &page("docs/systemd.md")),
    ] {
        let places: Vec<_> = steps.iter().filter_map(|step| text.find(step)).collect();
        assert!(
            places.len() == 3 && places.is_sorted(),
            "{name}: {places:?}"
        );
    }
}

/// What the packaged pages link to of the units is in the package.
#[test]
fn what_pages_link_to_of_systemd_is_packed() {
    let manifest: toml::Table = page("Cargo.toml").parse().expect("TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().expect("a list").iter();
    let packed: Vec<_> = assets.filter_map(|asset| asset[0].as_str()).collect();
    assert!(packed.contains(&"docs/*"));
    let units = deb["systemd-units"]["unit-scripts"].as_str();
    let mut linked = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).expect("pages") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text");
        for link in text.split("](../deploy/systemd/").skip(1) {
            let (file, _) = link.split_once(')').expect("a link");
            let whole = format!("deploy/systemd/{file}");
            // cargo-deb takes units, and nothing else, from their folder.
            let is_unit = file.ends_with(".service") || file.ends_with(".socket");
            let is_taken = is_unit && units == Some("deploy/systemd");
            let page = path.display();
            assert!(is_taken || packed.contains(&&*whole), "{page}: {whole}");
            linked += 1;
        }
    }
    assert!(linked > 0);
}

/// Unpacked, it runs; its configuration wants certificates, and is good once they are there. Every paper is in its place.
#[test]
fn what_is_in_the_package_runs() {
    let Some(package) = package() else {
        return;
    };
    let root = tempfile::tempdir().expect("a folder");
    dpkg_deb(&["--extract"], &package, Some(root.path()));
    let found = files(root.path());
    for wanted in [
        "usr/bin/tidegate",
        "etc/tidegate/tidegate.toml",
        "usr/share/man/man1/tidegate.1.gz",
        "usr/share/man/man1/tidegate-device-add.1.gz",
        "usr/share/man/man5/tidegate.toml.5.gz",
        "usr/share/bash-completion/completions/tidegate",
        "usr/share/zsh/vendor-completions/_tidegate",
        "usr/share/fish/vendor_completions.d/tidegate.fish",
        "usr/share/doc/tidegate/LICENSE-THIRD-PARTY",
        "usr/share/doc/tidegate/copyright",
        "usr/share/doc/tidegate/docs/configuration.md",
    ] {
        assert!(found.contains(wanted), "{wanted} is not in {found:#?}");
    }
    for (there, source) in OF_SYSTEMD {
        let packed = fs::read_to_string(root.path().join(there)).expect(there);
        assert_eq!(packed, page(&format!("deploy/systemd/{source}")), "{there}");
    }
    the_unit_finds_what_is_there(root.path());

    let folder = root.path().join("etc/tidegate");
    let tidegate = |arguments: &[&str]| {
        let mut program = Command::new(root.path().join("usr/bin/tidegate"));
        program.args(arguments).current_dir(&folder).env_clear();
        program.output().expect("it runs")
    };
    let check = ["check", "--config", "tidegate.toml"];
    let before = tidegate(&check);
    let told = said(&before);
    assert!(
        before.status.code() == Some(2) && told.contains("server.pem"),
        "{told}"
    );

    assert!(tidegate(&["ca", "init", "pki"]).status.success());
    let server = [
        "ca",
        "server",
        "--ca",
        "pki",
        "--san",
        "gate.example.net",
        "--out",
        ".",
    ];
    assert!(tidegate(&server).status.success());
    for (from, to) in [("ca.pem", "devices-ca.pem"), ("ca.crl", "devices.crl")] {
        fs::copy(folder.join("pki").join(from), folder.join(to)).expect("copied");
    }
    let after = tidegate(&check);
    let told = said(&after);
    assert_eq!(after.status.code(), Some(0), "{told}");
}

/// All that a program said.
fn said(ran: &Output) -> String {
    String::from_utf8_lossy(&[ran.stdout.as_slice(), &ran.stderr].concat()).into_owned()
}

/// Where the package has what is in deploy/systemd.
const OF_SYSTEMD: [(&str, &str); 6] = [
    (
        "usr/lib/systemd/system/tidegate.service",
        "tidegate.service",
    ),
    ("usr/lib/systemd/system/tidegate.socket", "tidegate.socket"),
    ("usr/lib/sysusers.d/tidegate.conf", "tidegate.sysusers"),
    ("usr/share/tidegate/before-253.conf", "before-253.conf"),
    (
        "usr/share/doc/tidegate/examples/credentials.conf",
        "credentials.conf",
    ),
    (
        "usr/share/doc/tidegate/examples/handover.conf",
        "handover.conf",
    ),
];

/// Program, configuration, user and folders of the unit are those of the package, and of its configuration's examples.
fn the_unit_finds_what_is_there(root: &Path) {
    let unit = page("deploy/systemd/tidegate.service");
    let value = |key: &str| {
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    let started: Vec<_> = value("ExecStart").split(' ').collect();
    let ["/usr/bin/tidegate", "run", "--config", config] = started[..] else {
        panic!("{started:?}");
    };
    for named in [started[0], config] {
        assert!(root.join(&named[1..]).exists(), "{named}");
    }
    let folder = Path::new("/etc").join(value("ConfigurationDirectory"));
    assert_eq!(Path::new(config).parent(), Some(folder.as_path()));
    let users = page("deploy/systemd/tidegate.sysusers");
    assert!(
        users.contains(&format!("\nu {} ", value("User"))),
        "{users}"
    );
    // The one folder that it may write; a database or a key beside the configuration could not be made.
    let state = Path::new("/var/lib").join(value("StateDirectory"));
    let example = fs::read_to_string(root.join(&config[1..])).expect(config);
    for of_the_gate in [
        format!("\"sqlite://{}/tidegate.db\"", state.display()),
        format!("\"{}/token.key\"", state.display()),
    ] {
        assert!(example.contains(&of_the_gate), "{of_the_gate}");
    }
}

/// `systemctl reload` also works where systemd is older than the unit; and goes on working, once, when systemd comes of age. What was put
/// there goes with the package.
#[test]
fn an_old_systemd_gets_what_it_lacks() {
    let Some(package) = package() else {
        return;
    };
    let [root, control, stubs] = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    dpkg_deb(&["--extract"], &package, Some(root.path()));
    dpkg_deb(&["--control"], &package, Some(control.path()));
    let stub = |name: &str, says: &str| {
        let path = stubs.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{says}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    };
    // Nothing of this host is touched.
    for name in [
        "deb-systemd-helper",
        "deb-systemd-invoke",
        "systemd-sysusers",
    ] {
        stub(name, "exit 0");
    }
    let run = |script: &str, arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.arg(control.path().join(script)).args(arguments);
        let path = format!("{}:/usr/bin:/bin", stubs.path().display());
        command.env_clear().env("PATH", path);
        done(command.env("DPKG_ROOT", root.path()), "dash")
    };
    let folder = root
        .path()
        .join("usr/lib/systemd/system/tidegate.service.d");
    let there = || folder.join("before-253.conf").exists();

    stub("systemctl", "echo 'systemd 252 (252.39-1~deb12u1)'");
    let told = run("postinst", &["configure", ""]);
    assert!(told.contains("systemctl enable --now tidegate"), "{told}");
    assert!(there());
    stub("systemctl", "echo 'systemd 257 (257.7-1)'");
    assert_eq!(run("postinst", &["configure", "0.0.9-1"]), "");
    assert!(!folder.exists(), "253 and later would reload twice");
    stub("systemctl", "exit 1"); // there is no systemd
    run("postinst", &["configure", ""]);
    assert!(!folder.exists());

    stub("systemctl", "echo 'systemd 252 (252.39-1~deb12u1)'");
    run("postinst", &["configure", ""]);
    assert!(there());
    run("postrm", &["upgrade", "0.2.0-1"]);
    assert!(there(), "an upgrade goes on with it");
    run("postrm", &["remove"]);
    assert!(!folder.exists());
    run("postrm", &["purge"]);
}

/// Debian's changelog begins with the version that is built.
#[test]
fn the_changelog_of_the_package_has_this_version() {
    let changelog = page("deploy/debian/changelog");
    assert!(
        changelog.starts_with(&format!("tidegate ({VERSION}-1) ")),
        "{changelog}"
    );
}
