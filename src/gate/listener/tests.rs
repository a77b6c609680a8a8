use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::SockRef;

use super::*;
use crate::gate::testing::gate;

/// threats.md V7: a device that is gone is found, as keep-alive and user timeout are set before it is accepted.
#[tokio::test]
async fn an_accepted_socket_finds_out_that_its_device_is_gone() {
    let bound = bind("127.0.0.1:0".parse().expect("an address"), 1).expect("a port");
    let listener =
        tokio::net::TcpListener::from_std(bound.into_iter().flatten().next().expect("one"));
    let listener = listener.expect("in a runtime");
    let address = listener.local_addr().expect("bound");
    let (device, accepted) =
        tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let (accepted, _device) = (accepted.expect("accepted").0, device.expect("connected"));
    let socket = SockRef::from(&accepted);
    assert!(socket.keepalive().expect("a socket") && socket.tcp_nodelay().expect("a socket"));
    let second = Duration::from_secs(1); // docs/operation.md, "Dead links"
    assert_eq!(socket.tcp_keepalive_time().expect("a socket"), 300 * second);
    assert_eq!(
        socket.tcp_keepalive_interval().expect("a socket"),
        30 * second
    );
    assert_eq!(socket.tcp_keepalive_retries().expect("a socket"), 4);
    assert_eq!(
        socket.tcp_user_timeout().expect("a socket"),
        Some(420 * second)
    );
}

/// A second gate must not share a port without a word; sockets of one gate do.
#[test]
fn an_address_is_bound_by_one_gate_only() {
    let first = bind("127.0.0.1:0".parse().expect("an address"), 2).expect("a port");
    let address = first[0][0].local_addr().expect("bound");
    assert_eq!(first[1][0].local_addr().expect("bound"), address);
    let fault = bind(address, 2).expect_err("taken");
    assert_eq!(fault.kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert!(bind(address, 2).is_ok());
}

/// How many get into the queue of a socket that nobody accepts from, of `most` who call.
fn who_gets_in(address: SocketAddr, most: usize) -> usize {
    let call = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
    let calls: Vec<_> = (0..most).map_while(call).collect();
    calls.len()
}

/// Whoever comes between two gates waits in the socket, and finds room: also when the gate before was in a storm, or has died in one.
#[tokio::test]
async fn the_queue_of_a_socket_that_goes_on_is_long_again() {
    const MORE: usize = 2 * SHORT_BACKLOG as usize;
    let passed = TcpListener::bind("127.0.0.1:0").expect("a port");
    SockRef::from(&passed)
        .listen(SHORT_BACKLOG)
        .expect("it listens");
    let address = passed.local_addr().expect("bound");
    let socket = share(&[&passed], 1, true)
        .expect("shared")
        .remove(0)
        .remove(0);
    assert_eq!(who_gets_in(address, MORE), MORE);

    let socket = tokio::net::TcpListener::from_std(socket).expect("in a runtime");
    while socket.accept().now_or_never().is_some() {}
    let mut queue = Queue::of(&socket, true);
    queue.suit(Crowd::Thick);
    assert!(who_gets_in(address, MORE) < MORE, "a storm");
    while socket.accept().now_or_never().is_some() {}
    drop(queue);
    assert_eq!(who_gets_in(address, MORE), MORE);
}

/// Nobody may wait in a socket that no worker looks at.
#[test]
fn passed_sockets_are_spread_and_none_is_left_out() {
    for (sockets, workers, each) in [
        (0, 2, &[0, 0][..]),
        (1, 3, &[1, 1, 1]),
        (2, 2, &[1, 1]),
        (3, 2, &[2, 1]),
        (2, 3, &[1, 1, 1]),
    ] {
        let made = std::iter::repeat_with(|| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let made: Vec<_> = made.take(sockets).collect();
        let shared = share(&made.iter().collect::<Vec<_>>(), workers, true).expect("shared");
        let counts: Vec<_> = shared.iter().map(Vec::len).collect();
        assert_eq!(counts, each, "{sockets} over {workers}");
        let address = |socket: &TcpListener| socket.local_addr().expect("bound");
        let mut looked: Vec<_> = shared.iter().flatten().map(address).collect();
        looked.sort();
        looked.dedup();
        assert_eq!(looked.len(), sockets);
    }
}

/// threats.md V3: accept goes on at once only after what is one device's own affair; else it would spin.
#[test]
fn accept_pauses_after_what_will_fail_again() {
    for own in [Errno::CONNABORTED, Errno::HOSTUNREACH, Errno::PERM] {
        assert!(is_the_devices(&own.into()), "{own:?}");
    }
    for lasting in [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::INVAL,
        Errno::BADF,
    ] {
        assert!(!is_the_devices(&lasting.into()), "{lasting:?}");
    }
    assert!(!is_the_devices(&io::Error::other("no number")));
}

/// threats.md V8: by the monotonic clock, once in ten seconds.
#[test]
fn that_accept_fails_is_told_once_in_ten_seconds() {
    let (gate, began) = (gate(), Instant::now());
    for (seconds, told) in [
        (0, true),
        (1, false),
        (9, false),
        (10, true),
        (19, false),
        (21, true),
    ] {
        let now = began + Duration::from_secs(seconds);
        assert_eq!(gate.may_tell_no_accept(now), told, "after {seconds} s");
    }
}
