//! One connection that publishes: what it says, what it hears, and when it is done.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::link::{Heard, Link};
use super::relay::{Due, Plan, Records, Spoken};
use super::stage::Seat;
use super::trouble::Trouble;
use crate::mqtt::Version;
use crate::mqtt::length;

/// How much is put together before it is sent, in bytes: a little more than one record, or many small ones.
const BATCH: usize = 64 * 1024;

/// Plaintext of a TLS record, in bytes (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

const PINGREQ: &[u8] = &[0xc0, 0];

/// One connection that publishes.
pub(super) struct Speaker {
    link: Link,
    /// A PUBLISH, whole; its packet id is written anew for each.
    message: Vec<u8>,
    /// Where the packet id is in it; `None`: QoS 0.
    id_at: Option<usize>,
    size: u64,
    pace: Pace,
    due: Rc<Due>,
    end: Instant,
    spoken: Spoken,
    packed: bool,
    /// The SUBSCRIBE that comes first, if any, and whether it was answered.
    subscribe: Option<Vec<u8>>,
    subscribed: bool,
    /// Messages that wait for their answer: the packet id, and when each was due.
    waiting: VecDeque<(u16, Instant)>,
    next_id: u16,
    /// What was heard and is not a whole packet yet.
    heard: Vec<u8>,
    /// Messages of QoS 0 that were said, and that the fence will confirm.
    unconfirmed: u64,
    fence: Fence,
}

/// What the next message waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pace {
    /// For room in the socket, and for at most so many answers.
    Fast(usize),
    /// For its time.
    Timed,
    /// For the last one to come back, and for its time if the run has a rate.
    PingPong { timed: bool },
}

/// The PINGREQ behind the last message: when it is answered, the server has read all before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fence {
    Ahead,
    Said,
    Passed,
}

impl Speaker {
    /// Publishes to `topic` over `link`: what is `due`, or until the end, and leaves the link among those that have spoken.
    pub(super) fn new(
        link: Link,
        plan: &Plan,
        topic: &str,
        version: Version,
        due: Rc<Due>,
        end: Instant,
        spoken: Spoken,
    ) -> Self {
        let (message, id_at) = publish(topic, plan.size, plan.qos, version);
        let timed = plan.rate.is_some();
        Self {
            link,
            message,
            id_at,
            size: plan.size as u64,
            pace: match (plan.ping_pong, timed, plan.qos) {
                (true, ..) => Pace::PingPong { timed },
                (false, true, _) => Pace::Timed,
                (false, false, 0) => Pace::Fast(usize::MAX),
                (false, false, _) => Pace::Fast(plan.window),
            },
            due,
            end,
            spoken,
            packed: plan.records == Records::Packed,
            subscribe: plan.ping_pong.then(|| subscribe(topic, version)),
            subscribed: !plan.ping_pong,
            waiting: VecDeque::new(),
            next_id: 0,
            heard: Vec::new(),
            unconfirmed: 0,
            fence: Fence::Ahead,
        }
    }

    /// Speaks to the end, and writes into the book what became of it. After `patience` it is over in any case.
    pub(super) async fn speak(mut self, seat: Rc<Seat>, patience: Instant) {
        let spoken = std::future::poll_fn(|cx| self.poll(cx, &seat));
        let spoken = match tokio::time::timeout_at(patience.into(), spoken).await {
            Ok(spoken) => spoken,
            Err(_) => Err(Trouble::of("timeout")),
        };
        match spoken {
            Ok(()) => {
                self.confirm(&seat);
                self.spoken.borrow_mut().push(self.link);
            }
            Err(trouble) => {
                let mut book = seat.book();
                let lost = self.unconfirmed + self.waiting.len() as u64;
                if trouble.word == "timeout" {
                    for (_, at) in &self.waiting {
                        book.wait(at.elapsed());
                    }
                }
                // A connection that breaks with nothing under way is still one that broke.
                if lost == 0 {
                    book.begin_many(1);
                }
                book.fail_many(trouble, lost.max(1));
            }
        }
    }

    fn confirm(&mut self, seat: &Seat) {
        let mut book = seat.book();
        book.confirm(self.unconfirmed);
        book.carry(self.unconfirmed * self.size);
        self.unconfirmed = 0;
    }

    fn poll(&mut self, cx: &mut Context<'_>, seat: &Seat) -> Poll<Result<(), Trouble>> {
        loop {
            while let Poll::Ready(heard) = self.link.poll_read(cx, &mut self.heard)? {
                self.digest(seat)?;
                if heard != Heard::Something {
                    return Poll::Ready(Err(Trouble::closed()));
                }
            }
            if self.fence == Fence::Passed {
                return Poll::Ready(Ok(()));
            }
            match self.link.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault.into())),
                Poll::Pending => return Poll::Pending,
            }
            if !self.fill(cx, seat)? {
                return Poll::Pending;
            }
        }
    }

    /// Says what can be said now. Gives whether that was anything.
    fn fill(&mut self, cx: &mut Context<'_>, seat: &Seat) -> Result<bool, Trouble> {
        if let Some(subscribe) = self.subscribe.take() {
            self.link.say(&subscribe)?;
            return Ok(true);
        }
        if !self.subscribed || self.fence != Fence::Ahead {
            return Ok(false);
        }
        let (mut said, mut bytes, mut over) = (0, 0, false);
        let mut record = Vec::new();
        while bytes < BATCH {
            match self.poll_due(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => {
                    over = true;
                    break;
                }
                Poll::Ready(Some(at)) => {
                    self.say(at, seat, &mut record)?;
                    said += 1;
                    bytes += self.message.len();
                }
            }
        }
        if !record.is_empty() {
            self.link.say(&record)?;
        }
        if said > 0 && self.answers_to_none() {
            self.unconfirmed += said;
            seat.book().pass(said);
        }
        if over && self.waiting.is_empty() {
            self.link.say(PINGREQ)?;
            self.fence = Fence::Said;
            return Ok(true);
        }
        Ok(said > 0)
    }

    /// Whether messages are answered by nothing but the fence.
    fn answers_to_none(&self) -> bool {
        self.id_at.is_none() && !matches!(self.pace, Pace::PingPong { .. })
    }

    /// When the next message was due, if it may be said now; `None`: there are no more.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        match self.pace {
            Pace::PingPong { .. } if !self.waiting.is_empty() => Poll::Pending,
            Pace::Fast(window) if self.waiting.len() >= window => Poll::Pending,
            Pace::Timed | Pace::PingPong { timed: true } => self.due.poll_next(cx),
            Pace::PingPong { timed: false } | Pace::Fast(_) => {
                let now = Instant::now();
                Poll::Ready((now < self.end && !self.due.is_closed()).then_some(now))
            }
        }
    }

    fn say(&mut self, at: Instant, seat: &Seat, record: &mut Vec<u8>) -> Result<(), Trouble> {
        if let Some(place) = self.id_at {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            self.message[place..place + 2].copy_from_slice(&self.next_id.to_be_bytes());
        }
        if self.pace == Pace::Timed || self.pace == (Pace::PingPong { timed: true }) {
            seat.book().begin(at);
        } else {
            seat.book().begin_many(1);
        }
        if !self.answers_to_none() {
            self.waiting.push_back((self.next_id, at));
        }
        if !self.packed {
            return Ok(self.link.say(&self.message)?);
        }
        if !record.is_empty() && record.len() + self.message.len() > RECORD {
            self.link.say(record)?;
            record.clear();
        }
        record.extend_from_slice(&self.message);
        Ok(())
    }

    /// Takes the whole packets of what was heard.
    fn digest(&mut self, seat: &Seat) -> Result<(), Trouble> {
        let heard = std::mem::take(&mut self.heard);
        let mut at = 0;
        while let Some((&first, rest)) = heard[at..].split_first() {
            let malformed = |why| Trouble::said("other", &why);
            let Some((length, spelt)) = length::remaining_length(rest).map_err(malformed)? else {
                break;
            };
            let Some(body) = rest.get(spelt..spelt + length) else {
                break;
            };
            self.packet(first, body, seat)?;
            at += 1 + spelt + length;
        }
        self.heard = heard;
        self.heard.drain(..at);
        Ok(())
    }

    fn packet(&mut self, first: u8, body: &[u8], seat: &Seat) -> Result<(), Trouble> {
        let ping_pong = matches!(self.pace, Pace::PingPong { .. });
        match (first >> 4, body) {
            (3, _) if ping_pong => {
                if let Some((_, at)) = self.waiting.pop_front() {
                    self.answered("round_trip", at, seat);
                }
            }
            (4, [high, low, more @ ..]) if !ping_pong => {
                let id = u16::from_be_bytes([*high, *low]);
                let place = self.waiting.iter().position(|(waiting, _)| *waiting == id);
                if let Some((_, at)) = place.and_then(|place| self.waiting.remove(place)) {
                    match refusal(more) {
                        None => self.answered("puback", at, seat),
                        Some(trouble) => seat.book().fail(trouble),
                    }
                }
            }
            (9, codes) => {
                if codes.last().is_none_or(|code| *code >= 0x80) {
                    return Err(Trouble::said("other", &"the broker refused SUBSCRIBE"));
                }
                self.subscribed = true;
            }
            (13, _) => self.fence = Fence::Passed,
            (14, _) => return Err(Trouble::said("closed", &"DISCONNECT from the broker")),
            _ => {}
        }
        Ok(())
    }

    fn answered(&self, name: &'static str, at: Instant, seat: &Seat) {
        let mut book = seat.book();
        book.time(name, at.elapsed());
        book.succeed(at.elapsed());
        book.carry(self.size);
    }
}

/// What a PUBACK says behind its packet id: nothing, which is success, or a reason code (MQTT 5.0 §3.4.2.1).
fn refusal(behind_id: &[u8]) -> Option<Trouble> {
    let code = *behind_id.first()?;
    (code >= 0x80).then(|| Trouble::said("publish_refused", &format_args!("code 0x{code:02x}")))
}

/// A PUBLISH, and where its packet id is.
fn publish(topic: &str, size: usize, qos: u8, version: Version) -> (Vec<u8>, Option<usize>) {
    let properties = usize::from(version == Version::V5);
    let id = if qos == 0 { 0 } else { 2 };
    let mut packet = vec![0x30 | qos << 1];
    length::put(2 + topic.len() + id + properties + size, &mut packet);
    put_text(topic, &mut packet);
    let id_at = (qos > 0).then_some(packet.len());
    let head = packet.len() + id + properties;
    packet.resize(head, 0);
    // Not all the same, in case somebody on the way compresses.
    packet.extend((0..size).map(|_| fastrand::u8(..)));
    (packet, id_at)
}

/// A SUBSCRIBE to `topic` with QoS 0.
fn subscribe(topic: &str, version: Version) -> Vec<u8> {
    let properties = usize::from(version == Version::V5);
    let mut packet = vec![0x82];
    length::put(2 + properties + 2 + topic.len() + 1, &mut packet);
    packet.extend_from_slice(&[0xff, 0xff]);
    packet.extend(std::iter::repeat_n(0, properties));
    put_text(topic, &mut packet);
    packet.push(0);
    packet
}

/// The command line sees to it that a topic is not longer than MQTT allows.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..length.into()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_puback_may_be_a_refusal() {
        assert!(refusal(&[]).is_none(), "success, in all versions");
        assert!(refusal(&[0x10, 0]).is_none(), "nobody has subscribed to it");
        let refused = refusal(&[0x97, 0]).expect("a quota");
        assert_eq!(
            (refused.word, &*refused.said),
            ("publish_refused", "code 0x97")
        );
    }

    #[test]
    fn messages_are_written_as_the_standard_has_them() {
        let (packet, id_at) = publish("a/b", 2, 1, Version::V311);
        assert_eq!(
            (&packet[..9], packet.len(), id_at),
            (&b"\x32\x09\0\x03a/b\0\0"[..], 11, Some(7))
        );
        let (packet, id_at) = publish("a/b", 200, 0, Version::V5);
        assert_eq!(
            (&packet[..9], packet.len(), id_at),
            (&b"\x30\xce\x01\0\x03a/b\0"[..], 209, None)
        );
        assert_eq!(subscribe("t", Version::V311), b"\x82\x06\xff\xff\0\x01t\0");
        assert_eq!(subscribe("t", Version::V5), b"\x82\x07\xff\xff\0\0\x01t\0");
    }
}
