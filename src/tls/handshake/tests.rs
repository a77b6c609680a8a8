//! Handshakes over loopback, with a device that says all at once what it has to say behind them.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::io::{Read as _, Write as _};
use std::task::Poll;

use rustls::ClientConnection;
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::tls::stream::Got;
use crate::tls::testing::*;

/// A device by rustls, byte by byte.
struct Device {
    socket: TcpStream,
    tls: ClientConnection,
}

impl Device {
    /// All that it has to say, as one piece.
    fn said(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Hears once.
    async fn hears(&mut self) -> Vec<u8> {
        let mut came = Vec::new();
        self.socket.read_buf(&mut came).await.unwrap();
        let (mut rest, mut plain) = (came.as_slice(), Vec::new());
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            let state = self.tls.process_new_packets().unwrap();
            let mut more = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut more).unwrap();
            plain.append(&mut more);
        }
        plain
    }

    /// Hears until so many bytes of data came.
    async fn hears_all(&mut self, bytes: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < bytes {
            heard.extend(self.hears().await);
        }
        heard
    }

    /// Shakes hands, but keeps back its last flight.
    async fn greets(&mut self) -> Vec<u8> {
        loop {
            let flight = self.said();
            // In TLS 1.2 the gate's Finished comes last: there the flight before it is the one.
            let is_last = !self.tls.is_handshaking()
                || flight.first() == Some(&22) && flight.get(5) == Some(&16);
            if is_last {
                return flight;
            }
            self.says(&flight).await;
            self.hears().await;
        }
    }
}

/// A gate that shakes hands, and a device that calls it.
async fn meet(version: &'static rustls::SupportedProtocolVersion) -> (Handshake, Device) {
    let tls = server_tls(&rcgen::PKCS_ECDSA_P256_SHA256);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (near, _) = listener.accept().await.unwrap();
    let name = ServerName::try_from("gate.example.net").unwrap();
    let config = Arc::new(device_config(None, version, None));
    let device = Device {
        socket,
        tls: ClientConnection::new(config, name).unwrap(),
    };
    (
        Handshake::new(near, tls.without_alpn.clone()).unwrap(),
        device,
    )
}

async fn settled(mut handshake: Handshake) -> TlsStream {
    let mut seen = Seen::default();
    handshake.run(Vec::new(), &mut seen, &AtOnce).await.unwrap();
    handshake.settle(&mut seen).unwrap()
}

async fn read(stream: &mut TlsStream) -> Vec<u8> {
    let mut plain = Vec::new();
    let got = poll_fn(|cx| stream.poll_read(cx, &mut plain))
        .await
        .unwrap();
    assert_eq!(got, Got::Bytes);
    plain
}

async fn write(stream: &mut TlsStream, plain: &[u8]) {
    poll_fn(|cx| stream.poll_write(cx, plain)).await.unwrap();
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
}

/// threats.md M3, M6: new keys and data in one piece with the end of the handshake are as good as later.
#[tokio::test]
async fn what_comes_with_the_end_of_the_handshake_is_read_after_it() {
    let (handshake, mut device) = meet(&TLS13).await;
    let called = async {
        let mut last = device.greets().await;
        for word in ["early", "er"] {
            device.tls.refresh_traffic_keys().unwrap(); // and asks the gate for one, too
            device.tls.writer().write_all(word.as_bytes()).unwrap();
            last.extend(device.said());
        }
        device.says(&last).await;
    };
    let (mut stream, ()) = tokio::join!(settled(handshake), called);
    assert_eq!(read(&mut stream).await, b"earlyer");
    write(&mut stream, b"told").await;
    assert_eq!(device.hears_all(4).await, b"told");

    device.tls.refresh_traffic_keys().unwrap();
    device.tls.writer().write_all(b"later").unwrap();
    let later = device.said();
    device.says(&later).await;
    assert_eq!(read(&mut stream).await, b"later");
}

/// RFC 5246 §7.2.1: where a key can seal no more, the device is told that this is the end, behind what it was told before.
#[tokio::test]
async fn a_key_of_tls_1_2_that_can_seal_no_more_says_good_bye() {
    let (handshake, mut device) = meet(&TLS12).await;
    let called = async {
        let last = device.greets().await;
        device.says(&last).await;
        device.hears().await;
    };
    let (mut stream, ()) = tokio::join!(settled(handshake), called);
    stream.wear_out(1);

    let text = vec![7; LARGEST + 1]; // two records
    let failed = poll_fn(|cx| Poll::Ready(stream.poll_write(cx, &text))).await;
    assert!(matches!(
        failed,
        Poll::Ready(Err(Lost::Tls(Error::EncryptError)))
    ));
    poll_fn(|cx| stream.poll_close_write(cx)).await.unwrap();

    assert_eq!(device.hears_all(LARGEST).await, [7; LARGEST]);
    assert!(device.tls.process_new_packets().unwrap().peer_has_closed());
}
