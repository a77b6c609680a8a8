//! The verdict: who calls, what they ask and what the operator allows; admission or refusal out.

use super::secret::Secret;

use super::template::Template;

/// `[connect]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// The client id that the broker is told.
    pub client_id: Template,
    /// The username that the broker is told.
    pub username: Template,
    /// The password that the broker is told.
    pub password: Password,
    /// Whether a device may ask for another client id than its own.
    pub asked_client_id: AskedClientId,
    /// MQTT 5 user properties: names and values. The same names sent by a device are removed.
    pub user_properties: Vec<(String, Template)>,
}

/// What stands in the password field that the broker sees.
#[derive(Clone, Debug)]
pub enum Password {
    /// No password is sent.
    None,
    /// The device's own is passed on (`"{password}"`).
    Devices,
    /// The same secret for all devices (`password_file`).
    Fixed(Secret<Vec<u8>>),
}

/// `connect.asked_client_id`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AskedClientId {
    /// Any client id may be asked for; the broker is told the one of the template.
    Any,
    /// Only the device's own id, or none.
    Device,
}
