//! `tidegate healthcheck`

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Failure, say, settings};
use crate::config::{self, Source};

/// Asks a running gate whether it is ready, for health checks of containers
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// The admin address of the gate; left out: admin.bind of the configuration, by default 127.0.0.1:9883
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// The configuration file, of which [admin] alone is read; left out: ./tidegate.toml, if there is one
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

const EXAMPLES: &str = "\
Examples:
  tidegate healthcheck
  tidegate healthcheck --address 127.0.0.1:9883 --timeout 1s
  HEALTHCHECK CMD [\"tidegate\", \"healthcheck\"]      (in a Dockerfile)

Exit codes: 0 ready; 1 not ready, or no answer; 2 usage.";

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let address = self.admin_address()?;
        let request =
            format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let answer = ask(address, &request, self.timeout).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                    format!(
                        "no answer within {}",
                        humantime::format_duration(self.timeout)
                    )
                }
                io::ErrorKind::ConnectionRefused => "nothing listens there".into(),
                _ => error.to_string(),
            };
            Failure::failed(format!(
                "not ready: cannot ask http://{address}/readyz: {why}"
            ))
        })?;
        match verdict(&answer) {
            Some((200, _)) => {
                say("ready\n");
                Ok(())
            }
            Some((code, why)) => Err(Failure::failed(format!(
                "not ready: {why} ({code} from http://{address}/readyz)"
            ))),
            None => Err(Failure::failed(format!(
                "not ready: what listens at {address} does not answer as tidegate does"
            ))),
        }
    }

    fn admin_address(&self) -> Result<SocketAddr, Failure> {
        if let Some(address) = self.address {
            return Ok(address);
        }
        let path = settings::file(self.config.as_deref(), false);
        let source = Source {
            path,
            env: settings::environment(),
            ..Source::default()
        };
        let address = config::admin_address(&source).map_err(|faults| {
            let lines: Vec<String> = faults
                .iter()
                .map(|fault| settings::told(fault, &source))
                .collect();
            Failure::failed(lines.join("\n"))
        })?;
        let address = address
            .ok_or_else(|| Failure::failed("admin.bind is \"off\": there is nothing to ask"))?;
        if address.port() == 0 {
            return Err(Failure::failed(
                "admin.bind has port 0; name the port that the log tells: --address 127.0.0.1:PORT",
            ));
        }
        Ok(within_reach(address))
    }
}

/// `0.0.0.0` and `[::]` mean every address of this host; loopback is one of them.
pub(super) fn within_reach(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The most of an answer that is read.
const LONGEST_ANSWER: usize = 16 << 10;

/// Sends `request`, and gives the whole answer; `timeout` is for everything together.
pub(super) fn ask(address: SocketAddr, request: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + timeout.min(Duration::from_hours(1));
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while answer.len() < LONGEST_ANSWER {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// The status code and the first line of the body, cleaned for a terminal; `None`, if it is no HTTP.
fn verdict(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head
        .strip_prefix("HTTP/1.")?
        .get(1..)?
        .trim_start()
        .get(..3)?
        .parse()
        .ok()?;
    let why = body.lines().next().unwrap_or_default();
    Some((
        code,
        why.chars().filter(|c| !c.is_control()).take(200).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn checked(answer: &'static str) -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let gate = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut request = [0; 512];
            let n = stream.read(&mut request).expect("a request");
            assert!(request[..n].starts_with(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).expect("a listener");
        });
        let args = Args {
            address: Some(address),
            config: None,
            timeout: Duration::from_secs(5),
        };
        let done = args.run();
        gate.join().expect("no panic");
        done
    }

    #[test]
    fn a_ready_gate_is_ready() {
        assert_eq!(
            checked("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"),
            Ok(())
        );
    }

    #[test]
    fn a_draining_gate_is_not_and_says_why() {
        let failure =
            checked("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n").expect_err("503");
        assert_eq!(failure.code, 1);
        assert!(
            failure
                .sentence
                .starts_with("not ready: draining (503 from "),
            "{failure}"
        );
    }

    #[test]
    fn what_is_no_http_is_told() {
        let failure = checked(" 2").expect_err("no HTTP");
        assert!(
            failure.code == 1 && failure.sentence.contains("does not answer as tidegate"),
            "{failure}"
        );
    }

    #[test]
    fn every_address_means_loopback() {
        let reach = |text: &str| within_reach(text.parse().expect(text)).to_string();
        assert_eq!(reach("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(reach("[::]:1"), "[::1]:1");
        assert_eq!(reach("10.0.0.1:1"), "10.0.0.1:1");
    }
}
