//! What a listener shows to devices: its certificates, TLS versions, ALPN and record size.

use std::path::PathBuf;

/// `[listener.tls]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificate for devices whose SNI names no other.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The oldest TLS version taken.
    pub min_version: MinVersion,
    /// The largest TLS record sent, in bytes of plaintext (`max_record`); `None`: TLS's own 16 KiB.
    pub max_record: Option<usize>,
    /// ALPN protocols by preference; empty: none is ever answered.
    pub alpn: Vec<String>,
    /// `[[listener.tls.also]]`
    pub also: Vec<Also>,
}

/// `[[listener.tls.also]]`: a further certificate.
#[derive(Clone, Debug)]
pub struct Also {
    /// The server names (SNI) it is for, `*.` for one label; empty: the DNS names in the certificate.
    pub names: Vec<String>,
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The oldest TLS version that a listener takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}
