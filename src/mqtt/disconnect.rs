//! mqtt/disconnect
