//! The admin port: accepts callers, and answers them request after request, in bounded number, bytes and time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::observe::metrics::Metrics;
use crate::observe::ready::Ready;

use super::pages;
use super::v1::{self, Api};

/// Connections at once. The next one takes the place of the oldest: callers that say nothing must not keep those out that ask
/// whether the gate lives.
const CONNECTIONS: usize = 64;
/// From the start of a request, or the end of the last one, to the end of its header.
const HEADER: Duration = Duration::from_secs(5);
/// The largest header, in bytes.
const HEADER_BYTES: usize = 16 * 1024;
/// The longest that one connection may be used. Ends a caller that never reads its answer.
const CONNECTION: Duration = Duration::from_mins(1);
/// How long a connection past its time may take to end well: longer than any answer takes, or a token that was just made would be
/// lost with its only copy.
const FAREWELL: Duration = v1::LONGEST.saturating_add(Duration::from_secs(2));
/// Between attempts to accept, when there are no descriptors left.
const BREATH: Duration = Duration::from_millis(100);

/// What callers are answered from.
#[derive(Clone)]
pub struct Desk {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub ready: Arc<Ready>,
    /// For `/v1`; `None`: it is off.
    pub api: Option<Api>,
}

pub(super) type Answer = hyper::Response<Full<Bytes>>;

/// Serves operators on `listener`, until the future is dropped; then every connection ends with it.
///
/// Needs a runtime with time and I/O enabled.
pub async fn serve(listener: TcpListener, desk: Desk) {
    let mut conversations = JoinSet::new();
    let mut by_age = VecDeque::new();
    let mut failing = false;
    loop {
        while conversations.len() >= CONNECTIONS {
            by_age.retain(|one: &AbortHandle| !one.is_finished());
            if let Some(oldest) = by_age.pop_front() {
                oldest.abort();
            }
            conversations.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = conversations.join_next() => continue,
        };
        match accepted {
            Ok((stream, caller)) => {
                failing = false;
                by_age.retain(|one| !one.is_finished());
                by_age.push_back(conversations.spawn(converse(stream, caller, desk.clone())));
            }
            Err(why) => {
                // Told once, not ten times a second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        event = "admin_paused",
                        "cannot accept on the admin port: {why}"
                    );
                }
                sleep(BREATH).await;
            }
        }
    }
}

/// Answers one caller, request after request. Dropping it half-way closes the connection; a change that was begun goes on.
async fn converse<T>(stream: T, caller: SocketAddr, desk: Desk)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let service =
        service_fn(async |request| Ok::<_, Infallible>(answer(request, caller, &desk).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What goes wrong here is the caller's affair: garbage was answered with a 400, a slow one has left.
    if timeout(CONNECTION, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(FAREWELL, connection).await;
    }
}

async fn answer(request: Request<Incoming>, caller: SocketAddr, desk: &Desk) -> Answer {
    let path = request.uri().path();
    if path == "/v1" || path.starts_with("/v1/") {
        return v1::answer(desk.api.as_ref(), request, caller).await;
    }
    pages::answer(request.method(), request.uri(), &desk.metrics, &desk.ready)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    fn ready(draining: bool, broker_up: bool) -> Arc<Ready> {
        Arc::new(Ready {
            draining: draining.into(),
            broker_up: broker_up.into(),
            ..Ready::default()
        })
    }

    /// A caller's end of a connection. The buffer is small, so that a caller who does not read is noticed.
    fn call(ready: Arc<Ready>) -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let (caller, ours) = duplex(1024);
        let metrics = Metrics::new(&["devices".into()], &["mqtt://127.0.0.1:1883".into()]);
        let desk = Desk {
            metrics,
            ready,
            api: None,
        };
        let address = ([127, 0, 0, 1], 50_000).into();
        (caller, tokio::spawn(converse(ours, address, desk)))
    }

    /// Everything that is answered to `request`, until the connection ends.
    async fn answer_to(request: &str, ready: Arc<Ready>) -> String {
        let (caller, _) = call(ready);
        let (mut reader, mut writer) = tokio::io::split(caller);
        let mut answer = String::new();
        let write = async {
            // An answer may come before the whole request is read; then writing fails.
            let _ = writer.write_all(request.as_bytes()).await;
        };
        let (read, ()) = tokio::join!(reader.read_to_string(&mut answer), write);
        read.expect("an answer, then the end");
        answer
    }

    async fn get(path: &str, ready: Arc<Ready>) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n");
        answer_to(&request, ready).await
    }

    fn status(answer: &str) -> &str {
        answer.split(' ').nth(1).unwrap_or("no answer")
    }

    fn body(answer: &str) -> &str {
        answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_are_in_the_text_format() {
        let answer = get("/metrics", ready(false, true)).await;
        assert_eq!(status(&answer), "200");
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(body(&answer).contains("# TYPE tidegate_build_info gauge\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_is_ready_when_it_stays_and_a_broker_answers() {
        for (draining, up, code, word) in [
            (false, true, "200", "ready\n"),
            (true, true, "503", "draining\n"),
            (true, false, "503", "draining\n"),
            (false, false, "503", "no broker answers\n"),
        ] {
            let answer = get("/readyz", ready(draining, up)).await;
            assert_eq!((status(&answer), body(&answer)), (code, word));
            // A gate that drains is alive: nobody should restart it.
            let answer = get("/livez", ready(draining, up)).await;
            assert_eq!((status(&answer), body(&answer)), ("200", "ok\n"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn verbose_tells_each_condition() {
        for query in ["?verbose", "?a=b&verbose=1"] {
            let answer = get(&format!("/readyz{query}"), ready(false, false)).await;
            assert_eq!(
                body(&answer),
                "[+] not draining\n[-] a broker answers\n[+] what was read last is in force, generation: 1\nno broker answers\n"
            );
        }
        // A reload that failed makes no gate unready: what was in force before is.
        let ready = ready(false, true);
        ready.set_generation(3);
        ready.set_faults(2);
        let answer = get("/readyz?verbose", ready).await;
        assert_eq!(status(&answer), "200");
        assert!(
            body(&answer).contains(
                "\n[!] what was read last is not in force, faults: 2; what was in force before is, generation: 3 "
            ),
            "{answer}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_page_is_told_what_there_is() {
        for path in ["/", "/metrics/", "/METRICS", "/%6civez", "//livez"] {
            let answer = get(path, ready(false, true)).await;
            assert_eq!(status(&answer), "404", "{path}");
            assert_eq!(
                body(&answer),
                "there are /metrics, /livez, /readyz and /v1\n"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn head_is_get_without_the_body() {
        let request = "HEAD /livez HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n";
        let answer = answer_to(request, ready(false, true)).await;
        assert_eq!((status(&answer), body(&answer)), ("200", ""));
        assert!(answer.contains("content-length: 3\r\n"));
    }

    /// N2: nothing on this port can be changed by anyone.
    #[tokio::test(start_paused = true)]
    async fn other_methods_are_refused() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT-ME"] {
            let request =
                format!("{method} /livez HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n");
            let answer = answer_to(&request, ready(false, true)).await;
            assert_eq!(status(&answer), "405", "{method}");
            assert!(answer.contains("allow: GET, HEAD\r\n"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scraper_may_keep_its_connection() {
        let (mut caller, _) = call(ready(false, true));
        for _ in 0..3 {
            let request = b"GET /livez HTTP/1.1\r\nhost: gate\r\n\r\n";
            caller.write_all(request).await.expect("open");
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nok\n") {
                let read = caller.read_buf(&mut answer).await.expect("open");
                assert_ne!(read, 0, "closed early");
            }
        }
    }

    /// V2: what is not HTTP costs one answer at most.
    #[tokio::test(start_paused = true)]
    async fn garbage_is_answered_and_closed() {
        for garbage in [
            "\0\0\0\0\r\n\r\n",
            "GET\r\n\r\n",
            "GET /livez HTTP/9.9\r\n\r\n",
            "GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}", // a TLS ClientHello
            "\u{10}\u{c}\0\u{4}MQTT\u{4}\u{2}\0\u{3c}\0\0",        // an MQTT CONNECT
            "GET /livez HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        ] {
            let answer = answer_to(garbage, ready(false, true)).await;
            assert!(
                ["400", "no answer"].contains(&status(&answer)),
                "{garbage:?}: {answer}"
            );
        }
    }

    /// V2: bytes that arrive do not push the deadline back.
    #[tokio::test(start_paused = true)]
    async fn a_slow_header_ends_after_five_seconds() {
        let (mut caller, conversation) = call(ready(false, true));
        let begun = Instant::now();
        caller
            .write_all(b"GET /livez HTTP/1.1\r\n")
            .await
            .expect("open");
        while caller.write_all(b"a: b\r\n").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
            assert!(begun.elapsed() < HEADER * 2, "still reading");
        }
        conversation.await.expect("no panic");
        assert!(begun.elapsed() >= HEADER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_caller_ends_after_five_seconds() {
        let (_caller, conversation) = call(ready(false, true));
        let begun = Instant::now();
        conversation.await.expect("no panic");
        assert!((HEADER..HEADER * 2).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_never_reads_ends_after_a_minute() {
        let (mut caller, conversation) = call(ready(false, true));
        let request = b"GET /metrics HTTP/1.1\r\nhost: gate\r\n\r\n";
        caller.write_all(request).await.expect("open");
        let begun = Instant::now();
        conversation.await.expect("no panic");
        assert!((CONNECTION..=CONNECTION + FAREWELL * 2).contains(&begun.elapsed()));
    }

    /// V3: a header of a megabyte is turned away long before it is read whole.
    #[tokio::test(start_paused = true)]
    async fn a_huge_header_is_refused() {
        let filler = "x".repeat(1 << 20);
        for request in [
            format!("GET /livez HTTP/1.1\r\nhost: gate\r\na: {filler}\r\n\r\n"),
            format!("GET /{filler} HTTP/1.1\r\nhost: gate\r\n\r\n"),
            format!("GET /livez HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100_000)),
            filler.clone(),
        ] {
            let answer = answer_to(&request, ready(false, true)).await;
            assert_eq!(status(&answer), "431", "{}", &request[..30]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_holds_nobody() {
        let (mut caller, conversation) = call(ready(false, true));
        let request = b"GET /livez HTTP/1.1\r\nhost: gate\r\ncontent-length: 1000000\r\n\r\n";
        caller.write_all(request).await.expect("open");
        let begun = Instant::now();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(status(&answer), "200");
        conversation.await.expect("no panic");
        assert!(begun.elapsed() <= CONNECTION + FAREWELL);
    }

    async fn get_over_tcp(address: SocketAddr) -> String {
        let mut caller = TcpStream::connect(address).await.expect("it listens");
        let request = b"GET /livez HTTP/1.0\r\n\r\n";
        caller.write_all(request).await.expect("open");
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    /// V3: callers who say nothing take the places that there are, and no more; one that leaves makes room.
    #[tokio::test]
    async fn connections_are_bounded_and_end_with_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let metrics = Metrics::new(&[], &[]);
        let desk = Desk {
            metrics,
            ready: ready(false, true),
            api: None,
        };
        let server = tokio::spawn(serve(listener, desk));
        assert_eq!(status(&get_over_tcp(address).await), "200");

        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.expect("it listens"));
        }
        // threats.md N2: whoever says nothing keeps nobody out.
        assert_eq!(status(&get_over_tcp(address).await), "200");
        let end = silent[0].read(&mut [0; 16]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "the oldest made room");
        let mut last = silent.pop().expect("63 are left");
        let open = last.try_read(&mut [0; 16]).expect_err("it is open");
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);

        server.abort();
        let end = last.read(&mut [0; 16]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "it ends with the server");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    }
}
