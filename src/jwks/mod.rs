//! The keys of a JWT issuer: a JWKS from a file or an https URL, held ready for the path and kept fresh beside it.
//!
//! Nothing on the path waits for a fetch (threats.md V4): a token is judged by the keys that are there. One task,
//! [`KeySource::keep`], looks at the source by a schedule that strangers cannot hurry: a token whose key is not known brings
//! the next fetch forward, to a minute after the last one at the soonest, however many ask (threats.md K4). When fetches fail,
//! the keys that are there count for a day; after that, tokens are told to come back.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::FutureExt as _;
use hyper::Uri;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::rules::jwt::{self, Bad, Claims, Keys};
use crate::rules::record::Print;

mod fetch;

use fetch::Fetcher;

/// `[token.jwt]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the keys are.
    pub keys: Place,
    /// The CAs that the server of the URL is judged by, PEM; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// How tokens are judged.
    pub tokens: jwt::Settings,
}

/// Where a JWKS is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In this file.
    File(PathBuf),
    /// At this address.
    Url(HttpsUrl),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(HttpsUrl(uri)) => uri.fmt(f),
        }
    }
}

/// An address that begins with `https://`, with no username or password in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpsUrl(Uri);

/// The text is no such address. What was written is not told: it may hold a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnUrl {
    /// It is not `https`.
    #[error("is not an https address: keys that come unprotected could be anybody's")]
    NotHttps,
    /// It has a username or a password.
    #[error("holds a username or a password: the keys of an issuer are public")]
    Secret,
    /// It is no address.
    #[error("is no address")]
    Garbled,
}

impl FromStr for HttpsUrl {
    type Err = NotAnUrl;

    fn from_str(text: &str) -> Result<Self, NotAnUrl> {
        let uri: Uri = text.parse().map_err(|_| NotAnUrl::Garbled)?;
        if uri.scheme_str() != Some("https") {
            return Err(NotAnUrl::NotHttps);
        }
        let authority = uri.authority().ok_or(NotAnUrl::Garbled)?;
        if authority.as_str().contains('@') {
            return Err(NotAnUrl::Secret);
        }
        if authority.host().is_empty() || text.contains('#') {
            return Err(NotAnUrl::Garbled);
        }
        Ok(Self(uri))
    }
}

/// Something that keeps the keys from being used at all.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("token.jwt.{key}: {sentence}")]
pub struct Fault {
    /// The key of `[token.jwt]` that it belongs to.
    pub key: &'static str,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

/// A file is looked at each five seconds (threats.md R3), also when the last look failed.
const LOOK: Duration = Duration::from_secs(5);
/// An address is asked again after what its `Cache-Control: max-age` says, within these.
const SOONEST: Duration = Duration::from_mins(5);
const LATEST: Duration = Duration::from_hours(24);
/// And where it says nothing.
const USUAL: Duration = Duration::from_hours(1);
/// Tokens with unknown keys bring a fetch forward to so long after the last one began (threats.md K4).
const APART: Duration = Duration::from_mins(1);
/// After a fetch that failed: twice as long each time.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MOST: Duration = Duration::from_mins(5);
/// Without a good fetch for so long, the keys count no more.
const STALE: Duration = Duration::from_hours(24);
/// For one fetch, from the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest JWKS, in bytes.
const LARGEST: usize = 1 << 20;

/// The keys, and where they come from.
#[derive(Debug)]
pub struct KeySource {
    tokens: jwt::Settings,
    place: Place,
    source: Source,
    known: ArcSwapOption<Known>,
    changes: watch::Sender<()>,
    asked: Notify,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(Box<Fetcher>),
}

/// The last set that was good.
#[derive(Debug)]
struct Known {
    keys: Arc<Keys>,
    /// As it came: the same bytes are not read again.
    content: Vec<u8>,
    /// Too old to go by.
    stale: bool,
}

/// A set as it came, and how long to go by it before the next look.
struct Got {
    content: Vec<u8>,
    next: Duration,
}

impl KeySource {
    /// Reads the file, or makes ready to ask the address; the first question is asked by [`keep`](Self::keep).
    ///
    /// # Errors
    /// [`Fault`], when the file is no good set of keys, or there are no CAs to judge the server of the address by.
    pub fn load(settings: &Settings) -> Result<Self, Fault> {
        let source = match &settings.keys {
            Place::File(path) => Source::File(path.clone()),
            Place::Url(HttpsUrl(uri)) => {
                Source::Url(Fetcher::new(uri.clone(), settings.ca.as_deref())?.into())
            }
        };
        let keys = Self {
            tokens: settings.tokens.clone(),
            place: settings.keys.clone(),
            source,
            known: ArcSwapOption::empty(),
            changes: watch::Sender::new(()),
            asked: Notify::new(),
        };
        if let Source::File(path) = &keys.source {
            let content = fetch::read(path).and_then(|content| keys.take(content));
            content.map_err(|why| Fault {
                key: "keys",
                sentence: format!("{}: {why}", path.display()),
            })?;
        }
        Ok(keys)
    }

    /// Judges a token at `now` (seconds since 1970), by the keys that are there. Never waits.
    ///
    /// # Errors
    /// [`Bad`]. [`Bad::KeysAway`] is no word about the token: there are no keys to judge it by, or they are too old.
    pub fn judge(&self, token: &[u8], now: i64) -> Result<Claims, Bad> {
        let Some(keys) = self.keys() else {
            // What no key could mend is told as it is.
            return match jwt::verify(token, &self.tokens, &Keys::default(), now) {
                Err(bad) if bad != Bad::UnknownKey => Err(bad),
                _ => Err(Bad::KeysAway),
            };
        };
        let judged = jwt::verify(token, &self.tokens, &keys, now);
        if judged == Err(Bad::UnknownKey) {
            self.missing();
        }
        judged
    }

    /// Whether the keys are in a file: whoever reloads it makes another source of it.
    pub fn is_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// The keys to go by; `None`: none were ever had, or they are too old.
    pub fn keys(&self) -> Option<Arc<Keys>> {
        let known = self.known.load();
        let known = known.as_ref().filter(|known| !known.stale)?;
        Some(known.keys.clone())
    }

    /// Whether a key that vouched for an open connection has not been taken away since: [`Claims::key`]. Keys that cannot be had
    /// take nothing away; the connection ends with its token.
    pub fn still_holds(&self, key: &Print) -> bool {
        let known = self.known.load();
        known.as_ref().is_none_or(|known| known.keys.holds(key))
    }

    /// Hears of every set of keys that differs from the one before: open connections are to be judged again then. A connection
    /// that has just been admitted asks [`still_holds`](Self::still_holds) once more after it can be found.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Says that a token names a key that is not known. Any number of times.
    pub fn missing(&self) {
        self.asked.notify_one();
    }

    /// Looks at the source once, now: for whoever asks one question, and keeps nothing.
    ///
    /// # Errors
    /// A sentence, when there was no good set of keys.
    pub async fn fetch(&self) -> Result<(), String> {
        let got = self.look().await?;
        self.take(got.content).map(drop)
    }

    /// Asks the address once, now, for `within`; gives the time that its server tells, in seconds since 1970. `None`: it tells none, or
    /// the keys are in a file.
    ///
    /// # Errors
    /// A sentence, when there was no good set of keys.
    pub async fn ask(&self, within: Duration) -> Result<Option<i64>, String> {
        let Source::Url(fetcher) = &self.source else {
            return Ok(None);
        };
        let (content, head) = fetcher.fetch(within).await?;
        self.take(content)?;
        Ok(head.date)
    }

    /// Keeps the keys fresh, for as long as it is polled; by one task. Dropping it half-way loses nothing.
    pub async fn keep(&self) {
        self.keep_by(|| self.look()).await;
    }

    async fn keep_by<L: Future<Output = Result<Got, String>>>(&self, look: impl Fn() -> L) {
        let mut last_good = self.known.load().as_ref().map(|_| Instant::now());
        let mut failures = 0;
        loop {
            // Who asked until now is answered by this look.
            let _ = self.asked.notified().now_or_never();
            let begun = Instant::now();
            let taken = look()
                .await
                .and_then(|got| self.take(got.content).map(|news| (news, got.next)));
            match taken {
                Ok((news, next)) => {
                    self.tell_good(failures > 0, news);
                    last_good = Some(begun);
                    failures = 0;
                    self.wait(begun, begun + next).await;
                }
                Err(why) => {
                    failures += 1;
                    self.tell_away(failures, &why);
                    let again = Instant::now() + self.pause(failures);
                    let stale_at = last_good.map(|good| good + STALE);
                    if stale_at.is_some_and(|at| at <= Instant::now()) {
                        self.lapse();
                    }
                    // Nobody can hurry this one: the source is in trouble.
                    let not_yet = stale_at.filter(|at| *at > Instant::now());
                    sleep_until(not_yet.map_or(again, |at| again.min(at))).await;
                }
            }
        }
    }

    /// Waits until `due`; or, when a key is missing, until the last look is long enough ago.
    async fn wait(&self, begun: Instant, due: Instant) {
        tokio::select! {
            () = sleep_until(due) => {}
            () = self.asked.notified() => sleep_until(due.min(begun + APART)).await,
        }
    }

    /// After the n-th failure in a row, from 1. Gates that lost the same issuer do not come back to it all at once.
    fn pause(&self, failures: u32) -> Duration {
        if let Source::File(_) = self.source {
            return LOOK;
        }
        let most = AGAIN
            .saturating_mul(1 << (failures - 1).min(10))
            .min(AGAIN_MOST);
        most.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    async fn look(&self) -> Result<Got, String> {
        match &self.source {
            Source::Url(fetcher) => {
                let (content, head) = fetcher.fetch(DEADLINE).await?;
                let next = head.max_age.unwrap_or(USUAL).clamp(SOONEST, LATEST);
                Ok(Got { content, next })
            }
            Source::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || fetch::read(&path)).await;
                let content = read.map_err(|_| "it could not be read".to_owned())??;
                Ok(Got {
                    content,
                    next: LOOK,
                })
            }
        }
    }

    /// Takes a set into use, all of it or nothing; tells whether it vouches for other tokens than the one before, if there
    /// was one.
    fn take(&self, content: Vec<u8>) -> Result<bool, String> {
        let before = self.known.load_full();
        let same = before.as_ref().filter(|before| before.content == content);
        let keys = match same {
            Some(known) if !known.stale => return Ok(false),
            Some(known) => known.keys.clone(),
            None => {
                let keys = Keys::read(&content, &self.tokens.algorithms);
                Arc::new(keys.map_err(|why| why.to_string())?)
            }
        };
        let news = before.is_some_and(|before| !before.keys.are_those_of(&keys));
        self.known.store(Some(Arc::new(Known {
            keys,
            content,
            stale: false,
        })));
        if news {
            self.changes.send_replace(());
        }
        Ok(news)
    }

    /// The keys count no more.
    fn lapse(&self) {
        let Some(known) = self.known.load_full().filter(|known| !known.stale) else {
            return;
        };
        tracing::error!(
            event = "jwks_stale",
            keys = %self.place,
            "the keys of token.jwt.keys could not be had for a day and count no more: tokens are told to come back"
        );
        self.known.store(Some(Arc::new(Known {
            keys: known.keys.clone(),
            content: known.content.clone(),
            stale: true,
        })));
    }

    fn tell_away(&self, failures: u32, why: &str) {
        if failures > 1 {
            tracing::debug!(keys = %self.place, "the keys are still away: {why}");
        } else if self.keys().is_some() {
            tracing::warn!(event = "jwks_away", keys = %self.place, "{why}; the keys that are known go on for a day");
        } else {
            tracing::warn!(event = "jwks_away", keys = %self.place, "{why}; until they are there, tokens are told to come back");
        }
    }

    fn tell_good(&self, was_away: bool, news: bool) {
        if was_away {
            tracing::info!(event = "jwks_back", keys = %self.place, "the keys can be had again");
        }
        if news {
            tracing::info!(event = "jwks_changed", keys = %self.place, "the issuer has other keys now");
        }
    }
}

#[cfg(test)]
mod tests;
