//! The verdict: who calls, what they ask and what the operator allows; admission or refusal out.
//!
//! One function for every listener, TLS version and credential (threats.md I2). Pure: the time is an argument.

use std::net::IpAddr;

use crate::mqtt::Version;
use crate::mqtt::connect::{Connect, Password as MqttPassword};
use crate::mqtt::properties::{Id, Properties, Property, Value};

use super::device::{DeviceId, Mode};
use super::identity::{Certificate, Field, Naming, Unnamed};
use super::reason::Refusal;
use super::secret::Secret;
use super::template::{Facts, Template};

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

/// What is known of a caller when its CONNECT has been read.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The listener it came to.
    pub listener: &'a str,
    /// The mode of its connection.
    pub mode: Mode,
    /// Where it calls from.
    pub ip: IpAddr,
    /// Who vouched for it: given for, and only for, `mutual-tls`.
    pub credential: Option<Credential<'a>>,
}

/// A certificate that was verified, and the trust group that vouched for it (threats.md I7).
#[derive(Clone, Copy, Debug)]
pub struct Credential<'a> {
    /// The device's own certificate.
    pub certificate: &'a Certificate,
    /// The name of the trust group.
    pub trust: &'a str,
    /// Which field of the certificate names the device, in this group.
    pub naming: &'a Naming,
    /// The end of the earliest validity in the chain, in seconds since 1970.
    pub not_after: i64,
    /// The CA of the group issued the certificate itself, and no intermediate that the device brought along.
    pub direct: bool,
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

/// Decides whether `caller` may enter with the CONNECT it sent, at `now` (seconds since 1970).
///
/// # Errors
/// The [`Refusal`], and who it is for; nothing has reached a broker then (threats.md I1).
pub fn decide(
    caller: &Caller<'_>,
    asks: Connect,
    settings: &ConnectSettings,
    now: i64,
) -> Result<Admission, Refused> {
    let (credential, device) = identify(caller, &asks, now)?;
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
    let connect = rewrite(caller, &credential, &device, asks, settings).map_err(refused)?;
    Ok(Admission {
        device,
        connect,
        tell_client_id,
    })
}

/// Who calls, by the one credential that it has.
fn identify<'a>(
    caller: &Caller<'a>,
    asks: &Connect,
    now: i64,
) -> Result<(Credential<'a>, DeviceId), Refusal> {
    // Before any credential: it asks for a conversation that the gate does not have (threats.md §5).
    if asks.properties.get(Id::AuthenticationMethod).is_some() {
        return Err(Refusal::EnhancedAuthentication);
    }
    let Some(credential) = caller.credential else {
        return Err(Refusal::NoToken { mode: caller.mode });
    };
    if credential.not_after < now {
        return Err(Refusal::Certificate {
            label: "certificate_expired",
            why: "the certificate, or one of its issuers, ended between the handshake and the CONNECT".into(),
        });
    }
    // Serials are unique for one CA only (RFC 5280 §4.1.2.2): another below the same anchor may have given the same one.
    if credential.naming.field == Field::Serial && !credential.direct {
        return Err(Refusal::Unnamed(Unnamed::OfAnotherCa));
    }
    let device = credential
        .naming
        .device(credential.certificate)
        .map_err(Refusal::Unnamed)?;
    Ok((credential, device))
}

/// The CONNECT that the broker is told: the names are the gate's, everything else is the device's.
fn rewrite(
    caller: &Caller<'_>,
    credential: &Credential<'_>,
    device: &DeviceId,
    asks: Connect,
    settings: &ConnectSettings,
) -> Result<Connect, Refusal> {
    let facts = Facts {
        device,
        client_id: &asks.client_id,
        username: asks.username.as_deref(),
        mode: caller.mode,
        listener: caller.listener,
        trust: Some(credential.trust),
        ip: caller.ip,
        certificate: Some(credential.certificate),
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
