//! Certificate → [`DeviceId`](super::device::DeviceId).

/// `trust.device` and `trust.pattern`: which field names the device.
#[derive(Clone, Debug)]
pub struct Naming {}
