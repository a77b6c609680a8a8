//! Ends that no device brings about in the time that a test has.

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gate::control::Roll;
use crate::gate::control::tests::sitter;
use crate::tls::handshake::Handshake;

/// Both ends of a connection over loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

fn relay(device: DeviceLink, broker: TcpStream) -> Relay {
    let tally = Tally {
        metrics: Metrics::new(&["devices".into()], &[]),
        listener: 0,
    };
    let seat = Arc::new(Roll::default()).sit(sitter("a"));
    let watch = Watch {
        control: seat.control.clone(),
        gate: crate::gate::testing::gate(),
        listener: 0,
    };
    Relay::new(
        device,
        Socket::Tcp(broker),
        (Version::V311, None),
        watch,
        tally,
    )
}

/// threats.md V7: the second side has 30 s of silence once the first has closed; then the connection is over.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_half_open_and_silent_ends_after_30_s() {
    for device_closes in [true, false] {
        let ((mut device, near), (broker, mut far)) = (pair().await, pair().await);
        let mut relay = relay(DeviceLink::Plain(Socket::Tcp(near)), broker);
        let began = Instant::now();
        let closer = if device_closes { &mut device } else { &mut far };
        closer.shutdown().await.expect("closed");

        let ending = relay.run().await; // nothing moves, so the clock leaps to the next deadline

        assert_eq!(ending, Ending::HalfOpen { limit: HALF_OPEN });
        assert!(began.elapsed() >= HALF_OPEN, "{:?}", began.elapsed());

        let told = Instant::now();
        relay.close(ending).linger().await;
        assert_eq!(told.elapsed(), Duration::ZERO, "it had its time");
    }
}

/// threats.md V7: TLS that can say nothing more leaves no device behind that is heard and never answered.
#[tokio::test]
async fn a_device_that_tls_cannot_write_to_any_more_is_let_go() {
    let ((_device, near), (broker, mut far)) = (pair().await, pair().await);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    // After a handshake that failed TLS writes as little as after its last record.
    let handshake = Handshake::new(near, Arc::new(config)).expect("a configuration");
    let mut relay = relay(DeviceLink::Tls(Box::new(handshake.abandon())), broker);
    far.write_all(b"\xd0\x00").await.expect("sent"); // PINGRESP

    let ending = timeout(HALF_OPEN / 2, relay.run()).await;

    let ending = ending.expect("it ends at once, though the device's socket is open");
    assert!(matches!(ending, Ending::DeviceLost { .. }));
}
