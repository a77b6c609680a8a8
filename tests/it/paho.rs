//! paho-mqtt, which many devices run, notices no difference from talking to Mosquitto directly (threats.md M6).
//!
//! What the devices do, and what they expect to see, stands in `tests/it/paho/*.py`.

use std::path::PathBuf;
use std::process::Stdio;

use tidegate::mqtt::Version;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::gate::{Gate, Plan};
use crate::support::mosquitto::Mosquitto;
use crate::support::{soon, until};

/// Several connections of one device at once: the broker tells them apart, and knows them by one name.
const EACH_ITS_OWN: &str = "[connect]\nclient_id = \"{device}:{client_id}\"\n";

/// A script under `tests/it/paho`, run as the device `meter-7`.
struct Script {
    child: Child,
    hears: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(name: &str, gate: &Gate, version: Version) -> Self {
        let device = "meter-7".parse().expect("a device id");
        let issued = gate.authority.device(&device).expect("issued");
        std::fs::write(gate.file("meter-7.pem"), issued.chain_pem()).expect("written");
        std::fs::write(gate.file("meter-7.key"), issued.key_pem().as_bytes()).expect("written");
        let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/paho");
        let mut child = Command::new(python())
            .arg("-B") // leaves no __pycache__ in the repository
            .arg(scripts.join(format!("{name}.py")))
            .arg(version.to_string())
            .arg(gate.address().port().to_string())
            .arg(gate.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
        Self {
            hears: child.stdin.take().expect("piped"),
            says: BufReader::new(child.stdout.take().expect("piped")).lines(),
            child,
        }
    }

    /// Waits for its next line, which must be `words`.
    async fn says(&mut self, words: &str) {
        let line = soon(words, self.says.next_line()).await.expect("UTF-8");
        if line.as_deref() != Some(words) {
            let mut stderr = self.child.stderr.take().expect("piped");
            let mut why = String::new();
            soon("its last words", stderr.read_to_string(&mut why))
                .await
                .expect("UTF-8");
            panic!("it said {line:?} instead of {words:?}\n{why}");
        }
    }

    async fn hears(&mut self, words: &str) {
        let line = format!("{words}\n");
        self.hears.write_all(line.as_bytes()).await.expect("heard");
    }

    async fn ends_well(mut self) {
        let ended = soon("the script to end", self.child.wait()).await;
        assert!(ended.expect("a child").success());
    }
}

/// A Python that has paho-mqtt.
///
/// # Panics
/// When there is none.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("TIDEGATE_PAHO_PYTHON") {
        return python.into();
    }
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/paho/bin/python");
    assert!(
        python.is_file(),
        "paho-mqtt is not there: run ./check, or: python3 -m venv target/paho && \
         target/paho/bin/pip install 'paho-mqtt>=2,<3' (apt-get install python3 python3-venv python3-pip)"
    );
    python
}

async fn in_front_of(mosquitto: &Mosquitto, more: &str) -> Gate {
    Gate::plan(Plan {
        addresses: Some(format!("[\"{}\"]", mosquitto.address())),
        more: more.into(),
        ..Plan::default()
    })
    .await
}

/// Runs a script to its end, in each of `versions`; it says `lines`.
async fn runs(name: &str, more: &str, versions: &[Version], lines: &[&str]) {
    // As many messages in flight as a script likes.
    let mosquitto = Mosquitto::start_with("max_inflight_messages 0\nmax_queued_messages 0\n").await;
    let gate = in_front_of(&mosquitto, more).await;
    for version in versions {
        let mut script = Script::start(name, &gate, *version);
        for line in lines {
            script.says(line).await;
        }
        script.ends_well().await;
    }
}

#[tokio::test]
async fn messages_of_every_qos_come_round_and_retained_ones_stay() {
    let lines = ["round trips", "retained"];
    runs("round_trips", EACH_ITS_OWN, &Version::ALL, &lines).await;
}

#[tokio::test]
async fn a_session_outlives_its_connection() {
    let lines = ["heard what it missed", "forgotten"];
    runs("session", EACH_ITS_OWN, &Version::ALL, &lines).await;
}

#[tokio::test]
async fn a_megabyte_goes_both_ways() {
    runs("megabyte", "", &Version::ALL, &["1 MB both ways"]).await;
}

#[tokio::test]
async fn a_thousand_messages_in_flight_stay_in_order() {
    runs(
        "many",
        EACH_ITS_OWN,
        &Version::ALL,
        &["a thousand in order"],
    )
    .await;
}

#[tokio::test]
async fn mqtt_5_properties_go_through() {
    let lines = [
        "properties",
        "topic alias",
        "receive maximum",
        "session expiry",
    ];
    runs("properties", EACH_ITS_OWN, &[Version::V5], &lines).await;
}

#[tokio::test]
async fn a_device_without_a_client_id_learns_its_name() {
    runs("nameless", "", &[Version::V5], &["told its name"]).await;
}

#[tokio::test]
async fn a_second_connection_takes_the_firsts_place() {
    runs("takeover", EACH_ITS_OWN, &Version::ALL, &["taken over"]).await;
}

#[tokio::test]
async fn an_mqtt_5_will_comes_when_asked_for_and_as_late_as_asked_for() {
    let lines = ["asked for", "late"];
    runs("last_will", EACH_ITS_OWN, &[Version::V5], &lines).await;
}

/// The DISCONNECT of an MQTT 5 broker, with its code.
#[tokio::test]
async fn the_brokers_goodbye_reaches_the_device() {
    let lines = ["invalid topic alias"];
    runs("goodbye", "", &[Version::V5], &lines).await;
}

#[tokio::test]
async fn what_the_gate_does_not_do_is_said_by_its_code() {
    let lines = ["bad authentication method"];
    runs("refused", "", &[Version::V5], &lines).await;
}

/// By FIN or by reset: the broker publishes the will of a device that vanished, and no other.
#[tokio::test]
async fn a_will_is_for_those_who_vanish() {
    let mosquitto = Mosquitto::start().await;
    let gate = in_front_of(&mosquitto, EACH_ITS_OWN).await;
    for version in Version::ALL {
        let mut script = Script::start("will", &gate, version);
        script.says("vanished").await;
        script.says("said goodbye").await;
        let word = version.to_string();
        // Two have vanished; this is the third.
        until("the goodbye to be over", async || {
            let closed = gate.lines("closed");
            let mortals = closed.iter().filter(|line| {
                line["client_id_given"] == "meter-7:mortal" && line["mqtt_version"] == word.as_str()
            });
            (mortals.count() == 3).then_some(())
        })
        .await;
        script.hears("both sides are closed").await;
        script.says("no will").await;
        script.ends_well().await;
    }
}

/// Kills the broker and lets it come back while a device is there, which does what its script says.
async fn is_killed_and_comes_back(mut mosquitto: Mosquitto) {
    let gate = in_front_of(&mosquitto, "").await;
    for version in Version::ALL {
        let mut script = Script::start("comes_back", &gate, version);
        script.says("there").await;
        mosquitto.kill();
        script.hears("the broker is away").await;
        script.says("told so").await;
        mosquitto.come_back().await;
        script.hears("the broker is back").await;
        script.says("back").await;
        script.ends_well().await;
    }
    gate.refusal("broker_away").await;
}

/// threats.md V5: a broker that is killed is no reason for a device to give up.
#[tokio::test]
async fn a_device_comes_back_with_its_broker() {
    is_killed_and_comes_back(Mosquitto::start().await).await;
}

#[tokio::test]
async fn a_device_comes_back_with_its_broker_on_a_socket_file() {
    is_killed_and_comes_back(Mosquitto::start_on_socket_file().await).await;
}
