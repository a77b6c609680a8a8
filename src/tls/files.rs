//! tls/files
