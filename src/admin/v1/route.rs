//! Which paths there are, and what is asked by each.

use hyper::Method;
use hyper::body::Bytes;
use percent_encoding::percent_decode_str;

use super::reply::Problem;

/// What is asked. In docs/openapi.json it has the same name, but for a small first letter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route {
    OpenApi,
    ListDevices,
    AddDevice,
    ShowDevice,
    SetDevice,
    RemoveDevice,
    EnableDevice,
    DisableDevice,
    RotateToken,
    AddCredential,
    EndCredential,
    EndDeviceConnections,
    ListConnections,
    EndConnection,
    Reload,
}

/// A path and a method of the API.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) method: Method,
    /// With `{…}` for what varies.
    pub(super) path: &'static str,
    pub(super) route: Route,
    /// What may stand behind the `?`.
    pub(super) query: &'static [&'static str],
    /// Whether a body belongs to it.
    pub(super) body: bool,
    /// The word of the change for the log; `None`: it changes nothing.
    pub(super) change: Option<&'static str>,
}

/// A request that was understood so far.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) entry: &'static Entry,
    /// What varies in the path, in its order.
    pub(super) path: Vec<String>,
    pub(super) query: String,
    pub(super) body: Bytes,
}

const fn entry(method: Method, path: &'static str, route: Route) -> Entry {
    Entry {
        method,
        path,
        route,
        query: &[],
        body: false,
        change: None,
    }
}

impl Entry {
    const fn asks(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }

    const fn takes_body(mut self) -> Self {
        self.body = true;
        self
    }

    const fn changes(mut self, word: &'static str) -> Self {
        self.change = Some(word);
        self
    }
}

const DEVICES: &str = "/v1/devices";
const DEVICE: &str = "/v1/devices/{device}";

/// Every path and method, in the order of docs/openapi.json.
pub(super) static ENTRIES: [Entry; 15] = [
    entry(Method::GET, "/v1/openapi.json", Route::OpenApi),
    entry(Method::GET, DEVICES, Route::ListDevices).asks(&[
        "prefix", "label", "enabled", "min_mode", "trust", "after", "limit",
    ]),
    entry(Method::POST, DEVICES, Route::AddDevice)
        .takes_body()
        .changes("add_device"),
    entry(Method::GET, DEVICE, Route::ShowDevice),
    entry(Method::PATCH, DEVICE, Route::SetDevice)
        .takes_body()
        .changes("set_device"),
    entry(Method::DELETE, DEVICE, Route::RemoveDevice).changes("remove_device"),
    entry(
        Method::POST,
        "/v1/devices/{device}/enable",
        Route::EnableDevice,
    )
    .changes("enable_device"),
    entry(
        Method::POST,
        "/v1/devices/{device}/disable",
        Route::DisableDevice,
    )
    .changes("disable_device"),
    entry(
        Method::POST,
        "/v1/devices/{device}/rotate-token",
        Route::RotateToken,
    )
    .takes_body()
    .changes("rotate_token"),
    entry(
        Method::POST,
        "/v1/devices/{device}/credentials",
        Route::AddCredential,
    )
    .takes_body()
    .changes("add_credential"),
    entry(
        Method::DELETE,
        "/v1/devices/{device}/credentials/{number}",
        Route::EndCredential,
    )
    .changes("end_credential"),
    entry(
        Method::DELETE,
        "/v1/devices/{device}/connections",
        Route::EndDeviceConnections,
    )
    .changes("end_connections"),
    entry(Method::GET, "/v1/connections", Route::ListConnections)
        .asks(&["device", "listener", "after", "limit"]),
    entry(
        Method::DELETE,
        "/v1/connections/{number}",
        Route::EndConnection,
    )
    .changes("end_connection"),
    entry(Method::POST, "/v1/reload", Route::Reload).changes("reload"),
];

/// Finds what a path and a method ask, and what varies in the path.
///
/// # Errors
/// There is no such path, or it knows no such method.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Entry, Vec<String>), Problem> {
    let method = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut allowed = Vec::new();
    for entry in &ENTRIES {
        let Some(varies) = fits(entry.path, path) else {
            continue;
        };
        if entry.method == *method {
            return Ok((entry, varies));
        }
        allowed.push(entry.method.as_str());
    }
    if allowed.is_empty() {
        Err(Problem::no_such_path())
    } else {
        Err(Problem::method_not_allowed(&allowed))
    }
}

fn fits(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut varies = Vec::new();
    let mut parts = path.split('/');
    for wanted in pattern.split('/') {
        let part = parts.next()?;
        if wanted.starts_with('{') {
            let text = percent_decode_str(part).decode_utf8().ok()?;
            if text.is_empty() {
                return None;
            }
            varies.push(text.into_owned());
        } else if wanted != part {
            return None;
        }
    }
    parts.next().is_none().then_some(varies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_by_its_parts() {
        let found = |method, path| {
            let (entry, varies) = find(&method, path).ok()?;
            Some((entry.route, varies))
        };
        let path = "/v1/devices/a%3Ab%25/credentials/7";
        let varies = vec!["a:b%".to_owned(), "7".to_owned()];
        assert_eq!(
            found(Method::DELETE, path),
            Some((Route::EndCredential, varies))
        );
        assert_eq!(
            found(Method::HEAD, "/v1/devices"),
            Some((Route::ListDevices, Vec::new()))
        );
        for nowhere in [
            "/v1",
            "/v1/",
            "/v1/devices/",
            "/v1/devices/a/",
            "/v1//devices",
            "/v1/devices/a/b",
            "/v1/devices/%ff",
            "/v1/Devices",
        ] {
            assert_eq!(found(Method::GET, nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn a_method_that_is_not_there_is_told_those_that_are() {
        let problem = find(&Method::PUT, "/v1/devices/a").expect_err("no PUT");
        let answer = problem.answer();
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], "GET, PATCH, DELETE");
    }
}
