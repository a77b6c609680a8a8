use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::*;

/// d2150e42df8e0855291ba506c1818072ac4ddaebd2fd790d4b76c55a3223e559
const FINGERPRINT: [u8; 32] = [
    0xd2, 0x15, 0x0e, 0x42, 0xdf, 0x8e, 0x08, 0x55, 0x29, 0x1b, 0xa5, 0x06, 0xc1, 0x81, 0x80, 0x72,
    0xac, 0x4d, 0xda, 0xeb, 0xd2, 0xfd, 0x79, 0x0d, 0x4b, 0x76, 0xc5, 0x5a, 0x32, 0x23, 0xe5, 0x59,
];
use crate::mqtt::Version;
use crate::observe::metrics::Metrics;
use crate::rules::device::{DeviceId, Mode};

/// What was logged, as its reader sees it.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panics").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn noon() -> OffsetDateTime {
    // 2026-07-01T12:00:00.045Z
    OffsetDateTime::from_unix_timestamp_nanos(1_782_907_200_045_000_000).expect("in range")
}

fn plain(form: Form) -> Lines {
    Lines {
        form,
        colour: false,
        clock: noon,
    }
}

fn now(lines: Lines) -> LinesNow {
    Arc::new(ArcSwap::from_pointee(lines))
}

/// What `log` writes at level `info`, in this form.
fn logged(lines: Lines, log: impl FnOnce()) -> String {
    let page = Page::default();
    let writer = page.clone();
    let (subscriber, _) = subscriber(now(lines), Level::INFO, move || writer.clone());
    tracing::subscriber::with_default(subscriber, log);
    String::from_utf8(page.0.lock().expect("no writer panics").clone()).expect("text")
}

fn address() -> SocketAddr {
    "192.0.2.7:49152".parse().expect("an address")
}

fn full_line(log: impl FnOnce(&Line<'_>)) {
    let device: DeviceId = "meter-7".parse().expect("a name");
    let certificate = CertificateLine {
        subject: "CN=meter-7",
        issuer: "CN=Fleet CA",
        serial: "0a1b",
        fingerprint: FINGERPRINT,
    };
    log(&Line {
        device: Some(&device),
        mode: Some(Mode::MutualTls),
        tls_version: Some("1.3"),
        cipher: Some("TLS13_AES_256_GCM_SHA384"),
        resumed: Some(false),
        sni: Some("mqtt.example.net"),
        alpn: Some("mqtt"),
        certificate: Some(certificate),
        trust: Some("fleet"),
        mqtt_version: Some(Version::V311),
        client_id_asked: Some("7"),
        client_id_given: Some("meter-7"),
        proxy: Some(SocketAddr::from(([10, 0, 0, 5], 41_007))),
        broker: Some("mqtt://127.0.0.1:1883"),
        unique_id: Some("5f0c9be4a1d24a53b2a3e3b7a8f6c1d2"),
        bytes_to_broker: Some(1204),
        bytes_to_device: Some(96),
        duration: Some(Duration::from_millis(61_005)),
        ..Line::new(
            Event::Closed,
            "device_closed",
            "the device closed the connection",
            address(),
            "devices",
        )
    });
}

#[test]
fn the_json_keys_stand_in_the_promised_order() {
    let written = logged(plain(Form::Json), || {
        full_line(|line| Logger::new().connection(line));
    });

    assert_eq!(
        written,
        concat!(
            r#"{"time":"2026-07-01T12:00:00.045Z","level":"info","event":"closed","#,
            r#""reason":"device_closed","why":"the device closed the connection","#,
            r#""address":"192.0.2.7:49152","proxy":"10.0.0.5:41007","listener":"devices","device":"meter-7","#,
            r#""mode":"mutual-tls","tls_version":"1.3","cipher":"TLS13_AES_256_GCM_SHA384","#,
            r#""resumed":false,"sni":"mqtt.example.net","alpn":"mqtt","#,
            r#""certificate_subject":"CN=meter-7","certificate_issuer":"CN=Fleet CA","#,
            r#""certificate_serial":"0a1b","certificate_fingerprint":"#,
            r#""d2150e42df8e0855291ba506c1818072ac4ddaebd2fd790d4b76c55a3223e559","#,
            r#""trust":"fleet","mqtt_version":"3.1.1","client_id_asked":"7","#,
            r#""client_id_given":"meter-7","broker":"mqtt://127.0.0.1:1883","#,
            r#""unique_id":"5f0c9be4a1d24a53b2a3e3b7a8f6c1d2","#,
            r#""bytes_to_broker":1204,"bytes_to_device":96,"duration_ms":61005}"#,
            "\n"
        )
    );
}

const PAGE: &str = include_str!("../../../docs/logs.md");

/// docs/logs.md is what parsers are built on: its examples are what this program writes.
#[test]
fn the_documented_lines_are_written_like_that() {
    for form in [Form::Json, Form::Text] {
        let written = logged(plain(form), || {
            full_line(|line| Logger::new().connection(line));
        });
        assert!(PAGE.contains(&format!("\n{written}")), "{written}");
    }
}

#[test]
fn every_key_is_documented_in_its_order() {
    let written = logged(plain(Form::Json), || {
        full_line(|line| Logger::new().connection(line));
    });
    let mut from = 0;
    for pair in written.split(",\"") {
        let key = pair.trim_start_matches(['{', '"']);
        let key = key.split('"').next().expect("a key");
        let row = format!("\n| `{key}` |");
        let found = PAGE[from..].find(&row).unwrap_or_else(|| panic!("{key}"));
        from += found + 1;
    }
}

/// Every `event = "…"` in the program has a row in docs/logs.md.
#[test]
fn every_event_is_documented() {
    let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src").into()];
    let mut events = vec![
        "closed".to_owned(),
        "refused".to_owned(),
        "log_lost".to_owned(),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir::<std::path::PathBuf>(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let source = std::fs::read_to_string(&path).expect("text");
                let program = source.split("#[cfg(test)]").next().expect("a part");
                let named = program.split("event = \"").skip(1);
                events.extend(
                    named
                        .filter_map(|rest| rest.split('"').next())
                        .map(str::to_owned),
                );
            }
        }
    }
    assert!(events.contains(&"panicked".to_owned()), "the search works");
    for event in events {
        assert!(
            PAGE.contains(&format!("\n| `{event}` |")),
            "{event} is missing in docs/logs.md"
        );
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let line = Line::new(
        Event::Refused,
        "handshake_timeout",
        "no handshake within 10 s",
        address(),
        "devices",
    );
    let log = || Logger::new().connection(&line);

    assert_eq!(
        logged(plain(Form::Json), log),
        "{\"time\":\"2026-07-01T12:00:00.045Z\",\"level\":\"info\",\"event\":\"refused\",\
         \"reason\":\"handshake_timeout\",\"why\":\"no handshake within 10 s\",\
         \"address\":\"192.0.2.7:49152\",\"listener\":\"devices\"}\n"
    );
    assert_eq!(
        logged(plain(Form::Text), log),
        "2026-07-01T12:00:00.045Z info  refused   reason=handshake_timeout \
         why=\"no handshake within 10 s\" address=192.0.2.7:49152 listener=devices\n"
    );
}

#[test]
fn a_message_is_the_why_and_comes_before_the_rest() {
    let log = || {
        tracing::warn!(
            address = "[::1]:8883",
            port = 8883,
            event = "listening",
            "{} {}",
            "open",
            1
        );
    };
    assert_eq!(
        logged(plain(Form::Json), log),
        "{\"time\":\"2026-07-01T12:00:00.045Z\",\"level\":\"warn\",\"event\":\"listening\",\
         \"why\":\"open 1\",\"address\":\"[::1]:8883\",\"port\":8883}\n"
    );
}

/// V11: whatever a device calls itself, its line is one line and its words are nobody else's.
#[test]
fn a_hostile_device_writes_one_line_and_no_key_of_its_own() {
    let hostile = "x\n{\"event\":\"closed\"}\r\u{1b}[31m\u{202e}\" device=\"meter-8\" y=\"";
    let line = Line {
        client_id_asked: Some(hostile),
        sni: Some(hostile),
        ..Line::new(
            Event::Refused,
            "client_id_not_own",
            hostile,
            address(),
            "devices",
        )
    };
    let log = || Logger::new().connection(&line);

    let json = logged(plain(Form::Json), log);
    assert_eq!(json.matches('\n').count(), 1);
    assert!(json.chars().all(|c| c == '\n' || !c.is_control()));
    let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read["client_id_asked"], hostile);
    assert_eq!(read["event"], "refused");
    assert!(read.get("device").is_none());

    let text = logged(plain(Form::Text), log);
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    assert!(!text.contains('\u{202e}'));
    assert!(!text.contains(" device=\"meter"), "{text}"); // only \" device=\"meter
}

#[test]
fn a_long_client_id_is_cut() {
    let id = "x".repeat(65_535);
    let line = Line {
        client_id_asked: Some(&id),
        ..Line::new(
            Event::Refused,
            "client_id_not_own",
            &id,
            address(),
            "devices",
        )
    };
    let written = logged(plain(Form::Json), || Logger::new().connection(&line));
    assert!(written.len() < 2000, "{} bytes", written.len());
}

#[test]
fn what_a_flood_suppressed_is_told_as_a_number() {
    let metrics = Metrics::new(&["devices".into()], &[]);
    let logger = Logger::counted(metrics.clone());
    let refused = Line::new(Event::Refused, "not_tls", "no TLS", address(), "devices");
    let closed = Line::new(Event::Closed, "drained", "it drained", address(), "devices");

    let written = logged(plain(Form::Json), || {
        for _ in 0..5000 {
            logger.connection(&refused);
            for _ in 0..4 {
                logger.connection(&closed);
            }
        }
        logger.tell_suppressed();
        logger.tell_suppressed(); // once is enough
    });

    let lines: Vec<serde_json::Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |event| lines.iter().filter(move |line| line["event"] == event);
    let mut held = 0;
    for (event, reason, all, least) in [
        ("refused", "not_tls", 5_000, 50),
        ("closed", "drained", 20_000, 4000),
    ] {
        let told = of(event).count() as u64;
        assert!((least..all).contains(&told), "{event}: {told}");
        let suppressed: Vec<_> = of("suppressed")
            .filter(|line| line["of"] == event)
            .collect();
        let [line] = suppressed.as_slice() else {
            panic!("{suppressed:?}");
        };
        assert_eq!(line["reason"], reason);
        assert_eq!(line["level"], "info");
        assert_eq!(line["suppressed"], all - told);
        held += all - told;
    }
    let counted = format!("tidegate_log_lines_suppressed_total {held}\n");
    assert!(metrics.render().contains(&counted), "{counted}");
}

#[test]
fn lines_below_the_level_are_not_written() {
    assert_eq!(logged(plain(Form::Text), || tracing::debug!("a step")), "");
    let (quiet, _) = subscriber(now(plain(Form::Json)), Level::WARN, std::io::sink);
    let metrics = Metrics::new(&[], &[]);
    let logger = Logger::counted(metrics.clone());
    tracing::subscriber::with_default(quiet, || {
        let line = Line::new(Event::Refused, "not_tls", "no TLS", address(), "devices");
        for _ in 0..1000 {
            logger.connection(&line);
        }
    });
    let told = metrics.render();
    assert!(
        told.contains("tidegate_log_lines_suppressed_total 0\n"),
        "nobody asked for them"
    );
}

/// A reload changes the form and the level of a log that runs.
#[test]
fn form_and_level_change_while_the_log_runs() {
    let page = Page::default();
    let (lines, writer) = (now(plain(Form::Text)), page.clone());
    let (subscriber, level) = subscriber(lines.clone(), Level::WARN, move || writer.clone());
    let log = || {
        tracing::info!(event = "test", "one");
        tracing::warn!(event = "test", "two");
    };
    tracing::subscriber::with_default(subscriber, || {
        log();
        let guard = Guard {
            worker: None,
            losses: Losses::default(),
            chosen: Some(Chosen {
                lines,
                level,
                terminal: false,
            }),
        };
        guard.change(&Settings {
            format: Format::Json,
            level: Level::INFO,
        });
        log();
    });
    let written = page.0.lock().expect("no writer panics").clone();
    let written = String::from_utf8(written).expect("text");
    let [first, second, third] = written.lines().collect::<Vec<_>>()[..] else {
        panic!("three lines, not:\n{written}");
    };
    assert!(
        first.contains("warn  test") && first.ends_with("why=two"),
        "{first}"
    );
    assert!(
        second.starts_with('{') && second.contains("\"why\":\"one\""),
        "{second}"
    );
    assert!(third.contains("\"why\":\"two\""), "{third}");
}

#[test]
fn colours_are_for_terminals() {
    let log = || tracing::info!(event = "started", "tidegate {}", "0.1.0");
    assert!(!logged(plain(Form::Text), log).contains('\x1b'));
    let colourful = Lines {
        colour: true,
        ..plain(Form::Text)
    };
    assert_eq!(
        logged(colourful, log),
        "\x1b[2m2026-07-01T12:00:00.045Z\x1b[0m \x1b[32minfo \x1b[0m \x1b[1mstarted  \x1b[0m why=\"tidegate 0.1.0\"\n"
    );
    let json = Lines {
        colour: true,
        ..plain(Form::Json)
    };
    assert!(!logged(json, log).contains('\x1b'));
}

#[test]
fn auto_is_text_on_a_terminal_and_json_elsewhere() {
    assert_eq!(form(Format::Auto, true), Form::Text);
    assert_eq!(form(Format::Auto, false), Form::Json);
    assert_eq!(form(Format::Json, true), Form::Json);
    assert_eq!(form(Format::Text, false), Form::Text);
}

/// How long the tests below wait for what must not wait at all.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs `work` on a thread of its own; fails when it does not end.
fn must_end<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(PATIENCE).expect("it hangs")
}

const FLOOD: u64 = 100_000;

/// Logs a flood into a pipe that nobody reads yet.
fn flooded_pipe() -> (PipeReader, Guard) {
    let (reader, pipe) = std::io::pipe().expect("a pipe");
    let (writer, guard) = queue(pipe, now(plain(Form::Json)));
    must_end(move || {
        let (subscriber, _) = subscriber(now(plain(Form::Json)), Level::INFO, writer);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..FLOOD {
                tracing::info!(event = "test", number, "a line that somebody should read");
            }
        });
    });
    (reader, guard)
}

/// V4: when nobody reads the log, callers do not wait, memory is bounded, and the loss is counted and told.
#[test]
fn a_log_that_nobody_reads_stalls_nobody() {
    let (reader, guard) = flooded_pipe();
    let metrics = Metrics::new(&[], &[]);
    metrics.watch_log(guard.losses());

    // The pipe holds some 64 KiB, the queue 4096 lines; the rest is lost.
    let lost = guard.losses().lines();
    assert!((FLOOD - 6000..FLOOD).contains(&lost), "{lost} lost");
    let told = format!("tidegate_log_lines_lost_total {lost}\n");
    assert!(metrics.render().contains(&told));
    assert!(
        metrics.render().contains(&told),
        "counted once, not per scrape"
    );

    // Now somebody reads: every line that was kept is whole, and after them stands what is missing.
    let (kept, told) = must_end(move || {
        let mut kept = 0;
        for line in BufReader::new(reader).lines() {
            let line = line.expect("text");
            let read: serde_json::Value = serde_json::from_str(&line).expect("a whole line");
            if read["event"] == "log_lost" {
                return (kept, read["lost"].as_u64());
            }
            kept += 1;
        }
        (kept, None)
    });
    assert_eq!(told, Some(lost));
    assert_eq!(kept + lost, FLOOD);
}

/// V10: the end of the process does not wait for a reader either.
#[test]
fn a_log_that_nobody_reads_does_not_keep_the_process() {
    let (_reader, guard) = flooded_pipe();
    must_end(move || drop(guard));
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let page = Page::default();
    let (writer, guard) = queue(page.clone(), now(plain(Form::Text)));
    let (subscriber, _) = subscriber(now(plain(Form::Text)), Level::INFO, writer);
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            tracing::info!(event = "drained", "bye");
        }
    });
    drop(guard);
    let written = page.0.lock().expect("no writer panics").clone();
    assert_eq!(
        String::from_utf8(written).expect("text").lines().count(),
        1000
    );
}

/// V9, V11: a panic is one line of the log as well.
#[test]
fn a_panic_is_told_in_one_line() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(tell_panic));
    let written = logged(plain(Form::Json), || {
        let caught = std::panic::catch_unwind(|| panic!("a bug\nof ours"));
        assert!(caught.is_err());
    });
    std::panic::set_hook(before);

    assert_eq!(written.matches('\n').count(), 1);
    let read: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(
        (&read["level"], &read["event"]),
        (&"error".into(), &"panicked".into())
    );
    assert_eq!(read["why"], "a bug\nof ours");
    let at = read["at"].as_str().expect("a place");
    assert!(at.starts_with("src/observe/logging/tests.rs:"), "{at}");
}

/// Set for a test that runs itself once more as a process of its own.
const CHILD: &str = "TIDEGATE_TEST_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// This test again, as a process of its own.
fn child(test: &str) -> std::process::Command {
    let mut child = std::process::Command::new(std::env::current_exe().expect("a program"));
    let test = format!("observe::logging::tests::{test}");
    child.args(["--exact", &test, "--nocapture"]);
    child.env(CHILD, "1").env_remove("RUST_BACKTRACE");
    child
}

const JSON: Settings = Settings {
    format: Format::Auto,
    level: Level::INFO,
};

#[test]
fn a_process_logs_to_standard_error_from_every_thread() {
    if is_child() {
        let guard = start(&JSON).expect("the first log");
        assert!(matches!(start(&JSON), Err(NoLog::AlreadyStarted)));
        tracing::debug!(event = "test", "not written");
        std::thread::spawn(|| tracing::info!(event = "started", "here we are"))
            .join()
            .expect("no panic");
        let panicked = std::thread::spawn(|| panic!("a bug")).join();
        assert!(panicked.is_err());
        drop(guard);
        return;
    }
    let run = child("a_process_logs_to_standard_error_from_every_thread").output();
    let run = run.expect("it runs");
    assert!(run.status.success());
    let lines = String::from_utf8(run.stderr).expect("text");
    let lines = lines.lines().map(serde_json::from_str);
    let lines: Vec<serde_json::Value> = lines.collect::<Result<_, _>>().expect("only JSON");
    let events: Vec<_> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["started", "panicked"]);
    let begun = lines[0]["time"].as_str().expect("a time");
    let format = &time::format_description::well_known::Rfc3339;
    let begun = OffsetDateTime::parse(begun, format).expect("RFC 3339");
    assert!((OffsetDateTime::now_utc() - begun).abs() < PATIENCE);
    assert!(lines[1]["backtrace"].is_null(), "nobody asked for it");
}

/// V10: a process whose output nobody reads, both streams into one full pipe, still comes to its end.
#[test]
fn a_process_that_nobody_reads_ends() {
    if is_child() {
        let guard = start(&JSON).expect("the first log");
        for number in 0..FLOOD {
            tracing::info!(event = "test", number, "a line that nobody reads");
        }
        drop(guard);
        std::process::exit(7); // the harness would write to the full pipe, and wait
    }
    let (_unread, pipe) = std::io::pipe().expect("a pipe");
    let mut run = child("a_process_that_nobody_reads_ends");
    run.stdout(pipe.try_clone().expect("a pipe")).stderr(pipe);
    let status = must_end(move || run.status().expect("it runs"));
    assert_eq!(status.code(), Some(7));
}
