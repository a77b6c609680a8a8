//! Getting a JWKS: from an https address in bounded time and size, or from a file.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, DATE, HeaderMap, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::{Fault, LARGEST};
use crate::tls::files::{certificates, read_regular};

/// Reads a JWKS file. Blocks.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_regular(path, LARGEST as u64).map_err(|fault| match fault.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied: let the user that runs tidegate read it".to_owned()
        }
        _ => format!("cannot be read: {fault}"),
    })
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// `Cache-Control: max-age`
    pub(super) max_age: Option<Duration>,
    /// `Date`, in seconds since 1970.
    pub(super) date: Option<i64>,
}

/// Asks one address.
#[derive(Debug)]
pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    uri: Uri,
}

impl Fetcher {
    /// The server of `uri` is judged by the CAs of the PEM file `ca`; without one, by those of the system.
    pub(super) fn new(uri: Uri, ca: Option<&Path>) -> Result<Self, Fault> {
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls(ca)?);
        let connector = tls.https_only().enable_http1().build();
        // Each question is a connection of its own: they are far apart, and a name may lead elsewhere by then.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .build(connector);
        Ok(Self { client, uri })
    }

    /// Asks for the set; gives it, and what the answer's head says. `within` is for all of it, from the name to the last byte.
    ///
    /// # Errors
    /// A sentence: anything but a 200 of at most [`LARGEST`] bytes in time. Redirects are not followed.
    pub(super) async fn fetch(&self, within: Duration) -> Result<(Vec<u8>, Head), String> {
        let whole = async {
            let request = Request::get(&self.uri)
                .header(ACCEPT, "application/jwk-set+json, application/json")
                .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
                .body(Empty::new())
                .map_err(|fault| fault.to_string())?;
            let answer = self.client.request(request).await;
            let answer = answer
                .map_err(|fault| format!("the address cannot be asked: {}", chain(&fault)))?;
            let head = Head {
                max_age: max_age(answer.headers()),
                date: date(answer.headers()),
            };
            Ok((body(answer).await?, head))
        };
        let late = |_| {
            Err(format!(
                "no whole answer within {}",
                humantime::format_duration(within)
            ))
        };
        timeout(within, whole).await.unwrap_or_else(late)
    }
}

async fn body(answer: Response<Incoming>) -> Result<Vec<u8>, String> {
    let status = answer.status();
    if status.is_redirection() {
        return Err(format!(
            "it answers {status}, and a redirect is not followed: write the address that it leads to"
        ));
    }
    if status != StatusCode::OK {
        return Err(format!("it answers {status}"));
    }
    let collected = Limited::new(answer.into_body(), LARGEST).collect().await;
    let collected = collected.map_err(|fault| {
        if fault.is::<LengthLimitError>() {
            format!("the answer has more than {LARGEST} bytes")
        } else {
            format!("the answer broke off: {}", chain(&*fault))
        }
    })?;
    Ok(collected.to_bytes().into())
}

fn tls(ca: Option<&Path>) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3");
    let builder = match ca {
        Some(path) => builder.with_root_certificates(roots(path).map_err(|sentence| Fault {
            key: "ca",
            sentence,
        })?),
        None => builder.with_native_roots().map_err(|fault| Fault {
            key: "keys",
            sentence: format!(
                "this system has no CAs to judge its server by ({fault}); install them (ca-certificates), or write token.jwt.ca"
            ),
        })?,
    };
    Ok(builder.with_no_client_auth())
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).map_err(|fault| fault.to_string())? {
        let added = roots.add(certificate);
        added.map_err(|fault| {
            format!(
                "{}: a certificate in it cannot be a CA: {fault}",
                path.display()
            )
        })?;
    }
    Ok(roots)
}

/// The `max-age` of the answer (RFC 9111 §5.2.2.1); none after `no-store` or `no-cache`, and zero where it is no number.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter();
    let directives = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut least: Option<u64> = None;
    for directive in directives {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let seconds = match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => 0,
            "max-age" => {
                let digits = value.trim().trim_matches('"');
                let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                // More digits than fit are a long time.
                if is_number {
                    digits.parse().unwrap_or(u64::MAX)
                } else {
                    0
                }
            }
            _ => continue,
        };
        least = Some(least.map_or(seconds, |least| least.min(seconds)));
    }
    least.map(Duration::from_secs)
}

/// When the server sent the answer, by its own clock (RFC 9110 §6.6.1), in seconds since 1970; `None`: it does not say.
fn date(headers: &HeaderMap) -> Option<i64> {
    let at = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// A fault and what is behind it: "client error: connection refused".
fn chain(fault: &(dyn Error + 'static)) -> String {
    let mut text = fault.to_string();
    let mut next = fault.source();
    while let Some(fault) = next {
        let said = fault.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        next = fault.source();
    }
    text
}

#[cfg(test)]
mod tests;
