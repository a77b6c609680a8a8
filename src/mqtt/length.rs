//! mqtt/length
