//! The walk of one connection: Accepted (→ Accepted, behind a balancer) → Secured → Asking → Admitted → Linked → Closed; then one log line, one count.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::broker::dial::Kept;
use crate::mqtt::Version;
use crate::observe::logging::{CertificateLine, Event, LONGEST_VALUE, Line};
use crate::observe::metrics::OpenGuard;
use crate::rules::device::{DeviceId, Mode};
use crate::rules::identity::Certificate;
use crate::rules::policy::is_token;
use crate::rules::reason::{Ending, Refusal};
use crate::tls::verify::Shown;

use super::admit::{Linked, Unlinked};
use super::control::{Roll, Seat};
use super::crowd::Place;
use super::handshake::Accepted;
use super::in_force::InForce;
use super::listener::reset;
use super::relay::{Relay, Tally, Watch};
use super::room::Permit;
use super::{Gate, now};

/// What is learnt of a connection on its way: the log line, field by field.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) device: Option<DeviceId>,
    pub(crate) mode: Option<Mode>,
    pub(crate) tls_version: Option<&'static str>,
    pub(crate) cipher: Option<&'static str>,
    pub(crate) resumed: Option<bool>,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) trust: Option<Arc<str>>,
    pub(crate) mqtt_version: Option<Version>,
    client_id_asked: Option<Box<str>>,
    client_id_given: Option<Box<str>>,
    pub(crate) broker: Option<Arc<str>>,
    /// The device's address, as its balancer told it.
    pub(crate) from: Option<SocketAddr>,
    /// The name of this connection in the header that the broker was sent.
    pub(crate) unique_id: Option<Box<str>>,
    pub(crate) waits_for_turn: bool,
    pub(crate) certificate: Option<Arc<Certificate>>,
    to_broker: Option<u64>,
    to_device: Option<u64>,
}

impl Facts {
    /// Keeps of the client id that the device asked for what the log shows.
    pub(crate) fn note_asked(&mut self, client_id: &str) {
        // A device that put its token into the wrong field must not find it in a log (threats.md K2).
        let shown = if is_token(client_id.as_bytes()) {
            "(a token)"
        } else {
            client_id
        };
        self.client_id_asked = Some(kept(shown));
    }

    /// Keeps of the client id that the broker was told what the log shows.
    pub(crate) fn note_given(&mut self, client_id: &str) {
        self.client_id_given = Some(kept(client_id));
    }
}

/// What the log shows of `text`, and one character more, so that it can tell of the cut: a connection that stays for weeks
/// does not keep 64 KiB of client id.
fn kept(text: &str) -> Box<str> {
    match text.char_indices().nth(LONGEST_VALUE + 1) {
        Some((end, _)) => text[..end].into(),
        None => text.into(),
    }
}

/// How a connection ended, whichever step it reached.
#[derive(Debug)]
enum Outcome {
    Refused(Refusal),
    Ended(Ending),
}

/// Tells of one connection, once, on every way out, a panic included (threats.md V9).
struct Teller<'a> {
    gate: &'a Gate,
    listener: usize,
    /// Of whoever opened the connection: the device, or its balancer.
    address: SocketAddr,
    began: Instant,
    facts: Box<Facts>,
    /// A broker took it.
    linked: bool,
    told: bool,
}

impl<'a> Teller<'a> {
    fn new(gate: &'a Gate, listener: usize, address: SocketAddr) -> Self {
        Self {
            gate,
            listener,
            address,
            began: Instant::now(),
            facts: Box::default(),
            linked: false,
            told: false,
        }
    }

    fn tell(&mut self, outcome: &Outcome) {
        self.told = true;
        let metrics = self.gate.metrics.listener(self.listener);
        let lasted = self.began.elapsed();
        let (event, reason, why) = match outcome {
            Outcome::Refused(refusal) => {
                metrics.refused(refusal.label());
                (Event::Refused, refusal.label(), refusal.to_string())
            }
            Outcome::Ended(ending) => (Event::Closed, ending.label(), ending.to_string()),
        };
        metrics.closed(lasted);
        let facts = &*self.facts;
        self.gate.logger.connection(&Line {
            event,
            reason,
            why: &why,
            address: facts.from.unwrap_or(self.address),
            proxy: facts.from.map(|_| self.address),
            listener: self.gate.listener_name(self.listener),
            device: facts.device.as_ref(),
            mode: facts.mode,
            tls_version: facts.tls_version,
            cipher: facts.cipher,
            resumed: facts.resumed,
            sni: facts.sni.as_deref(),
            alpn: facts.alpn.as_deref(),
            certificate: facts.certificate.as_ref().map(|shown| CertificateLine {
                subject: &shown.subject,
                issuer: &shown.issuer,
                serial: &shown.serial,
                fingerprint: shown.print,
            }),
            trust: facts.trust.as_deref(),
            mqtt_version: facts.mqtt_version,
            client_id_asked: facts.client_id_asked.as_deref(),
            client_id_given: facts.client_id_given.as_deref(),
            broker: facts.broker.as_deref(),
            unique_id: facts.unique_id.as_deref(),
            bytes_to_broker: facts.to_broker,
            bytes_to_device: facts.to_device,
            duration: Some(lasted),
        });
    }

    /// Sets the relay up, with what was read of either side before it; tells of those that were not linked.
    fn carry(
        &mut self,
        linked: Result<(Linked, Mode, Place), Unlinked>,
        gate: &Arc<Gate>,
    ) -> Option<Box<Carried>> {
        let (linked, mode, place) = match linked {
            Ok(linked) => linked,
            Err(Unlinked::Refused(refusal)) => {
                self.tell(&Outcome::Refused(refusal));
                return None;
            }
            Err(Unlinked::Ended(ending)) => {
                self.tell(&Outcome::Ended(ending));
                return None;
            }
        };
        self.linked = true;
        let metrics = &self.gate.metrics;
        let tally = Tally {
            metrics: metrics.clone(),
            listener: self.listener,
        };
        let seat = linked.seat;
        let watch = Watch {
            control: seat.control.clone(),
            gate: gate.clone(),
            listener: self.listener,
        };
        let mut relay = Relay::new(
            linked.link,
            linked.broker,
            (linked.version, linked.most),
            watch,
            tally,
        );
        relay.inject(&linked.from_device, &linked.from_broker);
        Some(Box::new(Carried {
            relay,
            seat,
            place,
            open: [
                metrics.listener(self.listener).opened(mode),
                linked.broker_open,
            ],
            leg: linked.leg,
        }))
    }

    /// Tells of a relay that has ended. Gives what is left to do: let both sides take in what was sent last.
    fn close(&mut self, carried: Box<Carried>, ending: Ending) -> (Seat, Place, Lingering) {
        let Carried {
            relay,
            seat,
            place,
            open,
            leg,
        } = *carried;
        let closed = relay.close(ending);
        self.facts.to_broker = Some(closed.to_broker);
        self.facts.to_device = Some(closed.to_device);
        if self.gate.is_draining() && (closed.lost > 0 || closed.ending == Ending::Cut) {
            self.gate.note_loss();
        }
        drop((open, leg));
        if let Ending::Revoked(cause) = closed.ending {
            self.gate.metrics.revoked(cause);
        }
        self.tell(&Outcome::Ended(closed.ending.clone()));
        (seat, place, Box::pin(closed.linger()))
    }
}

type Lingering = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        if !self.told {
            // But for a panic, only the end of a drain drops a walk.
            let outcome = match (std::thread::panicking(), self.linked) {
                (true, false) => Outcome::Refused(Refusal::GateFault),
                (true, true) => Outcome::Ended(Ending::GateFault),
                (false, false) => Outcome::Refused(Refusal::Draining),
                (false, true) => Outcome::Ended(Ending::Cut),
            };
            self.tell(&outcome);
        }
    }
}

/// Tells of a connection that got no further than the door.
pub(crate) fn turned_away(gate: &Gate, listener: usize, address: SocketAddr, refusal: Refusal) {
    gate.metrics.listener(listener).accepted();
    Teller::new(gate, listener, address).tell(&Outcome::Refused(refusal));
}

/// Walks one accepted connection to its end. `permit` is its place among `limits.connections`.
///
/// Dropping it half-way closes both sides at once, and tells so.
pub(crate) async fn walk(accepted: Accepted, gate: Arc<Gate>, roll: Arc<Roll>, permit: Permit) {
    let mut teller = Teller::new(&gate, accepted.listener.place, accepted.address);
    gate.metrics.listener(teller.listener).accepted();
    // What the steps before the relay need is in a box of its own, and goes when they are over.
    let linked = Box::pin(link(accepted, &gate, &roll, &mut teller.facts)).await;
    if let Some(mut carried) = teller.carry(linked, &gate) {
        let ending = carried.relay.run().await;
        let (seat, _place, lingering) = teller.close(carried, ending);
        tokio::select! {
            () = lingering => {}
            () = seat.control.cut() => {} // all was said; only the other side's close is not waited for
        }
    }
    drop(teller);
    drop(permit);
}

/// A connection from its CONNACK to its close. An idle one is little more than this, so what it has is in one box, and
/// what others need for a moment is elsewhere.
struct Carried {
    relay: Relay,
    seat: Seat,
    /// Among the connections of its address.
    place: Place,
    /// Counted as open, at the listener and at the broker.
    open: [OpenGuard; 2],
    /// Counted at the broker's endpoint.
    leg: Kept,
}

/// The steps before the relay. Each consumes the one before, so none can be skipped or reordered.
async fn link(
    accepted: Accepted,
    gate: &Gate,
    roll: &Arc<Roll>,
    facts: &mut Facts,
) -> Result<(Linked, Mode, Place), Unlinked> {
    // One configuration for all of its way in; it is let go with the steps.
    let in_force: &InForce = &gate.in_force();
    let arrived = accepted
        .proxied(in_force, facts)
        .await
        .map_err(Unlinked::Refused)?;
    // Here the device's own address is known, and nothing was computed for it yet.
    let entered = if arrived.is_a_balancers_own(in_force, facts) {
        Ok(Place::uncounted())
    } else {
        in_force.crowd.enter(arrived.address.ip())
    };
    let place = match entered {
        Ok(place) => place,
        Err(refusal) => {
            reset(arrived.socket);
            return Err(Unlinked::Refused(refusal));
        }
    };
    let secured = arrived
        .handshake(gate, in_force, facts)
        .await
        .map_err(Unlinked::Refused)?;
    let mode = secured.mode;
    if let Some(Shown::Vouched(vouched)) = &secured.shown {
        let listener = gate.metrics.listener(secured.listener.place);
        listener.certificate_remaining(vouched.certificate.not_after - now());
    }
    let asking = secured
        .read_connect(gate, in_force, facts)
        .await
        .map_err(Unlinked::Refused)?;
    let admitted = asking
        .admit(gate, in_force, roll, facts)
        .await
        .map_err(Unlinked::Refused)?;
    let linked = admitted.dial(gate, in_force, facts).await?;
    Ok((linked, mode, place))
}

#[cfg(test)]
mod tests;
