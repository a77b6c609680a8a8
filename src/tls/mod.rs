//! TLS: rustls configurations from files, and the verification of devices' certificates.

mod crl;
mod der;
mod diagnose;
pub mod files;
pub mod server;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub mod trust;
pub mod verify;
pub mod witness;
