//! Hosts that are not there: namespaces of a test's own, without any right on this one (user_namespaces(7)).

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

/// Runs the test of that name again in namespaces of its own, network and mounts, as their root. Gives whether this is that run.
///
/// # Panics
/// When the host allows no namespaces, or has no `unshare` or `ip`; and when the test fails there.
pub fn has_its_own_namespaces(test: &str) -> bool {
    const INSIDE: &str = "TIDEGATE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("a program");
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c"])
        .arg("PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec \"$0\" \"$@\"")
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare, of the package util-linux");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        ran.status.success() && text(&ran.stdout).contains("1 passed"),
        "in namespaces of its own (unshare, and ip of the package iproute2):\n{}{}",
        text(&ran.stdout),
        text(&ran.stderr)
    );
    false
}

/// Runs this command line, as the root of the namespaces.
///
/// # Panics
/// When it fails.
fn run(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output();
    let done = done.expect("a shell");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {told}");
}

/// Another host, as far as the network goes, at the end of a cable of its own. It ends with the test, and so does the cable.
pub struct Host {
    /// Keeps its network.
    keeper: Child,
    number: u8,
}

impl Host {
    /// The host 10.77.`number`.2, its cable plugged in; this one is 10.77.`number`.1 there. For a test that has its own namespaces.
    pub fn new(number: u8) -> Self {
        let mut keeper = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo up && read end",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of the package util-linux");
        let mut up = [0; 2];
        let out = keeper.stdout.as_mut().expect("a pipe");
        out.read_exact(&mut up).expect("a network");
        let host = Self { keeper, number };
        let (near, pid) = (host.near(), host.keeper.id());
        run(&format!(
            "ip link add {near} type veth peer name eth0 netns {pid} && \
             ip address add 10.77.{number}.1/24 dev {near} && ip link set {near} up"
        ));
        host.plug_in();
        host
    }

    /// This host's end of the cable.
    pub fn near(&self) -> String {
        format!("cable{}", self.number)
    }

    /// Gives this host one more address at its end of the cable.
    pub fn add_address_here(&self, address: Ipv4Addr) {
        run(&format!("ip address add {address}/32 dev {}", self.near()));
    }

    /// Nothing that is sent arrives any more, and nobody is told.
    pub fn pull_out(&self) {
        self.run("ip link set eth0 down");
    }

    pub fn plug_in(&self) {
        let number = self.number;
        self.run(&format!(
            "ip address replace 10.77.{number}.2/24 dev eth0 && ip link set eth0 up && \
             ip route replace default via 10.77.{number}.1"
        ));
    }

    fn run(&self, line: &str) {
        let space = self.space();
        run(&format!("nsenter --net={space} sh -c '{line}'"));
    }

    fn space(&self) -> String {
        format!("/proc/{}/ns/net", self.keeper.id())
    }

    /// A socket that listens there, on a port of its own.
    pub fn listen(&self) -> TcpListener {
        let space = File::open(self.space()).expect("it is kept");
        let at: SocketAddr = (Ipv4Addr::new(10, 77, self.number, 2), 0).into();
        // A thread is where its network is, and so is a socket that it makes, wherever it goes.
        let thread = std::thread::spawn(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(space.as_fd(), Some(kind)).expect("root");
            TcpListener::bind(at).expect("an address of that host")
        });
        thread.join().expect("no panic")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
