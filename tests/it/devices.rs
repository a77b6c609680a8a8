//! `tidegate device` and `tidegate ca revoke`: an owner decides, device by device, and what goes wrong changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tidegate::pki::{Authority, Order, Validity, folder};
use tidegate::rules::identity::Certificate;
use tidegate::rules::token::Token;

use crate::docs::page;
use crate::support::gate::tidegate;
use crate::support::openssl::openssl;

/// An owner at a desk: a CA, a configuration that is for devices alone, and no gate.
struct Desk {
    folder: TempDir,
    ca: Authority,
}

const CONFIG: &str = r#"
[registry]
url = "sqlite://devices.db"

[[trust]]
name = "fleet"
ca = "pki/ca.pem"

[[trust]]
name = "vendor"
ca = "vendor.pem"
device = "subject.serial_number"
"#;

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = Authority::new("trial").expect("a CA");
        folder::save_authority(&folder.path().join("pki"), &ca).expect("saved");
        let vendor = Authority::new("vendor").expect("a CA");
        let desk = Self { folder, ca };
        desk.put("vendor.pem", vendor.certificate_pem());
        desk.put("tidegate.toml", CONFIG);
        desk
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), text).expect("written");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).expect(name)
    }

    fn has(&self, name: &str) -> bool {
        self.path().join(name).exists()
    }

    /// Types a line; it must be done.
    fn done(&self, line: &str) -> String {
        let (code, out, err) = self.typed(line);
        assert_eq!(code, 0, "{line}: {err}");
        out
    }

    /// Types a line with `--json`; it must be done, and give one object.
    fn json(&self, line: &str) -> Value {
        let out = self.done(&format!("{line} --json"));
        assert_eq!(out.lines().count(), 1, "{line}: {out}");
        serde_json::from_str(&out).expect("JSON")
    }

    /// Types a line; it must not be done. Gives what is told.
    fn refused(&self, code: i32, line: &str) -> String {
        let (found, out, err) = self.typed(line);
        assert_eq!((found, out.as_str()), (code, ""), "{line}: {err}");
        assert!(!err.contains("panicked"), "{line}: {err}");
        err
    }

    fn typed(&self, line: &str) -> (i32, String, String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        tidegate(&words, self.path())
    }

    fn openssl(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        openssl(self.path(), &words);
    }
}

fn certificate(pem: &str) -> Certificate {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    Certificate::read(&der).expect("a certificate")
}

fn names<'a>(lines: &'a str) -> Vec<&'a str> {
    let name = |line: &'a str| line.split_whitespace().next().unwrap_or_default();
    lines.lines().skip(1).map(name).collect()
}

#[test]
fn a_device_is_issued_and_registered_in_one_go() {
    let desk = Desk::new();
    let told =
        desk.json("device add meter-7 --ca pki --out devices --label site=harbour --connections 2");

    assert_eq!(told["registered"], true);
    assert_eq!(told["labels"]["site"], "harbour");
    assert_eq!(told["min_mode"], "mutual-tls");
    let mode = fs::metadata(desk.path().join("devices/meter-7.key")).expect("a key");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let shown = certificate(&desk.text("devices/meter-7.pem"));
    let credential = &told["credentials"][0];
    assert_eq!(credential["kind"], "vouched");
    assert_eq!(credential["trust"], "fleet");
    assert_eq!(credential["field"], "subject.cn");
    assert_eq!(credential["certificate"], shown.fingerprint().as_str());
    assert_eq!(told["serial"], shown.serial.as_str());

    let show = desk.done("device show meter-7");
    for part in [
        "site=harbour",
        "2 at once",
        "fleet",
        &shown.fingerprint(),
        "never",
    ] {
        assert!(show.contains(part), "{part} is not in {show}");
    }
    desk.done("device add meter-8 --trust vendor --disabled");
    assert_eq!(names(&desk.done("device list")), ["meter-7", "meter-8"]);
    assert_eq!(names(&desk.done("device list --trust vendor")), ["meter-8"]);
    assert_eq!(
        names(&desk.done("device list --label site --enabled")),
        ["meter-7"]
    );
    assert_eq!(
        names(&desk.done("device list --after meter-7")),
        ["meter-8"]
    );
    let lines = desk.done("device list --json");
    assert_eq!(lines.lines().count(), 2);
}

/// As before there was a registry; and what needs one says so.
#[test]
fn without_a_registry_certificates_are_issued_all_the_same() {
    let desk = Desk::new();
    fs::remove_file(desk.path().join("tidegate.toml")).expect("there");
    let told = desk.done("device add meter-7 --ca pki --out devices");
    assert!(told.contains("There is no registry"), "{told}");
    assert_eq!(
        desk.json("device add meter-8 --ca pki --out devices")["registered"],
        false
    );
    for line in [
        "device list",
        "device add a --trust fleet",
        "device add a --ca pki --out d --token",
        "device add a --ca pki --out d --label a=b",
        "device remove a",
        "device export",
    ] {
        let told = desk.refused(2, line);
        assert!(
            told.contains("there is no registry; write [registry]"),
            "{told}"
        );
    }
    desk.put("other.toml", "[broker]\n");
    let told = desk.refused(2, "device add a --ca pki --out d --config other.toml");
    assert!(told.contains("other.toml: there is no registry"), "{told}");
    desk.put("tidegate.toml", CONFIG.replace("[registry]", "[registy]"));
    let told = desk.refused(2, "device add a --ca pki --out d");
    assert!(told.contains("did you mean registry?"), "{told}");
    assert!(!desk.has("d"));
}

/// A secure element keeps its key: openssl stands for it.
#[test]
fn a_request_gets_a_certificate_for_its_key_and_nothing_else_it_asks_for() {
    let desk = Desk::new();
    desk.openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout e.key -out e.csr -subj /CN=admin -addext basicConstraints=CA:TRUE -addext subjectAltName=URI:urn:device:admin");
    desk.done("device add meter-7 --csr e.csr --ca pki --out devices --days 30");

    assert!(!desk.has("devices/meter-7.key"), "nobody here has the key");
    let text = String::from_utf8(openssl(
        desk.path(),
        &["x509", "-in", "devices/meter-7.pem", "-noout", "-text"],
    ));
    let text = text.expect("UTF-8");
    assert!(
        text.contains("CN=meter-7") || text.contains("CN = meter-7"),
        "{text}"
    );
    assert!(
        text.contains("CA:FALSE") && text.contains("urn:device:meter-7"),
        "{text}"
    );
    assert!(!text.contains("admin"), "{text}");
    let key = openssl(desk.path(), &["pkey", "-in", "e.key", "-pubout"]);
    let certified = openssl(
        desk.path(),
        &["x509", "-in", "devices/meter-7.pem", "-noout", "-pubkey"],
    );
    assert_eq!(key, certified);

    // DER, and the other kinds of keys.
    for (name, key) in [
        ("rsa", "rsa:2048"),
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384"),
        ("ed", "ed25519"),
    ] {
        desk.openssl(&format!(
            "req -new -newkey {key} -noenc -keyout k -out {name}.csr -outform DER -subj /CN=x"
        ));
        desk.done(&format!(
            "device add {name} --csr {name}.csr --ca pki --out devices"
        ));
    }
}

#[test]
fn a_request_that_proves_nothing_or_is_weak_gets_nothing() {
    let desk = Desk::new();
    desk.openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout k -out good.der -outform DER -subj /CN=x");
    let mut forged = fs::read(desk.path().join("good.der")).expect("DER");
    *forged.last_mut().expect("bytes") ^= 1;
    desk.put("forged.der", forged);
    desk.openssl("req -new -newkey rsa:1024 -noenc -keyout k -out weak.csr -subj /CN=x");
    desk.openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:secp256k1 -noenc -keyout k -out curve.csr -subj /CN=x");
    desk.openssl("req -new -sha1 -newkey rsa:2048 -noenc -keyout k -out sha1.csr -subj /CN=x");
    desk.openssl("req -new -key pki/ca.key -out ca.csr -subj /CN=x");
    desk.put("no.csr", "words\n");
    for (file, told) in [
        ("forged.der", "nobody has shown that they hold that key"),
        ("weak.csr", "RSA of 1024 bits, which is weak"),
        ("curve.csr", "its key is of a kind that is not taken"),
        ("sha1.csr", "sign it by SHA-256"),
        ("ca.csr", "the CA's own key"),
        ("no.csr", "it holds no one request"),
        (
            "pki/ca.pem",
            "where one request for a certificate should be",
        ),
    ] {
        let err = desk.refused(
            1,
            &format!("device add meter-7 --csr {file} --ca pki --out devices"),
        );
        assert!(err.contains(told), "{file}: {err}");
    }
    assert!(!desk.has("devices"));
    assert!(
        desk.refused(1, "device show meter-7")
            .contains("is not registered")
    );
}

/// Odd certificates that devices carry: version 1, CA-flagged, in DER (threats.md T1).
#[test]
fn a_certificate_made_elsewhere_is_pinned_whatever_is_odd_about_it() {
    let desk = Desk::new();
    desk.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout a.key -out ca-true.pem -subj /CN=anything -days 30");
    desk.openssl("req -new -key a.key -out a.csr -subj /CN=old");
    desk.openssl("x509 -req -in a.csr -signkey a.key -out v1.pem -days 30 -set_serial 1");
    desk.openssl("x509 -in v1.pem -outform DER -out v1.der");
    let told = desk.json("device add meter-1 --pin v1.der");
    let v1 = certificate(&desk.text("v1.pem"));
    assert_eq!(told["credentials"][0]["kind"], "pinned");
    assert_eq!(
        told["credentials"][0]["certificate"],
        v1.fingerprint().as_str()
    );
    let until = told["credentials"][0]["until"]
        .as_str()
        .expect("the certificate's end");
    assert!(until.ends_with('Z') && until > "2026", "{until}");
    let told = desk.json("device add meter-2 --pin-key ca-true.pem --until 2031-01-31");
    assert_eq!(told["credentials"][0]["until"], "2031-01-31T23:59:59Z");
    assert_eq!(
        told["credentials"][0]["key"],
        hex::encode(v1.key),
        "one key, two certificates"
    );

    // Twice, and in chain mode.
    let told = desk.refused(1, "device add meter-3 --pin v1.pem");
    assert!(told.contains("pinned for meter-1 already"), "{told}");
    for (file, what) in [("ca-true.pem", "is a CA's"), ("v1.pem", "of version 1")] {
        let told = desk.refused(
            1,
            &format!("device add anything --pin {file} --trust fleet"),
        );
        assert!(
            told.contains(what) && told.contains("leave --trust out"),
            "{told}"
        );
    }

    let issued = desk.ca.issue(Order::device_named("over").valid(Validity {
        not_before: 0,
        not_after: 1_000_000_000,
    }));
    desk.put("over.pem", issued.expect("issued").certificate_pem());
    let told = desk.refused(1, "device add over --pin over.pem");
    assert!(
        told.contains("ended at 2001-09-09T01:46:40Z") && told.contains("--pin-key"),
        "{told}"
    );
    desk.done("device add over --pin over.pem --until 30d");
}

#[test]
fn a_token_is_shown_once_and_alone() {
    let desk = Desk::new();
    let told = desk.refused(2, "device add meter-7 --token");
    assert!(told.contains("add --min-mode server-tls"), "{told}");
    let (code, out, err) = desk.typed("device add meter-7 --token --min-mode server-tls");
    assert_eq!(code, 0, "{err}");
    let token = out.strip_suffix('\n').expect("a line");
    Token::read(token.as_bytes()).expect("a token and nothing else");
    assert!(
        err.contains("registered meter-7") && !err.contains(token),
        "{err}"
    );
    let key = fs::metadata(desk.path().join("token.key")).expect("made");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    for line in [
        "device show meter-7",
        "device show meter-7 --json",
        "device list --json",
    ] {
        let shown = desk.done(line);
        assert!(
            !shown.contains(token) && !shown.contains("\"hash\""),
            "{shown}"
        );
    }
    let more = desk.json("device rotate-token meter-7 --overlap 1h");
    let other = more["token"].as_str().expect("a token");
    assert_ne!(other, token);
    let credentials = more["credentials"].as_array().expect("a list");
    assert_eq!(credentials.len(), 2);
    assert!(credentials[0]["until"].is_string() && credentials[1]["until"].is_null());
    let last = desk.json("device rotate-token meter-7 --overlap 0s");
    assert_eq!(last["credentials"].as_array().expect("a list").len(), 1);
}

/// The key of the hashes is one for all of a registry: another would make tokens that no gate knows (threats.md K2).
#[test]
fn another_token_key_is_a_fault() {
    let desk = Desk::new();
    desk.done("device add a --min-mode plain --token");
    let kept = desk.text("token.key");
    desk.put("token.key", "7".repeat(64));
    let told = desk.refused(1, "device rotate-token a");
    assert!(
        told.contains("is not the key that the registry's tokens are hashed with"),
        "{told}"
    );
    fs::remove_file(desk.path().join("token.key")).expect("there");
    let told = desk.refused(1, "device rotate-token a");
    assert!(
        told.contains("token.key is not there") && told.contains("copy token.key"),
        "{told}"
    );
    assert!(!desk.has("token.key"), "no other one is made");
    desk.put("token.key", kept);
    desk.done("device rotate-token a");
}

#[test]
fn old_and_new_certificates_count_together_for_a_while() {
    let desk = Desk::new();
    desk.done("device add meter-7 --ca pki --out devices");
    let told =
        desk.json("device rotate-certificate meter-7 --ca pki --out devices/new --overlap 3d");
    let credentials = told["credentials"].as_array().expect("a list");
    assert_eq!(credentials.len(), 2);
    let (old, new) = (&credentials[0]["until"], &credentials[1]["until"]);
    assert!(old.as_str() < new.as_str(), "{told}");
    assert!(desk.has("devices/new/meter-7.key"));

    desk.openssl("req -x509 -newkey ed25519 -noenc -keyout k -out own.pem -subj /CN=x -days 9");
    desk.done("device rotate-certificate meter-7 --pin own.pem --overlap 0s");
    let shown = desk.json("device show meter-7");
    assert_eq!(shown["credentials"].as_array().expect("a list").len(), 1);
    let told = desk.refused(1, "device rotate-certificate meter-7 --pin own.pem");
    assert!(told.contains("has this already, as credential"), "{told}");
    assert!(
        desk.refused(2, "device rotate-certificate meter-7")
            .contains("--pin-key")
    );
    let told = desk.refused(
        1,
        "device rotate-certificate meter-9 --ca pki --out devices",
    );
    assert!(told.contains("meter-9 is not registered"), "{told}");
    assert!(!desk.has("devices/meter-9.key"));
}

/// Check, write, register: and if the registry says no, the files are gone again.
#[test]
fn nothing_is_half_done() {
    let desk = Desk::new();
    desk.openssl("req -x509 -newkey ed25519 -noenc -keyout k -out own.pem -subj /CN=x -days 9");
    desk.done("device add meter-1 --pin own.pem");
    let told = desk.refused(1, "device add meter-1 --ca pki --out devices");
    assert!(told.contains("meter-1 is registered already"), "{told}");
    let told = desk.refused(1, "device add meter-2 --ca pki --out devices --pin own.pem");
    assert!(told.contains("pinned for meter-1"), "{told}");
    assert!(!desk.has("devices/meter-2.key") && !desk.has("devices/meter-2.pem"));
    desk.done("device add meter-2 --ca pki --out devices");
    let told = desk.refused(
        1,
        "device rotate-certificate meter-2 --ca pki --out devices",
    );
    assert!(
        told.contains("already there and is never overwritten"),
        "{told}"
    );
    let shown = desk.json("device show meter-2");
    assert_eq!(shown["credentials"].as_array().expect("a list").len(), 1);
}

#[test]
fn whom_a_group_would_not_know_by_this_name_is_not_added() {
    let desk = Desk::new();
    for (line, code, told) in [
        (
            "device add a --trust flet",
            2,
            "there is no trust group \"flet\"; there are fleet, vendor",
        ),
        (
            "device add a --ca pki --out d --trust vendor",
            1,
            "pki/ca.pem is not a CA of trust[vendor]",
        ),
        ("device add a", 2, "nothing to show"),
        (
            "device add a:b --trust fleet",
            2,
            "\"a:b\": a device id is 1 to 128",
        ),
        ("device set a --trust nobody", 2, "there is no trust group"),
    ] {
        let err = desk.refused(code, line);
        assert!(err.contains(told), "{line}: {err}");
    }
    let own = CONFIG.replace("ca = \"vendor.pem\"", "ca = \"pki/ca.pem\"");
    desk.put("tidegate.toml", &own);
    let told = desk.refused(2, "device add a --ca pki --out d");
    assert!(
        told.contains("is a CA of fleet and of vendor; say which by --trust"),
        "{told}"
    );
    let told = desk.refused(1, "device add a --ca pki --out d --trust vendor");
    assert!(
        told.contains("could not name a by this certificate") && told.contains("subject.cn"),
        "{told}"
    );
    desk.put("tidegate.toml", CONFIG.replace("pki/ca.pem", "vendor.pem"));
    let told = desk.refused(1, "device add a --ca pki --out d");
    assert!(told.contains("is not a CA of any trust group"), "{told}");
    assert!(!desk.has("d"));
}

#[test]
fn devices_are_switched_and_removed_several_at_once() {
    let desk = Desk::new();
    desk.done("device add a --trust fleet");
    desk.done("device add b --trust fleet");
    assert_eq!(desk.done("device disable a b"), "disabled a\ndisabled b\n");
    assert_eq!(names(&desk.done("device list --disabled")), ["a", "b"]);
    let (code, out, err) = desk.typed("device enable a nobody b");
    assert_eq!((code, out.as_str()), (1, "enabled a\nenabled b\n"));
    assert!(err.contains("nobody is not registered"), "{err}");
    let told = desk.json("device set a --min-mode plain --description door --label x=y");
    assert_eq!(
        (&told["min_mode"], &told["labels"]["x"]),
        (&"plain".into(), &"y".into())
    );
    let told = desk.done("device set a --revoke 1");
    assert!(
        told.contains("ended") && told.contains("cannot enter"),
        "{told}"
    );
    assert_eq!(desk.json("device remove a")["removed"], true);
    assert_eq!(names(&desk.done("device list")), ["b"]);
    assert!(
        desk.refused(1, "device remove a")
            .contains("is not registered")
    );
}

/// What is exported and imported elsewhere is the same, to the last credential.
#[test]
fn a_registry_can_be_carried_to_another_one() {
    let desk = Desk::new();
    desk.openssl("req -x509 -newkey ed25519 -noenc -keyout k -out own.pem -subj /CN=x -days 9");
    desk.done(
        "device add a --ca pki --out d --label site=n --description by;the,door --connections 0",
    );
    desk.done("device add b --pin own.pem --disabled");
    desk.done("device add c --min-mode plain --token --until 2031-01-31");
    desk.done("device add d --trust vendor");
    desk.put("other.toml", CONFIG.replace("devices.db", "other.db"));
    for format in ["jsonl", "csv"] {
        desk.done(&format!("device export kept.{format}"));
        let mode = fs::metadata(desk.path().join(format!("kept.{format}"))).expect("written");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let told = desk.done(&format!("device import kept.{format} --config other.toml"));
        assert_eq!(told, "registered 4 devices\n");
        let both =
            ["", "--config other.toml"].map(|which| desk.done(&format!("device export {which}")));
        assert_eq!(both[0], both[1], "{format}");
        assert_eq!(both[0].lines().count(), 4);
        let told = desk.refused(
            1,
            &format!("device import kept.{format} --config other.toml"),
        );
        assert!(
            told.contains("a is registered already") && told.contains("line "),
            "{told}"
        );
        desk.done("device remove a b c d --config other.toml");
    }
    let told = desk.refused(1, "device export kept.csv");
    assert!(told.contains("never overwritten"), "{told}");
    // Hashes of tokens are nothing without the key.
    let away = tempfile::tempdir().expect("a folder");
    fs::copy(
        desk.path().join("kept.jsonl"),
        away.path().join("kept.jsonl"),
    )
    .expect("copied");
    fs::write(away.path().join("tidegate.toml"), CONFIG).expect("written");
    let (code, _, err) = tidegate(&["device", "import", "kept.jsonl"], away.path());
    assert!(code == 1 && err.contains("copy the token key"), "{err}");
}

#[test]
fn a_file_is_imported_whole_or_not_at_all() {
    let desk = Desk::new();
    let mut rows = String::from("device,labels,credentials\n");
    for n in 0..30 {
        rows += &format!("bad {n},,\n");
    }
    desk.put("bad.csv", &rows);
    let told = desk.refused(1, "device import bad.csv");
    assert!(
        told.contains("line 2: device \"bad 0\": a device id is"),
        "{told}"
    );
    assert!(
        told.contains("… and 10 more") && told.contains("nothing was registered"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 22);

    desk.put(
        "mixed.csv",
        "device,labels,credentials\nx,,vouched trust=fleet\ny,site,vouched trust=fleet\nx,,\nz,,vouched trust=nobody\n",
    );
    let told = desk.refused(1, "device import mixed.csv");
    for part in [
        "line 3: labels",
        "line 4: x is there twice",
        "line 5: there is no trust group",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert_eq!(desk.done("device list"), "");
    desk.put("good.csv", "device,credentials\nx,vouched trust=vendor\n");
    desk.done("device import good.csv");
    assert_eq!(
        desk.json("device show x")["credentials"][0]["field"],
        "subject.serial_number"
    );
    assert!(desk.refused(2, "device import -").contains("--format"));
}

/// Whether the registry took a device is not known when it got lost: the only copy of its key stays, and where it is, is told.
#[test]
fn a_registry_that_gets_lost_costs_no_key() {
    let desk = Desk::new();
    desk.done("device add meter-7 --ca pki --out devices");
    let lock = "BEGIN IMMEDIATE";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("made");
    let url = format!("sqlite://{}", desk.path().join("devices.db").display());
    let mut locker = runtime.block_on(async {
        use sqlx::Connection as _;
        let mut locker = sqlx::SqliteConnection::connect(&url)
            .await
            .expect("the file");
        let locked = sqlx::query(lock).execute(&mut locker).await;
        locked.expect("locked");
        locker
    });
    for (line, device, out) in [
        ("device add", "meter-8", "devices"),
        ("device rotate-certificate", "meter-7", "devices/new"),
    ] {
        let err = desk.refused(1, &format!("{line} {device} --ca pki --out {out}"));
        assert!(err.contains("the registry is away: "), "{err}");
        assert!(err.contains(&format!("`tidegate device show {device}`")));
        for file in ["pem", "key"].map(|end| format!("{out}/{device}.{end}")) {
            assert!(desk.has(&file) && err.contains(&file), "{file}: {err}");
        }
    }
    let unlocked = runtime.block_on(sqlx::query("ROLLBACK").execute(&mut locker));
    unlocked.expect("unlocked");
    // This time it was not taken; once it is removed, all is as before.
    assert!(
        desk.refused(1, "device add meter-8 --ca pki --out devices")
            .contains("never overwritten")
    );
    std::fs::remove_file(desk.path().join("devices/meter-8.pem")).expect("there");
    std::fs::remove_file(desk.path().join("devices/meter-8.key")).expect("there");
    desk.done("device add meter-8 --ca pki --out devices");
}

/// The list is one that openssl takes, and holds what was named: a device, a file, a serial.
#[test]
fn what_our_ca_issued_is_revoked_by_name_file_or_serial() {
    let desk = Desk::new();
    desk.done("device add meter-7 --ca pki --out devices");
    desk.done("device rotate-certificate meter-7 --ca pki --out devices/new");
    desk.done("device add meter-8 --ca pki --out devices");
    desk.done("device add meter-9 --ca pki --out devices");
    let serial = |file: &str| certificate(&desk.text(file)).serial;

    let told = desk.done("ca revoke meter-7 --ca pki");
    assert!(
        told.contains(&format!(
            "revoked {}, of meter-7",
            serial("devices/meter-7.pem")
        )),
        "{told}"
    );
    let told = desk.json("ca revoke devices/meter-8.pem --ca pki");
    assert_eq!(told["revoked"][0], serial("devices/meter-8.pem").as_str());
    assert_eq!(told["without_note"], Value::Array(vec![]));
    desk.done(&format!(
        "ca revoke {} --ca pki",
        serial("devices/meter-9.pem").to_uppercase()
    ));
    let again = desk.json("ca revoke meter-7 --ca pki");
    assert_eq!(
        (&again["revoked"], &again["listed"]),
        (&Value::Array(vec![]), &4.into())
    );
    let stray = desk.json("ca revoke 8f01 --ca pki");
    assert_eq!(stray["without_note"], serde_json::json!(["8f01"]));

    let crl = openssl(
        desk.path(),
        &[
            "crl",
            "-in",
            "pki/ca.crl",
            "-CAfile",
            "pki/ca.pem",
            "-noout",
            "-text",
        ],
    );
    let crl = String::from_utf8(crl).expect("UTF-8").to_lowercase();
    for file in [
        "devices/meter-7.pem",
        "devices/new/meter-7.pem",
        "devices/meter-8.pem",
        "devices/meter-9.pem",
    ] {
        assert!(
            crl.contains(&format!("serial number: {}", serial(file))),
            "{file}: {crl}"
        );
    }
    let renewed = desk.json("ca crl --ca pki --days 7");
    assert_eq!(renewed["listed"], 5);
    assert!(renewed["without_note"].is_null());

    let other = Authority::new("trial")
        .expect("a CA")
        .device(&"x".parse().expect("a device id"));
    desk.put("other.pem", other.expect("issued").certificate_pem());
    for (what, told) in [
        ("other.pem", "was not issued by this CA"),
        ("pki/ca.pem", "was not issued by this CA"),
        ("nobody", "is no file, no device"),
    ] {
        let err = desk.refused(1, &format!("ca revoke {what} --ca pki"));
        assert!(err.contains(told), "{what}: {err}");
    }
}

/// docs/devices.md names every command and every flag, and no other.
#[test]
fn the_page_tells_every_command_and_every_flag() {
    let page = page("docs/devices.md");
    let folder = tempfile::tempdir().expect("a folder");
    let help = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        tidegate(&[&words[..], &["--help"]].concat(), folder.path()).1
    };
    let commands: Vec<String> = help("device")
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        })
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .filter(|word| word != "help" && word != "tidegate") // the examples
        .collect();
    assert!(commands.len() >= 11, "{commands:?}");
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words
            .filter(|word| word.starts_with("--") && !word.starts_with("---"))
            .map(str::to_owned)
            .collect()
    };
    let mut known = BTreeSet::new();
    for command in commands
        .iter()
        .map(|command| format!("device {command}"))
        .chain(["ca revoke".into(), "ca crl".into()])
    {
        assert!(
            page.contains(&format!("`tidegate {command}")),
            "{command} is not in the page"
        );
        let help = help(&command);
        assert!(help.contains("Examples:"), "{command}: {help}");
        known.extend(flags(&help));
    }
    let told = flags(&page);
    let missing: Vec<_> = known
        .difference(&told)
        .filter(|flag| *flag != "--help")
        .collect();
    assert!(missing.is_empty(), "not in docs/devices.md: {missing:?}");
    let unknown: Vec<_> = told.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "docs/devices.md has flags that are not known: {unknown:?}"
    );
}
