//! stub until `rules` is merged
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use super::device::{Alphabet, DeviceId};
use x509_parser::prelude::*;

#[derive(Clone, Debug)]
pub struct Pattern;
#[derive(Clone, Copy, Debug)]
pub enum Field { SubjectCn }
#[derive(Clone, Debug)]
pub struct Naming { pub field: Field, pub pattern: Option<Pattern>, pub alphabet: Alphabet }
#[derive(Clone, Debug, Default)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    pub fingerprint: String,
    pub not_before: i64,
    pub not_after: i64,
    cn: String,
}
#[derive(Clone, Debug, Default)]
pub struct Unreadable;
impl Certificate {
    pub fn read(der: &[u8]) -> Result<Certificate, Unreadable> {
        let (rest, c) = X509Certificate::from_der(der).map_err(|_| Unreadable)?;
        if !rest.is_empty() { return Err(Unreadable); }
        Ok(Certificate { subject: c.subject().to_string(), issuer: c.issuer().to_string(), serial: hex::encode(c.raw_serial()), fingerprint: String::new(), not_before: c.validity().not_before.timestamp(), not_after: c.validity().not_after.timestamp(), cn: c.subject().iter_common_name().next().unwrap().as_str().unwrap().into() })
    }
}
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unnamed")]
pub struct Unnamed;
impl Unnamed { pub fn label(&self) -> &'static str { "identity_missing" } }
impl Naming { pub fn device(&self, c: &Certificate) -> Result<DeviceId, Unnamed> { self.alphabet.device(&c.cn).map_err(|_| Unnamed) } }
