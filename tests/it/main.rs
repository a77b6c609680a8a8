//! The promises of the gate, each against the real binary, real sockets and real TLS.

#![allow(
    clippy::pedantic,
    reason = "what it guards against costs nothing in a test; a payload and a panic read best where they stand"
)]

mod admin_api;
mod arrows;
mod bench;
mod broker_faults;
mod brokers;
mod certificates;
mod certificates_page;
mod changes;
mod commands;
mod connect;
mod crowd;
mod deploy;
mod deployment;
mod devices;
mod differences;
mod directory;
mod docs;
mod drain;
mod estate;
mod explain;
mod faults;
mod front;
mod guide;
mod hosts;
mod limits;
mod listeners;
mod matrix;
mod modes;
mod monitoring;
mod mosquitto;
mod mqtts;
mod names;
mod on_the_way;
mod openssl;
mod operators;
mod packages;
mod paho;
mod pinned;
mod pins;
mod proxy_protocol;
mod registry;
mod registry_faults;
mod relay;
mod reloads;
mod replace;
mod replicas;
mod resumption;
mod sandbox;
mod sections;
mod service;
mod support;
mod tls;
mod tokens;
mod tutorial;
