//! Asking an endpoint whether it answers.

use std::time::Duration;

use tokio::time::timeout;

use crate::mqtt::Version;
use crate::mqtt::connect::Connect;
use crate::mqtt::properties::Properties;

use super::Probe;
use super::dial::is_out_of_descriptors;
use super::endpoint::{Endpoint, Preface, Unreached};
use super::socket::Socket;
use super::sources::Sources;

/// The largest CONNACK taken for an answer, in bytes: one of MQTT 3.1.1 has 4.
pub(super) const LARGEST_CONNACK: usize = 64;

/// "Server unavailable" (MQTT 3.1.1 §3.2.2.3): the broker says itself that it is not there.
const UNAVAILABLE: u8 = 0x03;

/// DISCONNECT (MQTT 3.1.1 §3.14).
pub(super) const DISCONNECT: &[u8] = b"\xe0\x00";

/// What a probe found.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// It answers.
    Up,
    /// It takes a connection. More was not asked.
    Takes,
    /// It takes no connection, or gives the wrong answer: why.
    Down(String),
    /// It takes a connection, and does not answer the CONNECT: why.
    Silent(String),
    /// The gate has no descriptor or port to ask with: of the broker that says nothing.
    Unknown,
}

/// How brokers are asked.
#[derive(Debug)]
pub(super) struct Prober {
    kind: Probe,
    /// Of the whole probe.
    limit: Duration,
    /// The CONNECT, encoded.
    connect: Vec<u8>,
}

impl Prober {
    /// Asks in this way, for so long at most.
    pub(super) fn new(kind: Probe, limit: Duration) -> Self {
        Self {
            kind,
            limit,
            connect: stranger()
                .encode()
                .expect("23 characters fit into a CONNECT"),
        }
    }

    /// Asks `endpoint`. One that fell silent, or may have, is asked by a CONNECT, whatever is configured: that it takes a connection
    /// was never in doubt.
    pub(super) async fn ask(&self, endpoint: &Endpoint, sources: &Sources) -> Found {
        let by_connect = self.kind == Probe::Mqtt || endpoint.standing.wants_connect();
        let asked = timeout(self.limit, async {
            let socket = match endpoint.connect(sources, Preface::Own).await {
                Ok(socket) => socket,
                Err(Unreached::NoPort) => return Found::Unknown,
                Err(Unreached::Io(fault)) if is_out_of_descriptors(&fault) => {
                    return Found::Unknown;
                }
                Err(fault) => return Found::Down(fault.to_string()),
            };
            if !by_connect {
                return Found::Takes;
            }
            match timeout(self.limit / 2, self.talk(socket)).await {
                Ok(Ok(())) => Found::Up,
                // Who closes or babbles is there; whether that is an answer, only a probe that asks for one judges.
                Ok(Err(_)) if self.kind == Probe::Tcp => Found::Up,
                Ok(Err(why)) => Found::Down(why),
                Err(_) => Found::Silent(format!("no CONNACK within {:?}", self.limit / 2)),
            }
        });
        let late = |_| Found::Down(format!("no answer within {:?}", self.limit));
        asked.await.unwrap_or_else(late)
    }

    /// Sends CONNECT, reads the CONNACK, and says good-bye. Any code is an answer but "server unavailable": a broker that refuses a
    /// stranger is at work.
    async fn talk(&self, mut socket: Socket) -> Result<(), String> {
        let asked = socket.ask(&self.connect, Version::V311, LARGEST_CONNACK);
        let (connack, _) = asked.await.map_err(|none| none.to_string())?;
        match connack.code {
            UNAVAILABLE => Err("its CONNACK says that it is unavailable (0x03)".into()),
            0 => {
                let _ = socket.send(DISCONNECT).await;
                Ok(())
            }
            _ => Ok(()), // it closes by itself [MQTT-3.2.2-5]
        }
    }
}

/// The CONNECT of a probe: MQTT 3.1.1, clean session, nobody's credentials. Its client id is of the letters and the length that every
/// broker takes (MQTT 3.1.1 §3.1.3.1), and no other gate's: they would push each other out.
pub(super) fn stranger() -> Connect {
    let unique = std::iter::repeat_with(fastrand::alphanumeric).take(10);
    Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::default(),
        client_id: "tidegateprobe".chars().chain(unique).collect(),
        will: None,
        username: None,
        password: None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::endpoint::tests::endpoint;
    use super::*;

    /// What is thought of a broker before it is asked.
    #[derive(Clone, Copy)]
    enum Before {
        Nothing,
        Silent,
        Doubt,
    }

    /// What is found of a broker that answers each CONNECT so; nothing: it keeps silent.
    async fn found(kind: Probe, before: Before, answer: Option<&'static [u8]>) -> Found {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = endpoint(broker.local_addr().expect("bound").port());
        match before {
            Before::Nothing => {}
            Before::Silent => drop(endpoint.standing.fell(true)),
            Before::Doubt => {
                let began = tokio::time::Instant::now();
                tokio::time::sleep(Duration::from_millis(500)).await;
                for _ in 0..3 {
                    endpoint.standing.left(began);
                }
            }
        }
        let serving = async {
            let mut kept = Vec::new();
            loop {
                let (mut socket, _) = broker.accept().await.expect("a call");
                let mut came = [0; 64];
                let length = socket.read(&mut came).await.unwrap_or(0);
                if length > 0 {
                    let connect = Connect::decode(&came[..length]).expect("a CONNECT");
                    assert!(connect.clean_start && connect.client_id.len() == 23);
                }
                match answer {
                    Some(answer) => socket.write_all(answer).await.expect("sent"),
                    None => kept.push(socket),
                }
            }
        };
        let prober = Prober::new(kind, Duration::from_millis(200));
        let sources = Sources::new(&[]);
        tokio::select! {
            found = prober.ask(&endpoint, &sources) => found,
            () = serving => unreachable!("it never ends"),
        }
    }

    #[tokio::test]
    async fn any_connack_is_an_answer_but_that_of_a_broker_which_says_that_it_is_not_there() {
        let good: [&[u8]; 5] = [
            b"\x20\x02\0\0",
            b"\x20\x02\x01\0",
            b"\x20\x02\0\x01",
            b"\x20\x02\0\x02",
            b"\x20\x02\0\x05",
        ];
        for answer in good {
            let found = found(Probe::Mqtt, Before::Nothing, Some(answer)).await;
            assert_eq!(found, Found::Up, "{answer:?}");
        }
        for answer in [
            b"\x20\x02\0\x03".as_slice(),
            b"",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"\x20\xff\xff\xff\x7f",
        ] {
            let found = found(Probe::Mqtt, Before::Nothing, Some(answer)).await;
            assert!(matches!(found, Found::Down(_)), "{answer:?}: {found:?}");
        }
        assert!(matches!(
            found(Probe::Mqtt, Before::Nothing, None).await,
            Found::Silent(_)
        ));
    }

    #[tokio::test]
    async fn a_tcp_probe_asks_for_no_more_until_the_broker_falls_silent_or_may_have() {
        assert_eq!(found(Probe::Tcp, Before::Nothing, None).await, Found::Takes);
        for before in [Before::Silent, Before::Doubt] {
            assert!(matches!(
                found(Probe::Tcp, before, None).await,
                Found::Silent(_)
            ));
            for answer in [b"".as_slice(), b"\x20\x02\0\x05"] {
                assert_eq!(found(Probe::Tcp, before, Some(answer)).await, Found::Up);
            }
        }
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_down() {
        let bound = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = bound.local_addr().expect("bound").port();
        drop(bound);
        let prober = Prober::new(Probe::Tcp, Duration::from_secs(5));
        let found = prober.ask(&endpoint(port), &Sources::new(&[])).await;
        assert!(matches!(found, Found::Down(why) if why.contains("refused")));
    }
}
