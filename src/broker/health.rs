//! broker/health
