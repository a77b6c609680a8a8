//! A real https server on this host, and what can go wrong with it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Ca, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::super::{KeySource, Place, Settings};
use super::*;
use crate::rules::device::Alphabet;
use crate::rules::jwt::testing::{Issuer, jwks};
use crate::rules::jwt::{self, Algorithm, Bad};

/// Long enough for this host.
const WITHIN: Duration = Duration::from_secs(10);
const NOW: i64 = 1_800_000_000;

/// What the server does.
#[derive(Clone)]
enum Answer {
    /// A status, header lines, and a body.
    Http(u16, &'static [(&'static str, &'static str)], Vec<u8>),
    /// A head, and then nothing.
    Silence,
    /// These bytes after the handshake.
    Raw(&'static [u8]),
}

/// An issuer's server. Ends with the runtime.
struct Server {
    folder: TempDir,
    url: String,
    answer: Mutex<Answer>,
    requests: watch::Sender<usize>,
}

impl Server {
    async fn start(answer: Answer) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let folder = tempfile::tempdir().expect("a folder");
        let acceptor = TlsAcceptor::from(Arc::new(certified(&folder.path().join("ca.pem"))));
        let server = Arc::new(Self {
            folder,
            url: format!("https://127.0.0.1:{port}/jwks.json"),
            answer: Mutex::new(answer),
            requests: watch::Sender::new(0),
        });
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), serving.clone());
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(socket).await else {
                        return;
                    };
                    if let Answer::Raw(bytes) = server.answer() {
                        let _ = tls.write_all(bytes).await;
                        let _ = tls.shutdown().await;
                        return;
                    }
                    let service = service_fn(|request| server.serve(request));
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        server
    }

    fn answer(&self) -> Answer {
        self.answer.lock().expect("not poisoned").clone()
    }

    fn will(&self, answer: Answer) {
        *self.answer.lock().expect("not poisoned") = answer;
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        assert_eq!(
            request.uri().path(),
            "/jwks.json",
            "a redirect was followed"
        );
        self.requests.send_modify(|count| *count += 1);
        let Answer::Http(status, headers, body) = self.answer() else {
            return std::future::pending().await;
        };
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        Ok(answer.body(Full::new(body.into())).expect("an answer"))
    }

    fn count(&self) -> usize {
        *self.requests.borrow()
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.url.parse().expect("an address"), Some(&self.ca())).expect("a good CA")
    }

    /// What is told of a fetch that fails.
    async fn fault(&self, within: Duration) -> String {
        self.fetcher().fetch(within).await.expect_err("it fails")
    }
}

/// A server certificate for 127.0.0.1, and its CA in a file.
fn certified(ca_file: &Path) -> ServerConfig {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&key).expect("signed");
    std::fs::write(ca_file, ca.pem()).expect("written");
    let issuer = Ca::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    let leaf: CertificateDer<'static> = params
        .signed_by(&key, &issuer)
        .expect("signed")
        .der()
        .clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("a pair")
}

fn good(body: &[u8]) -> Answer {
    Answer::Http(
        200,
        &[("cache-control", "public, max-age=7200")],
        body.to_vec(),
    )
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "the server has no other clock")]
async fn a_set_comes_with_its_age_and_the_servers_time() {
    let server = Server::start(good(b"{}")).await;
    let asked = SystemTime::now();
    let fetched = server.fetcher().fetch(WITHIN).await;
    let (content, head) = fetched.expect("an answer");
    assert_eq!(content, b"{}");
    assert_eq!(head.max_age, Some(Duration::from_hours(2)));
    // The server tells its time, as http servers do.
    let asked = asked.duration_since(UNIX_EPOCH).expect("later");
    let asked = i64::try_from(asked.as_secs()).expect("seconds");
    let told = head.date.expect("a time");
    assert!((asked - 1..=asked + 20).contains(&told), "{told} {asked}");
}

#[tokio::test]
async fn what_is_no_good_answer_is_told_and_bounded() {
    let server = Server::start(Answer::Http(302, &[("location", "/other")], Vec::new())).await;
    let told = server.fault(WITHIN).await;
    assert!(
        told.starts_with("it answers 302 Found, and a redirect is not followed"),
        "{told}"
    );

    server.will(Answer::Http(503, &[], b"{}".to_vec()));
    assert_eq!(
        server.fault(WITHIN).await,
        "it answers 503 Service Unavailable"
    );
    server.will(Answer::Http(204, &[], Vec::new()));
    assert_eq!(server.fault(WITHIN).await, "it answers 204 No Content");

    server.will(Answer::Http(200, &[], vec![b' '; LARGEST]));
    assert!(server.fetcher().fetch(WITHIN).await.is_ok(), "just within");
    server.will(Answer::Http(200, &[], vec![b' '; LARGEST + 1]));
    assert_eq!(
        server.fault(WITHIN).await,
        "the answer has more than 1048576 bytes"
    );

    let short = Duration::from_millis(300);
    server.will(Answer::Silence);
    assert_eq!(server.fault(short).await, "no whole answer within 300ms");
    server.will(Answer::Raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
    ));
    let told = server.fault(WITHIN).await;
    assert!(told.starts_with("the answer broke off: "), "{told}");
    server.will(Answer::Raw(b"SSH-2.0-OpenSSH_9.2\r\n"));
    let told = server.fault(WITHIN).await;
    assert!(told.starts_with("the address cannot be asked: "), "{told}");
}

#[tokio::test]
async fn a_server_that_is_not_vouched_for_is_not_asked() {
    let server = Server::start(good(b"{}")).await;
    let other = Server::start(good(b"{}")).await;
    let fetcher =
        Fetcher::new(server.url.parse().expect("an address"), Some(&other.ca())).expect("a CA");
    let told = fetcher.fetch(WITHIN).await.expect_err("of another CA");
    assert!(told.contains("invalid peer certificate: "), "{told}");
    // Nor one that is away, or speaks no TLS.
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/", plain.local_addr().expect("bound"));
    let fetcher = Fetcher::new(url.parse().expect("an address"), Some(&other.ca())).expect("a CA");
    let asked = fetcher.fetch(WITHIN);
    let (told, ()) = tokio::join!(asked, async {
        let (mut socket, _) = plain.accept().await.expect("asked");
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    });
    assert!(told.is_err());
    drop(plain);
    let told = fetcher.fetch(WITHIN).await.expect_err("nobody is there");
    assert!(told.contains("onnection refused"), "{told}");
    assert_eq!((server.count(), other.count()), (0, 0));
}

#[test]
fn a_ca_file_is_read_strictly() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    let url: Uri = "https://localhost/".parse().expect("an address");
    for content in [
        None,
        Some(""),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(content) = content {
            std::fs::write(&ca, content).expect("written");
        }
        let fault = Fetcher::new(url.clone(), Some(&ca)).expect_err("no CA");
        assert_eq!(fault.key, "ca");
        assert!(fault.sentence.contains("ca.pem: "), "{fault}");
    }
}

/// threats.md K4, V4: the whole way, with tokens.
#[tokio::test]
async fn a_storm_of_tokens_costs_the_issuer_nothing() {
    let (one, two) = (Issuer::new("one", "EdDSA"), Issuer::new("two", "EdDSA"));
    let server = Server::start(good(&jwks(&[one.jwk()]))).await;
    let settings = Settings {
        keys: Place::Url(server.url.parse().expect("an address")),
        ca: Some(server.ca()),
        tokens: jwt::Settings {
            issuer: "i".into(),
            audience: "a".into(),
            algorithms: vec![Algorithm::EdDsa],
            device_claim: "sub".into(),
            alphabet: Alphabet::default(),
        },
    };
    let source = KeySource::load(&settings).expect("a good CA");
    let token = |issuer: &Issuer| {
        issuer.token(
            &issuer.header(),
            &json!({"iss": "i", "aud": "a", "sub": "d", "exp": NOW}),
        )
    };
    let [first, second] = [token(&one), token(&two)];
    assert_eq!(source.judge(first.as_bytes(), NOW), Err(Bad::KeysAway));
    let until_taken = async |token: &str| {
        while source.judge(token.as_bytes(), NOW).is_err() {
            tokio::task::yield_now().await;
        }
    };
    let storm = async {
        until_taken(&first).await;
        for _ in 0..1_000 {
            assert_eq!(source.judge(second.as_bytes(), NOW), Err(Bad::UnknownKey));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { () = source.keep() => {}, () = storm => {} }
    assert_eq!(server.count(), 1, "a minute is not over");

    let changes = source.changes();
    server.will(good(&jwks(&[two.jwk()])));
    tokio::select! { () = source.keep() => {}, () = until_taken(&second) => {} }
    assert_eq!(server.count(), 2);
    assert!(changes.has_changed().expect("alive"));
    assert_eq!(
        source.judge(first.as_bytes(), NOW),
        Err(Bad::UnknownKey),
        "it was rotated away"
    );
}

#[test]
fn the_age_is_what_the_issuer_says() {
    let age = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CACHE_CONTROL, value.parse().expect("a value"));
        }
        max_age(&headers).map(|age| age.as_secs())
    };
    assert_eq!(age(&[]), None);
    assert_eq!(age(&["public"]), None);
    assert_eq!(age(&["max-age=60"]), Some(60));
    assert_eq!(
        age(&["Public, MAX-AGE = \"60\" , must-revalidate"]),
        Some(60)
    );
    assert_eq!(age(&["max-age=60", "max-age=30"]), Some(30));
    assert_eq!(age(&["no-cache, max-age=60"]), Some(0));
    assert_eq!(age(&["no-store"]), Some(0));
    assert_eq!(age(&["max-age=99999999999999999999999"]), Some(u64::MAX));
    for odd in [
        "max-age",
        "max-age=",
        "max-age=-1",
        "max-age=1.5",
        "max-age=x",
    ] {
        assert_eq!(age(&[odd]), Some(0), "{odd}");
    }
    assert_eq!(age(&["s-maxage=5, x-max-age=5"]), None);
}
