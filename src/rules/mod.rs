//! Verdicts. Pure: no I/O, no clock, no metrics; facts in, answer out.

pub mod change;
pub mod device;
pub mod identity;
pub mod jwt;
pub mod policy;
pub mod reason;
pub mod record;
pub mod secret;
pub mod template;
pub mod token;
