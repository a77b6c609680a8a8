//! mqtt/text
