//! The tokens that the gate takes, and what it needs to check them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::jwks::KeySource;
use crate::mqtt::connect::{Connect, Password};
use crate::rules::device::Alphabet;
use crate::rules::jwt;
use crate::rules::policy::{self, Caller, Claim, Evidence, TokenEvidence, TokenPlace, Tokens};
use crate::rules::reason::Refusal;
use crate::rules::token::{Token, TokenKey};

/// How long a device with a token waits for its key to be known.
const A_MOMENT: Duration = Duration::from_millis(500);

/// Checks tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenDesk {
    pub(crate) place: TokenPlace,
    pub(crate) alphabet: Alphabet,
    /// There is a registry.
    pub(crate) registry: bool,
    key: Arc<Key>,
    /// `[token.jwt]`, and the issuer's keys.
    jwt: Option<(jwt::Settings, Arc<KeySource>)>,
}

/// The key of the registry's tokens, once it is known.
#[derive(Debug, Default)]
pub(crate) struct Key {
    key: OnceLock<TokenKey>,
    known: Notify,
}

impl Key {
    pub(crate) fn of(key: TokenKey) -> Arc<Self> {
        let known = Self::default();
        let _ = known.key.set(key);
        Arc::new(known)
    }
}

impl TokenDesk {
    pub(crate) fn new(
        place: TokenPlace,
        alphabet: Alphabet,
        registry: bool,
        key: Arc<Key>,
        jwt: Option<(jwt::Settings, Arc<KeySource>)>,
    ) -> Self {
        Self {
            place,
            alphabet,
            registry,
            key,
            jwt,
        }
    }

    /// The key has become known.
    pub(crate) fn set_key(&self, key: TokenKey) {
        let _ = self.key.key.set(key);
        self.key.known.notify_waiters();
    }

    /// The key, where it will be known.
    pub(crate) fn shared_key(&self) -> &Arc<Key> {
        &self.key
    }

    /// The key of the registry's tokens, if it is known.
    pub(crate) fn key(&self) -> Option<&TokenKey> {
        self.key.key.get()
    }

    /// Where the issuer's keys come from.
    pub(crate) fn key_source(&self) -> Option<&Arc<KeySource>> {
        self.jwt.as_ref().map(|(_, source)| source)
    }

    /// Waits for the key for a moment, if a token needs it and it is not known: the very first token makes it, and its device may
    /// be faster than our next glance.
    pub(crate) async fn ready_for(&self, asks: &Connect) {
        let known = self.key.known.notified();
        let brought = match self.place {
            TokenPlace::Password => asks.password.as_ref().map(Password::reveal),
            TokenPlace::Username => asks.username.as_deref().map(str::as_bytes),
        };
        if self.registry && self.key().is_none() && brought.is_some_and(Token::is_meant) {
            let _ = timeout(A_MOMENT, known).await;
        }
    }

    /// Who calls, at `now` (seconds since 1970).
    ///
    /// # Errors
    /// The [`Refusal`].
    pub(crate) fn claim(
        &self,
        caller: &Caller<'_>,
        asks: &Connect,
        now: i64,
    ) -> Result<Claim, Refusal> {
        let key = self.key();
        let keys = self.jwt.as_ref().and_then(|(_, source)| source.keys());
        let tokens = Tokens {
            place: self.place,
            key,
            key_away: self.registry && key.is_none(),
            jwt: self
                .jwt
                .as_ref()
                .map(|(settings, _)| (settings, keys.as_deref())),
            alphabet: Some(&self.alphabet),
        };
        let claim = policy::claim(caller, asks, &tokens, now);
        if let (Err(Refusal::Jwt(jwt::Bad::UnknownKey)), Some((_, source))) = (&claim, &self.jwt) {
            source.missing(); // fetched no sooner for it than the source allows (threats.md K4)
        }
        claim
    }

    /// Whether a JWT is asked here what `other` asks of it.
    pub(crate) fn asks_as(&self, other: &Self) -> bool {
        let asked = |desk: &Self| desk.jwt.as_ref().map(|(asked, _)| format!("{asked:?}"));
        std::ptr::eq(self, other) || asked(self) == asked(other)
    }

    /// Whether the JWT of `evidence` would still be one: by the key that signed it, and what is asked of it; `same`: that is what was
    /// asked of it ([`asks_as`](Self::asks_as)). Without a JWT, yes. Its text is not kept, so where more has changed than the keys, it
    /// counts no more.
    pub(crate) fn still_holds(&self, evidence: &Evidence, same: bool) -> bool {
        let Some(TokenEvidence::Jwt { key, .. }) = evidence.token.as_deref() else {
            return true;
        };
        let source = self.key_source().filter(|_| same);
        source.is_some_and(|source| source.still_holds(key))
    }

    /// Whether the issuer's keys come from where those of `other` do, the same source; also if neither has any.
    pub(crate) fn has_source_of(&self, other: &Self) -> bool {
        match (self.key_source(), other.key_source()) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// Fetches the issuer's keys, if they are not known yet; once.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn fetch_keys(&self) -> Result<(), String> {
        match &self.jwt {
            Some((_, source)) if source.keys().is_none() => source.fetch().await,
            _ => Ok(()),
        }
    }

    /// Keeps the issuer's keys fresh, and calls `changed` when they have changed. A file is no affair of this: it is looked at with all
    /// others that the configuration names. Never ends.
    pub(crate) async fn keep(&self, changed: impl Fn()) {
        let Some((_, source)) = &self.jwt else {
            return std::future::pending().await;
        };
        let mut changes = source.changes();
        let hear = async {
            while changes.changed().await.is_ok() {
                changed();
            }
        };
        let keep = async {
            if source.is_file() {
                std::future::pending::<()>().await;
            } else {
                source.keep().await;
            }
        };
        tokio::join!(keep, hear);
    }
}
