//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod differences;
mod mosquitto;
mod names;
mod openssl;
mod paho;
mod support;
