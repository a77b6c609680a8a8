//! `tidegate run`

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Failure, check, settings::Settings};
use crate::admin::v1::{self, Api};
use crate::admin::{self, Desk};
use crate::config::{self, Config};
use crate::gate::{Connections, Contents, Loaded, Outcome, Running, StartFault};
use crate::observe::logging::{self, Logger};
use crate::observe::ready::Ready;

mod reloads;

use reloads::{Moment, Reloads};

/// Runs the gate
///
/// HUP, and a change of any file that the configuration names, reads all of it anew: everything but addresses to listen at comes into force, or nothing. TERM and INT drain: the gate is not ready any more, takes no new connections, and ends the open ones spread over
/// limits.drain_timeout. A second signal ends it at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  tidegate run                            with ./tidegate.toml
  tidegate run --config /etc/tidegate/tidegate.toml
  TIDEGATE_LOG__LEVEL=debug tidegate run
  tidegate run --listen 0.0.0.0:8883 --mode mutual-tls --certificate s.pem --key s.key \\
      --client-ca ca.pem --broker mqtt://127.0.0.1:1883

Exit codes: 0 drained; 1 it failed; 2 usage or configuration; 3 drained, but bytes were lost
at the end of the window.";

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        // What `check` tells, `run` tells, too: also of the files, when the configuration itself is faulty.
        let source = self.settings.source();
        // First, so that what changes while it is read is read again.
        let files = Contents::default().with(&source.path.iter().cloned().collect());
        let config = config::load(&source).map_err(|_| check::failure(&source))?;
        let files = files.with(&config.files(&source));
        match serve(&config, &source, files)? {
            Outcome::Drained => Ok(()),
            // The log has told it, in its own form.
            Outcome::Cut => Err(Failure {
                code: 3,
                sentence: String::new(),
            }),
        }
    }
}

/// Starts the gate and what tells of it, and stays until it has drained.
///
/// The gate's workers have threads of their own; this thread serves operators, asks the brokers whether they answer,
/// and hears the signals. Nothing that stalls here stalls a device (threats.md V4).
fn serve(config: &Config, source: &config::Source, files: Contents) -> Result<Outcome, Failure> {
    let (reloads, mut orders) = mpsc::channel(1);
    let api = api(config, reloads);
    let loaded = Loaded::load(config.gate.clone())
        .map_err(|faults| Failure::asked_wrongly(list(&faults)))?;
    let log = logging::start(&config.log).map_err(|fault| Failure::failed(fault.to_string()))?;
    let warnings: BTreeSet<String> = config
        .warnings
        .iter()
        .chain(loaded.warnings())
        .cloned()
        .collect();
    for warning in &warnings {
        tracing::warn!(event = "configuration", "{warning}");
    }
    raise_descriptor_limit();
    forbid_core_dumps();
    let metrics = loaded.metrics();
    metrics.watch_log(log.losses());
    let logger = Logger::counted(metrics.clone());
    let ready = Arc::new(Ready::default());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|fault| Failure::failed(format!("cannot start: {fault}")))?;
    let outcome = runtime.block_on(async {
        // Before anything listens, so that no signal is lost.
        let failed = |fault: std::io::Error| Failure::failed(format!("cannot hear signals: {fault}"));
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
        let operators = match &config.admin {
            Some(admin) => Some(bind_admin(admin.bind).await.map_err(|fault| {
                let faults = [&[fault], loaded.taken().as_slice()].concat();
                Failure::failed(list(&faults))
            })?),
            None => None,
        };
        let running = loaded
            .start(metrics.clone(), logger, ready.clone())
            .map_err(|faults| Failure::failed(list(&faults)))?;
        tell_addresses(&running, operators.as_ref());
        tracing::info!(event = "started", version = env!("CARGO_PKG_VERSION"), "tidegate runs");

        let api = api(running.connections());
        let desk = Desk {
            metrics,
            ready: ready.clone(),
            api: Some(api.clone()),
        };
        let in_force = (source, config, files);
        let reloads = Reloads::new(in_force, &running, &api, &log, &ready, warnings);
        let admin = async {
            match operators {
                Some(operators) => admin::serve(operators, desk).await,
                None => std::future::pending().await,
            }
        };
        let beside = async {
            tokio::join!(
                admin,
                running.watch_brokers(),
                running.watch_lists(),
                running.watch_registry(),
                running.watch_issuer(),
                running.watch_doubts(),
                reloads.keep(&mut hup, &mut orders, note),
                running.watch_log(),
            )
        };
        let mut hear = async || {
            tokio::select! {
                _ = term.recv() => "TERM",
                _ = int.recv() => "INT",
            }
        };
        let ended = async {
            let name = hear().await;
            tracing::info!(event = "draining", signal = name, "takes no new connections; open ones end one after the other");
            running.drain();
            tokio::select! {
                () = running.ended() => {}
                name = hear() => {
                    tracing::warn!(event = "draining", signal = name, "told twice: every connection ends at once");
                    running.cut();
                    running.ended().await;
                }
            }
        };
        tokio::select! {
            _ = beside => {}
            () = ended => {}
        }
        running.tell_suppressed(); // the last ones
        let outcome = running.join();
        tell_drained(outcome);
        Ok(outcome)
    });
    // Else its end would wait for a look-up of a broker's name that hangs (threats.md V4, V10).
    runtime.shutdown_background();
    outcome
}

/// What the admin API works on, but for the connections.
fn api(
    config: &Config,
    reloads: mpsc::Sender<v1::Order>,
) -> impl FnOnce(Connections) -> Api + use<> {
    let token = config.admin.as_ref().and_then(|admin| admin.token.clone());
    let registry = config.gate.registry.as_ref();
    let registry = registry.map(|one| (one.directory.store.clone(), one.token_key.clone()));
    let (alphabet, trust) = (config.gate.alphabet.clone(), config.gate.trust.clone());
    move |connections| {
        Api::new(v1::Settings {
            token,
            connections,
            alphabet,
            trust,
            registry,
            reloads,
        })
    }
}

fn tell_addresses(running: &Running, operators: Option<&TcpListener>) {
    for (listener, address) in running.addresses() {
        tracing::info!(event = "listening", listener = %listener, address = %address, "takes devices");
    }
    if let Some(address) = operators.and_then(|socket| socket.local_addr().ok()) {
        tracing::info!(event = "listening", listener = "admin", address = %address, "takes operators");
    }
}

/// Hears of every reload as it begins and as it ends, in order: whoever else is to know of them is told here.
fn note(moment: Moment<'_>) {
    match moment {
        Moment::Begins => tracing::debug!("reads the configuration and its files"),
        Moment::Ended { faults } => {
            tracing::debug!(
                faults = faults.len(),
                "has read the configuration and its files"
            );
        }
    }
}

fn tell_drained(outcome: Outcome) {
    match outcome {
        Outcome::Drained => {
            tracing::info!(event = "drained", "every connection ended between packets");
        }
        Outcome::Cut => tracing::warn!(
            event = "drained",
            "connections were cut at the end of the window; a longer limits.drain_timeout gives them more time"
        ),
    }
}

async fn bind_admin(bind: SocketAddr) -> Result<TcpListener, StartFault> {
    TcpListener::bind(bind).await.map_err(|fault| StartFault {
        key: "admin.bind".into(),
        sentence: format!(
            "cannot listen on {bind}: {fault}; stop what listens there, or set another admin.bind"
        ),
    })
}

fn list(faults: &[StartFault]) -> String {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// A dump of memory would hold keys and tokens (threats.md K2). A limit of 1, unlike 0, also counts where the kernel hands dumps
/// to a program (core(5)).
fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    if let Err(fault) = setrlimit(Resource::Core, limit) {
        tracing::warn!(event = "configuration", "cannot forbid core dumps: {fault}");
    }
}

/// Each connection takes two descriptors; the soft limit is often lower than what the system allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(fault) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(
            event = "configuration",
            "cannot raise the limit of file descriptors: {fault}"
        );
    }
}
