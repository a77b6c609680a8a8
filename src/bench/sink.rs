//! A broker that costs next to nothing, so that what is measured is what stands in front of it.
//!
//! It takes every CONNECT, acknowledges QoS 1, answers pings, and gives a connection that has subscribed to anything
//! its own messages back. It keeps nothing and knows no other connection.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{OnceLock, mpsc};

use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::{Fault, limits};
use crate::mqtt::Version;
use crate::mqtt::connack::Connack;
use crate::mqtt::length;
use crate::mqtt::properties::Properties;

/// How much is read at once, in bytes; one such room serves all connections.
const READ: usize = 256 * 1024;

/// The largest packet that is taken, in bytes.
const LARGEST: usize = 16 * 1024 * 1024;

/// The number of the thread that [`start`] started.
static THREAD: OnceLock<u32> = OnceLock::new();

/// The sink's thread in this process, if it has one.
pub(super) fn thread() -> Option<u32> {
    THREAD.get().copied()
}

/// Starts it on a thread of its own; gives where it listens. It ends with the process.
///
/// # Errors
/// When it cannot listen there.
pub fn start(address: SocketAddr) -> Result<SocketAddr, Fault> {
    let (listener, address) = listen(address)?;
    let (to, started) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("sink".into())
        .spawn(move || {
            let _ = to.send(own_number());
            serve(listener)
        });
    spawned.map_err(|why| Fault::Failed(format!("cannot start the sink: {why}")))?;
    // 0 is the number of no thread: where /proc is hidden, nothing is seen of it.
    THREAD.get_or_init(|| started.recv().ok().flatten().unwrap_or(0));
    Ok(address)
}

/// Runs it on this thread, until the process ends; `listening` is told where.
///
/// # Errors
/// When it cannot listen there.
pub fn run(address: SocketAddr, listening: impl FnOnce(SocketAddr)) -> Result<(), Fault> {
    limits::allow(0)?;
    let (listener, address) = listen(address)?;
    listening(address);
    serve(listener).map_err(|why| Fault::Failed(format!("the sink ended: {why}")))
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Fault> {
    let bound = || {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        io::Result::Ok((listener, address))
    };
    bound().map_err(|why| {
        Fault::Failed(format!("the sink cannot listen on {address}: {why}; stop what listens there, or name another port"))
    })
}

/// The number that the kernel gave to this thread.
fn own_number() -> Option<u32> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

fn serve(listener: TcpListener) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let room = Rc::new(RefCell::new(vec![0; READ].into_boxed_slice()));
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let room = room.clone();
                    tokio::task::spawn_local(async move {
                        // A connection that breaks is over, which is all there is to say about it.
                        let _ = talk(socket, &room).await;
                    });
                }
                // Out of descriptors: the next accept would fail at once.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    })
}

async fn talk(mut socket: TcpStream, room: &RefCell<Box<[u8]>>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut broker = Broker::default();
    let mut answer = Vec::new();
    loop {
        let goes_on = std::future::poll_fn(|cx| {
            let mut room = room.borrow_mut();
            let mut buffer = ReadBuf::new(&mut room);
            std::task::ready!(Pin::new(&mut socket).poll_read(cx, &mut buffer))?;
            let heard = buffer.filled();
            let goes_on = !heard.is_empty() && broker.take(heard, &mut answer);
            std::task::Poll::Ready(io::Result::Ok(goes_on))
        })
        .await?;
        if !answer.is_empty() {
            socket.write_all(&answer).await?;
            answer.clear();
            answer.shrink_to(4096);
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// The broker's side of one connection, sans-I/O.
struct Broker {
    version: Version,
    subscribed: bool,
    /// The front of a packet whose rest has not come.
    part: Vec<u8>,
    /// Bytes of a PUBLISH that are still to come and that nobody needs.
    skip: usize,
    /// What is to be acknowledged after them.
    owed: Option<[u8; 2]>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            version: Version::V311,
            subscribed: false,
            part: Vec::new(),
            skip: 0,
            owed: None,
        }
    }
}

impl Broker {
    /// Takes bytes, in whatever pieces they come, and adds the answer to `out`. Gives whether the connection goes on.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.part.is_empty() {
            return self.walk(input, out);
        }
        let mut joined = std::mem::take(&mut self.part);
        joined.extend_from_slice(input);
        self.walk(&joined, out)
    }

    fn walk(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> bool {
        loop {
            let skipped = self.skip.min(input.len());
            input = &input[skipped..];
            self.skip -= skipped;
            if self.skip == 0
                && let Some(id) = self.owed.take()
            {
                acknowledge(id, out);
            }
            let Some((&first, rest)) = input.split_first() else {
                return true;
            };
            let (length, spelt) = match length::remaining_length(rest) {
                Ok(Some(read)) => read,
                Ok(None) => {
                    self.part.extend_from_slice(input);
                    return true;
                }
                Err(_) => return false,
            };
            if length > LARGEST {
                return false;
            }
            let body = &rest[spelt..];
            if let Some(body) = body.get(..length) {
                if !self.packet(first, body, out) {
                    return false;
                }
                input = &rest[spelt + length..];
                continue;
            }
            match owed(first, body) {
                Some(owed) if !self.subscribed => {
                    self.skip = length - body.len();
                    self.owed = owed.puback;
                }
                _ => self.part.extend_from_slice(input),
            }
            return true;
        }
    }

    /// Answers one whole packet. Gives whether the connection goes on.
    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> bool {
        match first >> 4 {
            1 => self.connect(body, out),
            3 => self.publish(first, body, out),
            4 => true,
            8 => self.subscribe(body, out),
            10 => self.unsubscribe(body, out),
            12 => {
                out.extend_from_slice(&[0xd0, 0]);
                true
            }
            _ => false,
        }
    }

    fn connect(&mut self, body: &[u8], out: &mut Vec<u8>) -> bool {
        let level = text(body).and_then(|(_, rest)| rest.first());
        self.version = match level {
            Some(3) => Version::V31,
            Some(4) => Version::V311,
            Some(5) => Version::V5,
            _ => return false,
        };
        let connack = Connack {
            session_present: false,
            code: 0,
            properties: Properties::new(),
        };
        out.extend_from_slice(&connack.encode(self.version));
        true
    }

    fn publish(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(Owed { puback }) = owed(first, body) else {
            return false;
        };
        if let Some(id) = puback {
            acknowledge(id, out);
        }
        if self.subscribed
            && let Some((topic, rest)) = text(body)
        {
            let rest = &rest[if puback.is_some() { 2 } else { 0 }..];
            out.push(0x30);
            length::put(2 + topic.len() + rest.len(), out);
            out.extend_from_slice(&body[..2 + topic.len()]);
            out.extend_from_slice(rest);
        }
        true
    }

    fn subscribe(&mut self, body: &[u8], out: &mut Vec<u8>) -> bool {
        self.subscribed = true;
        // A topic filter and its options.
        self.answer_filters(0x90, body, 1, out)
    }

    fn unsubscribe(&mut self, body: &[u8], out: &mut Vec<u8>) -> bool {
        self.subscribed = false;
        self.answer_filters(0xb0, body, 0, out)
    }

    /// One code, success, for each filter; `options` bytes stand behind each. UNSUBACK has none before MQTT 5.0.
    fn answer_filters(&self, first: u8, body: &[u8], options: usize, out: &mut Vec<u8>) -> bool {
        let Some((id, mut rest)) = body.split_first_chunk::<2>() else {
            return false;
        };
        let v5 = self.version == Version::V5;
        if v5 {
            let Ok(Some((properties, spelt))) = length::remaining_length(rest) else {
                return false;
            };
            let Some(filters) = rest.get(spelt + properties..) else {
                return false;
            };
            rest = filters;
        }
        let mut filters = 0;
        while !rest.is_empty() {
            let Some(next) = text(rest).and_then(|(_, rest)| rest.get(options..)) else {
                return false;
            };
            rest = next;
            filters += 1;
        }
        let codes = if v5 || first == 0x90 { filters } else { 0 };
        out.push(first);
        length::put(2 + usize::from(v5) + codes, out);
        out.extend_from_slice(id);
        out.extend(std::iter::repeat_n(0, usize::from(v5) + codes));
        true
    }
}

fn acknowledge(id: [u8; 2], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x40, 2, id[0], id[1]]);
}

/// A text or binary field with its length before it, and what stands behind.
fn text(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// What a PUBLISH is answered with.
struct Owed {
    /// The packet id of a PUBACK; `None` for QoS 0, which is owed nothing.
    puback: Option<[u8; 2]>,
}

/// What is owed to a PUBLISH of which `body` has come so far; `None`: this is no PUBLISH of QoS 0 or 1, or the packet id
/// has not come.
fn owed(first: u8, body: &[u8]) -> Option<Owed> {
    match first & 0xf6 {
        0x30 => Some(Owed { puback: None }),
        0x32 => {
            let (_, rest) = text(body)?;
            let puback = Some(*rest.first_chunk()?);
            Some(Owed { puback })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a";
    const CONNECT_V5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01a";
    const CONNACK: &[u8] = b"\x20\x02\0\0";

    /// What is answered to `input`, in pieces of `step` bytes; and whether the connection goes on.
    fn answers(input: &[u8], step: usize) -> (Vec<u8>, bool) {
        let (mut broker, mut out) = (Broker::default(), Vec::new());
        let goes_on = input.chunks(step).all(|piece| broker.take(piece, &mut out));
        (out, goes_on)
    }

    #[test]
    fn the_answer_is_the_same_in_whatever_pieces_the_bytes_come() {
        let long = [b"\x32\xac\x02\0\x01t\0\x07".to_vec(), vec![9; 295]].concat();
        let heard = [
            CONNECT,
            b"\x30\x05\0\x01tab",
            &long,
            b"\x32\x05\0\x01t\x01\x02",
            b"\xc0\0",
        ]
        .concat();
        let expected = [CONNACK, b"\x40\x02\0\x07\x40\x02\x01\x02\xd0\0"].concat();
        for step in 1..=heard.len() {
            assert_eq!(answers(&heard, step), (expected.clone(), true), "{step}");
        }
    }

    #[test]
    fn who_subscribes_hears_itself() {
        let heard = [
            CONNECT,
            b"\x82\x06\0\x01\0\x01t\0",
            b"\x32\x07\0\x01t\0\x02ab",
        ]
        .concat();
        let expected = [
            CONNACK,
            b"\x90\x03\0\x01\0",
            b"\x40\x02\0\x02",
            b"\x30\x05\0\x01tab",
        ]
        .concat();
        for step in 1..=heard.len() {
            assert_eq!(answers(&heard, step), (expected.clone(), true), "{step}");
        }
    }

    #[test]
    fn mqtt_5_is_answered_in_its_own_form() {
        let heard = [
            CONNECT_V5,
            b"\x82\x07\0\x01\0\0\x01t\0",
            b"\x30\x06\0\x01t\0ab",
            b"\xa2\x06\0\x02\0\0\x01t",
        ]
        .concat();
        let expected = [
            &b"\x20\x03\0\0\0"[..],
            b"\x90\x04\0\x01\0\0",
            b"\x30\x06\0\x01t\0ab",
            b"\xb0\x04\0\x02\0\0",
        ]
        .concat();
        assert_eq!(answers(&heard, 1), (expected.clone(), true));
        assert_eq!(answers(&heard, heard.len()), (expected, true));
    }

    #[test]
    fn disconnect_and_nonsense_end_the_connection() {
        for heard in [
            &b"\xe0\0"[..],
            b"\0\0",
            b"\x34\x05\0\x01t\0\x01",
            b"\x10\x02\0\x04",
            b"\x82\x01\0",
        ] {
            assert!(!answers(heard, heard.len()).1, "{heard:?}");
        }
    }
}
