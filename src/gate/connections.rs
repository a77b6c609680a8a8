//! Open connections, as operators see them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::rules::device::{DeviceId, Mode};
use crate::rules::reason::Cause;

use super::Gate;
use super::control::Control;
use super::devices;

/// The open connections of a gate.
#[derive(Clone)]
pub struct Connections {
    gate: Arc<Gate>,
}

/// One open connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// Its number, for [`Connections::end`].
    pub number: u64,
    /// Whose it is.
    pub device: DeviceId,
    /// The listener's name.
    pub listener: String,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Its mode.
    pub mode: Mode,
    /// The trust group that vouched for its certificate.
    pub trust: Option<String>,
    /// The SHA-256 of its certificate, in lower-case hex.
    pub certificate_fingerprint: Option<String>,
    /// How long it has been open.
    pub open_for: Duration,
}

impl Connections {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }

    /// Those linked to a broker, in the order of their numbers.
    pub fn list(&self) -> Vec<Open> {
        let mut open: Vec<_> = self.linked().map(|control| self.told(&control)).collect();
        open.sort_by_key(|one| one.number);
        open
    }

    /// Ends the connection of this number; whether there was one.
    ///
    /// Needs a tokio runtime.
    pub fn end(&self, number: u64) -> bool {
        let it = self
            .linked()
            .find(|control| control.sitter.number == number);
        let found = it.is_some();
        devices::end(it.into_iter().collect(), Cause::EndedByOperator);
        found
    }

    /// Ends every connection of `device`; gives how many.
    ///
    /// Needs a tokio runtime.
    pub fn end_device(&self, device: &DeviceId) -> usize {
        let rolls = self.gate.devices.rolls().iter();
        let controls: Vec<_> = rolls.flat_map(|roll| roll.of(device)).collect();
        let count = controls.len();
        devices::end(controls, Cause::EndedByOperator);
        count
    }

    fn linked(&self) -> impl Iterator<Item = Arc<Control>> {
        self.gate
            .devices
            .rolls()
            .iter()
            .flat_map(|roll| roll.linked())
    }

    fn told(&self, control: &Control) -> Open {
        let sitter = &control.sitter;
        let certificate = sitter.evidence.certificate.as_ref();
        Open {
            number: sitter.number,
            device: sitter.device.clone(),
            listener: self.gate.listener_name(sitter.listener).to_owned(),
            address: sitter.address,
            mode: sitter.evidence.mode,
            trust: certificate
                .and_then(|shown| shown.voucher.as_ref())
                .map(|voucher| voucher.group.to_string()),
            certificate_fingerprint: certificate.map(|shown| hex::encode(shown.print)),
            open_for: sitter.since.elapsed(),
        }
    }
}
