//! `tidegate run`

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Failure, check, settings::Settings};
use crate::admin::v1::{self, Api};
use crate::admin::{self, Desk};
use crate::config::{self, Config};
use crate::gate::{
    self, Connections, Contents, Handover, Inherited, Loaded, Outcome, Passed, Running, StartFault,
};
use crate::observe::logging::{self, Logger};
use crate::observe::ready::Ready;
use crate::observe::service::{Manager, Service};
use crate::sandbox::{self, Inside};

mod reloads;

use reloads::{Moment, Reloads};

/// Runs the gate
///
/// HUP, and a change of any file that the configuration names, reads all of it anew: all comes into force, or nothing. Everything may change but what docs/reload.md lists: the name and bind of a listener, and how many there are; admin.bind; whether there is a [registry], its url and password_file; the path of token.key_file. TERM and INT drain: the gate is not ready any more, takes no new connections after limits.drain_delay, and ends the open ones spread over
/// limits.drain_timeout. A second signal ends it at once.
///
/// Listening sockets that are passed by LISTEN_FDS (systemd.socket(5)) are used where a listener, or admin, is to be at their address.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Takes over from the gate that was started with the same FILE, if one runs, and lets the next one take over from this
    ///
    /// A Unix socket, which is made if it is not there. The gate before gives its listening sockets away, and drains once this one is ready: no
    /// device is refused in between. If this one does not get ready, or ends, the one before goes on.
    #[arg(long, value_name = "FILE")]
    handover: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  tidegate run                            with ./tidegate.toml
  tidegate run --config /etc/tidegate/tidegate.toml
  TIDEGATE_LOG__LEVEL=debug tidegate run
  tidegate run --handover /run/tidegate/handover      again, and it takes over without a gap
  tidegate run --listen 0.0.0.0:8883 --mode mutual-tls --certificate s.pem --key s.key \\
      --client-ca ca.pem --broker mqtt://127.0.0.1:1883

Exit codes: 0 drained; 1 it failed; 2 usage or configuration; 3 drained, but bytes were lost
at the end of the window.";

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        keep_hup().map_err(|fault| Failure::failed(format!("cannot hear signals: {fault}")))?;
        // What `check` tells, `run` tells, too: also of the files, when the configuration itself is faulty.
        let source = self.settings.source();
        let passed = gate::from_environment(); // before there are threads
        // First, so that what changes while it is read is read again.
        let files = Contents::default().with(&source.path.iter().cloned().collect());
        let config = config::load(&source).map_err(|_| check::failure(&source))?;
        let passed = passed.map_err(|faults| Failure::failed(list(&faults)))?;
        let files = files.with(&config.files(&source));
        match serve(&config, &source, files, (passed, self.handover.as_deref()))? {
            Outcome::Drained => Ok(()),
            // The log has told it, in its own form.
            Outcome::Cut => Err(Failure {
                code: 3,
                sentence: String::new(),
            }),
        }
    }
}

/// From here on HUP does not end the process, which may take a while to read what it needs: one that comes meanwhile is heard when
/// the gate has started.
fn keep_hup() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _within = runtime.enter();
    signal(SignalKind::hangup()).map(drop) // the handler stays
}

/// Starts the gate and what tells of it, and stays until it has drained.
///
/// The gate's workers have threads of their own; this thread serves operators, asks the brokers whether they answer,
/// and hears the signals. Nothing that stalls here stalls a device (threats.md V4).
fn serve(
    config: &Config,
    source: &config::Source,
    files: Contents,
    (passed, handover): (Vec<Passed>, Option<&Path>),
) -> Result<Outcome, Failure> {
    let (reloads, mut orders) = mpsc::channel(1);
    let api = api(config, reloads);
    let loaded = Loaded::load(config.gate.clone())
        .map_err(|faults| Failure::asked_wrongly(list(&faults)))?;
    let (log, manager, inside, warnings) = settle_in((config, source), &loaded, handover)?;
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
        let failed =
            |fault: std::io::Error| Failure::failed(format!("cannot hear signals: {fault}"));
        let mut term = signal(SignalKind::terminate()).map_err(failed)?;
        let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
        let (handover, mut inherited) =
            Handover::open(handover, passed).map_err(|fault| Failure::failed(fault.to_string()))?;
        let operators = admin_port(config.admin.as_ref(), &mut inherited).map_err(|fault| {
            let faults = [&[fault], loaded.taken(&inherited).as_slice()].concat();
            Failure::failed(list(&faults))
        })?;
        let waits = inherited.waits;
        let running = loaded
            .start(inherited, metrics.clone(), logger, ready.clone())
            .map_err(|faults| Failure::failed(list(&faults)))?;
        let mut for_next = running.sockets();
        let copy = operators
            .as_ref()
            .and_then(|admin| admin.as_fd().try_clone_to_owned().ok());
        for_next.extend(copy.map(|admin| (gate::ADMIN.to_owned(), admin)));
        tell_addresses(&running, operators.as_ref());
        let pulses = running.pulses();
        let service = manager.start(move || pulses.silent());
        let service =
            service.map_err(|fault| Failure::failed(format!("cannot start a thread: {fault}")))?;
        tell_started(waits);

        let api = api(running.connections());
        let desk = Desk {
            metrics,
            ready: ready.clone(),
            api: Some(api.clone()),
        };
        let in_force = (source, config, files);
        let reloads = Reloads::new(in_force, &running, &api, &log, (&ready, &inside), warnings);
        let admin = async {
            running.opened().await; // until then another gate answers there
            if let Some(operators) = operators {
                tokio::select! {
                    () = admin::serve(operators, desk) => {}
                    () = running.handed_over() => {}
                }
            }
        };
        let told_ready = async {
            running.opened().await;
            service.ready();
        };
        let beside = async {
            tokio::join!(
                admin,
                running.watch_brokers(),
                running.watch_lists(),
                running.watch_registry(),
                running.watch_issuer(),
                running.watch_doubts(),
                reloads.keep(&mut hup, &mut orders, note(&service)),
                running.watch_status(&service),
                told_ready,
                running.watch_log(),
                handover.relieve(&running),
            );
            std::future::pending::<()>().await;
        };
        let mut hear = async || {
            tokio::select! {
                _ = term.recv() => "TERM",
                _ = int.recv() => "INT",
            }
        };
        let ended = end(&running, &service, &handover, for_next, &mut hear);
        tokio::select! {
            () = beside => {}
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

/// Finds the service manager, enters the sandbox and starts the log, in this order; tells what is to be told of the start, and gives
/// what was warned of.
fn settle_in(
    (config, source): (&Config, &config::Source),
    loaded: &Loaded,
    handover: Option<&Path>,
) -> Result<(logging::Guard, Manager, Inside, BTreeSet<String>), Failure> {
    let (manager, no_manager) = Manager::find();
    // Here, while there is one thread: that of the log is the next, and then those of the allocator.
    let mut needs = config.needs(source);
    let folder = handover.and_then(Path::parent);
    let folder = folder.map(|folder| Path::new(".").join(folder)); // also of a bare name
    needs.sockets.extend(folder);
    let inside = sandbox::enter(&config.sandbox, &needs)
        .map_err(|sentence| Failure::asked_wrongly(format!("sandbox.mode: {sentence}")))?;
    let log = logging::start(&config.log).map_err(|fault| Failure::failed(fault.to_string()))?;
    #[cfg(all(feature = "jemalloc", target_env = "gnu"))]
    give_memory_back();
    let warnings = config.warnings.iter().chain(loaded.warnings());
    let warnings: BTreeSet<String> = warnings.cloned().collect();
    for warning in warnings.iter().chain(&no_manager) {
        tracing::warn!(event = "configuration", "{warning}");
    }
    inside.tell();
    Ok((log, manager, inside, warnings))
}

/// From here on, memory that has not been used for ten seconds goes back to the system (threats.md V9). Threads of the allocator see to
/// it, which are inside the sandbox as all that are begun behind it: without them it would be those that allocate, and after a storm few do.
#[cfg(all(feature = "jemalloc", target_env = "gnu"))]
fn give_memory_back() {
    if let Err(fault) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(
            event = "configuration",
            "memory that a storm took is kept for the next one: the allocator has no threads to give it back ({fault})"
        );
    }
}

/// Waits until the gate is told to end, or another one takes over, and for the end of the drain. `hear` gives the next signal to end.
async fn end(
    running: &Running,
    service: &Service,
    handover: &Handover,
    for_next: Vec<(String, OwnedFd)>,
    hear: &mut impl AsyncFnMut() -> &'static str,
) {
    let next = async {
        // Until then the gate before has the last word, and no third one may take over from this: the first would never hear of it.
        running.opened().await;
        handover.next(for_next).await
    };
    let told = tokio::select! {
        name = hear() => Ok(name),
        pid = next => Err(pid),
    };
    service.stopping(running.drain_window());
    match told {
        Ok(name) => tracing::info!(
            event = "draining",
            signal = name,
            "not ready any more; open connections end one after the other"
        ),
        Err(pid) => {
            tracing::info!(
                event = "draining",
                pid,
                "another gate has taken over; open connections end one after the other"
            );
            running.hand_over();
            tokio::select! {
                () = running.ended() => return,
                _ = hear() => {} // the first one asks for what is under way
            }
        }
    }
    tokio::select! {
        () = running.retire() => {}
        name = hear() => {
            tracing::warn!(event = "draining", signal = name, "told twice: every connection ends at once");
            running.cut();
            running.ended().await;
        }
    }
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

/// `waits`: for its turn to accept.
fn tell_started(waits: bool) {
    let why = if waits {
        "tidegate runs, and takes devices when a broker answers; the gate before does until then"
    } else {
        "tidegate runs"
    };
    tracing::info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        "{why}"
    );
}

/// The service manager hears of every reload as it begins and as it ends.
fn note(service: &Service) -> impl Fn(Moment) {
    let under_way = RefCell::new(None);
    move |moment| {
        // What was there before is dropped, which tells the end.
        *under_way.borrow_mut() = match moment {
            Moment::Begins => Some(service.reloading()),
            Moment::Ended => None,
        };
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

/// Takes or binds the admin port; `None`: it is off.
fn admin_port(
    admin: Option<&admin::Settings>,
    inherited: &mut Inherited,
) -> Result<Option<TcpListener>, StartFault> {
    let Some(bind) = admin.map(|admin| admin.bind) else {
        inherited.drop_admin();
        return Ok(None);
    };
    let passed = inherited.take_admin(bind)?;
    let socket = passed.map_or_else(|| std::net::TcpListener::bind(bind), Ok);
    let socket = socket.and_then(|socket| {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    });
    socket.map(Some).map_err(|fault| StartFault {
        key: "admin.bind".into(),
        sentence: format!(
            "cannot listen on {bind}: {fault}; stop what listens there, perhaps another gate, or set another admin.bind; to take over from a running \
             gate, start both with --handover"
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
