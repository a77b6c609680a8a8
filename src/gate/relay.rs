//! The relay: bytes both ways until both sides have closed.
//!
//! It follows packet boundaries by fixed headers alone. A direction reads only when all it read before is written:
//! a slow reader stops its writer, and memory stays flat (threats.md V7). Plaintext passes through a buffer of the
//! thread; a connection holds only what could not be written.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::broker::socket::Socket;
use crate::mqtt::Version;
use crate::mqtt::disconnect;
use crate::mqtt::framing::{Framer, From, Stop};
use crate::mqtt::length::remaining_length;
use crate::observe::metrics::Metrics;
use crate::rules::reason::Ending;
use crate::tls::stream::{Got, READ};

use super::Gate;
use super::control::{Control, Order};
use super::wire::{DeviceLink, LINGER_BYTES, Wire, linger};

/// How long the second side may be silent once the first has closed.
pub(crate) const HALF_OPEN: Duration = Duration::from_secs(30);

/// How long an end of ours may take: packets under way are finished, the last word is said.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a side may take to read what was sent last, and to close in its turn.
const LINGER: Duration = Duration::from_secs(2);

/// The most that is read of a broker, and forgotten, while it takes in what a device said before it left, in bytes.
const UNHEARD: usize = 16 * 1024 * 1024;

/// How often one direction reads before the other connections of the thread get their turn.
const TURNS: usize = 8;

/// The largest DISCONNECT taken from a broker, in bytes.
const LARGEST_DISCONNECT: usize = 64 * 1024;

thread_local! {
    /// Plaintext on its way. Borrowed inside one poll only.
    static PLAINTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a relay heeds while it goes on.
pub(crate) struct Watch {
    /// Orders.
    pub(crate) control: Arc<Control>,
    /// Knows the trust groups that count now, and where a connection goes for whose certificate none vouches any more.
    pub(crate) gate: Arc<Gate>,
    /// The place of the listener that it came to.
    pub(crate) listener: usize,
}

impl Gate {
    /// After the trust groups have changed: whether one still vouches for the certificate that `device` showed at the listener at
    /// this place, as it did, or none did before.
    pub(super) fn vouches_for(
        &self,
        control: &Control,
        listener: usize,
        device: &DeviceLink,
    ) -> bool {
        let evidence = &control.sitter.evidence;
        let by = evidence.certificate.as_ref();
        let (Some(by), DeviceLink::Tls(stream)) =
            (by.and_then(|shown| shown.voucher.as_ref()), device)
        else {
            return true;
        };
        let in_force = self.glance();
        let secure = in_force.entrances[listener].secure.as_ref();
        let verifier = secure.and_then(|secure| secure.tls.verifier());
        let again =
            verifier.map(|verifier| verifier.judge_open(stream.peer_chain(), control.now()));
        match again {
            Some(Ok(vouched)) => {
                let naming = &vouched.group.naming;
                vouched.group.name == by.group
                    && naming.field == by.field
                    && naming.device(&vouched.certificate).ok() == by.device
            }
            Some(Err(_)) | None => false,
        }
    }
}

impl Watch {
    fn is_vouched_for(&self, device: &DeviceLink) -> bool {
        self.gate.vouches_for(&self.control, self.listener, device)
    }
}

/// Where relayed bytes are counted.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listener: usize,
}

/// One direction.
#[derive(Debug)]
struct Way {
    framer: Framer,
    /// Read, but not yet written: from `at` on.
    pending: Vec<u8>,
    at: usize,
    /// Nothing more is read.
    ended: bool,
    /// Its source said so itself: it has nothing left to say.
    drained: bool,
    /// The other side was told that nothing more comes, or is lost.
    closed: bool,
    /// Said after the last packet.
    last_word: Option<Vec<u8>>,
    /// The front of a broker's DISCONNECT, the last packet that it may send.
    farewell: Option<Vec<u8>>,
    bytes: u64,
}

/// How far a direction goes.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Pace {
    /// Until its source ends.
    GoOn,
    /// Until the packet under way is whole, and those that were read with it; then the last word, and the close.
    ToBoundary,
    /// The same, but the last word has to wait.
    ToBoundaryAndHold,
}

/// What stopped a direction.
enum Pumped {
    /// Both its ends are closed.
    Over,
    /// Its source closed.
    SourceEnded,
    /// A packet that must not pass.
    Stopped(Stop),
    /// Its source failed.
    SourceLost(io::Error),
    /// Its sink failed.
    SinkLost(io::Error),
}

impl Way {
    fn new(framer: Framer) -> Self {
        Self {
            framer,
            pending: Vec::new(),
            at: 0,
            ended: false,
            drained: false,
            closed: false,
            last_word: None,
            farewell: None,
            bytes: 0,
        }
    }

    /// Takes bytes that were read before the relay began.
    fn inject(&mut self, bytes: &[u8]) -> Option<Stop> {
        let walk = self.framer.walk(bytes);
        self.pending.extend_from_slice(&bytes[..walk.pass]);
        self.stop(walk.stop, &bytes[walk.pass..])
    }

    /// Judges what stopped the walk; a broker's DISCONNECT is no offence, but is read whole before it goes on.
    fn stop(&mut self, stop: Option<Stop>, rest: &[u8]) -> Option<Stop> {
        match stop? {
            Stop::BrokersDisconnect => {
                self.farewell = Some(rest.to_vec());
                None
            }
            offence => {
                self.ended = true;
                Some(offence)
            }
        }
    }

    /// Reads a broker's DISCONNECT to its end and passes it on without what would lead the device round the gate
    /// (Server Reference, MQTT 5.0 §3.14.2.2.5; threats.md M5).
    fn poll_farewell(
        &mut self,
        source: &mut impl Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Pumped>> {
        let Some(front) = &mut self.farewell else {
            return Poll::Ready(None);
        };
        let outcome = loop {
            let length = match remaining_length(&front[1..]) {
                Ok(Some((length, spelt))) if length <= LARGEST_DISCONNECT => {
                    Some(1 + spelt + length)
                }
                Ok(None) => None,
                _ => break Some(Pumped::Stopped(Stop::BadLength)),
            };
            if let Some(packet) = length.and_then(|length| front.get(..length)) {
                match disconnect::without_server_reference(packet) {
                    Ok(packet) => self.pending = packet,
                    Err(_) => break Some(Pumped::Stopped(Stop::BadLength)),
                }
                break Some(Pumped::SourceEnded);
            }
            match ready!(source.poll_read(cx, front)) {
                Ok(Got::Bytes) => {}
                Ok(Got::End) => break Some(Pumped::SourceEnded),
                Err(fault) => break Some(Pumped::SourceLost(fault)),
            }
        };
        self.farewell = None;
        self.ended = true;
        Poll::Ready(outcome)
    }

    /// Nothing more will go this way: its sink is gone.
    fn give_up(&mut self) {
        self.pending = Vec::new();
        self.at = 0;
        self.last_word = None;
        self.farewell = None;
        self.ended = true;
        self.closed = true;
    }

    fn is_over(&self) -> bool {
        self.ended && self.closed
    }

    /// Bytes that were taken over and cannot be delivered, when all ends here; a packet cut in the middle is lost, too.
    fn lost(&self) -> usize {
        let pending = self.pending.len() - self.at;
        let cut = !self.closed && !self.framer.at_boundary();
        pending.max(usize::from(cut))
    }

    /// Moves bytes until the source has no more or the sink takes no more.
    fn pump(
        &mut self,
        source: &mut impl Wire,
        sink: &mut impl Wire,
        cx: &mut Context<'_>,
        pace: Pace,
    ) -> Poll<Pumped> {
        for _ in 0..TURNS {
            while self.at < self.pending.len() {
                match ready!(sink.poll_write(cx, &self.pending[self.at..])) {
                    Ok(n) => {
                        self.at += n;
                        self.bytes += n as u64;
                    }
                    Err(fault) => return Poll::Ready(Pumped::SinkLost(fault)),
                }
            }
            if self.at > 0 {
                self.pending = Vec::new();
                self.at = 0;
            }
            // Nothing is read before all that was read is in the kernel's hands: nobody else would send the rest.
            if let Err(fault) = ready!(sink.poll_flush(cx)) {
                return Poll::Ready(Pumped::SinkLost(fault));
            }
            if let Some(pumped) = ready!(self.poll_farewell(source, cx)) {
                return Poll::Ready(pumped);
            }
            if pace != Pace::GoOn && self.framer.at_boundary() {
                self.ended = true;
            }
            if self.ended {
                if pace == Pace::ToBoundaryAndHold {
                    return Poll::Pending;
                }
                match self.last_word.take() {
                    Some(word) if self.framer.at_boundary() => {
                        self.pending = word;
                        continue;
                    }
                    _ => {}
                }
                if !self.closed {
                    match ready!(sink.poll_close_write(cx)) {
                        Ok(()) => self.closed = true,
                        Err(fault) => return Poll::Ready(Pumped::SinkLost(fault)),
                    }
                }
                return Poll::Ready(Pumped::Over);
            }
            if let Some(pumped) = ready!(self.turn(source, sink, cx, pace)) {
                return Poll::Ready(pumped);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and the write of what it gave; what the sink does not take becomes `pending`. Of the
    /// last read on the way to a boundary, what lies behind the boundary is forgotten.
    fn turn(
        &mut self,
        source: &mut impl Wire,
        sink: &mut impl Wire,
        cx: &mut Context<'_>,
        pace: Pace,
    ) -> Poll<Option<Pumped>> {
        PLAINTEXT.with_borrow_mut(|plain| {
            plain.clear();
            plain.reserve(READ);
            let got = source.poll_read(cx, plain);
            let walk = match pace {
                Pace::GoOn => self.framer.walk(plain),
                Pace::ToBoundary | Pace::ToBoundaryAndHold => self.framer.finish(plain),
            };
            let mut at = 0;
            let mut sink_lost = None;
            while at < walk.pass {
                let rest = &plain[at..walk.pass];
                let written = if source.has_ended() {
                    sink.poll_write_last(cx, rest)
                } else {
                    sink.poll_write(cx, rest)
                };
                match written {
                    Poll::Ready(Ok(n)) => at += n,
                    Poll::Ready(Err(fault)) => {
                        sink_lost = Some(fault);
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            self.bytes += at as u64;
            if let Some(fault) = sink_lost {
                return Poll::Ready(Some(Pumped::SinkLost(fault)));
            }
            self.pending.extend_from_slice(&plain[at..walk.pass]);
            if walk.stop.is_some() {
                let offence = self.stop(walk.stop, &plain[walk.pass..]);
                return Poll::Ready(offence.map(Pumped::Stopped));
            }
            match ready!(got) {
                Ok(Got::Bytes) => Poll::Ready(None),
                Ok(Got::End) => {
                    self.ended = true;
                    self.drained = true;
                    Poll::Ready(Some(Pumped::SourceEnded))
                }
                Err(fault) => {
                    self.ended = true;
                    Poll::Ready(Some(Pumped::SourceLost(fault)))
                }
            }
        })
    }
}

/// A device and a broker, linked.
pub(crate) struct Relay {
    device: DeviceLink,
    broker: Socket,
    up: Way,
    down: Way,
    version: Version,
    /// The largest packet that the device takes, in bytes.
    most: u32,
    watch: Watch,
    tally: Tally,
    /// The first cause of the end.
    ending: Option<Ending>,
    /// We end it: nothing more is read but what packets under way need.
    farewell: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    moved_at_deadline: u64,
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) ending: Ending,
    pub(crate) to_broker: u64,
    pub(crate) to_device: u64,
    /// Bytes that had been taken over and could not be delivered.
    pub(crate) lost: usize,
    /// The end was ours: bytes that nobody read may be in the sockets.
    ours: bool,
    /// Both sides have said all and were told that nothing more comes.
    clean: bool,
    device: DeviceLink,
    broker: Socket,
}

impl Relay {
    /// Links `device`, which speaks `version` and takes packets of `most` bytes, and `broker`.
    pub(crate) fn new(
        device: DeviceLink,
        broker: Socket,
        (version, most): (Version, Option<u32>),
        watch: Watch,
        tally: Tally,
    ) -> Self {
        Self {
            device,
            broker,
            most: most.unwrap_or(u32::MAX),
            up: Way::new(Framer::new(From::Device, version)),
            down: Way::new(Framer::new(From::Broker, version)),
            version,
            watch,
            tally,
            ending: None,
            farewell: false,
            deadline: None,
            moved_at_deadline: 0,
        }
    }

    /// Takes what was read behind CONNECT and behind CONNACK.
    pub(crate) fn inject(&mut self, from_device: &[u8], from_broker: &[u8]) {
        if let Some(stop) = self.down.inject(from_broker) {
            self.stopped_by_broker(stop);
        }
        if let Some(stop) = self.up.inject(from_device) {
            self.stopped_by_device(stop);
        }
    }

    /// Relays until both sides have closed, or an end of ours is over; gives why it ended.
    pub(crate) async fn run(&mut self) -> Ending {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The account of a relay that has ended.
    pub(crate) fn close(self, ending: Ending) -> Closed {
        let unsent = |way: &Way, sink: usize| if way.closed { 0 } else { sink };
        let unsent =
            unsent(&self.down, self.device.unsent()) + unsent(&self.up, self.broker.unsent());
        let lost = self.up.lost() + self.down.lost() + unsent;
        Closed {
            ending,
            to_broker: self.up.bytes,
            to_device: self.down.bytes,
            lost,
            ours: self.farewell,
            clean: self.up.drained && self.up.closed && self.down.drained && self.down.closed,
            device: self.device,
            broker: self.broker,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let order = self.watch.control.order(cx.waker());
        if self.watch.control.take_review() && !self.watch.is_vouched_for(&self.device) {
            let _ = self.watch.gate.doubt.send(self.watch.control.clone());
        }
        match order {
            Order::GoOn => {}
            Order::Drain | Order::End(_) if self.farewell => {}
            Order::Drain => self.end(Ending::Drained),
            Order::End(cause) => self.end(Ending::Revoked(cause)),
            Order::Cut => return Poll::Ready(self.cut()),
        }
        let (up, down) = (self.up.bytes, self.down.bytes);
        let farewell = self.farewell;
        self.poll_ways(cx);
        if self.farewell != farewell {
            self.poll_ways(cx); // the other direction ends with it
        }
        let (up, down) = (self.up.bytes - up, self.down.bytes - down);
        let listener = self.tally.metrics.listener(self.tally.listener);
        if up > 0 {
            listener.to_broker(up);
        }
        if down > 0 {
            listener.to_device(down);
        }

        if self.up.is_over() && self.down.is_over() {
            return Poll::Ready(self.ending.clone().unwrap_or(Ending::DeviceClosed));
        }
        self.poll_deadline(cx)
    }

    /// Ends at once; an end that had a cause keeps it.
    fn cut(&self) -> Ending {
        match (&self.ending, self.watch.control.cause()) {
            (None | Some(Ending::Revoked(_)), Some(cause)) => Ending::Revoked(cause),
            _ => Ending::Cut,
        }
    }

    /// Moves both directions as far as they go.
    fn poll_ways(&mut self, cx: &mut Context<'_>) {
        while !self.up.is_over() {
            let pace = if self.farewell {
                Pace::ToBoundary
            } else {
                Pace::GoOn
            };
            let pumped = self.up.pump(&mut self.device, &mut self.broker, cx, pace);
            match pumped {
                Poll::Pending | Poll::Ready(Pumped::Over) => break,
                Poll::Ready(Pumped::SourceEnded) => self.note(Ending::DeviceClosed),
                Poll::Ready(Pumped::Stopped(stop)) => self.stopped_by_device(stop),
                Poll::Ready(Pumped::SourceLost(fault)) => self.device_lost(&fault),
                // What the broker said before it went is still read.
                Poll::Ready(Pumped::SinkLost(fault)) => {
                    self.note(Ending::BrokerLost {
                        what: fault.to_string(),
                    });
                    self.up.give_up();
                }
            }
        }
        while !self.down.is_over() {
            // A device that hears our last word closes at once (MQTT 5.0 §3.14.4), and would cut short what it sends.
            let pace = match (self.farewell, self.up.ended) {
                (false, _) => Pace::GoOn,
                (true, true) => Pace::ToBoundary,
                (true, false) => Pace::ToBoundaryAndHold,
            };
            let pumped = self.down.pump(&mut self.broker, &mut self.device, cx, pace);
            match pumped {
                Poll::Pending | Poll::Ready(Pumped::Over) => break,
                Poll::Ready(Pumped::SourceEnded) => self.note(Ending::BrokerClosed),
                Poll::Ready(Pumped::Stopped(stop)) => self.stopped_by_broker(stop),
                Poll::Ready(Pumped::SourceLost(fault)) => {
                    self.note(Ending::BrokerLost {
                        what: fault.to_string(),
                    });
                    self.up.give_up();
                }
                Poll::Ready(Pumped::SinkLost(fault)) => {
                    // TLS that can write no more (not the socket): a device that is never answered must not stay.
                    if fault.kind() == io::ErrorKind::Other {
                        self.up.ended = true;
                        cx.waker().wake_by_ref(); // that way was polled already
                    }
                    self.device_lost(&fault);
                }
            }
        }
    }

    /// Remembers the first cause of the end.
    fn note(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Begins an end of ours: packets under way are finished, an MQTT 5 device is told why, both sides are closed.
    fn end(&mut self, ending: Ending) {
        if self.version == Version::V5
            && let Some(code) = ending.last_word()
        {
            self.down.last_word = Some(match ending {
                Ending::Drained => {
                    let in_force = self.watch.gate.glance();
                    in_force.farewell.disconnect(self.most as usize)
                }
                _ => disconnect::packet(code),
            });
        }
        self.note(ending);
        self.farewell = true;
        self.arm(FAREWELL);
    }

    fn stopped_by_device(&mut self, stop: Stop) {
        self.end(match stop {
            Stop::SecondConnect => Ending::SecondConnect,
            Stop::Forbidden(packet) => Ending::ForbiddenPacket { packet },
            Stop::BadLength | Stop::BrokersDisconnect => Ending::MalformedPacket,
        });
    }

    fn stopped_by_broker(&mut self, stop: Stop) {
        let what = match stop {
            Stop::Forbidden(packet) => format!("a packet of type {packet}"),
            Stop::SecondConnect => "a CONNECT".into(),
            Stop::BadLength | Stop::BrokersDisconnect => "a malformed packet".into(),
        };
        self.end(Ending::BrokerGarbage { what });
    }

    /// The device is gone; what it sent before is still read, to its end, and goes to the broker.
    fn device_lost(&mut self, fault: &io::Error) {
        self.note(Ending::DeviceLost {
            what: fault.to_string(),
        });
        self.down.give_up();
    }

    /// Both sides have so long from now.
    fn arm(&mut self, limit: Duration) {
        self.moved_at_deadline = self.up.bytes + self.down.bytes;
        self.deadline = Some(Box::pin(sleep_until(Instant::now() + limit)));
    }

    /// Once a side has closed or an end of ours has begun, the rest is bounded in time. While both are open there is
    /// no timer: dead peers are found by the kernel, silent devices by the broker's judgement of their keep alive.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if self.deadline.is_none() && (self.up.ended || self.down.ended) {
            self.arm(HALF_OPEN);
        }
        while let Some(deadline) = &mut self.deadline {
            ready!(deadline.as_mut().poll(cx));
            let moved = self.up.bytes + self.down.bytes;
            if self.farewell || moved == self.moved_at_deadline {
                let ending = match self.ending.take() {
                    Some(ending) if self.farewell => ending,
                    _ => Ending::HalfOpen { limit: HALF_OPEN },
                };
                return Poll::Ready(ending);
            }
            self.arm(HALF_OPEN);
        }
        Poll::Pending
    }
}

impl Closed {
    /// Lets both sides take in what was sent last, then closes them; bounded in time. Dropping it closes at once.
    ///
    /// A device that has left may have said much that a slow broker has yet to read, its DISCONNECT behind it: the
    /// broker has as long as it had if the device had only closed its side. Who let its time as the second side go by
    /// has no more. Each side is let go as soon as it is done with.
    pub(crate) async fn linger(self) {
        let Self {
            mut device,
            mut broker,
            ..
        } = self;
        let (limit, most) = match self.ending {
            Ending::Cut | Ending::HalfOpen { .. } => return,
            _ if self.clean => return,
            _ if self.ours => (LINGER, LINGER_BYTES),
            _ => (HALF_OPEN, UNHEARD),
        };
        tokio::join!(
            async move {
                let _ = timeout(LINGER, linger(&mut device, LINGER_BYTES)).await;
            },
            async move {
                let _ = timeout(limit, linger(&mut broker, most)).await;
            }
        );
    }
}

#[cfg(test)]
mod tests;
