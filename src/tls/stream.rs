//! tls/stream
