//! `[connect]` templates.
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use super::device::*;
use super::identity::Certificate;
use std::fmt;
use std::net::IpAddr;
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use { Name, Free }
#[derive(Clone, Debug)]
pub struct Template(String);
#[derive(Clone, Debug, thiserror::Error)]
#[error("the template must hold {{device}}")]
pub struct TemplateFault;
impl Template {
    pub fn parse(text: &str, use_: Use, _: &Alphabet) -> Result<Self, TemplateFault> {
        if use_ == Use::Free || text.contains("{device}") { Ok(Self(text.into())) } else { Err(TemplateFault) }
    }
    pub fn render(&self, f: &Facts) -> Result<String, Unrenderable> { Ok(self.0.replace("{device}", f.device.as_str())) }
}
pub struct Facts<'a> { pub device: &'a DeviceId, pub client_id: &'a str, pub username: Option<&'a str>, pub mode: Mode, pub listener: &'a str, pub trust: Option<&'a str>, pub ip: IpAddr, pub certificate: Option<&'a Certificate> }
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unrenderable")]
pub struct Unrenderable;
impl Unrenderable { pub fn label(&self) -> &'static str { "identity_missing" } }
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
}
