//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod broker_faults;
mod certificates;
mod commands;
mod connect;
mod docs;
mod drain;
mod front;
mod limits;
mod mosquitto;
mod names;
mod openssl;
mod operators;
mod paho;
mod support;
