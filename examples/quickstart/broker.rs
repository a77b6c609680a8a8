//! rumqttd as an embedded broker that tells whom it was told about.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Anything;

/// A broker for MQTT 3.1.1 on a loopback port of its own.
pub(crate) struct Broker {
    address: SocketAddr,
    heard: UnboundedReceiver<Heard>,
}

/// What a CONNECT said when it reached the broker.
pub(crate) struct Heard {
    pub(crate) client_id: String,
    pub(crate) username: String,
}

impl Broker {
    /// Gives it when it listens. It lives as long as the process: rumqttd knows no end.
    pub(crate) async fn start() -> Result<Self, Anything> {
        // rumqttd does not tell the port it got for port 0, so a free one is looked for first.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let (tell, heard) = unbounded_channel();
        let mut server = ServerSettings {
            name: "quickstart".to_owned(),
            listen: address,
            tls: None,
            next_connection_delay_ms: 0,
            connections: ConnectionSettings {
                connection_timeout_ms: 10_000,
                max_payload_size: 1 << 20,
                max_inflight_count: 100,
                auth: None,
                external_auth: None,
                dynamic_filters: true,
            },
        };
        // It asks this about everybody who logs in: the place to hear both names.
        server.set_auth_handler(move |client_id, username, _password| {
            let told = tell.send(Heard {
                client_id,
                username,
            });
            async move { told.is_ok() }
        });
        let config = Config {
            router: RouterConfig {
                max_connections: 100,
                max_outgoing_packet_count: 200,
                max_segment_size: 1 << 20,
                max_segment_count: 10,
                ..RouterConfig::default()
            },
            v4: Some(HashMap::from([(server.name.clone(), server)])),
            ..Config::default()
        };
        std::thread::spawn(move || {
            if let Err(why) = rumqttd::Broker::new(config).start() {
                eprintln!("the broker ended: {why}");
            }
        });
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { address, heard })
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// The next CONNECT that it hears.
    pub(crate) async fn heard(&mut self) -> Result<Heard, Anything> {
        let heard = self.heard.recv().await;
        heard.ok_or_else(|| "the broker is gone".into())
    }

    /// A CONNECT that it has heard by now.
    pub(crate) fn heard_already(&mut self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }
}
