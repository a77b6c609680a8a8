//! A look at the registry from outside, before a gate uses it: nothing is made, changed or locked.

use std::io;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::fault::Stop;
use super::postgres::{self, Postgres};
use super::sqlite;
use super::token_key;
use super::{Fault, StoreSettings};

/// For the whole look.
const LOOK: Duration = Duration::from_secs(5);

/// What a look found; each with its key and a sentence that has the way out.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Look {
    /// With these no gate could use it.
    pub faults: Vec<(&'static str, String)>,
    /// It could not be looked at from here and now.
    pub warnings: Vec<(&'static str, String)>,
}

/// What the store tells of the token key: its check value; `None`: no token was ever made.
pub(super) type Kept = Option<[u8; 16]>;

/// Looks at the registry and at the file of its token key, for 5 s at the most; on a thread of its own, since a folder may hang.
pub fn look(store: &StoreSettings, key_file: &Path) -> Look {
    let (done, found) = sync_channel(1);
    let (store, key_file) = (store.clone(), key_file.to_owned());
    let thread = std::thread::Builder::new().name("look".to_owned());
    let begun = thread.spawn(move || {
        let _ = done.send(look_now(&store, &key_file)); // it came too late, and nobody waits
    });
    let found = match begun {
        Ok(_) => found.recv_timeout(LOOK).ok(),
        Err(_) => None,
    };
    found.unwrap_or_else(|| {
        let mut look = Look::default();
        let why = "no answer within 5 s; is it overloaded, or cut off?";
        look.warnings.push(("registry.url", why.to_owned()));
        look
    })
}

/// The time by the clock of the store's server, in seconds since 1970; `None`: it has none of its own. Has its own deadline.
///
/// # Errors
/// When the server could not be asked.
pub async fn time(store: &StoreSettings) -> Result<Option<f64>, Fault> {
    match store {
        StoreSettings::Sqlite { .. } => Ok(None),
        StoreSettings::Postgres { url, password_file } => {
            let store = Postgres::new(url, password_file.as_deref())?;
            let time = store.time().await;
            time.map(Some).map_err(|stop| stop.told(&store.place()))
        }
    }
}

fn look_now(store: &StoreSettings, key_file: &Path) -> Look {
    let mut look = Look::default();
    let key = match token_key::read(key_file) {
        Ok(key) => key,
        Err(why) => {
            look.faults.push(("token.key_file", why));
            None
        }
    };
    let garbled = !look.faults.is_empty();
    match ask(store, &mut look) {
        Ok(Some(kept)) if !garbled => {
            let own = key.map(|key| key.check_value());
            look.faults.extend(token_key::differs(key_file, own, kept));
        }
        Ok(_) => {}
        Err(Fault::Away(why)) => {
            let why = format!("it could not be looked at: {why}");
            look.warnings.push(("registry.url", why));
        }
        Err(fault) => look.faults.push(("registry.url", fault.to_string())),
    }
    look
}

/// Asks the store what it tells of the token key.
fn ask(store: &StoreSettings, look: &mut Look) -> Result<Kept, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot)?;
    let kept = match store {
        StoreSettings::Sqlite { path } => {
            let place = path.display().to_string();
            let kept = runtime.block_on(sqlite::look(path));
            kept.map_err(|stop: Stop| stop.told(&place))
        }
        StoreSettings::Postgres { url, password_file } => {
            if let Some(file) = password_file
                && let Err(Fault::Unusable(why)) = postgres::password(file)
            {
                look.faults.push(("registry.password_file", why));
                return Ok(None);
            }
            let store = Postgres::new(url, password_file.as_deref())?;
            let kept = runtime.block_on(store.look());
            kept.map_err(|stop| stop.told(&store.place()))
        }
    };
    // A look-up of a name may hang.
    runtime.shutdown_background();
    kept
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn cannot(error: io::Error) -> Fault {
    Fault::Away(error.to_string())
}

#[cfg(test)]
mod tests;
