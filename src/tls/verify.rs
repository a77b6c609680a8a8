//! tls/verify
