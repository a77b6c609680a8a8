//! Manual pages and completions, in real programs that show and take them.

use std::fs;
use std::process::Command;

use super::done;
use crate::docs::page;
use crate::support::gate::tidegate;

/// Two programs that show manual pages find nothing to say about them, and each page leads to pages that there are.
#[test]
fn the_manual_pages_are_shown_without_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, told, complaint) = tidegate(&["man", "--out", "man"], folder.path());
    assert_eq!(code, 0, "{complaint}");
    let pages = super::files(&folder.path().join("man"));
    assert_eq!(told, format!("{} pages in man\n", pages.len()));
    assert!(pages.contains("tidegate-device-rotate-token.1") && pages.contains("tidegate.toml.5"));
    for name in &pages {
        let path = folder.path().join("man").join(name);
        let mut mandoc = Command::new("mandoc");
        let said = done(
            mandoc.args(["-T", "lint", "-W", "warning"]).arg(&path),
            "mandoc",
        );
        assert_eq!(said, "", "{name}");

        let shown = Command::new("man")
            .env("MANWIDTH", "100")
            .env("LC_ALL", "C.UTF-8")
            .args(["--warnings", "--local-file"])
            .arg(&path)
            .output()
            .expect("man, of the package man-db");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&shown.stderr), "", "{name}");
        let shown = text(&shown.stdout);
        for heading in ["NAME", "DESCRIPTION", "SEE ALSO"] {
            assert!(
                shown.lines().any(|line| line == heading),
                "{name} has no {heading}:\n{shown}"
            );
        }
        for also in shown.split_whitespace() {
            let also = also.trim_end_matches([',', '.']);
            if let Some(command) = also
                .strip_suffix("(1)")
                .filter(|it| it.starts_with("tidegate"))
            {
                assert!(pages.contains(&format!("{command}.1")), "{name}: {also}");
            }
        }
    }
}

/// A single page is the same as the file of it; and one that there is not is told of.
#[test]
fn one_page_can_be_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    tidegate(&["man", "--out", "."], folder.path());
    for (asked, file) in [
        (&["man"][..], "tidegate.1"),
        (&["man", "device", "add"], "tidegate-device-add.1"),
        (&["man", "tidegate.toml"], "tidegate.toml.5"),
    ] {
        let (code, told, _) = tidegate(asked, folder.path());
        let written = fs::read_to_string(folder.path().join(file)).expect(file);
        assert_eq!((code, told), (0, written));
    }
    let (code, _, complaint) = tidegate(&["man", "walk"], folder.path());
    assert!(
        code == 2 && complaint.contains("tidegate-run"),
        "{complaint}"
    );
}

/// What a shell proposes behind these words, the last of which is not whole.
const PROPOSE: &str = r#"
source "$0"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_tidegate tidegate "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[test]
fn bash_completes_commands_and_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, script, _) = tidegate(&["completions", "bash"], folder.path());
    let path = folder.path().join("tidegate.bash");
    fs::write(&path, script).expect("written");
    done(Command::new("bash").arg("-n").arg(&path), "bash");
    for (words, proposed) in [
        (&["he"][..], "healthcheck\nhelp\n"),
        (&["device", "rotate"], "rotate-token\nrotate-certificate\n"),
        (&["run", "--client"], "--client-ca\n"),
        (&["completions", "z"], "zsh\n"),
    ] {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", PROPOSE]).arg(&path);
        let told = done(bash.arg("tidegate").args(words), "bash");
        assert_eq!(told, proposed, "{words:?}");
    }
}

#[test]
fn every_shell_gets_its_script() {
    let folder = tempfile::tempdir().expect("a folder");
    for (shell, begins) in [
        ("bash", "_tidegate() {"),
        ("zsh", "#compdef tidegate"),
        ("fish", "# Print an optspec"),
        (
            "powershell",
            "\nusing namespace System.Management.Automation",
        ),
        ("elvish", "\nuse builtin;"),
    ] {
        let (code, script, _) = tidegate(&["completions", shell], folder.path());
        assert!(
            code == 0 && script.starts_with(begins),
            "{shell}: {}",
            &script[..80]
        );
        assert!(script.contains("rotate-certificate"), "{shell}");
    }
    assert_eq!(tidegate(&["completions", "sh"], folder.path()).0, 2);
}

/// Behind where the files come from, the two recipes of the image say the same.
#[test]
fn the_image_from_source_is_the_image_of_what_is_built() {
    let tail = |name: &str| {
        let text = page(&format!("deploy/image/{name}"));
        let (_, tail) = text.split_once("\nFROM scratch\n").expect("a last stage");
        tail.to_owned()
    };
    let copied = tail("Dockerfile")
        .replace("--from=build ", "")
        .replace("/source/target/packages/", "");
    assert_eq!(copied, tail("Dockerfile.prebuilt"));
    let toolchain = page("Cargo.toml");
    let (_, version) = toolchain.split_once("\nrust-version = \"").expect("one");
    let (version, _) = version.split_once('"').expect("its end");
    let from = format!("FROM docker.io/library/rust:{version}-");
    assert!(page("deploy/image/Dockerfile").contains(&from), "{from}");
}
