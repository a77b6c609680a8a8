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

/// Which connections are wanted; all conditions together. `Default`: every one.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those of this device.
    pub device: Option<DeviceId>,
    /// Those of the listener of this name.
    pub listener: Option<String>,
    /// Those with a higher number.
    pub after: u64,
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

    /// Up to `most` of those linked to a broker, in the order of their numbers. Goes through all that are open.
    pub fn list(&self, wanted: &Wanted, most: usize) -> Vec<Open> {
        let listener = |control: &Control| {
            let name = self.gate.listener_name(control.sitter.listener);
            wanted.listener.as_ref().is_none_or(|wanted| wanted == name)
        };
        let mut open: Vec<_> = match &wanted.device {
            None => self.linked().collect(),
            Some(device) => {
                let rolls = self.gate.devices.rolls().iter();
                let all = rolls.flat_map(|roll| roll.of(device));
                all.filter(|control| control.is_linked() && stays(control))
                    .collect()
            }
        };
        open.retain(|control| control.sitter.number > wanted.after && listener(control));
        open.sort_unstable_by_key(|control| control.sitter.number);
        open.truncate(most);
        open.iter().map(|control| self.told(control)).collect()
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
        let mut controls: Vec<_> = rolls.flat_map(|roll| roll.of(device)).collect();
        controls.retain(stays);
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
            .filter(stays)
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
            certificate_fingerprint: certificate.map(|shown| shown.certificate.fingerprint()),
            open_for: sitter.since.elapsed(),
        }
    }
}

/// One that is told to end is there until both sides have taken in what was sent last.
fn stays(control: &Arc<Control>) -> bool {
    control.cause().is_none()
}
