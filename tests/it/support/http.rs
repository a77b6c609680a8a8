//! A caller of the admin API: HTTP by hand, and every answer held against docs/openapi.json.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::soon;

/// A caller with a token.
#[derive(Clone)]
pub struct Caller {
    pub address: SocketAddr,
    pub token: String,
}

/// What was answered.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HashMap<String, String>,
    /// `null`, where there is none.
    pub body: Value,
}

impl Answered {
    /// The reason of a problem.
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// Status and reason of a problem.
    pub fn problem(&self) -> (u16, &str) {
        (self.status, self.reason())
    }

    /// The sentence of a problem.
    pub fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

impl Caller {
    pub async fn get(&self, path: &str) -> Answered {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answered {
        self.send("POST", path, Some(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answered {
        self.send("PATCH", path, Some(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Answered {
        self.send("DELETE", path, None).await
    }

    /// Sends a request with this body, said to be JSON.
    pub async fn send(&self, method: &str, path: &str, body: Option<String>) -> Answered {
        let mut head = format!("Authorization: Bearer {}\r\n", self.token);
        if let Some(body) = &body {
            let length = body.len();
            head += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        }
        let body = body.unwrap_or_default();
        let answer = self.say(method, path, &head, &body).await;
        hold(method, path, &answer);
        answer
    }

    /// Sends a request with these lines in its header, and this behind it.
    pub async fn say(&self, method: &str, path: &str, head: &str, body: &str) -> Answered {
        let address = self.address;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{head}\r\n{body}"
        );
        let text = soon("an answer of the admin API", async {
            let mut socket = TcpStream::connect(address).await.expect("the admin port");
            // An answer may come before the whole request is read; then writing fails.
            let _ = socket.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer).await;
            String::from_utf8(answer).expect("text")
        })
        .await;
        read(&text)
    }
}

fn read(text: &str) -> Answered {
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answered {
        status: status.and_then(|text| text.parse().ok()).expect("a status"),
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: match body {
            "" => Value::Null,
            body => serde_json::from_str(body).expect("JSON"),
        },
    }
}

/// Every answer is one that docs/openapi.json promises, to the last member.
fn hold(method: &str, path: &str, answer: &Answered) {
    let document: Value =
        serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON");
    let path = path.split('?').next().unwrap_or_default();
    let fits = |pattern: &str| {
        let (wanted, parts) = (pattern.split('/'), path.split('/'));
        wanted.clone().count() == parts.clone().count()
            && wanted.zip(parts).all(|(w, p)| w == p || w.starts_with('{'))
    };
    let paths = document["paths"].as_object().expect("paths");
    let known = paths.iter().find(|(pattern, _)| fits(pattern));
    let operation = known.and_then(|(_, methods)| methods.get(method.to_lowercase()));
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    let schema = match operation {
        None => &problem,
        Some(operation) => {
            let status = answer.status.to_string();
            let mut told = &operation["responses"][&status];
            assert!(
                told.is_object(),
                "{method} {path} does not promise {status}: {answer:?}"
            );
            if let Some(reference) = told["$ref"].as_str() {
                told = document.pointer(&reference[1..]).expect("there");
            }
            let kind = answer.headers.get("content-type");
            match (told["content"].as_object(), kind) {
                (None, None) => return,
                (Some(content), Some(kind)) => &content
                    .get(kind)
                    .unwrap_or_else(|| panic!("{kind} is not promised"))["schema"],
                other => panic!("{method} {path}: {other:?}"),
            }
        }
    };
    let mut faults = Vec::new();
    check(&document, schema, &answer.body, "", &mut faults);
    assert!(
        faults.is_empty(),
        "{method} {path}: {faults:#?} in {}",
        answer.body
    );
}

/// What of JSON Schema the document uses for answers.
fn check(document: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(&reference[1..]).expect("there");
        return check(document, schema, value, at, faults);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let mut fault = |what: String| faults.push(format!("{at}: {what}"));
    if schema["type"] != kind {
        return fault(format!("is {kind}, where {} is promised", schema["type"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        fault(format!("{value} is none of the words"));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str()) {
        let pattern = regex_lite::Regex::new(pattern).expect("a pattern");
        if !pattern.is_match(text) {
            fault(format!("{text} does not match"));
        }
    }
    if schema["format"] == "date-time" {
        let text = value.as_str().unwrap_or_default();
        if humantime::parse_rfc3339(text).is_err() {
            fault(format!("{text} is no time"));
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap_or_default()).is_none() {
            fault(format!("{name} is missing"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        let more = &schema["additionalProperties"];
        match schema["properties"].get(name) {
            Some(schema) => check(document, schema, member, &at, faults),
            None if more.is_object() => check(document, more, member, &at, faults),
            None if more == false => faults.push(format!("{at} is not promised")),
            None => {}
        }
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        check(
            document,
            &schema["items"],
            item,
            &format!("{at}/{i}"),
            faults,
        );
    }
}
