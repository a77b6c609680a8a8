//! The gate in a minute: `cargo run --release --example quickstart` (`-- --once` ends after the demonstration).
//!
//! Makes a CA, a certificate for the gate and two devices in a folder of its own, starts a broker and the gate, and
//! lets one device publish to the other over mutual TLS. Both claim to be `admin`; see what the broker is told.

mod broker;
mod device;
mod gate;
mod show;

use std::io;
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate::pki::{Authority, Issued, folder};
use tidegate::rules::device::DeviceId;
use tokio::time::timeout;

use broker::{Broker, Heard};
use device::{Claims, Device};
use gate::Gate;
use show::Show;

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// Whatever takes longer than this on one machine will not happen at all.
const PATIENCE: Duration = Duration::from_secs(10);
static PANICKED: AtomicBool = AtomicBool::new(false);
const METER: &str = "meter-7";
const DISPLAY: &str = "display-1";
const TOPIC: &str = "devices/meter-7/temperature";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut once = false;
    for argument in std::env::args().skip(1) {
        if argument != "--once" {
            eprintln!("usage: cargo run --release --example quickstart [-- --once]");
            return ExitCode::from(2);
        }
        once = true;
    }
    // The gate outlives a panic, which ends one connection. In a demonstration there must be none.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |why| {
        PANICKED.store(true, Ordering::Relaxed);
        report(why);
    }));
    match quickstart(once).await {
        Ok(()) if PANICKED.load(Ordering::Relaxed) => {
            eprintln!("quickstart: a part of it panicked, see above; please report it");
            ExitCode::FAILURE
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("quickstart: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn quickstart(once: bool) -> Result<(), Anything> {
    let show = Show::new();
    show.title("tidegate quickstart", "two devices, a gate, a broker");

    let home = tempfile::Builder::new()
        .prefix("tidegate-quickstart-")
        .tempdir()?;
    let home = home.path();
    let (meter, display) = certificates(home)?;
    show.step("A CA, the gate's certificate, two devices'");
    show.note(&home.display().to_string());

    let mut broker = within("the broker to listen", Broker::start()).await?;
    show.step("A broker: rumqttd, inside this process");
    show.note(&format!("{} (it sees no TLS)", broker.url()));

    let gate = Gate::start(home, &broker.url()).await?;
    show.step("The gate: mutual TLS in front of it");
    show.note(&format!("mqtts://localhost:{}", gate.port()));
    gate.surprises().iter().for_each(|word| show.warning(word));

    show.step("Both devices come in, and both claim to be `admin`");
    let claims = Claims {
        client_id: "my-laptop",
        username: "admin",
    };
    let (meter, _) = arrive(&show, METER, &meter, claims, home, &gate, &mut broker).await?;
    let claims = Claims {
        client_id: METER,
        username: "admin",
    };
    let (display, mut inbox) =
        arrive(&show, DISPLAY, &display, claims, home, &gate, &mut broker).await?;

    show.step("One publishes, the other listens");
    within("the subscription", display.subscribe("devices/#")).await?;
    show.line(DISPLAY, "subscribes to devices/#");
    within("the publication", meter.publish(TOPIC, "21.5")).await?;
    show.line(METER, &format!("publishes {TOPIC} = 21.5"));
    let got = timeout(PATIENCE, inbox.recv()).await?.ok_or("it left")?;
    show.line(DISPLAY, &format!("receives {} = {}", got.topic, got.text));

    show.step("A stranger, whose certificate says meter-7 but is from another CA");
    let stranger = Authority::new("not yours")?.device(&METER.parse()?)?;
    let refused = Device::connect(home, gate.port(), &stranger, claims).await;
    let why = refused.err().ok_or("a stranger was let in")?.to_string();
    // rumqttc wraps what TLS said in what it was doing.
    let alert = why
        .find("received fatal alert")
        .map_or(&*why, |at| &why[at..]);
    show.line("stranger", &format!("is turned away: {alert}"));
    if broker.heard_already().is_some() {
        return Err("the broker heard of a stranger".into());
    }
    show.line("broker", "never hears of it");

    // With the same certificates the reader becomes these devices; two at once would push each other out.
    within("the farewell", async {
        meter.leave().await?;
        display.leave().await
    })
    .await?;
    if !once {
        your_turn(&show, home, &gate, &mut broker).await?;
    }
    gate.stop();
    show.title("Done", "all that was made is deleted again");
    Ok(())
}

/// The files of a trial, as `tidegate ca init`, `tidegate ca server` and `tidegate device add` make them.
fn certificates(home: &Path) -> Result<(Issued, Issued), Anything> {
    let ca = Authority::new("quickstart CA")?;
    folder::save_authority(home, &ca)?;
    let server = ca.server(&["localhost", "127.0.0.1", "::1"])?;
    folder::save_issued(home, "server", &server)?;
    let device = |name: &str| -> Result<Issued, Anything> {
        let issued = ca.device(&name.parse::<DeviceId>()?)?;
        folder::save_issued(home, name, &issued)?;
        Ok(issued)
    };
    Ok((device(METER)?, device(DISPLAY)?))
}

/// Connects a device, and shows what it claimed and what the broker was told.
async fn arrive(
    show: &Show,
    name: &str,
    certificate: &Issued,
    claims: Claims<'_>,
    home: &Path,
    gate: &Gate,
    broker: &mut Broker,
) -> Result<(Device, device::Inbox), Anything> {
    let connecting = Device::connect(home, gate.port(), certificate, claims);
    let arrived = within("a device to come in", connecting).await?;
    show.names(name, "claims", claims.client_id, claims.username);
    let Heard {
        client_id,
        username,
    } = within("the broker to hear of it", broker.heard()).await?;
    show.names("broker", "is told", &client_id, &username);
    if (client_id.as_str(), username.as_str()) != (name, name) {
        return Err(format!("the broker was told {client_id:?}, {username:?}").into());
    }
    Ok(arrived)
}

/// Lines to paste, and what the broker is told when they are; until Ctrl-C.
async fn your_turn(
    show: &Show,
    home: &Path,
    gate: &Gate,
    broker: &mut Broker,
) -> Result<(), Anything> {
    let at = |file: &str| home.join(file).display().to_string();
    let tls = |name: &str| {
        format!(
            "-h localhost -p {} --cafile {} \\\n      --cert {} --key {}",
            gate.port(),
            at("ca.pem"),
            at(&format!("{name}.pem")),
            at(&format!("{name}.key"))
        )
    };
    show.title("Your turn", "Ctrl-C ends it");
    show.paste(
        "listen in one terminal",
        &format!("mosquitto_sub {} \\\n      -v -t 'devices/#'", tls(DISPLAY)),
    );
    show.paste(
        "publish in another",
        &format!("mosquitto_pub {} \\\n      -t {TOPIC} -m 22.0", tls(METER)),
    );
    show.paste("count", &format!("curl {}", gate.metrics_url()));
    show.paste("read", &format!("cat {}", at("tidegate.toml")));
    loop {
        tokio::select! {
            done = tokio::signal::ctrl_c() => {
                println!();
                return Ok(done?);
            }
            heard = broker.heard() => {
                let Heard { client_id, username } = heard?;
                show.names("broker", "is told", &client_id, &username);
            }
        }
    }
}

/// Waits for `what` to happen, but not for ever.
async fn within<T>(
    what: &str,
    happening: impl Future<Output = Result<T, Anything>>,
) -> Result<T, Anything> {
    let late = |_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("waited for {what} in vain"),
        )
    };
    timeout(PATIENCE, happening).await.map_err(late)?
}
