//! The verdict: who calls, what they ask and what the operator allows; admission or refusal out.
//!
//! Three steps, all pure, for every listener, TLS version and credential (threats.md I2): [`claim`] says who calls and by what
//! evidence; somebody looks that device up; [`decide`] says whether it may enter. [`judge`], which it asks, is asked again for
//! open connections when something has changed. The time is an argument.

use crate::mqtt::Version;
use crate::mqtt::connect::{Connect, Password as MqttPassword};
use crate::mqtt::properties::{Id, Properties, Property, Value};

use super::device::DeviceId;
use super::reason::Refusal;
use super::record::{ISSUER, OWN, Pin, Proof, Record, Valid};
use super::secret::Secret;
use super::template::{Facts, Template};

mod claim;
mod judge;
#[cfg(test)]
mod tests;

pub use claim::{Caller, Claim, Credential, Shown, Tokens, Unvouched, claim, is_token};
pub use judge::{
    CertificateEvidence, Evidence, TokenEvidence, Voucher, is_lacking, judge, matching,
};

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

/// `registry.unknown`: what becomes of a device that a trust group or a JWT issuer vouches for, and the registry does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unknown {
    /// It is refused.
    Refuse,
    /// It is admitted as if there were no registry, by `mutual-tls` or a JWT.
    Admit,
    /// Whoever comes by `mutual-tls` is registered, for that mode and that trust group.
    Register {
        /// The most devices that register themselves, for each trust group. Default 10 000.
        quota: u32,
        /// They are disabled until their owner enables them (`registry.register_approval`). Default false.
        approval: bool,
    },
}

/// `token.in`: which field of CONNECT holds the token. The device names itself in the other, or else in the client id.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TokenPlace {
    /// The password; the device names itself in the username.
    #[default]
    Password,
    /// The username; the device names itself in the password.
    Username,
}

/// What the registry says of the device that a [`Claim`] names.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'a> {
    /// There is no registry.
    NoRegistry,
    /// This is its record.
    Known(&'a Record),
    /// It knows no such device.
    Unknown(Unknown),
    /// It knows no such device, and no more may register themselves; a sentence for the log.
    Full(&'a str),
    /// It cannot be asked now; a sentence for the log.
    Away(&'a str),
}

impl Standing<'_> {
    fn is_registry(self) -> bool {
        !matches!(self, Self::NoRegistry)
    }
}

/// A device may enter, under this name and with this CONNECT.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Who it is.
    pub device: DeviceId,
    /// What the broker is told.
    pub connect: Connect,
    /// Whether the device must be told the client id it got: it speaks MQTT 5 and sent none
    /// (Assigned Client Identifier, MQTT 5.0 §3.1.3.1).
    pub tell_client_id: bool,
    /// The last second in which what it showed counts, in seconds since 1970; `None`: no end.
    pub until: Option<i64>,
}

/// A device may not enter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Who it is, if that was known by then: for the log.
    pub device: Option<DeviceId>,
}

impl From<Refusal> for Refused {
    /// Nobody knows who it is.
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            device: None,
        }
    }
}

/// Decides whether the device of `claim` may enter with the CONNECT it sent, at `now` (seconds since 1970).
///
/// # Errors
/// The [`Refusal`], and who it is for; nothing has reached a broker then (threats.md I1).
pub fn decide(
    caller: &Caller<'_>,
    claim: &Claim,
    asks: Connect,
    standing: Standing<'_>,
    settings: &ConnectSettings,
    now: i64,
) -> Result<Admission, Refused> {
    let (device, until) = admitted(claim, standing, now)?;
    let refused = |refusal| Refused {
        refusal,
        device: Some(device.clone()),
    };
    if settings.asked_client_id == AskedClientId::Device
        && !asks.client_id.is_empty()
        && asks.client_id != device.as_str()
    {
        return Err(refused(Refusal::ClientIdNotOwn {
            device: device.clone(),
            asked: asks.client_id,
        }));
    }
    let tell_client_id = asks.version == Version::V5 && asks.client_id.is_empty();
    let vouched = is_vouched_for(claim, standing);
    let connect = rewrite(caller, claim, &device, asks, settings, vouched).map_err(refused)?;
    Ok(Admission {
        device,
        connect,
        tell_client_id,
        until,
    })
}

/// Who enters, and until when what it showed counts.
fn admitted(
    claim: &Claim,
    standing: Standing<'_>,
    now: i64,
) -> Result<(DeviceId, Option<i64>), Refused> {
    let device = match standing {
        Standing::Known(record) => Some(&record.device),
        _ => claim.device(),
    };
    if let (Some(device), Some(by_token)) = (device, &claim.by_token)
        && device != by_token
    {
        return Err(Refused {
            refusal: Refusal::CredentialsDisagree {
                certificate: device.clone(),
                token: by_token.clone(),
            },
            device: Some(device.clone()),
        });
    }
    let judged = judge(&claim.evidence, device, standing, now);
    let until = judged.map_err(|refusal| {
        let refusal = match (&claim.instead, refusal) {
            // No pin made up for what the handshake, or the name, lacked: that is what there is to mend.
            (
                Some(instead),
                Refusal::CertificateNotRegistered { .. } | Refusal::DeviceUnknown { .. },
            ) => instead.clone().where_pins_count(standing.is_registry()),
            (_, refusal) => refusal,
        };
        Refused {
            refusal,
            device: device.cloned(),
        }
    })?;
    match device {
        Some(device) => Ok((device.clone(), until)),
        None => Err(claim.instead.clone().unwrap_or(Refusal::GateFault).into()),
    }
}

/// The record of a device that registers itself (`registry.unknown = "register"`): for `mutual-tls`, and for the trust group
/// that vouched for it. `None`: nobody vouches for it that may.
pub fn registration(claim: &Claim, approval: bool, now: i64) -> Option<Record> {
    let voucher = claim.evidence.certificate.as_ref()?.voucher.as_ref()?;
    let mut record = Record::new(claim.device()?.clone(), now);
    record.enabled = !approval;
    record.registered_by = Some(voucher.group.to_string());
    let proof = Proof::Vouched {
        group: voucher.group.to_string(),
        field: voucher.field,
        pin: None,
    };
    record.add_credential(proof, Valid::since(now));
    Some(record)
}

/// Whether what stands in the certificate is anybody's word: a group's, or the owner's who pinned it. Of one whose key alone is
/// pinned the device wrote the rest itself (threats.md I3, I4).
fn is_vouched_for(claim: &Claim, standing: Standing<'_>) -> bool {
    let Some(shown) = &claim.evidence.certificate else {
        return false;
    };
    let pinned = Proof::Pinned(Pin::Certificate(shown.certificate.print));
    let by_pin = match standing {
        Standing::Known(record) => record.credentials.iter().any(|one| one.proof == pinned),
        _ => false,
    };
    shown.voucher.is_some() || by_pin
}

/// The CONNECT that the broker is told: the names are the gate's, everything else is the device's.
fn rewrite(
    caller: &Caller<'_>,
    claim: &Claim,
    device: &DeviceId,
    asks: Connect,
    settings: &ConnectSettings,
    vouched: bool,
) -> Result<Connect, Refusal> {
    let voucher = claim.evidence.certificate.as_ref();
    let facts = Facts {
        device,
        client_id: &asks.client_id,
        // A token in this field is the gate's to know, and nobody's further on.
        username: asks
            .username
            .as_deref()
            .filter(|_| !claim.token_in_username),
        mode: caller.mode,
        listener: caller.listener,
        trust: Some(match (voucher, claim.evidence.token.as_deref()) {
            (Some(shown), _) => shown.voucher.as_ref().map_or(OWN, |by| &*by.group),
            (None, Some(TokenEvidence::Jwt { .. })) => ISSUER,
            (None, _) => OWN,
        }),
        ip: caller.ip,
        certificate: caller
            .certificate
            .as_ref()
            .map(|shown| &**shown.certificate())
            .filter(|_| vouched),
    };
    let render = |template: &Template| template.render(&facts).map_err(Refusal::Unrenderable);
    let client_id = render(&settings.client_id)?;
    let username = render(&settings.username)?;
    let ours = settings
        .user_properties
        .iter()
        .map(|(name, value)| Ok((name.clone(), render(value)?)))
        .collect::<Result<Vec<_>, Refusal>>()?;

    let password = match &settings.password {
        Password::None => None,
        Password::Devices => asks.password,
        Password::Fixed(secret) => Some(MqttPassword::new(secret.reveal().clone())),
    };
    let mut connect = Connect {
        client_id,
        username: Some(username),
        password,
        ..asks
    };
    if connect.version == Version::V5 {
        assert_ours(&mut connect, ours);
    }
    Ok(connect)
}

/// Puts our user properties into an MQTT 5 CONNECT, after removing those of the same names that the device sent,
/// in the CONNECT and in its will, in any letter case (threats.md I4).
fn assert_ours(connect: &mut Connect, ours: Vec<(String, String)>) {
    let strip = |properties: &mut Properties| {
        for (name, _) in &ours {
            properties.remove_user(name);
        }
    };
    strip(&mut connect.properties);
    if let Some(will) = &mut connect.will {
        strip(&mut will.properties);
    }
    for (name, value) in ours {
        connect.properties.push(Property {
            id: Id::UserProperty,
            value: Value::Pair(name, value),
        });
    }
}
