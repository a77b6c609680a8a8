//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod broker_faults;
mod certificates;
mod connect;
mod docs;
mod front;
mod mosquitto;
mod names;
mod openssl;
mod paho;
mod support;
