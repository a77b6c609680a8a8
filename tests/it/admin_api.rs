//! The admin API, over the real binary and SQLite: who may ask, what is told, what changes, what is never shown (threats.md K2, N2,
//! R1, V4, V11). Every answer is held against docs/openapi.json on the way.

use serde_json::{Value, json};
use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password};
use tidegate::pki::{Authority, Order};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::device::{Answer, Link, connect};
use crate::support::gate::{Gate, MUTUAL, Plan};
use crate::support::http::{Answered, Caller};
use crate::support::{soon, until};

const TOKEN: &str = "6f3b0c1de84a4f0fb3a5d0c2e1a79b58";

/// A gate with an admin API.
fn plan(registry: &str) -> Plan {
    Plan {
        files: vec![("admin.token".into(), format!("{TOKEN}\n").into_bytes())],
        admin: "token_file = \"admin.token\"".into(),
        more: registry.into(),
        ..Plan::default()
    }
}

const SQLITE: &str = "[registry]\nurl = \"sqlite://devices.db\"\n";

async fn house() -> (Gate, Caller) {
    start(plan(SQLITE)).await
}

async fn start(plan: Plan) -> (Gate, Caller) {
    let gate = Gate::plan(plan).await;
    let caller = Caller {
        address: gate.admin,
        token: TOKEN.into(),
    };
    (gate, caller)
}

/// Adds a device that any certificate of the fleet's may name.
async fn add(api: &Caller, device: &str) -> Answered {
    let body = json!({"device": device, "credentials": [{"trust": "fleet"}]});
    let added = api.post("/v1/devices", body).await;
    assert_eq!(added.status, 201, "{added:?}");
    added
}

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON")
}

/// Every path and method that there is, with something in place of what varies.
fn everything() -> Vec<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().expect("paths").clone();
    let all = paths.into_iter().flat_map(|(path, methods)| {
        let path = path.replace("{device}", "meter-7").replace("{number}", "1");
        let methods = methods.as_object().expect("methods").clone();
        methods
            .into_iter()
            .map(move |(method, _)| (method.to_uppercase(), path.clone()))
    });
    all.collect()
}

// ── Who may ask

#[tokio::test]
async fn without_a_token_file_there_is_no_api() {
    let gate = Gate::start().await;
    let api = Caller {
        address: gate.admin,
        token: String::new(),
    };
    for path in ["/v1", "/v1/devices", "/v1/openapi.json"] {
        let answer = api.say("GET", path, "", "").await;
        assert_eq!(answer.problem(), (404, "api_off"), "{path}");
        assert!(answer.detail().contains("admin.token_file"));
    }
}

/// N2: nobody learns or changes anything without the token, whatever is asked for, and however it is shown.
#[tokio::test]
async fn nobody_is_answered_without_the_token() {
    let (gate, api) = house().await;
    let everything = everything();
    assert_eq!(everything.len(), 15);
    for (method, path) in everything {
        let answer = api.say(&method, &path, "", "").await;
        if path == "/v1/openapi.json" {
            assert_eq!((answer.status, answer.body), (200, document()));
            continue;
        }
        assert_eq!(answer.problem(), (401, "unauthorized"), "{method} {path}");
        assert!(answer.headers["www-authenticate"].starts_with("Bearer"));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    let wrong = TOKEN.replace('6', "7");
    for shown in [
        "Authorization: \r\n".to_owned(),
        "Authorization: Bearer\r\n".into(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: {TOKEN}\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer {wrong}\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {TOKEN}0\r\n"),
        format!("Authorization: Bearer {wrong}\r\nAuthorization: Bearer {TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n"),
        format!("X-Token: {TOKEN}\r\n"),
    ] {
        let answer = api.say("GET", "/v1/devices", &shown, "").await;
        assert_eq!(answer.problem(), (401, "unauthorized"), "{shown:?}");
    }
    let path = format!("/v1/devices?access_token={TOKEN}");
    assert_eq!(api.say("GET", &path, "", "").await.status, 401);
    let answer = api.say("GET", "/v1/nowhere", "", "").await;
    assert_eq!(answer.status, 401, "nor which paths there are");

    for shown in ["Bearer", "bearer", "BEARER "] {
        let header = format!("Authorization: {shown} {TOKEN}\r\n");
        assert_eq!(api.say("GET", "/v1/devices", &header, "").await.status, 200);
    }
    // V11: guesses are told at our pace, not at theirs; K2: and without what was shown.
    let told = gate.lines("admin_refused");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]["address"]
            .as_str()
            .is_some_and(|at| at.starts_with("127.0.0.1:"))
    );
    assert!(!gate.log_text().contains(&TOKEN[1..]) && !gate.log_text().contains(&wrong[1..]));
    assert!(gate.lines("admin_change").is_empty());
}

/// A token that is changed counts once the gate is told, and the old one no longer.
#[tokio::test]
async fn another_token_counts_after_hup() {
    let (gate, api) = house().await;
    let other = Caller {
        token: TOKEN.replace('6', "7"),
        ..api.clone()
    };
    std::fs::write(gate.file("admin.token"), &other.token).expect("written");
    gate.signal("HUP");
    gate.line("reloaded", |_| true).await;
    assert_eq!(other.get("/v1/devices").await.status, 200);
    assert_eq!(api.get("/v1/devices").await.status, 401);
}

// ── Devices

#[tokio::test]
async fn a_device_is_added_shown_changed_and_removed() {
    let (gate, api) = house().await;
    let body = json!({
        "device": "meter-7", "description": "by the door", "labels": {"site": "harbour", "rack": "3"},
        "enabled": false, "min_mode": "server-tls", "connections": 2,
        "credentials": [{"trust": "fleet", "until": "2100-01-31"}],
    });
    let added = api.post("/v1/devices", body.clone()).await;
    assert_eq!(added.status, 201);
    assert_eq!(added.headers["location"], "/v1/devices/meter%2D7");
    assert_eq!(added.body.get("token"), None);
    let shown = api.get(&added.headers["location"]).await;
    assert_eq!(shown.body, added.body);
    for member in [
        "device",
        "description",
        "labels",
        "enabled",
        "min_mode",
        "connections",
    ] {
        assert_eq!(shown.body[member], body[member], "{member}");
    }
    let credential = &shown.body["credentials"][0];
    assert_eq!(credential["kind"], "vouched");
    assert_eq!(credential["field"], "subject.cn");
    assert_eq!(credential["until"], "2100-01-31T23:59:59Z");

    assert_eq!(
        api.post("/v1/devices", body).await.problem(),
        (409, "device_exists")
    );

    let patch =
        json!({"description": null, "labels": {"rack": null, "row": "b"}, "connections": null});
    let changed = api.patch("/v1/devices/meter-7", patch).await;
    assert_eq!(
        changed.body["labels"],
        json!({"site": "harbour", "row": "b"})
    );
    assert_eq!(changed.body["description"], "");
    assert_eq!(changed.body.get("connections"), None);
    assert_eq!(changed.body["min_mode"], "server-tls");

    let enabled = api.send("POST", "/v1/devices/meter-7/enable", None).await;
    assert_eq!(enabled.body["enabled"], true);
    let disabled = api.send("POST", "/v1/devices/meter-7/disable", None).await;
    assert_eq!(disabled.body["enabled"], false);

    assert_eq!(api.delete("/v1/devices/meter-7").await.status, 204);
    for again in [
        api.delete("/v1/devices/meter-7").await,
        api.get("/v1/devices/meter-7").await,
    ] {
        assert_eq!(again.problem(), (404, "no_such_device"));
    }

    let told: Vec<_> = gate
        .lines("admin_change")
        .iter()
        .map(|line| {
            assert!(
                line["address"]
                    .as_str()
                    .is_some_and(|at| at.starts_with("127.0.0.1:"))
            );
            assert_eq!(line["device"], "meter-7");
            assert_eq!(line["level"], "warn", "a quiet log has it, too (N2)");
            let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (word("what"), word("outcome"), word("reason"))
        })
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("add_device", "done", ""),
            ("add_device", "refused", "device_exists"),
            ("set_device", "done", ""),
            ("enable_device", "done", ""),
            ("disable_device", "done", ""),
            ("remove_device", "done", ""),
            ("remove_device", "refused", "no_such_device"),
        ]
    );
}

#[tokio::test]
async fn devices_are_told_page_by_page_and_by_filter() {
    let (_gate, api) = house().await;
    for number in 0..7 {
        let site = if number % 2 == 0 { "harbour" } else { "a&b=c" };
        let body = json!({
            "device": format!("meter-{number}"), "labels": {"site": site}, "enabled": number != 3,
            "min_mode": if number == 4 { "plain" } else { "mutual-tls" },
            "credentials": if number < 2 { json!([{"trust": "fleet"}]) } else { json!([]) },
        });
        assert_eq!(api.post("/v1/devices", body).await.status, 201);
    }
    add(&api, "other").await;

    let names = |answer: &Answered| -> Vec<String> {
        let devices = answer.body["devices"].as_array().expect("devices");
        devices
            .iter()
            .map(|one| one["device"].as_str().expect("text").to_owned())
            .collect()
    };
    let mut path = "/v1/devices?prefix=meter-&limit=3".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = api.get(&path).await;
        pages.push(names(&page));
        let Some(next) = page.body["next"].as_str() else {
            assert_eq!(page.headers.get("link"), None);
            break;
        };
        assert_eq!(page.headers["link"], format!("<{next}>; rel=\"next\""));
        path = next.to_owned();
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let all: Vec<_> = (0..7).map(|number| format!("meter-{number}")).collect();
    assert_eq!(pages.concat(), all);

    for (query, wanted) in [
        (
            "label=site%3Dharbour&label=site&prefix=meter",
            &["meter-0", "meter-2", "meter-4", "meter-6"][..],
        ),
        (
            "label=site%3Da%26b%3Dc&enabled=true",
            &["meter-1", "meter-5"],
        ),
        ("enabled=false", &["meter-3"]),
        ("min_mode=plain", &["meter-4"]),
        ("trust=fleet", &["meter-0", "meter-1", "other"]),
        ("trust=nobody", &[]),
        ("after=meter-5", &["meter-6", "other"]),
        ("limit=1000&after=zz", &[]),
        ("prefix=meter-6&limit=1", &["meter-6"]),
    ] {
        let page = api.get(&format!("/v1/devices?{query}")).await;
        assert_eq!(names(&page), wanted, "{query}");
        assert_eq!(page.body.get("next"), None, "{query}");
    }
    let head = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer = api.say("HEAD", "/v1/devices", &head, "").await;
    assert_eq!((answer.status, answer.body), (200, Value::Null));
}

// ── What devices show

#[tokio::test]
async fn certificates_and_keys_are_pinned_and_ended() {
    let (_gate, api) = house().await;
    let other = Authority::new("Other CA").expect("a CA");
    let pem = other.certificate_pem();
    let body =
        json!({"device": "meter-7", "credentials": [{"pem": pem}, {"pem": pem, "pin": "key"}]});
    let added = api.post("/v1/devices", body).await;
    assert_eq!(added.status, 201, "{added:?}");
    let credentials = &added.body["credentials"];
    let print = credentials[0]["certificate"]
        .as_str()
        .expect("its print")
        .to_owned();
    assert!(credentials[0]["until"].is_string(), "its own end");
    assert_eq!(
        (&credentials[1]["kind"], credentials[1].get("until")),
        (&json!("pinned"), None)
    );
    let key = credentials[1]["key"].clone();

    // The same certificate is nobody else's, however it is written.
    add(&api, "meter-8").await;
    let capitals = print.to_uppercase();
    for body in [
        json!({"pem": pem}),
        json!({"certificate": capitals}),
        json!({"key": key}),
    ] {
        let answer = api.post("/v1/devices/meter-8/credentials", body).await;
        assert_eq!(answer.problem(), (409, "pin_exists"));
        assert!(answer.detail().contains("meter-7"), "{}", answer.detail());
    }
    let answer = api
        .post("/v1/devices/meter-7/credentials", json!({"pem": pem}))
        .await;
    assert_eq!(answer.problem(), (409, "refused"), "it has it already");

    // Ended, it counts no longer; ended twice, it is free for others.
    let path = "/v1/devices/meter-7/credentials/1";
    let ended = api.delete(path).await;
    let until = ended.body["credentials"][0]["until"]
        .as_str()
        .expect("an end")
        .to_owned();
    assert!(
        until.as_str() < ended.body["changed"].as_str().expect("a time"),
        "{until}"
    );
    let forgotten = api.delete(path).await;
    assert_eq!(
        forgotten.body["credentials"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        api.delete(path).await.problem(),
        (404, "no_such_credential")
    );
    let answer = api
        .post("/v1/devices/meter-8/credentials", json!({"pem": pem}))
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(
        answer.headers["location"],
        "/v1/devices/meter%2D8/credentials/2"
    );
}

/// I7: a certificate is enrolled under a group only for the device that the group names by it.
#[tokio::test]
async fn a_groups_certificate_is_that_of_its_device() {
    let (gate, api) = house().await;
    let issued = gate
        .authority
        .device(&"meter-7".parse().expect("an id"))
        .expect("issued");
    let credential = json!({"trust": "fleet", "pem": issued.certificate_pem()});
    add(&api, "meter-8").await;
    let answer = api
        .post("/v1/devices/meter-8/credentials", credential.clone())
        .await;
    assert_eq!(answer.problem(), (400, "bad_request"));
    assert!(
        answer.detail().contains("takes meter-7 from subject.cn"),
        "{}",
        answer.detail()
    );
    let answer = api
        .post(
            "/v1/devices",
            json!({"device": "meter-7", "credentials": [credential]}),
        )
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let shown = &answer.body["credentials"][0];
    assert_eq!(
        (&shown["kind"], &shown["trust"]),
        (&json!("vouched"), &json!("fleet"))
    );
    assert!(shown["certificate"].is_string());
    let ca = json!({"trust": "fleet", "pem": gate.authority.certificate_pem()});
    let answer = api.post("/v1/devices/meter-8/credentials", ca).await;
    assert!(answer.detail().contains("a CA's"), "{}", answer.detail());
    let answer = api
        .post(
            "/v1/devices/meter-8/credentials",
            json!({"trust": "vendor"}),
        )
        .await;
    assert!(
        answer.detail().contains("there are fleet"),
        "{}",
        answer.detail()
    );
}

/// K2: a token is shown in the one answer that made it.
#[tokio::test]
async fn a_token_is_shown_once_and_kept_nowhere() {
    let (gate, api) = house().await;
    let body = json!({"device": "meter-9", "token": true});
    let refused = api.post("/v1/devices", body).await;
    assert!(
        refused.detail().contains("server-tls"),
        "{}",
        refused.detail()
    );
    let body = json!({"device": "meter-9", "min_mode": "server-tls", "token": true});
    let first = api.post("/v1/devices", body).await;
    assert_eq!(first.headers["cache-control"], "no-store");
    let path = "/v1/devices/meter-9/rotate-token";
    let second = api
        .post(path, json!({"overlap": "1h", "until": "2100-01-01"}))
        .await;
    let third = api.send("POST", path, None).await;
    let fourth = api.post(path, json!({"overlap": "0s"})).await;
    let tokens = [&first, &second, &third, &fourth].map(|answer| {
        let token = answer.body["token"].as_str().expect("a token").to_owned();
        assert_eq!((&token[..4], token.len()), ("tdg_", 52));
        token
    });
    let count = |answer: &Answered| answer.body["credentials"].as_array().map(Vec::len);
    assert_eq!(
        (count(&second), count(&third), count(&fourth)),
        (Some(2), Some(3), Some(1))
    );
    assert_eq!(
        second.body["credentials"][1]["until"],
        "2100-01-01T23:59:59Z"
    );

    let mut everywhere = gate.log_text();
    for path in ["/v1/devices", "/v1/devices/meter-9", "/metrics"] {
        everywhere += &gate_text(&api, path).await;
    }
    for file in std::fs::read_dir(gate.folder.path()).expect("a folder") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("its bytes");
        everywhere += &String::from_utf8_lossy(&bytes);
    }
    for token in &tokens {
        assert!(!everywhere.contains(&token[4..]), "{token} is somewhere");
    }
    assert!(!gate.log_text().contains(TOKEN));
    let hash = api.get("/v1/devices/meter-9").await.body["credentials"][0]
        .get("hash")
        .cloned();
    assert_eq!(hash, None);
}

async fn gate_text(api: &Caller, path: &str) -> String {
    soon("a page", async {
        let mut socket = TcpStream::connect(api.address).await.expect("the admin port");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            api.token
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        socket.read_to_string(&mut text).await.expect("text");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text
    })
    .await
}

// ── What cannot be

#[tokio::test]
async fn a_mistake_is_told_with_the_way_out() {
    let (gate, api) = house().await;
    add(&api, "meter-7").await;
    let devices = "/v1/devices";
    let meter = "/v1/devices/meter-7";
    for (method, path, body, way_out) in [
        ("POST", devices, "", "missing field `device`"),
        ("POST", devices, "{", "openapi.json"),
        ("POST", devices, "[]", "expected struct"),
        ("POST", devices, "{\"device\":\"a/b\"}", "A–Z a–z 0–9"),
        ("POST", devices, "{\"device\":\"\"}", "1 to 128"),
        (
            "POST",
            devices,
            "{\"device\":\"a\",\"min_mode\":\"tls\"}",
            "server-tls",
        ),
        (
            "POST",
            devices,
            "{\"device\":\"a\",\"tokens\":true}",
            "expected one of",
        ),
        (
            "POST",
            devices,
            "{\"device\":\"a\",\"credentials\":[{}]}",
            "certificate, key or pem",
        ),
        (
            "POST",
            devices,
            "{\"device\":\"a\",\"credentials\":[{\"trust\":\"fleet\"},{\"trust\":\"fleet\"}]}",
            "already",
        ),
        ("PATCH", meter, "{}", "changes nothing"),
        ("PATCH", meter, "{\"labels\":{\"\":\"x\"}}", "1 to 64"),
        (
            "POST",
            "/v1/devices/meter-7/rotate-token",
            "{\"overlap\":\"soon\"}",
            "24h",
        ),
        (
            "POST",
            "/v1/devices/meter-7/disable",
            "{}",
            "leave the body out",
        ),
        (
            "DELETE",
            "/v1/devices/meter-7/credentials/first",
            "",
            "no number",
        ),
        ("DELETE", "/v1/connections/-1", "", "no number"),
        ("GET", "/v1/devices?limt=3", "", "known here: prefix"),
        ("GET", "/v1/devices?limit=0", "", "1 to 1000"),
        ("GET", "/v1/devices?enabled=yes", "", "true nor false"),
        ("GET", "/v1/devices?min_mode=tls", "", "server-tls"),
        ("GET", "/v1/devices?after=a%2Fb", "", "A–Z a–z 0–9"),
        ("GET", "/v1/devices?prefix=a&prefix=b", "", "there twice"),
        (
            "GET",
            "/v1/devices/meter-7?verbose",
            "",
            "nothing may stand",
        ),
        ("GET", "/v1/devices/a%20b", "", "A–Z a–z 0–9"),
        (
            "DELETE",
            "/v1/devices/meter-7?force",
            "",
            "nothing may stand",
        ),
        ("GET", "/v1/connections?after=x", "", "no number"),
    ] {
        let body = (!body.is_empty()).then(|| body.to_owned());
        let answer = api.send(method, path, body.clone()).await;
        assert_eq!(
            answer.problem(),
            (400, "bad_request"),
            "{method} {path} {body:?}"
        );
        assert!(
            answer.detail().contains(way_out),
            "{path} {body:?}: {}",
            answer.detail()
        );
    }
    for (method, path, problem) in [
        ("GET", "/v1", (404, "no_such_path")),
        ("GET", "/v1/devices/", (404, "no_such_path")),
        ("GET", "/v1/devices/meter-7/tokens", (404, "no_such_path")),
        ("PUT", meter, (405, "method_not_allowed")),
        ("TRACE", devices, (405, "method_not_allowed")),
        ("DELETE", "/v1/connections/7", (404, "no_such_connection")),
        (
            "POST",
            "/v1/devices/meter-8/enable",
            (404, "no_such_device"),
        ),
        (
            "DELETE",
            "/v1/devices/meter-8/credentials/1",
            (404, "no_such_device"),
        ),
    ] {
        assert_eq!(
            api.send(method, path, None).await.problem(),
            problem,
            "{method} {path}"
        );
    }
    assert_eq!(
        api.send("PUT", meter, None).await.headers["allow"],
        "GET, PATCH, DELETE"
    );
    // K2: what was sent may be a secret in the wrong place.
    let secret = "{\"device\":\"meter-1\",\"enabled\":\"hunter2-in-the-wrong-place\"}";
    let answer = api.send("POST", devices, Some(secret.into())).await;
    assert_eq!(answer.status, 400);
    gate.line("admin_change", |line| line["device"] == "meter-1")
        .await;
    assert!(!gate.log_text().contains("hunter2"));
    assert_eq!(api.get(meter).await.status, 200, "it is as it was");
}

/// V2, V3: a body is bounded in size and time, and has to be said to be JSON.
#[tokio::test]
async fn a_body_is_bounded_in_size_and_time() {
    let (_gate, api) = house().await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let json = format!("{token}Content-Type: application/json\r\n");
    let huge = format!("{{\"device\":\"{}\"}}", "x".repeat(64 * 1024));
    assert_eq!(
        api.send("POST", "/v1/devices", Some(huge.clone()))
            .await
            .problem(),
        (413, "too_large")
    );
    let chunk = format!("{:x}\r\n{huge}\r\n0\r\n\r\n", huge.len());
    let head = format!("{json}Transfer-Encoding: chunked\r\n");
    assert_eq!(
        api.say("POST", "/v1/devices", &head, &chunk).await.status,
        413
    );
    let head = format!("{json}Content-Length: 99999999999\r\n");
    assert_eq!(api.say("POST", "/v1/devices", &head, "").await.status, 413);

    let body = "{\"device\":\"meter-7\"}";
    for kind in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
    ] {
        let head = format!("{token}{kind}Content-Length: {}\r\n", body.len());
        let answer = api.say("POST", "/v1/devices", &head, body).await;
        assert_eq!(answer.problem(), (415, "not_json"), "{kind:?}");
    }
    let head = format!(
        "{token}Content-Type: Application/JSON; charset=utf-8\r\nContent-Length: {}\r\n",
        body.len()
    );
    assert_eq!(
        api.say("POST", "/v1/devices", &head, body).await.status,
        201
    );

    // Somebody who sends a body slowly is answered, and keeps nobody from the pages meanwhile.
    let head = format!("{json}Content-Length: 1000\r\n");
    let slow = async { api.say("POST", "/v1/devices", &head, "{\"device\":").await };
    let (slow, livez) = tokio::join!(slow, gate_text(&api, "/livez"));
    assert_eq!(slow.problem(), (408, "too_slow"));
    assert!(livez.ends_with("ok\n"));
}

// ── When there is trouble

#[tokio::test]
async fn without_a_registry_connections_can_still_be_asked_for() {
    let (gate, api) = start(plan("")).await;
    for (method, path) in everything() {
        if path.starts_with("/v1/devices") && !path.ends_with("/connections") {
            let body = match (method.as_str(), path.as_str()) {
                ("POST", "/v1/devices") => Some("{\"device\":\"meter-7\"}".to_owned()),
                ("PATCH", _) => Some("{\"enabled\":true}".to_owned()),
                (_, path) if path.ends_with("/credentials") => {
                    Some("{\"trust\":\"fleet\"}".to_owned())
                }
                _ => None,
            };
            let answer = api.send(&method, &path, body).await;
            assert_eq!(answer.problem(), (409, "no_registry"), "{method} {path}");
            assert!(answer.detail().contains("[registry]"));
        }
    }
    let (_link, number) = linked(&gate, &api, "meter-7", 0).await;
    assert_eq!(
        api.delete(&format!("/v1/connections/{number}"))
            .await
            .status,
        204
    );
}

/// V4: a store that is locked stalls its callers, for a bounded time, and nobody else.
#[tokio::test]
async fn a_locked_registry_stalls_nobody_else() {
    use sqlx::Connection as _;
    let (gate, api) = house().await;
    add(&api, "meter-7").await;
    let url = format!("sqlite://{}", gate.file("devices.db").display());
    let mut locker = sqlx::SqliteConnection::connect(&url)
        .await
        .expect("the file");
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut locker)
        .await
        .expect("locked");

    let change = api.patch("/v1/devices/meter-7", json!({"enabled": false}));
    let pages = async {
        let mut answered = 0;
        for path in ["/metrics", "/livez", "/readyz"]
            .into_iter()
            .cycle()
            .take(60)
        {
            if path == "/readyz" {
                gate.admin_get(path).await;
            } else {
                gate_text(&api, path).await;
            }
            answered += 1;
        }
        assert_eq!(api.get("/v1/connections").await.status, 200);
        answered
    };
    tokio::pin!(change);
    tokio::select! {
        answer = &mut change => panic!("it was locked: {answer:?}"),
        answered = pages => assert_eq!(answered, 60),
    }
    let answer = change.await;
    assert_eq!(answer.problem(), (503, "registry_away"));
    assert!(answer.headers["retry-after"].parse::<u32>().is_ok());
    let line = gate
        .line("admin_change", |line| line["outcome"] == "failed")
        .await;
    assert_eq!(
        (&line["what"], &line["device"]),
        (&json!("set_device"), &json!("meter-7"))
    );

    sqlx::query("ROLLBACK")
        .execute(&mut locker)
        .await
        .expect("unlocked");
    let answer = api
        .patch("/v1/devices/meter-7", json!({"enabled": false}))
        .await;
    assert_eq!(answer.status, 200, "it is there again");
}

/// A caller that leaves does not leave a change untold.
#[tokio::test]
async fn a_change_is_made_and_told_though_its_caller_left() {
    use sqlx::Connection as _;
    let (gate, api) = house().await;
    add(&api, "meter-7").await;
    let url = format!("sqlite://{}", gate.file("devices.db").display());
    let mut locker = sqlx::SqliteConnection::connect(&url)
        .await
        .expect("the file");
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut locker)
        .await
        .expect("locked");
    let mut socket = TcpStream::connect(api.address)
        .await
        .expect("the admin port");
    let request = format!(
        "POST /v1/devices/meter-7/disable HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    // One request after the other: once this is answered, that one has been read.
    assert_eq!(api.get("/v1/devices").await.status, 200);
    drop(socket);
    sqlx::query("ROLLBACK")
        .execute(&mut locker)
        .await
        .expect("unlocked");

    let line = gate
        .line("admin_change", |line| line["what"] == "disable_device")
        .await;
    assert_eq!(line["outcome"], "done", "{line}");
    assert_eq!(api.get("/v1/devices/meter-7").await.body["enabled"], false);
}

// ── Connections

/// A device that is let in, and the number of its connection, which is higher than `before`.
async fn linked(gate: &Gate, api: &Caller, name: &str, before: u64) -> (Link, u64) {
    let device = gate.device(name);
    let asks = connect(name, Version::V5);
    let (answer, visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    let (answer, link) = answer;
    assert_eq!(answer, Answer::Admitted);
    // The broker's end stays open for as long as the test runs.
    std::mem::forget(visit);
    let path = format!("/v1/connections?device={name}&limit=1000");
    let number = until("the connection to be listed", async || {
        let listed = api.get(&path).await;
        let last = listed.body["connections"]
            .as_array()
            .and_then(|all| all.last().cloned());
        last.and_then(|one| one["number"].as_u64())
            .filter(|number| *number > before)
    })
    .await;
    (link.expect("admitted"), number)
}

/// What ends a connection of MQTT 5: the code of DISCONNECT, and then nothing.
async fn ended(link: &mut Link) -> u8 {
    let packet = link.packet().await.expect("a DISCONNECT");
    assert_eq!(packet[0], 0xe0, "{packet:?}");
    assert_eq!(link.packet().await, None);
    packet[2]
}

#[tokio::test]
async fn connections_are_listed_and_ended() {
    let (gate, api) = start(plan("")).await;
    let (mut first, number) = linked(&gate, &api, "meter-7", 0).await;
    let (mut second, _) = linked(&gate, &api, "meter-7", number).await;
    let (mut other, _) = linked(&gate, &api, "meter-8", 0).await;

    let all = api.get("/v1/connections").await;
    let told = all.body["connections"].as_array().expect("connections");
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["device"], "meter-7");
    assert_eq!(
        (&told[0]["mode"], &told[0]["trust"]),
        (&json!("mutual-tls"), &json!("fleet"))
    );
    assert!(told[0]["certificate"].is_string());
    let count = async |query: &str| {
        let page = api.get(&format!("/v1/connections?{query}")).await;
        page.body["connections"]
            .as_array()
            .expect("connections")
            .len()
    };
    assert_eq!(count("device=meter-7").await, 2);
    assert_eq!(count("device=meter-9").await, 0);
    assert_eq!(count("listener=devices").await, 3);
    assert_eq!(count("listener=others").await, 0);
    let page = api.get("/v1/connections?limit=2").await;
    let next = page.body["next"].as_str().expect("a next page").to_owned();
    let last = api.get(&next).await;
    assert_eq!(last.body["connections"][0]["device"], "meter-8");
    assert_eq!(last.body.get("next"), None);

    let path = format!("/v1/connections/{number}");
    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(ended(&mut first).await, 0x98); // administrative action: MQTT 5.0 §3.14.2.1
    let line = gate
        .line("closed", |line| line["device"] == "meter-7")
        .await;
    assert_eq!(line["reason"], "ended_by_operator");
    assert_eq!(
        api.delete(&path).await.problem(),
        (404, "no_such_connection")
    );

    let answer = api.delete("/v1/devices/meter-7/connections").await;
    assert_eq!(answer.body, json!({"ended": 1}));
    assert_eq!(ended(&mut second).await, 0x98);
    assert_eq!(
        api.delete("/v1/devices/meter-7/connections").await.body,
        json!({"ended": 0})
    );
    assert_eq!(count("").await, 1, "the other one stays");
    other.say(&[0xc0, 0]).await.expect("it is open"); // PINGREQ
    let what = |what: &str| {
        gate.lines("admin_change")
            .iter()
            .filter(|line| line["what"] == what)
            .count()
    };
    assert_eq!((what("end_connection"), what("end_connections")), (2, 2));
}

/// R1: what is changed here bites at once.
#[tokio::test]
async fn a_device_that_is_disabled_loses_its_connection() {
    let (gate, api) = house().await;
    for device in ["meter-7", "meter-8", "meter-9"] {
        add(&api, device).await;
    }
    let (mut disabled, _) = linked(&gate, &api, "meter-7", 0).await;
    let (mut removed, _) = linked(&gate, &api, "meter-8", 0).await;
    let (mut bare, _) = linked(&gate, &api, "meter-9", 0).await;
    assert_eq!(
        api.send("POST", "/v1/devices/meter-7/disable", None)
            .await
            .status,
        200
    );
    assert_eq!(ended(&mut disabled).await, 0x98);
    assert_eq!(api.delete("/v1/devices/meter-8").await.status, 204);
    ended(&mut removed).await;
    assert_eq!(
        api.delete("/v1/devices/meter-9/credentials/1").await.status,
        200
    );
    ended(&mut bare).await;

    let device = gate.device("meter-7");
    assert_eq!(
        device.connects_as("meter-7", Version::V5).await,
        Answer::Refused(0x87)
    );
    assert_eq!(
        api.send("POST", "/v1/devices/meter-7/enable", None)
            .await
            .status,
        200
    );
    until("it to be let in again", async || {
        let asks = connect("meter-7", Version::V5);
        let let_in = tokio::select! {
            answer = device.asks(&asks) => answer.0 == Answer::Admitted,
            _ = gate.broker().welcome() => true,
        };
        let_in.then_some(())
    })
    .await;
    let seen = until("it to be seen", async || {
        let shown = api.get("/v1/devices/meter-7").await;
        shown.body.get("last_seen").cloned()
    })
    .await;
    assert_eq!(seen["mode"], "mutual-tls");
}

/// A pin that was made here lets in what no group vouches for (threats.md T1).
#[tokio::test]
async fn a_pinned_certificate_is_let_in() {
    let (gate, api) = house().await;
    let other = Authority::new("Other CA").expect("a CA");
    let order = Order::device(&"anything".parse().expect("an id"));
    let issued = other.issue(order).expect("issued");
    let pem = issued.certificate_pem();
    let answer = api
        .post(
            "/v1/devices",
            json!({"device": "meter-7", "credentials": [{"pem": pem}]}),
        )
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let device = gate.device_with(&issued, crate::support::device::BOTH);
    let asks = connect("meter-7", Version::V311);
    let (answer, visit) = tokio::join!(device.asks(&asks), gate.broker().welcome());
    assert_eq!(answer.0, Answer::Admitted);
    assert_eq!(visit.connect.username.as_deref(), Some("meter-7"));
}

/// R1: a token that was made here lets its device in, and one that was rotated away ends what it let in.
#[tokio::test]
async fn a_token_lets_in_until_it_is_rotated() {
    let (gate, api) = start(Plan {
        listeners: Some(MUTUAL.replace("mutual-tls", "server-tls")),
        ..plan(SQLITE)
    })
    .await;
    let body = json!({"device": "meter-9", "min_mode": "server-tls", "token": true});
    let made = api.post("/v1/devices", body).await;
    let token = made.body["token"].as_str().expect("a token").to_owned();
    let asks = |token: &str| Connect {
        username: Some("meter-9".into()),
        password: Some(Password::new(token.as_bytes().to_vec())),
        ..connect("meter-9", Version::V5)
    };
    let (device, first) = (gate.stranger(), asks(&token));
    let ((answer, link), visit) = tokio::join!(device.asks(&first), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
    assert_eq!(visit.connect.password, None, "K2: it stays at the gate");
    let rotated = api
        .post("/v1/devices/meter-9/rotate-token", json!({"overlap": "0s"}))
        .await;
    ended(&mut link.expect("admitted")).await;
    assert!(matches!(device.asks(&first).await.0, Answer::Refused(_)));
    let token = rotated.body["token"].as_str().expect("a token").to_owned();
    let second = asks(&token);
    let ((answer, _link), _visit) = tokio::join!(device.asks(&second), gate.broker().welcome());
    assert_eq!(answer, Answer::Admitted);
    assert!(!gate.log_text().contains(&token[4..]));
}

// ── The page

/// What docs/admin-api.md shows can be typed as it stands.
#[tokio::test]
async fn the_page_can_be_typed() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin-api.md"));
    let blocks = crate::docs::blocks(&page.expect("the page"), "sh");
    let [token, functions, examples @ ..] = blocks.as_slice() else {
        panic!("{blocks:?}");
    };
    let folder = tempfile::tempdir().expect("a folder");
    typed(token, folder.path()).await;
    let token = std::fs::read(folder.path().join("admin.token")).expect("made");
    let other = Authority::new("Other CA").expect("a CA");
    let (gate, _) = start(Plan {
        files: vec![
            ("admin.token".into(), token),
            (
                "meter-8.pem".into(),
                other.certificate_pem().as_bytes().to_vec(),
            ),
        ],
        ..plan(SQLITE)
    })
    .await;
    let script = format!("{functions}{}", examples.concat())
        .replace("127.0.0.1:9883", &gate.admin.to_string())
        .replace("…64 characters of hex…", &"ab".repeat(32))
        .replace("2027-01-31", "2100-01-31");
    let said = typed(&script, gate.folder.path()).await;
    assert_eq!(said.matches("tdg_").count(), 2, "{said}");
    assert!(said.contains("{\"ended\":0}"), "{said}");
    let done = gate.lines("admin_change");
    assert_eq!(done.len(), 9, "{done:#?}");
    assert!(
        done.iter().all(|line| line["outcome"] == "done"),
        "{done:#?}"
    );
}

/// Types a script; gives what it said.
async fn typed(script: &str, folder: &std::path::Path) -> String {
    let mut shell = std::process::Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder);
    let run = tokio::task::spawn_blocking(move || shell.output()).await;
    let run = run.expect("no panic").expect("bash");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complaint) = (text(&run.stdout), text(&run.stderr));
    assert!(run.status.success(), "{script}\n{said}\n{complaint}");
    said
}
