//! What is answered: JSON, or a problem with the way out (RFC 9457).

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LINK, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::admin::http::Answer;
use crate::registry::Fault;

/// A good answer.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    body: Bytes,
    header: Option<(HeaderName, String)>,
    /// What was done, for the log.
    pub(super) told: String,
}

impl Reply {
    /// What was asked for.
    pub(super) fn json(what: &impl Serialize) -> Result<Self, Problem> {
        let mut body = serde_json::to_vec(what).map_err(|_| Problem::broken())?;
        body.push(b'\n');
        Ok(Self {
            body: body.into(),
            ..Self::done()
        }
        .with_status(StatusCode::OK))
    }

    /// It is done, and there is nothing to show.
    pub(super) fn done() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: Bytes::new(),
            header: None,
            told: String::new(),
        }
    }

    /// A text that never changes.
    pub(super) fn fixed(json: &'static str) -> Self {
        Self {
            status: StatusCode::OK,
            body: Bytes::from_static(json.as_bytes()),
            ..Self::done()
        }
    }

    fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Something new is there.
    pub(super) fn created(self, location: String) -> Self {
        Self {
            header: Some((LOCATION, location)),
            ..self.with_status(StatusCode::CREATED)
        }
    }

    /// There is more at `next`.
    pub(super) fn followed_by(mut self, next: Option<&str>) -> Self {
        self.header = next.map(|next| (LINK, format!("<{next}>; rel=\"next\"")));
        self
    }

    /// What was done, in a few words for the log.
    pub(super) fn told(mut self, what: impl Into<String>) -> Self {
        self.told = what.into();
        self
    }

    pub(super) fn answer(self) -> Answer {
        let mut answer = answer(self.status, "application/json", self.body);
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(value)
        {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

/// Why not: a status, one word that is stable, and a sentence.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// One of the words in docs/admin-api.md.
    pub(super) reason: &'static str,
    /// With the way out. For the caller; it may hold what was sent.
    pub(super) detail: String,
    header: Option<(HeaderName, String)>,
    /// Of a reload, each.
    faults: Box<[String]>,
}

/// A problem as it is sent. The type is `about:blank`: the title is that of the status, and `reason` tells more.
#[derive(Serialize)]
struct ProblemForm<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    reason: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    faults: &'a [String],
}

impl Problem {
    fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
            header: None,
            faults: Box::default(),
        }
    }

    fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    pub(super) fn off() -> Self {
        let detail = "the admin API is off; name a file with a token by admin.token_file";
        Self::new(StatusCode::NOT_FOUND, "api_off", detail)
    }

    pub(super) fn no_token() -> Self {
        let detail = "send the token that is in admin.token_file: Authorization: Bearer …";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with(WWW_AUTHENTICATE, "Bearer realm=\"tidegate\"")
    }

    pub(super) fn wrong_token() -> Self {
        let detail = "this is not the token that is in admin.token_file; of a new one, tidegate takes note within seconds";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(
            WWW_AUTHENTICATE,
            "Bearer realm=\"tidegate\", error=\"invalid_token\"",
        )
    }

    pub(super) fn no_such_path() -> Self {
        let detail = "there is no such path; /v1/openapi.json tells those that are there";
        Self::new(StatusCode::NOT_FOUND, "no_such_path", detail)
    }

    pub(super) fn method_not_allowed(allowed: &[&str]) -> Self {
        let allowed = allowed.join(", ");
        let detail = format!("this path knows {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with(ALLOW, allowed)
    }

    pub(super) fn bad_request(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub(super) fn too_slow() -> Self {
        let detail = "the body did not come within 5 s; send it faster";
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    pub(super) fn too_large() -> Self {
        let detail =
            "the body has more than 64 KiB; `tidegate device import` takes many devices at once";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(super) fn not_json() -> Self {
        let detail = "the body is not said to be JSON; send Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail)
    }

    pub(super) fn no_registry() -> Self {
        let detail = "there is no registry; write [registry] with url = \"sqlite://tidegate.db\" into the configuration";
        Self::new(StatusCode::CONFLICT, "no_registry", detail)
    }

    pub(super) fn no_such_device(sentence: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_device", sentence)
    }

    pub(super) fn no_such_credential(sentence: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_credential", sentence)
    }

    pub(super) fn no_such_connection(number: u64) -> Self {
        let detail = format!(
            "there is no connection {number} any more; /v1/connections tells those that are open"
        );
        Self::new(StatusCode::NOT_FOUND, "no_such_connection", detail)
    }

    pub(super) fn refused(sentence: String) -> Self {
        Self::new(StatusCode::CONFLICT, "refused", sentence)
    }

    pub(super) fn no_key(sentence: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_token_key", sentence).later()
    }

    pub(super) fn reload_failed(faults: Vec<String>) -> Self {
        let detail =
            "what was read has faults, and what was in force before is; `faults` has each of them";
        Self {
            faults: faults.into(),
            ..Self::new(StatusCode::CONFLICT, "reload_failed", detail)
        }
    }

    pub(super) fn reload_late() -> Self {
        let detail = "the reload takes its time and goes on; the log tells how it ends (reloaded, reload_failed)";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "reload_late", detail).later()
    }

    /// A change may have been made all the same.
    pub(super) fn late(changes: bool) -> Self {
        let detail = if changes {
            "the registry did not answer in time, and the change may have been made or not; look before you ask again"
        } else {
            "the registry did not answer in time; ask again later"
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "registry_away", detail).later()
    }

    pub(super) fn broken() -> Self {
        let detail = "something broke in tidegate; its log tells what. Please report it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", detail)
    }

    fn later(self) -> Self {
        self.with(RETRY_AFTER, "2")
    }

    /// Whether the fault is not the caller's.
    pub(super) fn is_ours(&self) -> bool {
        self.status.is_server_error()
    }

    pub(super) fn answer(self) -> Answer {
        let form = ProblemForm {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            reason: self.reason,
            detail: &self.detail,
            faults: &self.faults,
        };
        let mut body = serde_json::to_vec(&form).unwrap_or_default();
        body.push(b'\n');
        let mut answer = answer(self.status, "application/problem+json", body.into());
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(value)
        {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let sentence = fault.to_string();
        match fault {
            Fault::Away(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "registry_away", sentence).later()
            }
            Fault::Unusable(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "registry_unusable",
                sentence,
            ),
            Fault::DeviceExists(_) => Self::new(StatusCode::CONFLICT, "device_exists", sentence),
            Fault::PinExists { .. } => Self::new(StatusCode::CONFLICT, "pin_exists", sentence),
            Fault::NoDevice(_) => Self::no_such_device(sentence),
            Fault::Refused(_) | Fault::QuotaFull { .. } => Self::refused(sentence),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let empty = body.is_empty();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if !empty {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
