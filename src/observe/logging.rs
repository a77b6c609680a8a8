//! Logs: one line per connection, JSON or text, never in the way of a device.

/// `[log]` as the gate obeys it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// The least level that is written.
    pub level: tracing::Level,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}
