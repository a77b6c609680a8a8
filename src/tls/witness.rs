//! tls/witness
