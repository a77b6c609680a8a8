//! The admin API: devices and connections, for whoever has the token. docs/admin-api.md is the promise to operators, and
//! docs/openapi.json that to programs.
//!
//! A change runs in a task of its own: a caller that leaves half-way leaves no change untold. What asks the registry waits for one of
//! few turns and for a bounded time, so that a store which is slow or away stalls nothing else on this port (threats.md V4).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::gate::Connections;
use crate::registry::{Registry, StoreSettings, token_key};
use crate::rules::change::Group;
use crate::rules::device::Alphabet;
use crate::rules::token::TokenKey;
use crate::tls::trust;

use super::Token;
use super::http::Answer;
pub use reload::{Order, Outcome};
use reply::{Problem, Reply};
use route::{Asked, Route};
use wrong::Wrong;

mod audit;
mod connections;
mod devices;
mod forms;
mod openapi;
mod query;
mod reload;
mod reply;
mod route;
mod wrong;

/// The largest body, in bytes.
const BODY_BYTES: usize = 64 * 1024;
/// From the end of the header to the end of the body.
const BODY: Duration = Duration::from_secs(5);
/// From there to the answer. A question to the store is given up earlier by itself.
const WORK: Duration = Duration::from_secs(15);
/// The longest that an answer takes, from the end of the header.
pub(super) const LONGEST: Duration = BODY.saturating_add(WORK);
/// Requests at once that ask the registry.
const TURNS: usize = 16;
/// Requests at once that go through all connections.
const TOURS: usize = 2;

/// What the API works on.
pub struct Settings {
    /// What a caller has to show; `None`: it is off.
    pub token: Option<Token>,
    /// Who is connected.
    pub connections: Connections,
    /// Of device ids.
    pub alphabet: Alphabet,
    /// The trust groups in force.
    pub trust: Vec<trust::Settings>,
    /// The registry, and the file with its token key; `None`: there is none.
    pub registry: Option<(StoreSettings, PathBuf)>,
    /// Who reloads.
    pub reloads: mpsc::Sender<Order>,
}

/// The API. Clones are the same one.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    token: ArcSwapOption<Token>,
    wrong: Wrong,
    connections: Connections,
    alphabet: ArcSwap<Alphabet>,
    reloads: mpsc::Sender<Order>,
    groups: ArcSwap<Vec<Group>>,
    house: Option<House>,
    turns: Semaphore,
    tours: Semaphore,
}

/// The registry as this port has it: opened when it is first asked for, and tried again as long as that fails.
struct House {
    store: StoreSettings,
    key_file: PathBuf,
    registry: OnceCell<Registry>,
    key: OnceCell<TokenKey>,
}

/// A turn to ask the registry, until it is dropped.
struct Turn<'a> {
    registry: &'a Registry,
    house: &'a House,
    _place: SemaphorePermit<'a>,
}

impl Api {
    /// The API over `settings`. It opens nothing yet.
    pub fn new(settings: Settings) -> Self {
        let house = settings.registry.map(|(store, key_file)| House {
            store,
            key_file,
            registry: OnceCell::new(),
            key: OnceCell::new(),
        });
        let shared = Arc::new(Shared {
            token: ArcSwapOption::empty(),
            wrong: Wrong::default(),
            connections: settings.connections,
            alphabet: ArcSwap::default(),
            reloads: settings.reloads,
            groups: ArcSwap::default(),
            house,
            turns: Semaphore::new(TURNS),
            tours: Semaphore::new(TOURS),
        });
        let api = Self { shared };
        api.reload(settings.token, &settings.trust, settings.alphabet);
        api
    }

    /// Another token, or none, other trust groups, and another alphabet are in force from now on.
    pub fn reload(&self, token: Option<Token>, trust: &[trust::Settings], alphabet: Alphabet) {
        self.shared.alphabet.store(Arc::new(alphabet));
        let issuer = trust::Settings::issuer();
        let all = trust.iter().chain([&issuer]);
        let groups = all.map(trust::Settings::group).collect();
        self.shared.groups.store(Arc::new(groups));
        self.shared.token.store(token.map(Arc::new));
    }

    /// Dropping it half-way leaves a change that was begun to itself.
    async fn serve(
        &self,
        request: Request<Incoming>,
        caller: SocketAddr,
    ) -> Result<Reply, Problem> {
        let (head, body) = request.into_parts();
        let token = self.shared.token.load_full().ok_or_else(Problem::off)?;
        let found = route::find(&head.method, head.uri.path());
        if let Ok((entry, _)) = &found
            && entry.route == Route::OpenApi
        {
            return Ok(openapi::document());
        }
        self.admit(&token, &head.headers, caller)?;
        let (entry, path) = found?;
        let body = read(&head, body, entry.body).await?;
        let query = head.uri.query().unwrap_or_default().to_owned();
        let asked = Asked {
            entry,
            path,
            query,
            body,
        };
        if entry.change.is_none() {
            return self.within(&asked).await;
        }
        let api = self.clone();
        let change = tokio::spawn(async move {
            let done = api.within(&asked).await;
            audit::tell(&asked, caller, &done);
            done
        });
        change.await.unwrap_or_else(|_| Err(Problem::broken()))
    }

    /// Whether the caller has the token.
    fn admit(&self, token: &Token, headers: &HeaderMap, caller: SocketAddr) -> Result<(), Problem> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let only = shown.next().filter(|_| shown.next().is_none());
        let shown = only.and_then(|header| {
            let (scheme, shown) = header.as_bytes().split_at_checked(7)?;
            scheme
                .eq_ignore_ascii_case(b"bearer ")
                .then_some(shown.trim_ascii())
        });
        match shown {
            Some(shown) if token.is(shown) => Ok(()),
            Some(_) => {
                self.shared.wrong.tell(caller);
                Err(Problem::wrong_token())
            }
            None => Err(Problem::no_token()),
        }
    }

    async fn within(&self, asked: &Asked) -> Result<Reply, Problem> {
        let changes = asked.entry.change.is_some();
        let done = timeout(WORK, self.act(asked)).await;
        done.unwrap_or_else(|_| match asked.entry.route {
            Route::Reload => Err(Problem::reload_late()),
            _ => Err(Problem::late(changes)),
        })
    }

    async fn act(&self, asked: &Asked) -> Result<Reply, Problem> {
        let shared = &*self.shared;
        match asked.entry.route {
            Route::OpenApi => Ok(openapi::document()),
            Route::ListDevices => devices::list(shared, asked).await,
            Route::AddDevice => devices::add(shared, asked).await,
            Route::ShowDevice => devices::show(shared, asked).await,
            Route::SetDevice => devices::set(shared, asked).await,
            Route::RemoveDevice => devices::remove(shared, asked).await,
            Route::EnableDevice => devices::switch(shared, asked, true).await,
            Route::DisableDevice => devices::switch(shared, asked, false).await,
            Route::RotateToken => devices::rotate_token(shared, asked).await,
            Route::AddCredential => devices::add_credential(shared, asked).await,
            Route::EndCredential => devices::end_credential(shared, asked).await,
            Route::EndDeviceConnections => connections::end_of_device(shared, asked).await,
            Route::ListConnections => connections::list(shared, asked).await,
            Route::EndConnection => connections::end(shared, asked).await,
            Route::Reload => reload::reload(shared, asked).await,
        }
    }
}

impl Shared {
    /// Waits for a turn to ask the registry, and opens it if need be.
    async fn turn(&self) -> Result<Turn<'_>, Problem> {
        let house = self.house.as_ref().ok_or_else(Problem::no_registry)?;
        let place = self.turns.acquire().await.map_err(|_| Problem::broken())?;
        let open = || Registry::open(&house.store);
        let registry = house.registry.get_or_try_init(open).await?;
        Ok(Turn {
            registry,
            house,
            _place: place,
        })
    }

    /// The trust group of this name.
    fn group(&self, name: &str) -> Result<Group, Problem> {
        let groups = self.groups.load();
        let found = groups.iter().find(|group| group.name == name).cloned();
        found.ok_or_else(|| {
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            let there = if names.is_empty() {
                "the configuration has none".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            Problem::bad_request(format!("there is no trust group {name:?}; {there}"))
        })
    }
}

impl Turn<'_> {
    /// The key of the registry's tokens.
    async fn key(&self) -> Result<&TokenKey, Problem> {
        let read = || token_key::token_key(&self.house.key_file, self.registry);
        let key = self.house.key.get_or_try_init(read).await;
        key.map_err(Problem::no_key)
    }
}

/// Answers what is asked of `/v1`.
pub(super) async fn answer(
    api: Option<&Api>,
    request: Request<Incoming>,
    caller: SocketAddr,
) -> Answer {
    let done = match api {
        Some(api) => api.serve(request, caller).await,
        None => Err(Problem::off()),
    };
    done.map_or_else(Problem::answer, Reply::answer)
}

/// Reads the body, if one belongs here.
async fn read(head: &Parts, body: Incoming, wanted: bool) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(Problem::too_large());
    }
    let reading = timeout(BODY, Limited::new(body, BODY_BYTES).collect()).await;
    let body = match reading {
        Err(_) => return Err(Problem::too_slow()),
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => return Err(Problem::too_large()),
        Ok(Err(_)) => return Err(Problem::bad_request("the body came to no end".into())),
    };
    if !wanted && !body.is_empty() {
        return Err(Problem::bad_request(
            "nothing is to be sent here; leave the body out".into(),
        ));
    }
    if !body.is_empty() && !is_json(&head.headers) {
        return Err(Problem::not_json());
    }
    Ok(body)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    essence.is_some_and(|kind| {
        kind.eq_ignore_ascii_case("application/json")
            || kind.eq_ignore_ascii_case("application/merge-patch+json")
    })
}
