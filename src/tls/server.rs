//! What a listener shows to devices: its certificates, TLS versions, ALPN and record size.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;

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

/// The rustls configurations of one listener.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// For devices whose ALPN offer holds one of ours, or who offer none.
    pub with_alpn: Arc<ServerConfig>,
    /// For devices whose ALPN offer holds none of ours: rustls would refuse them (RFC 7301 §3.2), we serve them.
    pub without_alpn: Arc<ServerConfig>,
}

/// Something in `[listener.tls]` that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {sentence}")]
pub struct ServerFault {
    /// The key below `listener.tls`, such as `certificate` or `also[0].key`.
    pub key: String,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

impl ServerTls {
    /// Reads the certificates and keys of one listener. Without a verifier no certificate is asked for.
    ///
    /// # Errors
    /// Every fault of its settings.
    pub fn load(
        settings: &Settings,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, Vec<ServerFault>> {
        let _ = (settings, verifier);
        todo!()
    }

    /// The configuration for a device that offers these ALPN protocols; `None`: it offers none.
    pub fn config_for<'a>(
        &self,
        offered: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> &Arc<ServerConfig> {
        let _ = offered;
        todo!()
    }

    /// Each certificate's name and when it ends, in seconds since 1970.
    pub fn certificates(&self) -> Vec<(String, i64)> {
        todo!()
    }

    /// What an operator should look after, `now` in seconds since 1970.
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let _ = now;
        todo!()
    }
}
