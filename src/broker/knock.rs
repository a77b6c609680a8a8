//! One call to one place, to see what becomes of it: for a look at brokers from outside, beside no gate.
//!
//! It does no harm: a clean session, a client id that is nobody's, and DISCONNECT at once where it is let in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};

use crate::mqtt::Version;
use crate::mqtt::connect::Password;
use crate::proxy_protocol;
use crate::tls::client::Towards;

use super::address::Address;
use super::answer::NoAnswer;
use super::endpoint::{Endpoint, First, Preface, Unreached};
use super::names;
use super::probe::{DISCONNECT, LARGEST_CONNACK, stranger};
use super::socket::Socket;
use super::sources::Sources;

pub use super::endpoint::At;

/// How to call.
#[derive(Clone, Debug)]
pub struct Knock<'a> {
    /// Where.
    pub at: &'a At,
    /// Local addresses to call from; empty: the system chooses.
    pub from: &'a [IpAddr],
    /// Which PROXY header is sent first, of the caller's own address; `None`: none.
    pub header: Option<proxy_protocol::Version>,
    /// How it is spoken to in TLS; `None`: in plaintext.
    pub tls: Option<Towards>,
    /// Whether CONNECT has a username: the made-up client id.
    pub is_named: bool,
    /// What stands in the password field; `None`: nothing.
    pub password: Option<&'a [u8]>,
}

/// What became of a call.
#[derive(Debug)]
pub struct Heard {
    /// The answer.
    pub answer: Answer,
    /// What the broker showed in TLS, its own certificate first; empty in plaintext, and where TLS failed.
    pub chain: Vec<CertificateDer<'static>>,
}

/// What a broker answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// A CONNACK of MQTT 3.1.1 with this code; 0: it let us in.
    Connack(u8),
    /// It took the connection, and closed or said something else: why.
    Closed(String),
    /// It took the connection, and then not a word came in time.
    Silent,
    /// It took the connection, and TLS failed: why.
    Tls(String),
    /// It took no connection: why.
    Away(String),
}

/// The places that `address` leads to now; of a name, each of its addresses.
///
/// # Errors
/// When the name cannot be looked up, or has no address.
pub async fn places(address: &Address) -> io::Result<Vec<At>> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(vec![At::Unix(path.clone())]),
        Address::Tcp { host, port } | Address::Tls { host, port } => (host, *port),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![At::Tcp(SocketAddr::new(ip, port))]);
    }
    let found = names::look_up(host, port).await?;
    Ok(found.into_iter().map(At::Tcp).collect())
}

impl Knock<'_> {
    /// Calls, and waits for the CONNACK, for `within` together. Dropping it half-way drops the connection.
    pub async fn call(&self, within: Duration) -> Heard {
        let deadline = Instant::now() + within;
        let first = First {
            proxy_protocol: self.header,
            tls: self.tls.clone(),
        };
        let endpoint = Endpoint::new(0, self.at.clone(), first, false);
        let sources = Sources::new(self.from);
        let reached = timeout_at(deadline, endpoint.connect(&sources, Preface::Own)).await;
        let answer = match reached {
            Ok(Ok(mut socket)) => {
                let chain = shown(&socket);
                let asked = timeout_at(deadline, self.ask(&mut socket)).await;
                let answer = asked.unwrap_or(Answer::Silent);
                return Heard { answer, chain };
            }
            Ok(Err(Unreached::Tls(why))) => Answer::Tls(why),
            Ok(Err(fault)) => Answer::Away(fault.to_string()),
            Err(_) => Answer::Away(format!("no answer within {within:?}")),
        };
        Heard {
            answer,
            chain: Vec::new(),
        }
    }

    async fn ask(&self, socket: &mut Socket) -> Answer {
        let mut connect = stranger();
        if self.is_named {
            connect.username = Some(connect.client_id.clone());
        }
        connect.password = self.password.map(|bytes| Password::new(bytes.to_vec()));
        let Ok(connect) = connect.encode() else {
            return Answer::Closed("the password is too long for a CONNECT".into());
        };
        match socket.ask(&connect, Version::V311, LARGEST_CONNACK).await {
            Ok((connack, _)) => {
                if connack.code == 0 {
                    let _ = socket.send(DISCONNECT).await;
                }
                Answer::Connack(connack.code)
            }
            Err(none @ (NoAnswer::Closed(_) | NoAnswer::Garbage(_))) => {
                Answer::Closed(none.to_string())
            }
        }
    }
}

fn shown(socket: &Socket) -> Vec<CertificateDer<'static>> {
    match socket {
        Socket::Tls(stream) => stream.peer_chain().to_vec(),
        Socket::Tcp(_) | Socket::Unix(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use crate::mqtt::connect::Connect;

    use super::*;

    /// It says who it is not, and goes at once.
    #[tokio::test]
    async fn a_call_is_nobodys_and_says_good_bye() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = At::Tcp(broker.local_addr().expect("bound"));
        let knock = Knock {
            at: &at,
            from: &[],
            header: Some(proxy_protocol::Version::V1),
            tls: None,
            is_named: true,
            password: Some(b"secret"),
        };
        let hears = async {
            let (mut socket, _) = broker.accept().await.expect("a call");
            let mut came = vec![0; 256];
            let mut length = 0;
            while !came[..length].ends_with(b"secret") {
                length += socket.read(&mut came[length..]).await.expect("bytes");
            }
            socket.write_all(b"\x20\x02\0\0").await.expect("sent");
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).await.expect("an end");
            came.truncate(length);
            (came, rest)
        };
        let (heard, (came, rest)) = tokio::join!(knock.call(Duration::from_secs(5)), hears);
        assert_eq!(heard.answer, Answer::Connack(0));
        assert_eq!(rest, DISCONNECT);
        let end = came.windows(2).position(|two| two == b"\r\n");
        let (header, connect) = came.split_at(end.expect("a line") + 2);
        assert!(header.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
        let connect = Connect::decode(connect).expect("a CONNECT");
        assert!(connect.clean_start && connect.will.is_none());
        assert!(connect.client_id.starts_with("tidegateprobe"));
        assert_eq!(connect.username.as_ref(), Some(&connect.client_id));
    }

    #[tokio::test]
    async fn what_a_broker_does_not_say_is_told_apart() {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let nobody = closed.local_addr().expect("bound");
        drop(closed);
        let call = async |at: SocketAddr| {
            let at = At::Tcp(at);
            let knock = Knock {
                at: &at,
                from: &[],
                header: None,
                tls: None,
                is_named: false,
                password: None,
            };
            knock.call(Duration::from_millis(300)).await.answer
        };
        let here = silent.local_addr().expect("bound");
        assert_eq!(call(here).await, Answer::Silent);
        assert!(matches!(call(nobody).await, Answer::Away(_)));
        let serves = async {
            loop {
                let (mut socket, _) = silent.accept().await.expect("a call");
                let mut byte = [0];
                let _ = socket.read(&mut byte).await;
            }
        };
        let answer = tokio::select! {
            answer = call(here) => answer,
            () = serves => unreachable!("it never ends"),
        };
        assert!(matches!(answer, Answer::Closed(_)), "{answer:?}");
    }
}
