//! The devices of a run: their certificates, their CONNECTs, their TLS sessions.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, NamedGroup};

use super::Fault;
use super::settings::{Certificates, Devices, MOST_DEVICES, USUAL_DEVICES};
use crate::mqtt::connect::{Connect, Password};
use crate::mqtt::properties::Properties;
use crate::pki::{Authority, KeyKind, Order, folder};
use crate::rules::device::DeviceId;

/// One device.
pub(super) struct Device {
    /// Its name: client id, and what its certificate says.
    pub(super) name: String,
    /// Whether it shows a certificate.
    pub(super) shows: bool,
    /// For a full handshake.
    pub(super) full: Arc<ClientConfig>,
    /// For a resumed one, and the sessions that it has; `None`: the run resumes nothing.
    pub(super) resuming: Option<(Arc<ClientConfig>, Arc<Sessions>)>,
    /// Its CONNECT, as bytes.
    pub(super) connect: Vec<u8>,
}

/// A certificate with its intermediates, and its key.
type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Makes or reads the devices, on `threads` threads. `keep_alive` (in seconds, 0: none) goes into their CONNECT;
/// `resumes`: they keep TLS sessions. `progress` is told once a second how many of how many are there.
///
/// # Errors
/// When the CA or the folder cannot be used, or a name is too long for MQTT.
pub(super) fn prepare(
    asked: &Devices,
    template: &ClientConfig,
    threads: usize,
    keep_alive: u16,
    resumes: bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Device>, Fault> {
    let count = asked.count.unwrap_or(USUAL_DEVICES);
    let make = |name: String, pair: Option<Pair>| {
        let connect = connect(asked, &name, keep_alive)?;
        device(name, pair, connect, template, resumes)
    };
    match &asked.certificates {
        Certificates::None => in_parallel(count, threads, progress, |n| make(name(n), None)),
        Certificates::Made { ca, key } => {
            let authority = folder::open_authority(ca)?;
            in_parallel(count, threads, progress, |n| {
                let name = name(n);
                let pair = issue(&authority, &name, *key)?;
                make(name, Some(pair))
            })
        }
        Certificates::Folder(at) => {
            let mut names = names_in(at)?;
            names.truncate(asked.count.unwrap_or(MOST_DEVICES));
            in_parallel(names.len(), threads, progress, |n| {
                let pair = read(at, &names[n])?;
                make(names[n].clone(), Some(pair))
            })
        }
    }
}

fn name(n: usize) -> String {
    format!("bench-{:06}", n + 1)
}

/// Calls `make` for 0 to `count` on several threads; what it gives is in order.
fn in_parallel<T: Send>(
    count: usize,
    threads: usize,
    progress: &mut dyn FnMut(usize, usize),
    make: impl Fn(usize) -> Result<T, Fault> + Sync,
) -> Result<Vec<T>, Fault> {
    let next = AtomicUsize::new(0);
    let (to, made) = mpsc::channel();
    let mut slots: Vec<Option<T>> = (0..count).map(|_| None).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            let (to, next, make) = (to.clone(), &next, &make);
            scope.spawn(move || {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count || to.send((n, make(n))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(to);
        let mut done = 0;
        let mut told = std::time::Instant::now();
        loop {
            match made.recv_timeout(Duration::from_secs(1)) {
                Ok((n, one)) => {
                    match one {
                        Ok(one) => slots[n] = Some(one),
                        Err(fault) => {
                            next.store(count, Ordering::Relaxed);
                            return Err(fault);
                        }
                    }
                    done += 1;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = std::time::Instant::now();
                progress(done, count);
            }
        }
        Ok(())
    })?;
    Ok(slots.into_iter().flatten().collect())
}

fn issue(authority: &Authority, name: &str, key: KeyKind) -> Result<Pair, Fault> {
    let id: DeviceId = name.parse().expect("letters, digits and a dash");
    let order = Order::device(&id);
    let validity = crate::pki::Validity::days(crate::pki::DEVICE_DAYS).within(authority.validity());
    let issued = authority.issue(order.key(key).valid(validity))?;
    Ok((issued.chain(), issued.key()))
}

/// The names of a folder's pairs, in order.
fn names_in(at: &Path) -> Result<Vec<String>, Fault> {
    let failed = |why: std::io::Error| {
        Fault::Failed(format!("cannot read --device-dir {}: {why}", at.display()))
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(at).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_pair = path.extension().is_some_and(|e| e == "pem")
            && path.with_extension("key").exists()
            && path
                .file_name()
                .is_some_and(|name| name != folder::CERTIFICATE);
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            && is_pair
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        return Err(Fault::Failed(format!(
            "--device-dir {} holds no pair ID.pem and ID.key; `tidegate device add ID --ca DIR --out {}` makes one",
            at.display(),
            at.display()
        )));
    }
    Ok(names)
}

fn read(at: &Path, name: &str) -> Result<Pair, Fault> {
    let of = |ending: &str| at.join(format!("{name}.{ending}"));
    let failed = |ending: &str, why: rustls::pki_types::pem::Error| {
        Fault::Failed(format!("cannot use {}: {why}", of(ending).display()))
    };
    let chain = CertificateDer::pem_file_iter(of("pem"))
        .and_then(Iterator::collect)
        .map_err(|why| failed("pem", why))?;
    let key = PrivateKeyDer::from_pem_file(of("key")).map_err(|why| failed("key", why))?;
    Ok((chain, key))
}

fn connect(asked: &Devices, name: &str, keep_alive: u16) -> Result<Vec<u8>, Fault> {
    let connect = Connect {
        version: asked.mqtt,
        clean_start: true,
        keep_alive,
        properties: Properties::new(),
        client_id: name.to_owned(),
        will: None,
        username: (asked.username.as_ref()).map(|template| template.replace("{device}", name)),
        password: asked.password.clone().map(Password::new),
    };
    connect
        .encode()
        .map_err(|why| Fault::Asked(format!("the CONNECT of {name} cannot be written: {why}")))
}

fn device(
    name: String,
    pair: Option<Pair>,
    connect: Vec<u8>,
    template: &ClientConfig,
    resumes: bool,
) -> Result<Device, Fault> {
    let mut full = template.clone();
    let shows = pair.is_some();
    if let Some((chain, key)) = pair {
        let key = certified(chain, key, template.crypto_provider())
            .map_err(|why| Fault::Failed(format!("the certificate of {name}: {why}")))?;
        full.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    }
    let resuming = resumes.then(|| {
        let sessions = Arc::new(Sessions::default());
        let mut config = full.clone();
        config.resumption = Resumption::store(sessions.clone());
        (Arc::new(config), sessions)
    });
    Ok(Device {
        name,
        shows,
        full: Arc::new(full),
        resuming,
        connect,
    })
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, provider)
}

/// The TLS sessions of one device with the one server of the run.
///
/// rustls's own store is one for all and would be shared by all threads; this one is the device's.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

/// Tickets of TLS 1.3 that are kept of each device; the newest are used first.
const TICKETS: usize = 4;

impl Sessions {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next handshake can be a resumed one.
    pub(super) fn are_there(&self) -> bool {
        let kept = self.kept();
        kept.tls12.is_some() || !kept.tls13.is_empty()
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions(…)")
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None // one group is offered
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let tickets = &mut self.kept().tls13;
        if tickets.len() == TICKETS {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().tls13.pop_back()
    }
}
