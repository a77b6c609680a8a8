//! rules/reason
