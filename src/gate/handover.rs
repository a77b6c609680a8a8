//! One gate takes over from another on the same host: listening sockets pass from process to process, and stay open.
//!
//! Sockets bound beside each other (SO_REUSEPORT) are not enough: whoever is in the queue of the old one, or in the middle of the
//! TCP handshake there, is reset when it closes, unless `net.ipv4.tcp_migrate_req` is on. A socket that has passed on is never
//! closed, so nobody in it is lost.
//!
//! Over a Unix socket, whose file only the gate's own user may use: the gate that serves there tells what it speaks, then sends each
//! listening socket with its name, then says that these were all. The other one starts, and when it is ready it says so: that is the order
//! to drain. If it goes away before, nothing has happened. What is said has always [`RECORD`] bytes, so that words do not run together.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen,
    recvmsg, sendmsg, socket_with,
};
use tokio::io::Interest;
use tokio::net;
use tokio::time::{sleep, timeout};

use super::passed::Passed;
use super::{Inherited, Running, StartFault};

/// What is spoken, and by which process: the first word, before any socket.
const HELLO: &str = "tidegate handover 1 ";
/// Precedes the name of a socket for devices or operators.
const SOCKET: &[u8] = b"socket ";
/// The socket that the next gate asks at.
const DESK: &[u8] = b"desk";
/// There are no more.
const ALL: &[u8] = b"all";
/// The new gate is ready.
const READY: &[u8] = b"ready";

/// How long one gate waits for the other's next word, where nothing but the machine can be slow.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks whether the gate is ready.
const GLANCE: Duration = Duration::from_millis(20);
/// After something went wrong with one that asked.
const BREATH: Duration = Duration::from_millis(100);
/// One word with its name, filled up with zeros, in bytes.
const RECORD: usize = 256;

/// The place where one gate takes over from another; or none, where nobody asked for one.
#[derive(Debug, Default)]
pub struct Handover {
    /// For the next gate to ask at; until this one ends.
    desk: Mutex<Option<UnixListener>>,
    before: Mutex<Option<Before>>,
}

/// The gate before: it serves until it is relieved.
#[derive(Debug)]
struct Before {
    line: UnixStream,
    /// Its process.
    pid: i32,
}

impl Handover {
    /// Comes to the place at `path`: takes copies of the sockets of the gate that serves there; or, where none does, opens it. What was
    /// `passed` by others is there, too. Its file stays when the gate ends.
    ///
    /// # Errors
    /// When the place cannot be used, or the gate there does not answer.
    pub fn open(
        path: Option<&Path>,
        mut passed: Vec<Passed>,
    ) -> Result<(Self, Inherited), StartFault> {
        let Some(path) = path else {
            let inherited = Inherited {
                passed,
                ..Inherited::default()
            };
            return Ok((Self::default(), inherited));
        };
        let told = |way_out: &'static str| {
            move |why: io::Error| StartFault {
                key: "--handover".into(),
                sentence: format!("cannot use {}: {why}; {way_out}", path.display()),
            }
        };
        let line = call(path).map_err(told("name a file in a folder of the gate's own user"))?;
        let (desk, before) = match line {
            None => {
                let desk = make(path);
                let way_out = "name a file in a folder that the gate's user may write to";
                (desk.map_err(told(way_out))?, None)
            }
            Some(line) => {
                let taken = take(&line).map_err(unanswered).map_err(told(
                    "wait until that one serves, or end it; ss -xp tells who uses the file, which must be of the gate's own user",
                ))?;
                passed.extend(taken.sockets);
                let pid = taken.pid;
                (taken.desk, Some(Before { line, pid }))
            }
        };
        let inherited = Inherited {
            passed,
            waits: before.is_some(),
            hands_over: true,
        };
        let handover = Self {
            desk: Mutex::new(Some(desk)),
            before: Mutex::new(before),
        };
        Ok((handover, inherited))
    }

    /// Begins to accept in place of the gate before as soon as `running` is ready, or that gate is gone, and tells it to drain. Then
    /// there is nothing more to do.
    pub async fn relieve(&self, running: &Running) {
        let before = self.before.lock().ok().and_then(|mut before| before.take());
        let Some(Before { line, pid }) = before else {
            return;
        };
        tokio::select! {
            () = ready(running) => {}
            () = gone(&line) => {}
        }
        running.open();
        // Both accept for a moment, so there is none in which nobody does.
        match tell(&line, READY, None) {
            Ok(()) => tracing::info!(
                event = "took_over",
                pid,
                "devices come here now; the gate before drains"
            ),
            Err(why) => tracing::warn!(
                event = "took_over",
                pid,
                "devices come here now; the gate before is gone, or was not told to drain: {why}"
            ),
        }
    }

    /// Gives the next gate copies of `sockets`, with their names, as often as one asks, until one is ready: then it has taken over. Gives
    /// its process.
    ///
    /// To be called once, and by a gate that accepts: the place is still the gate before's until then. Dropping it half-way closes the place, but takes nothing back: who has copies keeps them.
    pub async fn next(&self, sockets: Vec<(String, OwnedFd)>) -> i32 {
        let desk = self.desk.lock().ok().and_then(|mut desk| desk.take());
        let Some(Ok(desk)) = desk.map(net::UnixListener::from_std) else {
            return std::future::pending().await;
        };
        loop {
            match serve(&desk, &sockets).await {
                Ok(Some(pid)) => return pid,
                Ok(None) => {}
                Err(why) => {
                    tracing::warn!(event = "handover_failed", "this gate goes on: {why}");
                    sleep(BREATH).await;
                }
            }
        }
    }
}

/// Serves one that asks; `None`: it went away again.
async fn serve(desk: &net::UnixListener, sockets: &[(String, OwnedFd)]) -> io::Result<Option<i32>> {
    let (line, _) = desk.accept().await?;
    let pid = own_user(&line)?;
    let giving = async {
        let hello = format!("{HELLO}{}", std::process::id());
        give(&line, hello.as_bytes(), None).await?;
        for (name, socket) in sockets {
            let say = [SOCKET, name.as_bytes()].concat();
            give(&line, &say, Some(socket.as_fd())).await?;
        }
        give(&line, DESK, Some(desk.as_fd())).await?;
        give(&line, ALL, None).await
    };
    timeout(PATIENCE, giving).await??;
    let said = line.async_io(Interest::READABLE, || hear(&line)).await?;
    Ok((said.0 == READY).then_some(pid))
}

async fn ready(running: &Running) {
    while !running.is_ready() {
        sleep(GLANCE).await;
    }
}

/// Waits until the other side is gone; it says nothing.
async fn gone(line: &UnixStream) {
    let line = line.try_clone().and_then(|line| {
        line.set_nonblocking(true)?;
        net::UnixStream::from_std(line)
    });
    match line {
        Ok(line) => drop(line.readable().await),
        Err(_) => std::future::pending().await,
    }
}

/// Calls whoever serves at `path`; `None`: nobody does.
fn call(path: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(path) {
        Ok(line) => {
            line.set_read_timeout(Some(PATIENCE))?;
            Ok(Some(line))
        }
        Err(fault) => match fault.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(fault),
        },
    }
}

/// A word that did not come in time, in words.
fn unanswered(fault: io::Error) -> io::Error {
    match fault.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer for 5 s, as if another gate waited there for its turn to take over",
        ),
        _ => fault,
    }
}

/// What another gate gave.
struct Taken {
    pid: i32,
    sockets: Vec<Passed>,
    desk: UnixListener,
}

/// Takes what the gate at the other end of `line` gives.
fn take(line: &UnixStream) -> io::Result<Taken> {
    own_user(line)?;
    let hello = String::from_utf8(hear(line)?.0).unwrap_or_default();
    let Some(Ok(pid)) = hello.strip_prefix(HELLO).map(str::parse) else {
        return Err(io::Error::other(
            "what serves there is no gate of this version",
        ));
    };
    let (mut sockets, mut desk) = (Vec::new(), None);
    loop {
        let (said, given) = hear(line)?;
        match (said.as_slice(), given) {
            (ALL, None) => break,
            (DESK, Some(given)) => desk = Some(given.into()),
            (said, Some(given)) => {
                let name = said.strip_prefix(SOCKET).unwrap_or_default();
                let name = String::from_utf8_lossy(name).into_owned();
                sockets.push(Passed::new(name, given.into(), false)?);
            }
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let desk = desk.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Taken { pid, sockets, desk })
}

/// Opens the place; what a gate that is gone has left there is replaced.
fn make(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else is there",
            ));
        }
        Err(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let desk = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&desk, &SocketAddrUnix::new(path)?)?;
    // Before it listens, nobody can call.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&desk, 8)?;
    Ok(desk.into())
}

/// The process that called, or opened the place that was called; it must be of the same user, or of root.
fn own_user(line: &impl AsFd) -> io::Result<i32> {
    let other = socket_peercred(line)?;
    if other.uid == rustix::process::geteuid() || other.uid.is_root() {
        return Ok(other.pid.as_raw_nonzero().get());
    }
    let uid = other.uid.as_raw();
    Err(io::Error::other(format!(
        "at the other end is a process of another user (uid {uid})"
    )))
}

async fn give(
    line: &net::UnixStream,
    say: &[u8],
    socket: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    line.async_io(Interest::WRITABLE, || tell(line, say, socket))
        .await
}

/// Says one word, with a socket or without. A record is so short that it goes whole, or not at all.
fn tell(line: &impl AsFd, say: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut record = [0; RECORD];
    let fits = record.get_mut(..say.len());
    fits.ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(say);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if let Some(socket) = &socket {
        beside.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(
            socket,
        )));
    }
    sendmsg(
        line,
        &[IoSlice::new(&record)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Hears one word, and takes the socket that came with it; nothing at the end.
fn hear(line: &impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut record = [0; RECORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let heard = recvmsg(
        line,
        &mut [IoSliceMut::new(&mut record)],
        &mut beside,
        flags,
    )?;
    let mut sockets = beside.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let socket = sockets.next().and_then(|mut sockets| sockets.next());
    let said = record[..heard.bytes].split(|byte| *byte == 0).next();
    Ok((said.unwrap_or_default().to_vec(), socket))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn open(path: &Path) -> Result<(Handover, Inherited), StartFault> {
        Handover::open(Some(path), Vec::new())
    }

    /// Who goes away again has changed nothing; who is ready gets its turn, with the same sockets, and the next one asks at the same place.
    #[tokio::test]
    async fn sockets_pass_on_as_often_as_somebody_asks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("handover");
        let (handover, inherited) = open(&path).expect("opened");
        assert!(
            !inherited.waits && inherited.passed.is_empty(),
            "nobody was here"
        );
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let listening = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let sockets = [("devices", listening()), ("admin", listening())];
        let addresses = sockets
            .each_ref()
            .map(|(_, one)| one.local_addr().expect("bound"));
        let sockets = sockets
            .map(|(name, one)| (name.to_owned(), one.into()))
            .into();

        let again = path.clone();
        let asks = tokio::task::spawn_blocking(move || {
            drop(open(&again).expect("it is served"));
            let (next, inherited) = open(&again).expect("it is served again");
            let before = next
                .before
                .lock()
                .expect("no panic")
                .take()
                .expect("a gate");
            tell(&before.line, READY, None).expect("told");
            (next, inherited, before.pid)
        });
        let pid = handover.next(sockets).await;
        let (next, inherited, before) = asks.await.expect("no panic");
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!((pid, before), (own, own));
        assert!(inherited.waits);
        let names = inherited
            .passed
            .iter()
            .map(|one| (one.name.as_str(), one.address));
        let wanted = [("devices", addresses[0]), ("admin", addresses[1])];
        assert_eq!(names.collect::<Vec<_>>(), wanted);

        drop(handover);
        assert!(TcpStream::connect(addresses[0]).is_ok(), "it listens on");
        let place = path.clone();
        let third = tokio::task::spawn_blocking(move || open(&path).map(|(_, one)| one.waits));
        tokio::select! {
            _ = next.next(Vec::new()) => panic!("nobody is ready"),
            found = third => assert_eq!(found.expect("no panic"), Ok(true)),
        }
        assert!(
            !open(&place).expect("opened").1.waits,
            "it is on its way out"
        );
    }

    #[test]
    fn what_a_gate_has_left_behind_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("handover");
        drop(open(&path).expect("opened"));
        assert!(path.exists(), "as after a crash");
        assert!(!open(&path).expect("opened").1.waits);
        let file = folder.path().join("a file");
        fs::write(&file, "mine").expect("written");
        let long = "x".repeat(200).into();
        for wrong in [file.clone(), folder.path().join("no folder/handover"), long] {
            let fault = open(&wrong).expect_err("cannot be");
            assert_eq!(fault.key, "--handover", "{fault}");
        }
        assert_eq!(fs::read_to_string(&file).expect("there"), "mine");
    }
}
