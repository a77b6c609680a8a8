//! mqtt/connect
