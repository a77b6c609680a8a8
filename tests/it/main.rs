//! The promises of the gate, each against the real binary, real sockets and real TLS.

#![allow(
    clippy::large_stack_arrays,
    clippy::match_wild_err_arm,
    clippy::single_match_else,
    reason = "what these guard against costs nothing in a test; a payload and a panic read best where they stand"
)]

mod arrows;
mod broker_faults;
mod certificates;
mod certificates_page;
mod commands;
mod connect;
mod docs;
mod drain;
mod front;
mod limits;
mod listeners;
mod mosquitto;
mod names;
mod openssl;
mod operators;
mod paho;
mod support;
mod tls;
