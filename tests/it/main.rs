//! The promises of the gate, each against the real binary, real sockets and real TLS.

mod arrows;
mod certificates;
mod certificates_page;
mod listeners;
mod names;
mod support;
mod tls;
