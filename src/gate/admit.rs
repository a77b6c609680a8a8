//! CONNECT: `Secured` → `Asking` → `Admitted` → `Linked`.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{timeout, timeout_at};

use crate::broker::answer::NoAnswer;
use crate::broker::dial::{Call, Kept, NoBroker};
use crate::broker::socket::Socket;
use crate::mqtt::Version;
use crate::mqtt::connack::Connack;
use crate::mqtt::connect::{self, Connect};
use crate::mqtt::properties::{Id, Properties, Property, Value};
use crate::observe::metrics::OpenGuard;
use crate::rules::policy::{self, Admission, Caller, Credential, Refused, Shown, Unvouched};
use crate::rules::reason::{Cause, Ending, Refusal};
use crate::tls::stream::{Got, Lost};
use crate::tls::verify;

use super::connection::Facts;
use super::control::{Roll, Seat};
use super::handshake::Secured;
use super::in_force::InForce;
use super::preface::preface;
use super::wire::{DeviceLink, LINGER_BYTES, Wire, linger, write_all};
use super::{Gate, now};

/// How long a refused device has to take in its CONNACK.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The largest CONNACK taken from a broker, in bytes.
const LARGEST_CONNACK: usize = 64 * 1024;

/// A broker's word for "not now": server unavailable, server busy (MQTT 3.1.1 §3.2.2.3, MQTT 5.0 §3.2.2.2).
const BUSY: [u8; 3] = [0x03, 0x88, 0x89];

/// Sent a well-formed CONNECT.
#[derive(Debug)]
pub(crate) struct Asking {
    secured: Secured,
    connect: Connect,
    /// What the device sent behind its CONNECT (threats.md M3).
    behind: Vec<u8>,
    /// When the CONNECT was whole.
    asked: Instant,
}

/// May enter, under this name. [`Asking::admit`] is the only maker.
#[derive(Debug)]
pub(crate) struct Admitted {
    link: DeviceLink,
    /// The CONNECT for the broker, encoded.
    packet: Vec<u8>,
    /// What the broker is sent before it; mostly nothing.
    preface: Vec<u8>,
    version: Version,
    /// The device's own limit on packets, in bytes (MQTT 5.0 §3.1.2.11.4).
    most: Option<u32>,
    /// The client id it is to be told (MQTT 5.0 §3.2.2.3.7).
    assigned: Option<String>,
    behind: Vec<u8>,
    /// When the CONNECT was whole.
    asked: Instant,
    listener: usize,
    /// Its place among the connections of known devices.
    seat: Seat,
    /// How many connections the device may have; 0: any number.
    most_connections: u32,
}

/// Linked to a broker that took its CONNECT.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) link: DeviceLink,
    pub(crate) broker: Socket,
    pub(crate) version: Version,
    /// The largest packet that the device takes, in bytes; `None`: any.
    pub(crate) most: Option<u32>,
    pub(crate) from_device: Vec<u8>,
    pub(crate) from_broker: Vec<u8>,
    pub(crate) broker_open: OpenGuard,
    /// Counted at its endpoint, for the balance.
    pub(crate) leg: Kept,
    pub(crate) seat: Seat,
}

/// Why a connection ends before it is linked.
#[derive(Debug)]
pub(crate) enum Unlinked {
    /// The gate refused it.
    Refused(Refusal),
    /// The broker did, in its own words.
    Ended(Ending),
}

impl Secured {
    /// Reads a whole CONNECT within `connect_timeout`. A refused device has been told. Dropping it half-way drops
    /// the connection.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub(crate) async fn read_connect(
        mut self,
        gate: &Gate,
        in_force: &InForce,
        facts: &mut Facts,
    ) -> Result<Asking, Refusal> {
        let cap = in_force.limits.connect_bytes as usize;
        let limit = in_force.limits.connect_timeout;
        let mut came = Vec::new();
        let whole = timeout(limit, async {
            loop {
                match connect::measure(&came, cap) {
                    Ok(Some(length)) => return Ok(length),
                    Ok(None) => {}
                    Err(fault) => return Err(Refusal::Connect(fault)),
                }
                match self.link.read(&mut came).await {
                    Ok(Got::Bytes) => {}
                    Ok(Got::End) | Err(Lost::Io(_)) => {
                        return Err(Refusal::DeviceGone {
                            during: "before a whole CONNECT",
                        });
                    }
                    Err(Lost::Tls(fault)) => return Err(tls_fault(fault)),
                }
            }
        });
        let length = match whole.await {
            Ok(Ok(length)) => length,
            Ok(Err(refusal)) => return Err(refuse(self.link, refusal, None, None).await),
            Err(_) => {
                let refusal = Refusal::ConnectTimeout {
                    limit,
                    got: came.len(),
                };
                return Err(refuse(self.link, refusal, None, None).await);
            }
        };
        let asked = Instant::now();
        let behind = came.split_off(length);
        match Connect::decode(&came) {
            Ok(connect) => {
                facts.mqtt_version = Some(connect.version);
                facts.note_asked(&connect.client_id);
                gate.metrics
                    .listener(self.listener.place)
                    .connect(connect.version, self.mode);
                Ok(Asking {
                    secured: self,
                    connect,
                    behind,
                    asked,
                })
            }
            Err(fault) => {
                facts.mqtt_version = fault.version;
                Err(refuse(self.link, Refusal::Connect(fault), None, None).await)
            }
        }
    }
}

impl Asking {
    /// Asks the rules, and writes the CONNECT that the broker will see. No broker has heard of the device before
    /// this (threats.md I1). A refused device has been told. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub(crate) async fn admit(
        self,
        gate: &Gate,
        in_force: &InForce,
        roll: &Arc<Roll>,
        facts: &mut Facts,
    ) -> Result<Admitted, Refusal> {
        let Self {
            secured,
            connect,
            behind,
            asked,
        } = self;
        let version = connect.version;
        let most = maximum_packet(&connect);
        if gate.is_shut() {
            let at_most = most.map_or(usize::MAX, |most| most as usize);
            let packet = (version == Version::V5).then(|| in_force.farewell.connack(at_most));
            let refusal = Refusal::Draining;
            return Err(match packet.flatten() {
                Some(packet) => refuse_by(secured.link, refusal, Some(packet)).await,
                None => refuse(secured.link, refusal, Some(version), most).await,
            });
        }
        let verdict = verdict(&secured, connect, gate, in_force, roll).await;
        let encoded = verdict.and_then(|verdict| match encode(&verdict.admission, most) {
            Ok(packet) => Ok((verdict, packet)),
            Err(refusal) => Err(Refused {
                refusal,
                device: Some(verdict.admission.device),
            }),
        });
        let (verdict, packet) = match encoded {
            Ok(admitted) => admitted,
            Err(Refused { refusal, device }) => {
                facts.device = device;
                return Err(refuse(secured.link, refusal, Some(version), most).await);
            }
        };
        let Admission {
            device,
            connect,
            tell_client_id,
            until,
        } = verdict.admission;
        // By the connection's own time: the look-up may have taken a while.
        let now = verdict.seat.control.now();
        verdict
            .seat
            .set_until(until.and_then(|until| super::deadline(until, now)));
        facts.device = Some(device);
        facts.note_given(&connect.client_id);
        let preface = match preface(&secured, facts, in_force.fleet.proxy_protocol) {
            Ok(preface) => preface,
            Err(refusal) => return Err(refuse(secured.link, refusal, Some(version), most).await),
        };
        Ok(Admitted {
            link: secured.link,
            packet,
            preface,
            version,
            most,
            assigned: tell_client_id.then_some(connect.client_id),
            behind,
            asked,
            listener: secured.listener.place,
            seat: verdict.seat,
            most_connections: verdict.most_connections,
        })
    }
}

/// What was shown in the handshake, as the rules look at it.
pub(crate) fn facts_of(shown: &verify::Shown) -> Shown<'_> {
    match shown {
        verify::Shown::Vouched(vouched) => Shown::Vouched(Credential {
            certificate: &vouched.certificate,
            trust: &vouched.group.name,
            naming: &vouched.group.naming,
            not_after: vouched.not_after,
            direct: vouched.direct,
        }),
        verify::Shown::Unvouched(unvouched) => Shown::Unvouched(Unvouched {
            certificate: &unvouched.certificate,
            label: unvouched.refusal.reason,
            why: &unvouched.refusal.why,
        }),
    }
}

/// A device may enter.
struct Verdict {
    admission: Admission,
    seat: Seat,
    most_connections: u32,
}

/// Finds out who calls, looks it up, and asks the rules.
async fn verdict(
    secured: &Secured,
    connect: Connect,
    gate: &Gate,
    in_force: &InForce,
    roll: &Arc<Roll>,
) -> Result<Verdict, Refused> {
    let InForce {
        tokens, unknown, ..
    } = in_force;
    let caller = Caller {
        listener: &secured.listener.name,
        mode: secured.mode,
        ip: secured.address.ip().to_canonical(),
        certificate: secured.shown.as_ref().map(facts_of),
    };
    tokens.ready_for(&connect).await;
    let came = now();
    let claim = tokens.claim(&caller, &connect, came)?;
    let found = gate
        .devices
        .find(&claim, secured, gate, *unknown, roll, came)
        .await;
    let now = now(); // a look-up may take its time
    let admission = policy::decide(
        &caller,
        &claim,
        connect,
        found.standing(),
        &in_force.connect,
        now,
    )?;
    let refused = |refusal| Refused {
        refusal,
        device: Some(admission.device.clone()),
    };
    // Who enters without a name has no seat, and nobody does.
    let Some(seat) = found.seat else {
        return Err(refused(Refusal::GateFault));
    };
    // The registry may be shared with a gate that allows more characters; here they could make two names alike.
    if let Err(fault) = tokens.alphabet.device(admission.device.as_str()) {
        return Err(refused(Refusal::CertificateNotRegistered {
            device: admission.device.clone(),
            why: format!("its id is none at this gate: {fault}"),
        }));
    }
    // Its mode may be gone from the listener since it came in, and those who sat then were told before it did.
    let listener = secured.listener.place;
    if !gate.glance().entrances[listener].offer.has(secured.mode) {
        return Err(refused(Refusal::Revoked(Cause::ModeTightened)));
    }
    // Its key may have been taken away between the look at its token and its seat.
    let by_token = claim.evidence.token.is_some();
    let still_holds = || {
        let now = &gate.glance().tokens;
        now.still_holds(&claim.evidence, now.asks_as(tokens))
    };
    if by_token && !still_holds() {
        return Err(refused(Refusal::Revoked(Cause::TrustEnded)));
    }
    // So may the word of its trust group, since the handshake. Who is let in looks again; no broker hears of who is not.
    if !secured.is_current(gate) && !gate.vouches_for(&seat.control, listener, &secured.link) {
        gate.devices.doubt(seat.control.clone()).await;
    }
    if let Some(cause) = seat.control.cause() {
        return Err(refused(Refusal::Revoked(cause)));
    }
    let most_connections = found.held.connections();
    Ok(Verdict {
        admission,
        seat,
        most_connections: most_connections.unwrap_or(in_force.limits.connections_per_device),
    })
}

impl Admitted {
    /// Dials a broker, sends it the CONNECT, and passes its CONNACK on. Once a byte of the CONNECT is on its way no
    /// other broker is tried. A refused device has been told that the trouble is ours (0x03 / 0x88). Dropping it
    /// half-way drops both links.
    ///
    /// # Errors
    /// [`Unlinked`].
    pub(crate) async fn dial(
        mut self,
        gate: &Gate,
        in_force: &InForce,
        facts: &mut Facts,
    ) -> Result<Linked, Unlinked> {
        let fleet = &*in_force.fleet;
        let began = Instant::now();
        let call = Call {
            device: &self.seat.control.sitter.device,
            preface: &self.preface,
        };
        let dialling = fleet.brokers.dial(call, |place, result, took| {
            fleet.metrics(place).dial(result, took);
        });
        let control = self.seat.control.clone();
        let dialled = tokio::select! {
            biased;
            cause = control.ended() => {
                return Err(self.refused(Refusal::Revoked(cause)).await);
            }
            dialled = dialling => dialled,
            gone = left(&mut self.link, &mut self.behind, "before a broker took its connection") => {
                return Err(self.refused(gone).await);
            }
        };
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(none) => return Err(self.refused(nobody(none, began.elapsed())).await),
        };
        if let Some(why) = dialled.few_ports {
            tracing::warn!(event = "few_ports", "{why}");
        }
        if let Some(cause) = control.cause() {
            drop((dialled.socket, dialled.leg)); // its place is another's while it takes in its last word
            return Err(self.refused(Refusal::Revoked(cause)).await);
        }
        let leg = dialled.leg;
        let broker_open = fleet.metrics(dialled.place).opened();
        facts.broker = Some(fleet.brokers.all()[dialled.place].label.clone());
        let mut broker = dialled.socket;
        let limit = in_force.limits.connect_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        let (connack, from_broker) = match self.ask(&mut broker, deadline, limit).await {
            Ok(answer) => answer,
            Err(refusal) => {
                match refusal {
                    Refusal::BrokerSilent { .. } => leg.unanswered(),
                    Refusal::BrokerClosed { .. } | Refusal::BrokerGarbage(_) => leg.spurned(),
                    _ => leg.abandoned(),
                }
                drop(broker); // no session there for a device that is told that it has none
                return Err(self.refused(refusal).await);
            }
        };
        let leg = leg.answered(BUSY.contains(&connack.code));
        let metrics = gate.metrics.listener(self.listener);
        metrics.connect_to_connack(self.asked.elapsed());
        metrics.connack(connack.code);
        let code = connack.code;
        let packet = match self.connack_for_device(connack) {
            Ok(packet) => packet,
            Err(refusal) => {
                drop((broker, leg));
                return Err(self.refused(refusal).await);
            }
        };
        if let Err(what) = hand_over(&mut self.link, &packet, deadline).await {
            return Err(Unlinked::Ended(Ending::DeviceLost { what }));
        }
        if code != 0 {
            drop((broker, leg));
            let _ = timeout(LAST_WORD, linger(&mut self.link, LINGER_BYTES)).await;
            return Err(Unlinked::Ended(Ending::BrokerRefused { code }));
        }
        self.seat.control.set_linked();
        gate.devices
            .note_linked(&self.seat.control, self.most_connections, now());
        Ok(Linked {
            link: self.link,
            broker,
            version: self.version,
            most: self.most,
            from_device: self.behind,
            from_broker,
            broker_open,
            leg,
            seat: self.seat,
        })
    }

    /// Sends the CONNECT and reads the CONNACK, until `deadline`, which was `limit` away; gives what came behind it, too.
    async fn ask(
        &mut self,
        broker: &mut Socket,
        deadline: tokio::time::Instant,
        limit: Duration,
    ) -> Result<(Connack, Vec<u8>), Refusal> {
        let packet = std::mem::take(&mut self.packet);
        let control = self.seat.control.clone();
        let answer = timeout_at(deadline, async {
            let asked = broker.ask(&packet, self.version, LARGEST_CONNACK).await;
            asked.map_err(|none| match none {
                NoAnswer::Closed(fault) => Refusal::BrokerClosed {
                    what: fault.to_string(),
                },
                NoAnswer::Garbage(fault) => Refusal::BrokerGarbage(fault),
            })
        });
        // A change of mind does not wait for a slow broker (threats.md R1), nor does a device that has left (V2).
        tokio::select! {
            biased;
            cause = control.ended() => Err(Refusal::Revoked(cause)),
            answer = answer => answer.unwrap_or(Err(Refusal::BrokerSilent { limit })),
            gone = left(&mut self.link, &mut self.behind, "before its CONNACK") => Err(gone),
        }
    }

    /// The broker's CONNACK as the device is to see it: with the client id it got, if it sent none, and without what
    /// would lead it round the gate (Server Reference, MQTT 5.0 §3.2.2.3.16; threats.md M5).
    ///
    /// # Errors
    /// When it cannot be made to fit what the device takes: a larger packet may not be sent [MQTT-3.1.2-24].
    fn connack_for_device(&self, mut connack: Connack) -> Result<Vec<u8>, Refusal> {
        if self.version == Version::V5 {
            connack.properties.remove(Id::ServerReference);
            connack.properties.remove(Id::AssignedClientIdentifier);
            if let Some(assigned) = &self.assigned
                && connack.code == 0
            {
                tell_client_id(&mut connack, assigned);
            }
        }
        let packet = connack.encode(self.version);
        if self.most.is_none_or(|most| packet.len() <= most as usize) {
            return Ok(packet);
        }
        // What may not be sent beyond the device's limit (MQTT 5.0 §3.2.2.3.9, §3.2.2.3.10).
        connack.properties.remove(Id::ReasonString);
        connack.properties.remove(Id::UserProperty);
        let packet = connack.encode(self.version);
        match self.most.filter(|most| packet.len() > *most as usize) {
            None => Ok(packet),
            Some(most) => Err(Refusal::RewriteTooLong(format!(
                "the CONNACK of the broker, with the client id of the device if it sent none, has {} bytes, and the device takes \
                 {most}",
                packet.len()
            ))),
        }
    }

    async fn refused(self, refusal: Refusal) -> Unlinked {
        Unlinked::Refused(refuse(self.link, refusal, Some(self.version), self.most).await)
    }
}

/// Why a device is refused for which no broker was found; an operator is told what only an operator can mend.
fn nobody(none: NoBroker, waited: Duration) -> Refusal {
    match none {
        NoBroker::Away { last } => Refusal::BrokerAway { waited, last },
        NoBroker::OutOfDescriptors => Refusal::OutOfDescriptors,
        NoBroker::OutOfPorts { why, tell } => {
            if tell {
                tracing::error!(event = "out_of_ports", "devices are turned away: {why}");
            }
            Refusal::OutOfPorts { why }
        }
    }
}

/// Waits until the device has left and said nothing behind its CONNECT, which is in `behind`; else for ever.
///
/// What it did say is to reach the broker, whether or not it waits for it (threats.md M3): so once there is something, it
/// is not read on, and who it was is found out when the broker has answered. Dropping it loses nothing.
async fn left(link: &mut DeviceLink, behind: &mut Vec<u8>, during: &'static str) -> Refusal {
    while behind.is_empty() {
        match link.read(behind).await {
            Ok(Got::Bytes) => {}
            Ok(Got::End) | Err(Lost::Io(_)) => return Refusal::DeviceGone { during },
            Err(Lost::Tls(fault)) => return tls_fault(fault),
        }
    }
    std::future::pending().await
}

/// Hands a CONNACK to the device, down to its socket, until `deadline` (threats.md V2).
async fn hand_over(
    link: &mut impl Wire,
    packet: &[u8],
    deadline: tokio::time::Instant,
) -> Result<(), String> {
    let handed = timeout_at(deadline, async {
        write_all(link, packet).await?;
        poll_fn(|cx| link.poll_flush(cx)).await
    });
    match handed.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(_) => Err("it did not take in the CONNACK in time".into()),
    }
}

/// Why TLS broke after the handshake, in words for the one who mends it.
fn tls_fault(fault: rustls::Error) -> Refusal {
    match fault {
        rustls::Error::AlertReceived(alert) => Refusal::ServerRefused {
            alert: format!("{alert:?}"),
        },
        fault => Refusal::TlsFault {
            what: fault.to_string(),
        },
    }
}

/// The device's Maximum Packet Size, if it told one.
pub(super) fn maximum_packet(connect: &Connect) -> Option<u32> {
    match connect.properties.get(Id::MaximumPacketSize)? {
        Value::Four(most) => Some(*most),
        _ => None,
    }
}

/// The CONNECT for the broker; only if the client id that the device has to be told fits into what it takes: a larger packet
/// may not be sent [MQTT-3.1.2-24], and without the id it would not know its own session.
pub(super) fn encode(admission: &Admission, most: Option<u32>) -> Result<Vec<u8>, Refusal> {
    if let Some(most) = most.filter(|_| admission.tell_client_id) {
        let mut shortest = Connack {
            session_present: false,
            code: 0,
            properties: Properties::new(),
        };
        tell_client_id(&mut shortest, &admission.connect.client_id);
        let needs = shortest.encode(Version::V5).len();
        if needs > most as usize {
            return Err(Refusal::RewriteTooLong(format!(
                "the CONNACK with the client id of the device has {needs} bytes, and it takes {most}"
            )));
        }
    }
    let packet = admission.connect.encode();
    packet.map_err(|too_long| {
        Refusal::RewriteTooLong(format!("the CONNECT for the broker: {too_long}"))
    })
}

fn tell_client_id(connack: &mut Connack, client_id: &str) {
    connack.properties.push(Property {
        id: Id::AssignedClientIdentifier,
        value: Value::Text(client_id.to_owned()),
    });
}

/// Tells the device why it is refused, where MQTT has a word for it that the device takes, and closes; bounded in
/// time.
async fn refuse(
    link: DeviceLink,
    refusal: Refusal,
    version: Option<Version>,
    most: Option<u32>,
) -> Refusal {
    let packet = refusal
        .answer(version)
        .map(|(version, code)| Connack::refusal(version, code).encode(version))
        .filter(|packet| most.is_none_or(|most| packet.len() <= most as usize));
    refuse_by(link, refusal, packet).await
}

/// Sends `packet`, and closes; bounded in time.
async fn refuse_by(mut link: DeviceLink, refusal: Refusal, packet: Option<Vec<u8>>) -> Refusal {
    let _ = timeout(LAST_WORD, async {
        if let Some(packet) = packet {
            let _ = write_all(&mut link, &packet).await;
        }
        linger(&mut link, LINGER_BYTES).await;
    })
    .await;
    refusal
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::{Context, Poll};

    use super::*;

    /// A device that takes in nothing.
    struct Stuck {
        takes_over: bool,
    }

    impl Wire for Stuck {
        fn poll_read(&mut self, _: &mut Context<'_>, _: &mut Vec<u8>) -> Poll<io::Result<Got>> {
            Poll::Pending
        }

        fn poll_write(&mut self, _: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
            if self.takes_over {
                Poll::Ready(Ok(plain.len()))
            } else {
                Poll::Pending
            }
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close_write(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// threats.md V2: a device that does not take in its CONNACK has the time of the broker's, and no more.
    #[tokio::test(start_paused = true)]
    async fn a_device_that_does_not_take_its_connack_is_let_go() {
        for takes_over in [true, false] {
            let began = tokio::time::Instant::now();
            let deadline = began + Duration::from_secs(10);
            let handed = hand_over(&mut Stuck { takes_over }, b"\x20\x02\0\0", deadline).await;
            assert!(handed.is_err_and(|what| what.contains("CONNACK")));
            assert_eq!(began.elapsed(), Duration::from_secs(10));
        }
    }
}
