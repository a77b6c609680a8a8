//! tls/crl
