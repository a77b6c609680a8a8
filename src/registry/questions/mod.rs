//! The questions, in SQL. One text for both stores: each takes this folder in as a module of its own, under its own types
//! (`super::{Db, Connection}`), and gives the few words in which they differ.

use super::{Connection, Db};

mod read;
mod row;
mod write;

pub(in crate::registry) use read::{
    changes, count, find, find_by_print, find_pinned, last_seen, list, place, registered_in,
    token_key, who_has,
};
pub(in crate::registry) use write::{add, change, note_seen, register, remove, token_key_check};

/// The most changes that are told one by one: more are [`Change::Everything`](crate::registry::Change::Everything).
const MOST_CHANGES: usize = 10_000;

/// How many changes are kept for those who are behind.
const KEPT_CHANGES: i64 = 100_000;

/// How many rows one statement writes: 9 values each, and no store takes more than 32 766.
const CHUNK: usize = 500;
