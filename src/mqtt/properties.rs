//! mqtt/properties
