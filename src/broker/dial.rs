//! broker/dial
