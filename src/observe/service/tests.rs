use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;

use super::*;

fn heard(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time");
    let length = socket.recv(&mut buffer).expect("a message");
    String::from_utf8(buffer[..length].to_vec()).expect("text")
}

#[test]
fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let at_path = UnixDatagram::bind(&path).expect("bound");
    Link::open(path.as_os_str())
        .expect("it listens")
        .say("READY=1");
    assert_eq!(heard(&at_path), "READY=1");

    let name = format!("tidegate-test-{}", fastrand::u64(..));
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let abstractly = UnixDatagram::bind_addr(&address).expect("bound");
    let place = format!("@{name}");
    Link::open(OsStr::new(&place))
        .expect("it listens")
        .say("READY=1");
    assert_eq!(heard(&abstractly), "READY=1");
}

#[test]
fn a_manager_that_came_again_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let first = UnixDatagram::bind(&path).expect("bound");
    let link = Link::open(path.as_os_str()).expect("it listens");
    drop(first);
    link.say("STATUS=into the void");
    std::fs::remove_file(&path).expect("its file");
    let second = UnixDatagram::bind(&path).expect("bound");
    link.say("STATUS=again");
    assert_eq!(heard(&second), "STATUS=again");
}

#[test]
fn a_place_that_is_none_is_a_fault() {
    for place in [
        "notify",
        "/no/such/folder/notify",
        "vsock:2:9999",
        "@nobody-is-here",
    ] {
        assert!(Link::open(OsStr::new(place)).is_err(), "{place}");
    }
}

/// sd_watchdog_enabled(3)
#[test]
fn the_watchdog_counts_where_it_is_meant_for_us() {
    let minute = Some(Duration::from_mins(1));
    for (usec, pid, found) in [
        ("60000000", "", minute),
        ("60000000", "7", minute),
        ("60000000", "8", None), // of whoever started us
        ("0", "7", None),
        ("", "7", None),
        ("soon", "7", None),
    ] {
        assert_eq!(watchdog(usec, pid, 7), found, "{usec} {pid}");
    }
}

#[test]
fn the_watchdog_is_told_nothing_while_one_worker_is_silent() {
    let silent = Rc::new(RefCell::new(Vec::new()));
    let seen = silent.clone();
    let mut watch = Watch::new(Duration::from_secs(8), move || seen.borrow().clone());
    assert!(watch.look());
    assert!(watch.wait() > Duration::from_secs(1), "a quarter later");
    *silent.borrow_mut() = vec![1];
    assert_eq!([watch.look(), watch.look(), watch.look()], [false; 3]);
    assert_eq!(watch.in_vain, 3);
    silent.borrow_mut().clear();
    assert!(watch.look());
    assert_eq!(watch.in_vain, 0);
}

/// A service, and what it has said when all of it is dropped.
fn service() -> (Service, Receiver<String>) {
    let (says, queue) = mpsc::sync_channel(QUEUE);
    let service = Service {
        says: Some(says),
        ready: Arc::default(),
        stopping: Arc::default(),
    };
    (service, queue)
}

/// A gate that waits for the one before it reloads, too, and is not ready for that.
#[test]
fn no_reload_says_ready_before_the_gate_is() {
    let (service, queue) = service();
    drop(service.reloading());
    let across = service.reloading();
    service.ready();
    drop(across);
    drop(service);
    assert_eq!(queue.iter().collect::<Vec<_>>(), ["READY=1"]);
}

#[test]
fn after_the_drain_began_no_reload_says_ready() {
    let (service, queue) = service();
    service.ready();
    let reloading = service.reloading();
    service.stopping(Duration::from_secs(30));
    drop(reloading);
    drop(service.reloading());
    drop(service);
    let said: Vec<_> = queue.iter().skip(1).collect();
    assert!(
        said[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{said:?}"
    );
    assert_eq!(said[1..], ["STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000"]);
}

#[test]
fn without_a_manager_nothing_is_said() {
    let manager = Manager {
        link: None,
        watchdog: None,
    };
    let service = manager.start(Vec::new).expect("nothing to do");
    service.ready();
    drop(service.reloading());
    service.stopping(Duration::ZERO);
    assert!(service.says.is_none());
}
