//! Revocation lists: read and checked once, then looked up in constant time (threats.md T9).
