//! What becomes of calls to the configured brokers: by the gate, and by a stranger.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::doors::{self, Door};
use super::ends;
use super::finding::{Finding, Level};
use crate::broker::address::Address;
use crate::broker::knock::{self, Answer, At, Heard, Knock};
use crate::gate;
use crate::proxy_protocol::Version;
use crate::rules::policy::Password;
use crate::tls::client::{self, ClientTls};

/// For one call.
const CALL: Duration = Duration::from_secs(2);
/// For looking one name up.
const LOOK_UP: Duration = Duration::from_secs(3);
/// The most places of one name that are called.
const MOST: usize = 8;

/// Who calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Who {
    /// As the gate does: its certificate, its password.
    Gate,
    /// Somebody with nothing.
    Nobody,
    /// Somebody with nothing but a made-up username.
    Somebody,
}

/// Goes round the brokers.
pub(super) struct Visitor<'a> {
    settings: &'a gate::Settings,
    own_tls: Option<ClientTls>,
    strangers_tls: Option<ClientTls>,
    /// This host's addresses but loopback; an error, where they are not known.
    pub(super) here: Result<Vec<IpAddr>, String>,
    deadline: Instant,
    calls: Cell<usize>,
    was_cut: Cell<bool>,
    /// Where somebody called already: several brokers share doors.
    tried: RefCell<HashSet<SocketAddr>>,
}

impl<'a> Visitor<'a> {
    pub(super) fn new(settings: &'a gate::Settings, deadline: Instant) -> Self {
        // What cannot be loaded is told as a fault elsewhere.
        let load = |settings: client::Settings| ClientTls::load(&settings).ok();
        let tls = settings.broker.tls.clone();
        let without = tls.clone().map(|tls| client::Settings {
            identity: None,
            ..tls
        });
        Self {
            settings,
            own_tls: tls.and_then(load),
            strangers_tls: without.and_then(load),
            here: doors::here(),
            deadline,
            calls: Cell::new(0),
            was_cut: Cell::new(false),
            tried: RefCell::default(),
        }
    }

    /// Calls every broker, at once. Dropping it half-way drops the calls.
    pub(super) async fn look(&self, now: i64) -> Vec<Finding> {
        let addresses = &self.settings.broker.addresses;
        let looks = (0..addresses.len()).map(|nth| self.address(nth, now));
        let mut found: Vec<_> = join_all(looks).await.into_iter().flatten().collect();
        if let Err(why) = &self.here {
            found.push(Finding::note(
                "interfaces_unknown",
                "broker.addresses",
                format!("this host's own addresses could not be read ({why}), so no broker was looked for there"),
                "",
            ));
        }
        found
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.get()
    }

    /// Whether the time was over before all calls were made.
    pub(super) fn was_cut(&self) -> bool {
        self.was_cut.get()
    }

    pub(super) fn settings(&self) -> &gate::Settings {
        self.settings
    }

    /// Whether `at` is to be called for the first time.
    pub(super) fn is_new(&self, at: SocketAddr) -> bool {
        self.tried.borrow_mut().insert(at)
    }

    /// Calls one place.
    pub(super) async fn call(&self, door: &Door<'_>, header: Option<Version>, who: Who) -> Heard {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.was_cut.set(true);
            return Heard {
                answer: Answer::Away("there was no time left to call it".into()),
                chain: Vec::new(),
            };
        }
        self.calls.set(self.calls.get() + 1);
        let tls = match who {
            Who::Gate => self.own_tls.as_ref(),
            Who::Nobody | Who::Somebody => self.strangers_tls.as_ref(),
        };
        let knock = Knock {
            at: &door.at,
            from: match who {
                Who::Gate => &self.settings.broker.source_addresses,
                Who::Nobody | Who::Somebody => &[],
            },
            header,
            tls: door.tls_host.and_then(|host| tls?.towards(host)),
            is_named: who != Who::Nobody,
            password: match (&self.settings.connect.password, who) {
                (Password::Fixed(secret), Who::Gate) => Some(secret.reveal()),
                _ => None,
            },
        };
        knock.call(left.min(CALL)).await
    }

    async fn address(&self, nth: usize, now: i64) -> Vec<Finding> {
        let address = &self.settings.broker.addresses[nth];
        let key = format!("broker.addresses[{nth}]");
        let until = self.deadline.min(Instant::now() + LOOK_UP);
        let places = match timeout_at(until, knock::places(address)).await {
            Ok(Ok(places)) => places,
            Ok(Err(why)) => return vec![unknown_name(key, address, &why.to_string())],
            Err(_) => return vec![unknown_name(key, address, "no answer in time")],
        };
        let places = places.into_iter().take(MOST);
        let visits = places.map(|at| self.place(&key, address, at, now));
        join_all(visits).await.into_iter().flatten().collect()
    }

    async fn place(&self, key: &str, address: &Address, at: At, now: i64) -> Vec<Finding> {
        if let At::Tcp(at) = at {
            self.is_new(at);
        }
        let door = Door {
            key,
            name: told(address, &at),
            tls_host: address.tls_host(),
            at,
        };
        let wanted = self.settings.broker.proxy_protocol;
        let Heard { answer, chain } = self.call(&door, wanted, Who::Gate).await;
        let mut found = ends::of_broker(key, &door.name, &chain, now);
        let header = match answer {
            Answer::Away(why) => {
                found.push(away(&door, &why));
                None
            }
            Answer::Connack(code) => {
                found.extend(self.judge(&door, code));
                Some(wanted)
            }
            answer => match self.other_header(&door, wanted).await {
                Some(other) => {
                    found.push(mismatch(&door, wanted, other));
                    Some(other)
                }
                None => {
                    found.push(without_answer(&door, answer));
                    None
                }
            },
        };
        if let Some(header) = header {
            found.extend(self.stranger(&door, header).await);
        }
        found.extend(self.elsewhere(&door, header.flatten()).await);
        found
    }

    /// The header with which it answers, where it does not with the configured one.
    async fn other_header(
        &self,
        door: &Door<'_>,
        wanted: Option<Version>,
    ) -> Option<Option<Version>> {
        let all = [None, Some(Version::V2), Some(Version::V1)];
        let others = all.into_iter().filter(|header| *header != wanted);
        let tries = others.map(async |header| {
            let heard = self.call(door, header, Who::Gate).await;
            matches!(heard.answer, Answer::Connack(_)).then_some(header)
        });
        join_all(tries).await.into_iter().flatten().next()
    }

    /// What its answer to the gate says.
    fn judge(&self, door: &Door<'_>, code: u8) -> Option<Finding> {
        let name = &door.name;
        let (level, what, way_out) = match code {
            0 => return None,
            3 => {
                let what = format!("{name} says that it is unavailable (CONNACK 0x03)");
                let way_out = "see what it logs";
                return Some(Finding::warning(
                    "broker_unavailable",
                    door.key,
                    what,
                    way_out,
                ));
            }
            4 | 5 => (
                self.level_of_refusal(),
                "a made-up username, also from the gate",
                "good, if it knows each device by name; otherwise see to connect.password_file, broker.tls.certificate and what it logs",
            ),
            2 => (
                Level::Warning,
                "a client id of 23 letters and digits",
                "see what client ids it allows",
            ),
            _ => (
                Level::Warning,
                "MQTT 3.1.1",
                "see what the broker speaks at this address",
            ),
        };
        let what = format!("{name} refuses {what} (CONNACK 0x{code:02x})");
        Some(Finding::new(
            "broker_refuses",
            level,
            door.key,
            what,
            way_out,
        ))
    }

    /// A gate that shows nothing of its own is refused as everybody is: most likely, so is every device.
    fn level_of_refusal(&self) -> Level {
        let shows_itself = self.settings.broker.tls.as_ref();
        let shows_itself = shows_itself.is_some_and(|tls| tls.identity.is_some());
        match self.settings.connect.password {
            Password::None if !shows_itself => Level::Warning,
            _ => Level::Note,
        }
    }
}

/// The address, and, of a name, which of its places.
fn told(address: &Address, at: &At) -> String {
    let is_name = match address {
        Address::Unix(_) => false,
        Address::Tcp { host, .. } | Address::Tls { host, .. } => host.parse::<IpAddr>().is_err(),
    };
    if is_name {
        format!("{address} at {at}")
    } else {
        address.to_string()
    }
}

fn unknown_name(key: String, address: &Address, why: &str) -> Finding {
    Finding::warning(
        "broker_name",
        key,
        format!("the name of {address} leads nowhere from here: {why}"),
        "correct it, or see to this host's DNS (/etc/resolv.conf) or /etc/hosts",
    )
}

fn away(door: &Door<'_>, why: &str) -> Finding {
    Finding::warning(
        "broker_away",
        door.key,
        format!("{} takes no connection: {why}", door.name),
        "start the broker, correct the address, or open the way to it",
    )
}

fn without_answer(door: &Door<'_>, answer: Answer) -> Finding {
    let name = &door.name;
    match answer {
        Answer::Tls(why) => Finding::warning(
            "broker_tls",
            door.key,
            format!("TLS to {name} fails: {why}"),
            "devices are told to come back until it is mended",
        ),
        Answer::Silent => Finding::warning(
            "broker_silent",
            door.key,
            format!(
                "{name} takes connections, and answers no CONNECT within {CALL:?}, with a PROXY header or without"
            ),
            "see that this port speaks MQTT, whether the broker hangs, and what it logs",
        ),
        Answer::Closed(why) | Answer::Away(why) => Finding::warning(
            "broker_no_answer",
            door.key,
            format!(
                "{name} takes connections, and gives no answer to a CONNECT, with a PROXY header or without: {why}"
            ),
            "see that this port speaks MQTT, and what the broker logs",
        ),
        Answer::Connack(_) => unreachable!("that is an answer"),
    }
}

fn mismatch(door: &Door<'_>, wanted: Option<Version>, other: Option<Version>) -> Finding {
    let word = |header| match header {
        None => "off",
        Some(Version::V1) => "v1",
        Some(Version::V2) => "v2",
    };
    let (wanted, other) = (word(wanted), word(other));
    let name = &door.name;
    let what = match (wanted, other) {
        ("off", other) => {
            format!("{name} answers only behind a PROXY header ({other}), and the gate sends none")
        }
        (wanted, "off") => {
            format!("{name} expects no PROXY header, and the gate sends one ({wanted})")
        }
        (wanted, other) => format!(
            "{name} answers behind a PROXY header of {other}, and not behind one of {wanted}"
        ),
    };
    let way_out = format!(
        "write broker.proxy_protocol = \"{other}\", or have the broker expect \"{wanted}\""
    );
    Finding::warning(
        "broker_proxy_mismatch",
        "broker.proxy_protocol",
        what,
        way_out,
    )
}
