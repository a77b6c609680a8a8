//! `[connect]` templates.

/// A text with placeholders such as `{device}`.
#[derive(Clone, Debug)]
pub struct Template {}
