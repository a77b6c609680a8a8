//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod docs;
mod front;
mod names;
mod support;
