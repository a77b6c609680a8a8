//! The tokens that the gate takes, and what it needs to check them.

use std::sync::OnceLock;

use crate::mqtt::connect::Connect;
use crate::rules::device::Alphabet;
use crate::rules::policy::{self, Caller, Claim, TokenPlace, Tokens};
use crate::rules::reason::Refusal;
use crate::rules::token::TokenKey;

/// Checks tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenDesk {
    pub(crate) place: TokenPlace,
    pub(crate) alphabet: Alphabet,
    /// There is a registry.
    pub(crate) registry: bool,
    /// The key of the registry's tokens, once it is known.
    key: OnceLock<TokenKey>,
}

impl TokenDesk {
    pub(crate) fn new(place: TokenPlace, alphabet: Alphabet, registry: bool) -> Self {
        Self {
            place,
            alphabet,
            registry,
            key: OnceLock::new(),
        }
    }

    /// The key has become known.
    pub(crate) fn set_key(&self, key: TokenKey) {
        let _ = self.key.set(key);
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
        let tokens = Tokens {
            place: self.place,
            key,
            key_away: self.registry && key.is_none(),
            jwt: None,
            alphabet: Some(&self.alphabet),
        };
        policy::claim(caller, asks, &tokens, now)
    }
}
