//! The tokens that the gate takes, and what it needs to check them.

use std::sync::OnceLock;
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
    /// The key of the registry's tokens, once it is known.
    key: OnceLock<TokenKey>,
    known: Notify,
    /// `[token.jwt]`, and the issuer's keys.
    jwt: Option<(jwt::Settings, KeySource)>,
}

impl TokenDesk {
    pub(crate) fn new(
        place: TokenPlace,
        alphabet: Alphabet,
        registry: bool,
        jwt: Option<(jwt::Settings, KeySource)>,
    ) -> Self {
        Self {
            place,
            alphabet,
            registry,
            key: OnceLock::new(),
            known: Notify::new(),
            jwt,
        }
    }

    /// The key has become known.
    pub(crate) fn set_key(&self, key: TokenKey) {
        let _ = self.key.set(key);
        self.known.notify_waiters();
    }

    /// Waits for the key for a moment, if a token needs it and it is not known: the very first token makes it, and its device may
    /// be faster than our next glance.
    pub(crate) async fn ready_for(&self, asks: &Connect) {
        let known = self.known.notified();
        let brought = match self.place {
            TokenPlace::Password => asks.password.as_ref().map(Password::reveal),
            TokenPlace::Username => asks.username.as_deref().map(str::as_bytes),
        };
        if self.registry && self.key.get().is_none() && brought.is_some_and(Token::is_meant) {
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
        let key = self.key.get();
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

    /// Whether the key that signed the JWT of `evidence` still counts; without a JWT, yes.
    pub(crate) fn still_holds(&self, evidence: &Evidence) -> bool {
        match (evidence.token.as_deref(), &self.jwt) {
            (Some(TokenEvidence::Jwt { key, .. }), Some((_, source))) => source.still_holds(key),
            _ => true,
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

    /// Keeps the issuer's keys fresh, and calls `changed` when they have changed. Never ends.
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
        tokio::join!(source.keep(), hear);
    }
}
