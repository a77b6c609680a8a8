//! tls/diagnose
