//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod commands;
mod drain;
mod limits;
mod names;
mod operators;
mod support;
