//! docs/openapi.json: what programs are told of this API.

use super::reply::Reply;

/// OpenAPI 3.1.
const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

/// Open to whoever reaches the port: it holds nothing of this gate.
pub(super) fn document() -> Reply {
    Reply::fixed(DOCUMENT)
}

#[cfg(test)]
mod tests;
