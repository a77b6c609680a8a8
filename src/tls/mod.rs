//! TLS: rustls configurations from files, towards devices and brokers, and the verification of devices' certificates.

mod agreed;
mod ca_keys;
pub mod client;
mod crl;
mod der;
mod diagnose;
pub mod examine;
pub mod files;
pub mod flight;
pub mod handshake;
mod hello;
mod known;
mod possession;
mod protection;
mod records;
pub mod server;
pub mod stream;
pub mod suites;
#[cfg(test)]
pub(crate) mod testing;
mod tickets;
pub mod trust;
pub mod verify;
pub mod witness;

/// Doors for the fuzz targets; in no other build.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Reads a revocation list in DER; tells whether it is one.
    pub fn is_revocation_list(der: &[u8]) -> bool {
        super::crl::read(der).is_ok()
    }

    /// Puts what a device might seal through TLS after its handshake.
    pub fn open_records(data: &[u8]) {
        super::records::open_whatever(data);
    }
}
