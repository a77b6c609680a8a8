//! What the gate would make of a device: the steps of the path from its certificate to the CONNECT for the broker, asked by
//! somebody who wants to know. Nobody connects, nothing is written, nobody takes a seat; and that the device holds its key is
//! taken for granted.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier as _;
use rustls_pki_types::CertificateDer;

use super::admit::{encode, facts_of, maximum_packet};
use super::devices::{LookUp, Looked, look_up};
use super::start::{LoadedListener, StartFault};
use super::tokens::TokenDesk;
use super::{ListenerSettings, Settings};
use crate::jwks::KeySource;
use crate::mqtt::connect::{self, Connect};
use crate::registry::directory::{Found, Lane, Whom};
use crate::registry::token_key;
use crate::registry::{Fault, Registry, StoreSettings};
use crate::rules::device::{DeviceId, Mode};
use crate::rules::policy::{self, Admission, Caller, Claim, Refused, TokenPlace, Unknown};
use crate::rules::reason::Refusal;
use crate::rules::record::{LastSeen, Print, Record};
use crate::rules::token::TokenKey;
use crate::tls::examine::Examined;
use crate::tls::verify::Shown;

pub(crate) use super::devices::Held;

/// What is asked.
pub(crate) struct Question<'a> {
    /// Where the device calls.
    pub(crate) listener: &'a ListenerSettings,
    /// What it sends in the handshake, its own certificate first; empty: it has none.
    pub(crate) chain: &'a [CertificateDer<'static>],
    /// Its CONNECT, as far as it can be read.
    pub(crate) connect: &'a Result<Connect, connect::Fault>,
    /// Where it calls from.
    pub(crate) ip: IpAddr,
    /// In seconds since 1970.
    pub(crate) now: i64,
}

/// The answer, and what led to it, as far as the device would get.
pub(crate) struct Explained {
    /// The mode of its connection.
    pub(crate) mode: Option<Mode>,
    /// What the handshake would make of its chain; `None`: it shows none.
    pub(crate) examined: Option<Examined>,
    /// The alert that ends its handshake.
    pub(crate) alert: Option<String>,
    /// Who it says it is.
    pub(crate) claim: Option<Claim>,
    /// What the registry says.
    pub(crate) known: Option<Known>,
    pub(crate) verdict: Result<Admission, Refused>,
    /// What stands behind it that is not the device's.
    pub(crate) note: Option<String>,
}

/// What the registry says of a device.
pub(crate) struct Known {
    pub(crate) held: Held,
    /// It would be registered now; its record in `held` is what would be written.
    pub(crate) would_register: bool,
    pub(crate) seen: Option<LastSeen>,
    /// The numbers of the credentials that it shows.
    pub(crate) matching: Vec<u32>,
}

/// Answers questions by one configuration.
pub(crate) struct Explainer {
    settings: Settings,
    tokens: TokenDesk,
    registry: Store,
    /// What to know about the answers.
    pub(crate) notes: Vec<String>,
}

/// The registry, as it was found.
enum Store {
    /// The configuration has none.
    None,
    /// Its file is not there yet: the gate would make it.
    Empty,
    Open(Registry),
    Away(Arc<str>),
}

impl Explainer {
    /// Opens the registry, if there is one; one that is away is no fault, but an answer.
    ///
    /// # Errors
    /// When the keys of the JWT issuer cannot be read.
    pub(crate) async fn open(settings: Settings) -> Result<Self, StartFault> {
        let jwt = settings.token.jwt.as_ref().map(|jwt| {
            let source = KeySource::load(jwt).map_err(|fault| StartFault {
                key: format!("token.jwt.{}", fault.key),
                sentence: fault.sentence,
            })?;
            Ok((jwt.tokens.clone(), Arc::new(source)))
        });
        let tokens = TokenDesk::new(
            settings.token.place,
            settings.alphabet.clone(),
            settings.registry.is_some(),
            Arc::default(),
            jwt.transpose()?,
        );
        let registry = match &settings.registry {
            None => Store::None,
            Some(registry) => Store::open(&registry.directory.store).await,
        };
        let mut explainer = Self {
            settings,
            tokens,
            registry,
            notes: Vec::new(),
        };
        explainer.find_token_key().await;
        Ok(explainer)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Finds the key of the registry's tokens as the gate would, but makes none.
    async fn find_token_key(&mut self) {
        let Some(registry) = &self.settings.registry else {
            return;
        };
        let file = &registry.token_key;
        let has_key = match &self.registry {
            Store::Open(store) => store.has_token_key().await.map_err(told),
            Store::Empty => Ok(false),
            _ => return,
        };
        let found = match (token_key::read(file), has_key, &self.registry) {
            (Err(why), ..) | (_, Err(why), _) => Err(why),
            (Ok(Some(key)), Ok(true), Store::Open(store)) => {
                match store.token_key_check(&key.check_value()).await {
                    Ok(theirs) if theirs == key.check_value() => Ok(key),
                    Ok(_) => Err(format!(
                        "{} is not the key that they are hashed with",
                        file.display()
                    )),
                    Err(fault) => Err(told(fault)),
                }
            }
            (Ok(Some(key)), ..) => Ok(key),
            (Ok(None), Ok(true), _) => Err(format!("{} is not there", file.display())),
            // The gate would make one. No token was ever made with it, nor with this one.
            (Ok(None), Ok(false), _) => Ok(TokenKey::new([0; 32])),
        };
        match found {
            Ok(key) => self.tokens.set_key(key),
            Err(why) => self
                .notes
                .push(format!("No token of the registry can be checked: {why}.")),
        }
    }

    /// Goes the way of a connection, from the handshake to the CONNECT for the broker.
    ///
    /// # Errors
    /// Every fault of the files of the listener's trust groups.
    pub(crate) async fn explain(&self, asked: &Question<'_>) -> Result<Explained, Vec<StartFault>> {
        let pins = self.settings.registry.is_some();
        let verifier = LoadedListener::load_verifier(asked.listener, &self.settings.trust, pins)?;
        let mut told = Explained {
            mode: None,
            examined: None,
            alert: None,
            claim: None,
            known: None,
            verdict: Err(Refusal::GateFault.into()),
            note: None,
        };
        let mut shown = None;
        match (verifier, asked.chain.split_first()) {
            (Some(verifier), Some((leaf, sent))) => {
                let examined = verifier.examine(leaf, sent, asked.now);
                match examined.outcome.clone() {
                    Ok(taken) => shown = Some(taken),
                    Err(ended) => told.end(
                        ended.alert,
                        Refusal::Certificate {
                            label: ended.refusal.reason,
                            why: ended.refusal.why,
                        },
                    ),
                }
                told.examined = Some(examined);
            }
            (Some(verifier), None) if verifier.client_auth_mandatory() => {
                told.end("certificate_required".into(), Refusal::NoCertificate);
            }
            _ => {}
        }
        if told.alert.is_none() {
            told.mode = Some(match &shown {
                Some(_) => Mode::MutualTls,
                None if asked.listener.offer.is_tls() => Mode::ServerTls,
                None => Mode::Plain,
            });
            self.judge(asked, shown.as_ref(), &mut told).await;
        }
        Ok(told)
    }

    /// From the CONNECT on.
    async fn judge(&self, asked: &Question<'_>, shown: Option<&Shown>, told: &mut Explained) {
        let asks = match asked.connect {
            Ok(connect) => connect,
            Err(fault) => {
                told.verdict = Err(Refusal::Connect(*fault).into());
                return;
            }
        };
        if may_hold_token(asks, self.settings.token.place)
            && let Err(why) = self.tokens.fetch_keys().await
        {
            let sentence = format!("The keys of the tokens' issuer cannot be had: {why}.");
            told.note = Some(sentence);
        }
        let caller = Caller {
            listener: &asked.listener.name,
            mode: told.mode.unwrap_or(Mode::Plain),
            ip: asked.ip,
            certificate: shown.map(facts_of),
        };
        let claim = match self.tokens.claim(&caller, asks, asked.now) {
            Ok(claim) => claim,
            Err(refusal) => {
                told.verdict = Err(refusal.into());
                return;
            }
        };
        let known = Asked {
            store: &self.registry,
            would_register: Cell::new(false),
        };
        let registry = self.settings.registry.as_ref();
        let unknown = registry.map_or(Unknown::Refuse, |registry| registry.unknown);
        let found = look_up(&claim, registry.map(|_| &known), unknown, |_| (), asked.now).await;
        told.verdict = decide(&caller, &claim, asks, &found, &self.settings, asked.now);
        let matching = match &found.held {
            Held::Known(record) => policy::matching(&claim.evidence, record, asked.now),
            _ => Vec::new(),
        };
        let would_register = known.would_register.get();
        let seen = match &found.held {
            Held::Known(record) if !would_register => self.last_seen(&record.device).await,
            _ => None,
        };
        told.known = Some(Known {
            held: found.held,
            would_register,
            seen,
            matching,
        });
        told.claim = Some(claim);
    }

    async fn last_seen(&self, device: &DeviceId) -> Option<LastSeen> {
        let Store::Open(registry) = &self.registry else {
            return None;
        };
        registry.last_seen(device).await.ok().flatten()
    }

    /// The device that has a certificate with this fingerprint as a credential, or was last seen with it, or has a key of this
    /// SHA-256 pinned, or is called so.
    ///
    /// # Errors
    /// [`Refusal::RegistryAway`].
    pub(crate) async fn who_has(
        &self,
        print: Print,
    ) -> Result<Option<(Record, Option<LastSeen>)>, Refusal> {
        let registry = match &self.registry {
            Store::Open(registry) => registry,
            Store::None | Store::Empty => return Ok(None),
            Store::Away(why) => {
                let why = why.to_string();
                return Err(Refusal::RegistryAway { why });
            }
        };
        let away = |fault| Refusal::RegistryAway { why: told(fault) };
        let mut found = registry.find_by_print(&print).await.map_err(away)?;
        if let (None, Ok(named)) = (&found, hex::encode(print).parse()) {
            found = registry.find(&named).await.map_err(away)?; // trust.device = "fingerprint"
        }
        let Some(record) = found else {
            return Ok(None);
        };
        let seen = registry.last_seen(&record.device).await.map_err(away)?;
        Ok(Some((record, seen)))
    }
}

/// The verdict, and whether what it has to write fits.
fn decide(
    caller: &Caller<'_>,
    claim: &Claim,
    asks: &Connect,
    found: &Looked<()>,
    settings: &Settings,
    now: i64,
) -> Result<Admission, Refused> {
    let standing = found.standing();
    let admission = policy::decide(
        caller,
        claim,
        asks.clone(),
        standing,
        &settings.connect,
        now,
    )?;
    let refusal = match encode(&admission, maximum_packet(asks)) {
        Ok(_) if found.seat.is_some() => return Ok(admission),
        Ok(_) => Refusal::GateFault, // who enters without a name has no seat
        Err(refusal) => refusal,
    };
    Err(Refused {
        refusal,
        device: Some(admission.device),
    })
}

impl Explained {
    /// The handshake ends.
    fn end(&mut self, alert: String, refusal: Refusal) {
        self.alert = Some(alert);
        self.verdict = Err(refusal.into());
    }
}

/// Whether there is something where a token is looked for.
fn may_hold_token(asks: &Connect, place: TokenPlace) -> bool {
    match place {
        TokenPlace::Password => asks.password.is_some(),
        TokenPlace::Username => asks.username.is_some(),
    }
}

impl Store {
    async fn open(settings: &StoreSettings) -> Self {
        if let StoreSettings::Sqlite { path } = settings
            && !path.exists()
        {
            return Self::Empty; // made by whoever asks, it might not be the gate's to write
        }
        match Registry::open(settings).await {
            Ok(registry) => Self::Open(registry),
            Err(fault) => Self::Away(told(fault).into()),
        }
    }
}

fn told(fault: Fault) -> String {
    match fault {
        Fault::Away(why) => why,
        other => other.to_string(),
    }
}

/// The registry, of which nothing is changed.
struct Asked<'a> {
    store: &'a Store,
    would_register: Cell<bool>,
}

impl LookUp for Asked<'_> {
    async fn look_up(&self, _: Lane, whom: &Whom) -> Found {
        let registry = match self.store {
            Store::Open(registry) => registry,
            Store::Away(why) => return Found::Away(why.clone()),
            Store::None | Store::Empty => return Found::Unknown,
        };
        let found = match whom {
            Whom::Device(device) => registry.find(device).await,
            Whom::Pinned(pins) => registry.find_pinned(pins).await,
        };
        match found {
            Ok(Some(record)) => Found::Known(record.into()),
            Ok(None) => Found::Unknown,
            Err(fault) => Found::Away(told(fault).into()),
        }
    }

    async fn look_up_anew(&self, record: Arc<Record>, _: tokio::time::Instant) -> Found {
        Found::Known(record) // it came from the store
    }

    /// Only tells that it would be.
    async fn register(&self, record: Record, quota: u32) -> Held {
        let group = record.registered_by.as_deref().unwrap_or_default();
        let room = match self.store {
            Store::Open(registry) => registry.has_room(group, quota).await,
            _ => Ok(()),
        };
        match room {
            Ok(()) => {
                self.would_register.set(true);
                Held::Known(record.into())
            }
            Err(fault @ Fault::QuotaFull { .. }) => Held::Full(fault.to_string()),
            Err(fault) => Held::Away(told(fault).into()),
        }
    }
}
