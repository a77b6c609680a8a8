//! Listening sockets that this process did not make: from systemd (sd_listen_fds(3)), or from the gate before (`handover`).
//!
//! Such a socket goes on while gates come and go, and whoever waits in it stays there: nobody is refused in between.

use std::env;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process;

use listenfd::ListenFd;
use socket2::SockRef;

use super::{ListenerSettings, StartFault};

/// What the admin port is called among the sockets.
pub const ADMIN: &str = "admin";

/// So many are passed at the most.
const MOST: usize = 512;

/// A listening socket that somebody else made.
#[derive(Debug)]
pub struct Passed {
    /// What it is called: by `FileDescriptorName=`, or as a listener of the gate before.
    pub(super) name: String,
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
    /// It takes IPv4, too: `[::]` where nobody has said otherwise.
    both_families: bool,
    /// Whoever passed it keeps it when this gate ends, for the next one.
    pub(super) is_lent: bool,
}

/// The sockets that systemd, or who does as it does, has passed to this process by `LISTEN_FDS`; mostly none. To be called before there are
/// threads, and once: the variables are removed.
///
/// # Errors
/// Every one of them that is no listening TCP socket; a number that is none.
pub fn from_environment() -> Result<Vec<Passed>, Vec<StartFault>> {
    let variable = |name| env::var_os(name).unwrap_or_default();
    let (count, pid) = (variable("LISTEN_FDS"), variable("LISTEN_PID"));
    if is_for(&pid.to_string_lossy(), process::id()) {
        number(&count.to_string_lossy()).map_err(|fault| vec![fault])?;
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut sockets = ListenFd::from_env();
    let (mut passed, mut faults) = (Vec::new(), Vec::new());
    for place in 0..sockets.len() {
        let name = names.get(place).copied().unwrap_or_default();
        let socket = sockets.take_tcp_listener(place).and_then(|socket| {
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            Passed::new(name.to_owned(), socket, true)
        });
        match socket {
            Ok(socket) => passed.push(socket),
            Err(fault) => faults.push(StartFault {
                key: format!("LISTEN_FDS[{place}]"),
                sentence: format!(
                    "the socket passed as {name:?} cannot be used: {fault}; give ListenStream= an IP address and port, and leave Accept= out"
                ),
            }),
        }
    }
    if faults.is_empty() {
        Ok(passed)
    } else {
        Err(faults)
    }
}

/// Whether sockets were passed to us, and not to whoever started us: as `pid` says, if it says anything.
fn is_for(pid: &str, own: u32) -> bool {
    pid.is_empty() || pid.parse() == Ok(own)
}

/// How many sockets were passed; an empty `count` is none.
///
/// # Errors
/// When it is no number, or far too many: each would be a fault of its own.
fn number(count: &str) -> Result<usize, StartFault> {
    let count = if count.is_empty() { "0" } else { count };
    let number = count.parse().ok().filter(|number| *number <= MOST);
    number.ok_or_else(|| StartFault {
        key: "LISTEN_FDS".into(),
        sentence: format!(
            "is {count:?}, and not a number of sockets up to {MOST}; unset it where nobody passes any"
        ),
    })
}

impl Passed {
    /// # Errors
    /// When `socket` is none that listens.
    pub(super) fn new(name: String, socket: TcpListener, is_lent: bool) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let about = SockRef::from(&socket);
        if !about.is_listener()? {
            return Err(io::Error::other("it does not listen"));
        }
        let both_families = address.is_ipv6() && !about.only_v6()?;
        Ok(Self {
            name,
            socket,
            address,
            both_families,
            is_lent,
        })
    }

    /// Whether it is what `bind` asks for.
    pub(super) fn is_at(&self, bind: SocketAddr) -> bool {
        let everywhere = |ip: IpAddr| {
            self.both_families
                && self.address.ip() == Ipv6Addr::UNSPECIFIED
                && ip == Ipv4Addr::UNSPECIFIED
        };
        let ip = self.address.ip() == bind.ip() || everywhere(bind.ip());
        ip && (self.address.port() == bind.port())
    }

    /// The same, where any port will do.
    fn may_be_at(&self, bind: SocketAddr) -> bool {
        self.is_at(bind) || bind.port() == 0 && self.address.ip() == bind.ip()
    }
}

/// Passed sockets, each where it belongs.
#[derive(Debug, Default)]
pub(super) struct Assigned(Vec<(Passed, usize, SocketAddr)>);

impl Assigned {
    /// Gives each of `passed` its listener: that of its name, if it is at one of its addresses; else the one with its address. Of
    /// sockets of the gate before, those that nobody wants any more are let go.
    ///
    /// # Errors
    /// Every other socket that fits no listener.
    pub(super) fn new(
        passed: Vec<Passed>,
        listeners: &[ListenerSettings],
    ) -> Result<Self, Vec<StartFault>> {
        let (mut assigned, mut faults) = (Vec::new(), Vec::new());
        for socket in passed {
            match place_of(&socket, listeners) {
                Some((place, bind)) => assigned.push((socket, place, bind)),
                None if socket.is_lent => faults.push(fits_nowhere(&socket, listeners)),
                None => tracing::info!(
                    event = "listening", address = %socket.address,
                    "takes no devices any more: no listener has this address now"
                ),
            }
        }
        if faults.is_empty() {
            Ok(Self(assigned))
        } else {
            Err(faults)
        }
    }

    /// The sockets of `bind` of the listener at `place`, and whether they are lent. `None`: it has to be bound. A socket for both
    /// families may stand for two addresses; then the second has none of its own.
    pub(super) fn at(&self, place: usize, bind: SocketAddr) -> Option<(Vec<&TcpListener>, bool)> {
        let of_listener = || self.0.iter().filter(|(_, its, _)| *its == place);
        if !of_listener().any(|(passed, _, at)| *at == bind || passed.is_at(bind)) {
            return None;
        }
        let here: Vec<_> = of_listener().filter(|(.., at)| *at == bind).collect();
        let is_lent = here.iter().any(|(passed, ..)| passed.is_lent);
        Some((
            here.into_iter()
                .map(|(passed, ..)| &passed.socket)
                .collect(),
            is_lent,
        ))
    }
}

/// The listener, by its place, and the address of it that `socket` is.
fn place_of(socket: &Passed, listeners: &[ListenerSettings]) -> Option<(usize, SocketAddr)> {
    let named = |listener: &&ListenerSettings| *listener.name == *socket.name;
    let at = |listener: &ListenerSettings, fits: &dyn Fn(SocketAddr) -> bool| {
        let exact = listener.bind.iter().find(|bind| **bind == socket.address);
        exact
            .or_else(|| listener.bind.iter().find(|bind| fits(**bind)))
            .copied()
    };
    let by_name = listeners
        .iter()
        .position(|listener| named(&listener))
        .and_then(|place| {
            let bind = at(&listeners[place], &|bind| socket.may_be_at(bind))?;
            Some((place, bind))
        });
    by_name.or_else(|| {
        let mut each = listeners.iter().enumerate();
        each.find_map(|(place, listener)| Some((place, at(listener, &|bind| socket.is_at(bind))?)))
    })
}

fn fits_nowhere(socket: &Passed, listeners: &[ListenerSettings]) -> StartFault {
    let wanted = listeners.iter().flat_map(|listener| {
        listener
            .bind
            .iter()
            .map(|bind| format!("{} = {bind}", listener.name))
    });
    let wanted: Vec<_> = wanted.collect();
    let Passed { name, address, .. } = socket;
    StartFault {
        key: format!("LISTEN_FDS ({name})"),
        sentence: format!(
            "the socket that was passed listens on {address}, where no listener is to ({}), nor the admin port; write the same address into ListenStream= \
             of the socket unit and into listener.bind, or leave the socket out",
            wanted.join(", ")
        ),
    }
}

/// Takes the admin port out of `passed`: what is called `admin`, or is at `bind`.
///
/// # Errors
/// When what is called `admin`, and was lent, is elsewhere.
pub(super) fn take_admin(
    passed: &mut Vec<Passed>,
    bind: SocketAddr,
) -> Result<Option<Passed>, StartFault> {
    let by_name = |one: &Passed| one.name == ADMIN && one.may_be_at(bind);
    if let Some(place) = passed
        .iter()
        .position(|one| by_name(one) || one.is_at(bind))
    {
        return Ok(Some(passed.swap_remove(place)));
    }
    match passed.iter().find(|one| one.name == ADMIN && one.is_lent) {
        None => Ok(None),
        Some(other) => Err(StartFault {
            key: "admin.bind".into(),
            sentence: format!(
                "is {bind}, and the socket that was passed as {ADMIN} listens on {}; write the same address into both",
                other.address
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::device::{Mode, Offer};

    fn passed(name: &str, address: &str, is_lent: bool) -> Passed {
        let socket = TcpListener::bind(address).expect("a port");
        Passed::new(name.into(), socket, is_lent).expect("it listens")
    }

    fn listener(name: &str, bind: &[SocketAddr]) -> ListenerSettings {
        ListenerSettings {
            name: name.into(),
            bind: bind.to_vec(),
            offer: Offer::Only(Mode::Plain),
            tls: None,
            trust: Vec::new(),
            proxy_protocol_from: Vec::new(),
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn how_many_were_passed_is_a_number_or_a_fault() {
        for (count, found) in [
            ("", Some(0)),
            ("0", Some(0)),
            ("2", Some(2)),
            ("512", Some(512)),
            ("513", None),
            ("-1", None),
            ("two", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(number(count).ok(), found, "{count:?}");
        }
        assert!(is_for("", 7) && is_for("7", 7));
        assert!(!is_for("8", 7) && !is_for("soon", 7));
    }

    #[test]
    fn a_socket_belongs_where_its_name_and_its_address_say() {
        let (one, two) = (
            passed("b", "127.0.0.1:0", true),
            passed("?", "127.0.0.1:0", true),
        );
        let listeners = [
            listener("a", &[at("127.0.0.1:0"), two.address]),
            listener("b", &[at("127.0.0.1:0")]),
            listener("c", &[at("127.0.0.1:1")]),
        ];
        let (first, second) = (one.address, two.address);
        let assigned = Assigned::new(vec![one, two], &listeners).expect("each has its place");
        let here = |place, bind| {
            let (sockets, is_lent) = assigned.at(place, bind)?;
            assert!(is_lent);
            let each = sockets.iter().map(|one| one.local_addr().expect("bound"));
            Some(each.collect::<Vec<_>>())
        };
        assert_eq!(
            here(1, at("127.0.0.1:0")),
            Some(vec![first]),
            "any port, by name"
        );
        assert_eq!(here(0, second), Some(vec![second]), "by address");
        assert_eq!(here(0, at("127.0.0.1:0")), None, "to be bound");
        assert_eq!(here(2, at("127.0.0.1:1")), None);
    }

    /// systemd's `ListenStream=8883` is `[::]` for both families.
    #[test]
    fn a_socket_for_both_families_stands_for_both() {
        let socket = passed("devices", "[::]:0", true);
        let port = socket.address.port();
        let (four, six) = (at(&format!("0.0.0.0:{port}")), at(&format!("[::]:{port}")));
        assert!(socket.is_at(four) && socket.is_at(six) && !socket.is_at(at("0.0.0.0:1")));
        assert!(
            !socket.is_at(at(&format!("127.0.0.1:{port}"))),
            "it takes more"
        );
        let listeners = [listener("devices", &[four, six])];
        let assigned = Assigned::new(vec![socket], &listeners).expect("it has its place");
        let count = |bind| assigned.at(0, bind).map(|(sockets, _)| sockets.len());
        assert_eq!((count(four), count(six)), (Some(0), Some(1)));
    }

    /// What systemd passes is meant; what the gate before had is not wanted any more.
    #[test]
    fn a_socket_that_fits_nowhere_is_a_fault_if_it_is_lent() {
        let listeners = [listener("devices", &[at("127.0.0.1:1")])];
        let own = passed("devices", "127.0.0.1:0", false);
        assert!(Assigned::new(vec![own], &listeners).is_ok());
        let lent = passed("devices", "127.0.0.1:0", true);
        let address = lent.address.to_string();
        let faults = Assigned::new(vec![lent], &listeners).expect_err("it is nobody's");
        let told = faults[0].to_string();
        for word in [&address, "devices = 127.0.0.1:1", "ListenStream="] {
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn the_admin_port_may_be_passed_too() {
        let admin = passed(ADMIN, "127.0.0.1:0", true);
        let (bind, elsewhere) = (admin.address, at("127.0.0.1:1"));
        let mut all = vec![passed("devices", "127.0.0.1:0", true), admin];
        let fault = take_admin(&mut all, elsewhere).expect_err("it is elsewhere");
        assert_eq!(fault.key, "admin.bind");
        let taken = take_admin(&mut all, bind).expect("it is there");
        assert_eq!(taken.map(|one| one.address), Some(bind));
        assert!(matches!(take_admin(&mut all, elsewhere), Ok(None)));
        assert_eq!(all.len(), 1);
    }
}
