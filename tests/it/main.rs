//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod broker_faults;
mod connect;
mod names;
mod relay;
mod support;
