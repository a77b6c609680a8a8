//! `tidegate run`

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, check, settings::Settings};
use crate::admin::v1::{self, Api};
use crate::admin::{self, Desk};
use crate::config::{self, Config};
use crate::gate::{Connections, Loaded, Outcome, Running, StartFault};
use crate::observe::logging::{self, Logger};
use crate::observe::ready::Ready;

/// Runs the gate
///
/// HUP reads the configuration anew: certificates, keys and trust groups count at once, for open connections, too. TERM and INT drain: the gate is not ready any more, takes no new connections, and ends the open ones spread over
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
        let config = config::load(&source).map_err(|_| check::failure(&source))?;
        match serve(config, &source)? {
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
fn serve(config: Config, source: &config::Source) -> Result<Outcome, Failure> {
    let api = api(&config);
    let loaded =
        Loaded::load(config.gate).map_err(|faults| Failure::asked_wrongly(list(&faults)))?;
    let log = logging::start(&config.log).map_err(|fault| Failure::failed(fault.to_string()))?;
    for warning in config.warnings.iter().chain(loaded.warnings()) {
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
        for (listener, address) in running.addresses() {
            tracing::info!(event = "listening", listener = %listener, address = %address, "takes devices");
        }
        if let Some(address) = operators.as_ref().and_then(|socket| socket.local_addr().ok()) {
            tracing::info!(event = "listening", listener = "admin", address = %address, "takes operators");
        }
        tracing::info!(event = "started", version = env!("CARGO_PKG_VERSION"), "tidegate runs");

        let api = api(running.connections());
        let desk = Desk {
            metrics,
            ready,
            api: Some(api.clone()),
        };
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
                running.watch_files(),
                running.watch_log(),
            )
        };
        let mut hear = async || {
            loop {
                tokio::select! {
                    _ = term.recv() => return "TERM",
                    _ = int.recv() => return "INT",
                    _ = hup.recv() => reload(source, &running, &api).await,
                }
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

/// Reads the configuration anew: what listeners show and trust comes into force, all or nothing.
async fn reload(source: &config::Source, running: &Running, api: &Api) {
    let config = match config::load(source) {
        Ok(config) => config,
        Err(faults) => {
            running.note_reload_failed();
            for fault in faults {
                tracing::error!(
                    event = "reload_failed",
                    signal = "HUP",
                    "{fault}; what was in force stays"
                );
            }
            return;
        }
    };
    let trust = config.gate.trust.clone();
    match running.reload(config.gate).await {
        Ok(later) => {
            api.reload(config.admin.and_then(|admin| admin.token), &trust);
            tracing::info!(
                event = "reloaded",
                signal = "HUP",
                "listeners' certificates, trust groups and the admin token are in force as they are written now"
            );
            if !later.is_empty() {
                tracing::warn!(
                    event = "configuration",
                    signal = "HUP",
                    "changes of {} count after a restart",
                    later.join(", ")
                );
            }
        }
        Err(faults) => {
            for fault in faults {
                tracing::error!(
                    event = "reload_failed",
                    signal = "HUP",
                    "{fault}; what was in force stays"
                );
            }
        }
    }
}

/// What the admin API works on, but for the connections.
fn api(config: &Config) -> impl FnOnce(Connections) -> Api + use<> {
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
        })
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
