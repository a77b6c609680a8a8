//! mqtt/framing
