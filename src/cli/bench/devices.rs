//! What devices show and how they speak, as flags.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::bench::settings::{
    Certificates, Cipher, Devices, KeyExchange, MOST_DEVICES, Signature, Tls, TlsVersion,
};
use crate::cli::Failure;
use crate::mqtt::Version;
use crate::pki::KeyKind;

/// How TLS is spoken.
#[derive(Args, Debug)]
pub(super) struct TlsArgs {
    /// The CAs that the server's certificate is verified by
    #[arg(long, value_name = "FILE", required_unless_present_any = ["insecure", "plain"])]
    ca: Option<PathBuf>,
    /// Do not verify the server, neither its chain nor its signature
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// No TLS at all: MQTT over TCP, a password in CONNECT for all to read; to measure what TLS adds
    #[arg(long, conflicts_with_all = [
        "ca", "insecure", "server_name", "tls", "key_exchange", "cipher", "server_signature", "device_ca", "device_dir",
    ])]
    pub(super) plain: bool,
    /// The name that the server's certificate must have; left out: HOST
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// The only version of TLS offered; left out: both
    #[arg(long, value_name = "VERSION")]
    tls: Option<TlsWord>,
    /// The key exchange offered; x25519 without --tls 1.3 also names P-256 and P-384, for servers of TLS 1.2 whose
    /// certificates are on them: others may take one of these. What was agreed on is told
    #[arg(long, value_name = "GROUP", default_value = "x25519")]
    key_exchange: KeyExchangeWord,
    /// The only cipher offered, with its hash: to compare servers that would choose differently; left out: all
    #[arg(long, value_name = "CIPHER")]
    cipher: Option<CipherWord>,
    /// The only kind of signature that the server may use; left out: any
    #[arg(long, value_name = "KIND")]
    server_signature: Option<KeyWord>,
}

/// Who calls.
#[derive(Args, Debug)]
pub(super) struct DeviceArgs {
    /// Make a certificate for each device, signed by the CA in that folder, as `tidegate ca init` made it
    #[arg(long, value_name = "DIR")]
    device_ca: Option<PathBuf>,
    /// Take the pairs ID.pem and ID.key of that folder
    #[arg(long, value_name = "DIR", conflicts_with = "device_ca")]
    device_dir: Option<PathBuf>,
    /// The kind of each device's key, with --device-ca
    #[arg(long, value_name = "KIND", default_value = "ecdsa")]
    device_key: KeyWord,
    /// How many devices there are: bench-000001 …; left out: 1000, or all of --device-dir
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_DEVICES as i64))]
    devices: Option<u32>,
    /// The username in CONNECT; {device} in it is the device's name
    #[arg(long, value_name = "TEMPLATE")]
    username: Option<String>,
    /// A file with the password in CONNECT; one line end behind it does not count
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The version of MQTT
    #[arg(long, value_name = "VERSION", default_value = "3.1.1")]
    mqtt: MqttWord,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TlsWord {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyExchangeWord {
    #[value(name = "x25519")]
    X25519,
    #[value(name = "p256")]
    P256,
    #[value(name = "p384")]
    P384,
    #[value(name = "x25519mlkem768")]
    X25519MlKem768,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CipherWord {
    #[value(name = "aes128")]
    Aes128,
    #[value(name = "aes256")]
    Aes256,
    #[value(name = "chacha20")]
    ChaCha20,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyWord {
    #[value(name = "ecdsa")]
    Ecdsa,
    #[value(name = "rsa")]
    Rsa,
    #[value(name = "ed25519")]
    Ed25519,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MqttWord {
    #[value(name = "3.1")]
    V31,
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5.0")]
    V5,
}

impl TlsArgs {
    pub(super) fn settings(&self, resume: f64) -> Tls {
        Tls {
            plain: self.plain,
            ca: self.ca.clone(),
            version: self.tls.map(|word| match word {
                TlsWord::V12 => TlsVersion::V12,
                TlsWord::V13 => TlsVersion::V13,
            }),
            key_exchange: match self.key_exchange {
                KeyExchangeWord::X25519 => KeyExchange::X25519,
                KeyExchangeWord::P256 => KeyExchange::P256,
                KeyExchangeWord::P384 => KeyExchange::P384,
                KeyExchangeWord::X25519MlKem768 => KeyExchange::X25519MlKem768,
            },
            cipher: self.cipher.map(|word| match word {
                CipherWord::Aes128 => Cipher::Aes128,
                CipherWord::Aes256 => Cipher::Aes256,
                CipherWord::ChaCha20 => Cipher::ChaCha20,
            }),
            signature: self.server_signature.map(|word| match word {
                KeyWord::Ecdsa => Signature::Ecdsa,
                KeyWord::Rsa => Signature::Rsa,
                KeyWord::Ed25519 => Signature::Ed25519,
            }),
            resume,
        }
    }
}

impl DeviceArgs {
    pub(super) fn settings(&self) -> Result<Devices, Failure> {
        let key = match self.device_key {
            KeyWord::Ecdsa => KeyKind::EcdsaP256,
            KeyWord::Rsa => KeyKind::Rsa2048,
            KeyWord::Ed25519 => KeyKind::Ed25519,
        };
        let certificates = match (&self.device_ca, &self.device_dir) {
            (Some(ca), _) => Certificates::Made {
                ca: ca.clone(),
                key,
            },
            (None, Some(at)) => Certificates::Folder(at.clone()),
            (None, None) => Certificates::None,
        };
        Ok(Devices {
            count: self.devices.map(|count| count as usize),
            certificates,
            username: self.username.clone(),
            password: self.password_file.as_deref().map(password).transpose()?,
            mqtt: match self.mqtt {
                MqttWord::V31 => Version::V31,
                MqttWord::V311 => Version::V311,
                MqttWord::V5 => Version::V5,
            },
        })
    }
}

fn password(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = std::fs::read(file).map_err(|why| {
        Failure::failed(format!(
            "cannot read --password-file {}: {why}",
            file.display()
        ))
    })?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    Ok(bytes)
}
