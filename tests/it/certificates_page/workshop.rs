//! Certificates as `openssl` makes them.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use crate::support::openssl::{RSA_1024, openssl, private_key};
use crate::support::shown::Shown;

/// A folder in which `openssl` makes keys and certificates.
pub(super) struct Workshop(pub(super) TempDir);

impl Workshop {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = meter-7\n\
                      [ca]\nbasicConstraints = critical, CA:TRUE\n[leaf]\nbasicConstraints = CA:FALSE\n";
        std::fs::write(folder.path().join("config"), config).expect("written");
        Self(folder)
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Vec<u8> {
        openssl(self.0.path(), arguments)
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).expect("a file")
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("written");
    }

    /// Makes `NAME.key`: `kind` as for `openssl genpkey`.
    pub(super) fn key(&self, name: &str, kind: &str) {
        self.put(&format!("{name}.key"), &private_key(kind));
    }

    /// Makes `NAME.pem`, a CA for the key that is there.
    pub(super) fn authority(&self, name: &str, subject: &str) {
        let (key, out) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={subject}");
        self.run(&[
            "req",
            "-x509",
            "-new",
            "-config",
            "config",
            "-extensions",
            "ca",
            "-days",
            "30",
            "-key",
            &key,
            "-subj",
            &subject,
            "-out",
            &out,
        ]);
    }

    /// Makes `NAME.pem` for the key `KEY.key`, signed by the CA `AUTHORITY.pem` as `how` says.
    pub(super) fn issue(&self, name: &str, key: &str, authority: &str, how: &[&str]) {
        let (key, out) = (format!("{key}.key"), format!("{name}.pem"));
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        self.run(&[
            "req", "-new", "-config", "config", "-key", &key, "-out", "request",
        ]);
        let issue = [
            "x509",
            "-req",
            "-in",
            "request",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-set_serial",
            "4711",
            "-days",
            "20",
            "-extfile",
            "config",
            "-extensions",
            "leaf",
            "-out",
            &out,
        ];
        self.run(&[&issue, how].concat());
    }

    /// A device below an intermediate of the CA `rsa`, whose key has 1024 bits.
    pub(super) fn below_a_short_key(&self) -> Shown {
        self.key("short", RSA_1024);
        let ask = [
            "req",
            "-new",
            "-config",
            "config",
            "-key",
            "short.key",
            "-subj",
            "/CN=Short CA",
            "-out",
            "request",
        ];
        self.run(&ask);
        self.run(&[
            "x509",
            "-req",
            "-in",
            "request",
            "-CA",
            "rsa.pem",
            "-CAkey",
            "rsa.key",
            "-set_serial",
            "4712",
            "-days",
            "20",
            "-extfile",
            "config",
            "-extensions",
            "ca",
            "-out",
            "short.pem",
        ]);
        self.issue("device", "device", "short", &["-sha256"]);
        let mut shown = self.shown("device", "device");
        shown.chain.extend(self.shown("short", "device").chain);
        shown
    }

    pub(super) fn shown(&self, name: &str, key: &str) -> Shown {
        let certificate = self.read(&format!("{name}.pem"));
        let key = self.read(&format!("{key}.key"));
        Shown::new(
            vec![CertificateDer::from_pem_slice(&certificate).expect("PEM")],
            PrivateKeyDer::from_pem_slice(&key).expect("PEM"),
        )
    }
}

pub(super) fn pem(kind: &str, der: &[u8]) -> String {
    let shop = Workshop::new();
    std::fs::write(shop.0.path().join("in.der"), der).expect("written");
    let command = if kind == "CERTIFICATE" { "x509" } else { "crl" };
    let text = shop.run(&[
        command, "-inform", "DER", "-in", "in.der", "-outform", "PEM",
    ]);
    String::from_utf8(text).expect("PEM is ASCII")
}
