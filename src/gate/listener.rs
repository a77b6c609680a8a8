//! Accept, count, give each connection its own task at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{TryAcquireError, watch};

use crate::broker::dial::is_out_of_descriptors;
use crate::broker::socket::prepare;
use crate::tls::server::ServerTls;

use super::Gate;
use super::connection::walk;
use super::control::Roll;
use super::handshake::Accepted;

/// How many connections may wait in the kernel for accept, for each socket; the kernel caps it (`somaxconn`).
const BACKLOG: i32 = 4096;

/// How long accept pauses when no file descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// One listener, as its connections see it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Its place in the configuration, and in the metrics.
    pub(crate) place: usize,
    /// The label in metrics and logs.
    pub(crate) name: Arc<str>,
    /// `None` on a plain listener.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// Binds one address once for each of `workers`, so that the kernel spreads connections over them and each stays with
/// its worker. Port 0 takes one free port for all.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let mut sockets = Vec::with_capacity(workers);
    let mut address = address;
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Accepts until the gate drains. What waits in the kernel's queue when it does is still accepted, and told.
pub(crate) async fn accept(
    socket: TcpListener,
    listener: Arc<Listener>,
    gate: Arc<Gate>,
    roll: Arc<Roll>,
    mut draining: watch::Receiver<bool>,
) {
    let socket = match AsyncFd::with_interest(socket, Interest::READABLE) {
        Ok(socket) => socket,
        Err(fault) => {
            tracing::error!(event = "accept_failed", listener = %listener.name, "cannot wait for connections: {fault}");
            return;
        }
    };
    loop {
        let ready = tokio::select! {
            biased;
            ready = socket.readable() => ready,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        let Ok(mut ready) = ready else { return };
        // A full house waits before accept: whoever is outside costs nothing (threats.md V1).
        let permit = match gate.connections.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::Closed) => return,
            Err(TryAcquireError::NoPermits) => {
                gate.metrics.accept_paused("connections");
                tokio::select! {
                    permit = gate.connections.clone().acquire_owned() => match permit {
                        Ok(permit) => permit,
                        Err(_) => return,
                    },
                    _ = draining.wait_for(|draining| *draining) => return,
                }
            }
        };
        match ready.try_io(|socket| accept_one(socket.get_ref())) {
            Err(_would_block) => {}
            Ok(Ok((socket, address))) => {
                let accepted = Accepted { socket, address, listener: listener.clone() };
                tokio::spawn(walk(accepted, gate.clone(), roll.clone(), permit));
            }
            Ok(Err(fault)) if is_out_of_room(&fault) => {
                gate.metrics.accept_paused("descriptors");
                gate.tell_out_of_room(&fault);
                tokio::time::sleep(PAUSE).await;
            }
            // The device went away between its SYN and our accept.
            Ok(Err(_)) => {}
        }
    }
}

/// One accept, one system call for the socket and its flags.
fn accept_one(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (accepted, _) =
        rustix::net::acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let accepted = std::net::TcpStream::from(accepted);
    let address = accepted.peer_addr()?;
    let accepted = TcpStream::from_std(accepted)?;
    prepare(&accepted)?;
    Ok((accepted, SocketAddr::new(address.ip().to_canonical(), address.port())))
}

/// Out of descriptors or memory: wait, something will be given back.
fn is_out_of_room(fault: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = fault.raw_os_error();
    is_out_of_descriptors(fault)
        || [Errno::NOBUFS, Errno::NOMEM].iter().any(|room| errno == Some(room.raw_os_error()))
}
