//! A device: rumqttc, an MQTT client as devices use it, over mutual TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::tokio_rustls::rustls::crypto::aws_lc_rs;
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore};
use rumqttc::{
    AsyncClient, Event, Incoming, MqttOptions, Outgoing, QoS, TlsConfiguration, Transport,
};
use tidegate::pki::{Issued, folder};
use tidegate::tls::files;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Anything;

/// What a device writes into its CONNECT. Anybody can write anything there.
#[derive(Clone, Copy)]
pub(crate) struct Claims<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) username: &'a str,
}

/// A connected device.
pub(crate) struct Device {
    client: AsyncClient,
    acknowledged: watch::Receiver<u32>,
    events: JoinHandle<()>,
}

/// A message that came to a device.
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) text: String,
}

pub(crate) type Inbox = UnboundedReceiver<Message>;

impl Device {
    /// Comes back when the CONNACK is there.
    pub(crate) async fn connect(
        home: &Path,
        port: u16,
        certificate: &Issued,
        claims: Claims<'_>,
    ) -> Result<(Self, Inbox), Anything> {
        let mut roots = RootCertStore::empty();
        for ca in files::certificates(&home.join(folder::CERTIFICATE))? {
            roots.add(ca)?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificate.chain(), certificate.key())?;
        let mut options = MqttOptions::new(claims.client_id, "localhost", port);
        options
            .set_credentials(claims.username, "guess")
            .set_keep_alive(Duration::from_secs(30))
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::new(tls),
            )));

        let (client, mut events) = AsyncClient::new(options, 16);
        while !matches!(events.poll().await?, Event::Incoming(Incoming::ConnAck(_))) {}
        let (deliver, inbox) = unbounded_channel();
        let (acknowledge, acknowledged) = watch::channel(0);
        let events = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::Publish(message))) => {
                        let text = String::from_utf8_lossy(&message.payload).into_owned();
                        let topic = message.topic;
                        let _ = deliver.send(Message { topic, text });
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_) | Incoming::PubAck(_))) => {
                        acknowledge.send_modify(|count| *count += 1);
                    }
                    Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        });
        let device = Self {
            client,
            acknowledged,
            events,
        };
        Ok((device, inbox))
    }

    /// Comes back when the broker has it.
    pub(crate) async fn subscribe(&self, filter: &str) -> Result<(), Anything> {
        let mut acknowledged = self.acknowledged.clone();
        acknowledged.mark_unchanged();
        self.client.subscribe(filter, QoS::AtLeastOnce).await?;
        Ok(acknowledged.changed().await?)
    }

    /// Comes back when the broker has it.
    pub(crate) async fn publish(&self, topic: &str, text: &str) -> Result<(), Anything> {
        let mut acknowledged = self.acknowledged.clone();
        acknowledged.mark_unchanged();
        let (qos, text) = (QoS::AtLeastOnce, text.to_owned());
        self.client.publish(topic, qos, false, text).await?;
        Ok(acknowledged.changed().await?)
    }

    /// Says DISCONNECT.
    pub(crate) async fn leave(self) -> Result<(), Anything> {
        self.client.disconnect().await?;
        Ok(self.events.await?)
    }
}
