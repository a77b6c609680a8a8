//! Accept, count, give each connection its own task at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;

use crate::broker::dial::is_out_of_descriptors;
use crate::broker::socket::{DEVICE, prepare};
use crate::proxy_protocol::canonical;
use crate::rules::reason::Refusal;
use crate::tls::server::ServerTls;
use crate::tls::trust::Groups;

use super::Gate;
use super::connection::{turned_away, walk};
use super::control::Roll;
use super::door::{Crowd, Door};
use super::handshake::Accepted;

/// How many connections may wait in the kernel for accept, for each socket; the kernel caps it (`somaxconn`).
pub const BACKLOG: i32 = 1024;

/// How many in a socket that somebody lent: whoever comes between two gates waits there, so as many as the kernel allows.
const LENT_BACKLOG: i32 = i32::MAX;

/// How many while a crowd waits at the door: whoever is accepted must have called just now.
const SHORT_BACKLOG: i32 = 64;

/// How many are accepted in one round of the door, while somebody waits there. With fewer than a storm brings, they grow old in
/// the kernel's queue, where nobody sees it.
const IN_A_ROW: u8 = 24;

/// How long accept pauses when it fails for a cause that is not one device's, and nobody can be turned away either.
const PAUSE: Duration = Duration::from_millis(100);

/// One listener, as its connections see it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Its place in the configuration, and in the metrics.
    pub(crate) place: usize,
    /// The label in metrics and logs.
    pub(crate) name: Arc<str>,
}

/// A socket that a worker accepts from.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) socket: TcpListener,
    pub(crate) listener: Arc<Listener>,
    /// It is somebody else's, who keeps it when this gate ends.
    pub(crate) is_lent: bool,
}

/// TLS of a listener, and whose word counts there.
#[derive(Debug)]
pub(crate) struct Secure {
    pub(crate) tls: ServerTls,
    /// `None`: no certificate is asked for.
    pub(crate) groups: Option<Arc<Groups>>,
}

impl Listener {
    pub(crate) fn new(place: usize, name: Arc<str>) -> Self {
        Self { place, name }
    }

    /// Whether one more may be accepted as far as `door` goes. Who needs no handshake waits for no turn, and no storm of those who do
    /// keeps it out.
    fn place_at(&self, door: &Door, gate: &Gate) -> Option<Crowd> {
        if gate.glance().entrances[self.place].offer.is_tls() {
            door.try_admit()
        } else {
            Some(Crowd::Thin)
        }
    }
}

/// Binds one address once for each of `workers`, so that the kernel spreads connections over them and each stays with
/// its worker. Port 0 takes one free port for all.
///
/// # Errors
/// When the address cannot be bound, or somebody else listens there already: also another gate of the same user, which
/// would share the port, and half of the devices, without a word.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    is_free(address)?;
    let mut sockets = Vec::with_capacity(workers);
    let mut address = address;
    for _ in 0..workers {
        let socket = ready(bound(address, true)?, false)?;
        address = socket.local_addr()?;
        sockets.push(vec![socket]);
    }
    Ok(sockets)
}

/// Spreads sockets of one address, which somebody else has bound, over `workers`; all of them are accepted from: who
/// is in the queue of one comes out of no other. Where there are fewer than workers, several share one. `is_lent`: they outlive this gate.
///
/// # Errors
/// When a socket cannot be used, or no descriptor is left.
pub(crate) fn share(
    sockets: &[&TcpListener],
    workers: usize,
    is_lent: bool,
) -> io::Result<Vec<Vec<TcpListener>>> {
    let count = sockets.len();
    let of = |worker| {
        let turns = if count == 0 { 0 } else { count.max(workers) };
        let places = (worker..turns).step_by(workers);
        let copy = |place: usize| io::Result::Ok(Socket::from(sockets[place % count].try_clone()?));
        places.map(|place| ready(copy(place)?, is_lent)).collect()
    };
    (0..workers).map(of).collect()
}

/// Makes a bound socket listen, as the gate needs it; whoever waits in it stays there.
fn ready(socket: Socket, is_lent: bool) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    prepare(&socket, DEVICE)?;
    socket.listen(backlog(Crowd::Thin, is_lent))?;
    Ok(socket.into())
}

/// Whether [`bind`] could have `address` now; nothing listens there afterwards.
///
/// # Errors
/// As [`bind`].
pub(crate) fn is_free(address: SocketAddr) -> io::Result<()> {
    // A port that a socket without SO_REUSEPORT can have is nobody's. Of port 0 the kernel sees to that itself.
    if address.port() != 0 {
        bound(address, false)?;
    }
    Ok(())
}

/// A socket bound to `address`; `shared`: among those of this gate.
fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // `[::]` beside `0.0.0.0` must not depend on the host's settings
    }
    socket.set_reuse_address(true)?; // connections of a gate that ended may still be closing
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts until the gate drains. A full house turns away at once, and so does a gate without descriptors: whoever
/// waited in the kernel's queue would not know whether to go on waiting (threats.md V1, V3).
///
/// Those who came before the drain are still let in; but neither a want of descriptors nor devices that keep
/// coming put the drain off (V10). Of a socket that another gate goes on with they are left to it.
pub(crate) async fn accept(
    socket: Arc<tokio::net::TcpListener>,
    is_lent: bool,
    listener: Arc<Listener>,
    gate: Arc<Gate>,
    roll: Arc<Roll>,
    door: Arc<Door>,
    mut draining: watch::Receiver<bool>,
) {
    let mut last_ones = BACKLOG;
    let mut in_a_row = 0;
    let mut queue = Queue::of(&socket, is_lent);
    loop {
        // What waits in the kernel waits at no cost.
        let now = match listener.place_at(&door, &gate) {
            Some(now) => now,
            None => {
                gate.metrics.accept_paused("handshakes");
                tokio::select! {
                    biased;
                    now = door.admit() => now,
                    () = told(&mut draining) => Crowd::Thin,
                }
            }
        };
        queue.suit(now);
        in_a_row = (in_a_row + 1) % IN_A_ROW;
        if in_a_row == 0 && door.is_busy() {
            yield_now().await;
        }
        if gate.leaves(is_lent) {
            return;
        }
        let accepted = tokio::select! {
            biased; // those who came before the drain
            accepted = socket.accept() => accepted,
            () = told(&mut draining) => return,
        };
        if *draining.borrow() {
            last_ones -= 1;
            if last_ones < 0 {
                return;
            }
        }
        match accepted {
            Ok((socket, address)) => receive(socket, address, &listener, &gate, &roll, &door),
            Err(fault) if is_the_devices(&fault) => {}
            Err(fault) if is_out_of_descriptors(&fault) && show_out(&socket, &listener, &gate) => {}
            Err(fault) => {
                pause(&gate, &listener, &fault);
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = told(&mut draining) => return,
                }
            }
        }
    }
}

/// Gives a connection its place and a task of its own, or turns it away.
fn receive(
    socket: TcpStream,
    address: SocketAddr,
    listener: &Arc<Listener>,
    gate: &Arc<Gate>,
    roll: &Arc<Roll>,
    door: &Arc<Door>,
) {
    let address = canonical(address);
    let turn_away = |socket, refusal| {
        reset(socket);
        if matches!(refusal, Refusal::OutOfDescriptors) {
            tell_out_of_descriptors(gate);
        }
        turned_away(gate, listener.place, address, refusal);
    };
    if !gate.spare.is_kept() {
        // It has the descriptor by which the next one would be turned away.
        turn_away(socket, Refusal::OutOfDescriptors);
        let _ = gate.spare.is_kept();
        return;
    }
    let Some(permit) = gate.places.take() else {
        let refusal = if gate.places.is_short() {
            Refusal::OutOfDescriptors
        } else {
            Refusal::Full {
                most: gate.places.most(),
            }
        };
        return turn_away(socket, refusal);
    };
    let accepted = Accepted {
        socket,
        address,
        to: None,
        listener: listener.clone(),
        door: door.clone(),
    };
    tokio::spawn(walk(accepted, gate.clone(), roll.clone(), permit));
}

/// Turns away who waits first, with the descriptor that was kept back for it; without a descriptor accept fails also when
/// nobody waits. Gives whether accept may be tried again at once: each time somebody is gone from the queue, so it does not spin.
fn show_out(socket: &tokio::net::TcpListener, listener: &Listener, gate: &Gate) -> bool {
    let accept = || {
        let (socket, address) = match socket.accept().now_or_never() {
            None => return Ok(None),
            Some(accepted) => accepted?,
        };
        reset(socket);
        Ok(Some(canonical(address)))
    };
    match gate.spare.lend(accept) {
        Some(Ok(Some(address))) => {
            tell_out_of_descriptors(gate);
            turned_away(gate, listener.place, address, Refusal::OutOfDescriptors);
            true
        }
        Some(Ok(None)) => true,
        Some(Err(fault)) => is_the_devices(&fault),
        None => false,
    }
}

/// Closes a connection that is turned away, at the least cost: the kernel keeps nothing of it.
pub(crate) fn reset(socket: TcpStream) {
    // If it cannot be set, this is an ordinary close.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

/// The kernel's queue of a socket: short while a crowd waits at the door. When this is dropped it is as it was: another gate may go on
/// with the socket.
struct Queue<'a> {
    socket: &'a tokio::net::TcpListener,
    is_lent: bool,
    crowd: Crowd,
}

impl<'a> Queue<'a> {
    fn of(socket: &'a tokio::net::TcpListener, is_lent: bool) -> Self {
        let crowd = Crowd::Thin;
        Self {
            socket,
            is_lent,
            crowd,
        }
    }

    fn suit(&mut self, now: Crowd) {
        if (now == Crowd::Thin) != (self.crowd == Crowd::Thin) {
            let _ = SockRef::from(self.socket).listen(backlog(now, self.is_lent)); // as it was will do, too
        }
        self.crowd = now;
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        self.suit(Crowd::Thin);
    }
}

fn backlog(crowd: Crowd, is_lent: bool) -> i32 {
    match crowd {
        Crowd::Thin if is_lent => LENT_BACKLOG,
        Crowd::Thin => BACKLOG,
        // To go back and forth would let the kernel's queue grow and shrink, and in it devices grow old.
        Crowd::Thinned | Crowd::Thick => SHORT_BACKLOG,
    }
}

/// Counts and tells that accept failed and is tried again after [`PAUSE`]: it would fail on and on, and spin.
fn pause(gate: &Gate, listener: &Listener, fault: &io::Error) {
    let out_of_room = is_out_of_room(fault);
    let reason = if out_of_room { "descriptors" } else { "fault" };
    gate.metrics.accept_paused(reason);
    if is_out_of_descriptors(fault) {
        tell_out_of_descriptors(gate);
    } else if gate.may_tell_no_accept(Instant::now()) {
        tracing::error!(
            event = "accept_failed", listener = %listener.name,
            "new connections wait: {fault}; it is tried again"
        );
    }
}

fn tell_out_of_descriptors(gate: &Gate) {
    if gate.may_tell_no_accept(Instant::now()) {
        tracing::error!(
            event = "out_of_descriptors",
            "new connections are turned away, or wait: no file descriptor is left for them; raise their limit (LimitNOFILE, ulimit -n) or \
             lower limits.connections"
        );
    }
}

/// Waits until the gate drains.
async fn told(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

/// One device went away, or its network did, between its SYN and our accept; the next one can be taken at once
/// (accept(2), "Error handling").
fn is_the_devices(fault: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = fault.raw_os_error();
    [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PERM, // a firewall's word
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ]
    .iter()
    .any(|its| errno == Some(its.raw_os_error()))
}

/// Out of descriptors or memory: wait, something will be given back.
fn is_out_of_room(fault: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = fault.raw_os_error();
    is_out_of_descriptors(fault)
        || [Errno::NOBUFS, Errno::NOMEM]
            .iter()
            .any(|room| errno == Some(room.raw_os_error()))
}

#[cfg(test)]
mod tests;
