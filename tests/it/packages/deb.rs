//! The package for Debian, read by Debian's own tool.

use std::collections::BTreeSet;
use std::fs;
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
    assert!(first.contains("tidegate check --config /etc/tidegate/tidegate.toml"));
    // A gate without certificates cannot start: an installation enables and starts nothing, and an upgrade only what ran.
    for never in [
        "deb-systemd-invoke start",
        "deb-systemd-invoke restart",
        "was-enabled \"$",
    ] {
        assert!(!first.contains(never), "{first}");
    }
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
        "usr/share/doc/tidegate/copyright",
        "usr/share/doc/tidegate/docs/configuration.md",
    ] {
        assert!(found.contains(wanted), "{wanted} is not in {found:#?}");
    }
    for unit in units() {
        assert!(
            found.contains(&format!("usr/lib/systemd/system/{unit}")),
            "{unit}"
        );
    }

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

/// The units of the repository.
fn units() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| name.ends_with(".service") || name.ends_with(".socket"))
        .collect()
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
