//! mqtt/connack
