//! A page of commands is typed in, block by block, as its reader would.
//!
//! A block of a configuration begins with the name of its file; in `NAME.new.toml` stands the one section in which it differs from
//! `NAME.toml`. A `sh` block is typed in as it is; the `text` after it is what it
//! prints, where `…` stands for any text within a line, and alone on a line for any lines. With `terminal=NAME` a command goes
//! on in a terminal of its own, and lines are waited for there, in order, others between them.

use std::collections::HashMap;
use std::iter::Peekable;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::slice::Iter;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{free_port, until};

/// A block of code of a page.
#[derive(Debug)]
pub struct Block<'t> {
    language: &'t str,
    terminal: Option<&'t str>,
    pub body: String,
}

impl Block<'_> {
    /// Whether a reader types it in, as a command or as a file.
    pub fn is_typed(&self) -> bool {
        ["sh", "toml", "conf"].contains(&self.language)
    }

    /// Whether it is what the block before it prints.
    fn is_printed(&self) -> bool {
        (self.language, self.terminal) == ("text", None)
    }
}

/// Every block of a page, in order.
pub fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```") else {
            continue;
        };
        let (language, terminal) = match mark.split_once(" terminal=") {
            Some((language, terminal)) => (language, Some(terminal)),
            None => (mark, None),
        };
        let body: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block {
            language,
            terminal,
            body: body.join("\n") + "\n",
        });
    }
    blocks
}

/// A folder, and the terminals that are open in it.
pub struct Desk {
    folder: TempDir,
    /// What a page says, and what is said here.
    ports: [(&'static str, String); 4],
    terminals: HashMap<String, Terminal>,
}

impl Desk {
    /// An empty folder, no terminal, and ports that nobody holds.
    pub fn new() -> Self {
        let port = || free_port().port().to_string();
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            ports: ["1883", "8883", "8884", "9883"].map(|told| (told, port())),
            terminals: HashMap::new(),
        }
    }

    /// Types in the next block, with what it prints.
    ///
    /// # Panics
    /// When it prints something else, or nobody could see to it that the block is true.
    pub async fn types_in(&mut self, blocks: &mut Peekable<Iter<'_, Block<'_>>>) {
        let Some(block) = blocks.next() else { return };
        match (block.language, block.terminal) {
            ("toml" | "conf", None) => self.save(block),
            ("sh", Some(terminal)) => self.open(terminal, &block.body).await,
            ("sh", None) => {
                let prints = blocks.next_if(|next| next.is_printed());
                self.types(&block.body, prints.map(|block| &*block.body))
                    .await;
            }
            ("text", Some(terminal)) => self.shows(terminal, &block.body).await,
            _ => panic!("nobody sees to it that this is true: {block:?}"),
        }
    }

    /// The path of a file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The address here for a port that the page tells.
    pub fn address(&self, told: &str) -> SocketAddr {
        let port = self.with_ports(told).parse().expect("a port");
        ([127, 0, 0, 1], port).into()
    }

    /// What a terminal printed so far.
    pub fn printed(&self, terminal: &str) -> Vec<String> {
        let lines = &self.terminals[terminal].lines;
        lines.lock().expect("no panic while held").clone()
    }

    fn with_ports(&self, text: &str) -> String {
        let replaced = |text: String, (told, port): &(&str, String)| text.replace(told, port);
        self.ports.iter().fold(text.to_owned(), replaced)
    }

    fn save(&self, block: &Block<'_>) {
        let name = block.body.lines().next();
        let name = name.and_then(|line| line.strip_prefix("# "));
        let name = name.expect("a block begins with the name of its file");
        let mut text = self.with_ports(&block.body);
        if let Some(stem) = name.strip_suffix(".new.toml") {
            text = self.with_section(&format!("{stem}.toml"), &text);
        }
        if name == "mosquitto.conf" {
            // Started by root, it would become another user and could not look into the folder any more.
            text += "user root\nlog_dest stderr\nlog_type all\n";
        }
        std::fs::write(self.folder.path().join(name), text).expect("written");
    }

    /// The file `name`, with this section in place of the one that begins with the same line. Sections end with an empty line.
    fn with_section(&self, name: &str, section: &str) -> String {
        let (_, section) = section.split_once('\n').expect("a name, and a section");
        let heading = section.lines().next().expect("a heading");
        let whole = std::fs::read_to_string(self.file(name)).expect("it was written before");
        let mut sections: Vec<&str> = whole.split("\n\n").collect();
        let old = sections.iter_mut().find(|old| old.starts_with(heading));
        *old.expect("it has this section") = section.trim_end();
        sections.join("\n\n") + "\n"
    }

    fn shell(&self, line: &str) -> Command {
        let ours = Path::new(env!("CARGO_BIN_EXE_tidegate"));
        let ours = ours.parent().expect("it is in a folder").display();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &self.with_ports(line)])
            .current_dir(self.folder.path())
            .env_clear()
            // Debian keeps brokers where only root's PATH looks.
            .env("PATH", format!("{ours}:{path}:/usr/sbin:/usr/local/sbin"))
            .env("TIDEGATE_ADMIN__BIND", self.address("9883").to_string())
            .env("TIDEGATE_LOG__FORMAT", "text")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        shell
    }

    /// Types a command into a terminal of its own, and waits until it does what others build on.
    async fn open(&mut self, name: &str, line: &str) {
        let subscribed = self.subscribed();
        let terminal = Terminal::open(self.shell(&format!("exec {line}")));
        self.terminals.insert(name.to_owned(), terminal);
        if line.starts_with("mosquitto_sub ") {
            until("its subscription", async || {
                (self.subscribed() > subscribed).then_some(())
            })
            .await;
        }
        if name == "broker" {
            let address = format!("127.0.0.1:{}", self.ports[0].1);
            until("Mosquitto to listen", async || {
                TcpStream::connect(&address).await.ok()
            })
            .await;
        }
    }

    /// How many subscriptions Mosquitto took.
    fn subscribed(&self) -> usize {
        let broker = self.terminals.get("broker");
        broker.map_or(0, |broker| {
            let lines = broker.lines.lock().expect("no panic while held");
            lines
                .iter()
                .filter(|line| line.contains("Sending SUBACK"))
                .count()
        })
    }

    /// Types commands in, and compares. Those that only ask, or send, are typed again if it came too early: a change takes effect within a second.
    async fn types(&self, commands: &str, prints: Option<&str>) {
        let prints = prints.map(|prints| self.with_ports(prints));
        let again = [
            "mosquitto_pub ",
            "tidegate device show ",
            "tidegate device list ",
        ]
        .iter()
        .any(|asks| commands.starts_with(asks));
        let mut last = None;
        let fits = async || {
            let output = self.shell(&format!("exec 2>&1\n{commands}")).output();
            let output = output.await.expect("sh is there");
            let fits = as_told(&output, prints.as_deref());
            last = Some(output);
            (fits || !again).then_some(fits)
        };
        let fits = until(commands, fits).await;
        let printed = last.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        assert!(fits, "{commands}\nprinted\n{}", printed.unwrap_or_default());
    }

    /// Waits for these lines in a terminal, behind those that were waited for before.
    async fn shows(&mut self, name: &str, text: &str) {
        let text = self.with_ports(text);
        let terminal = self.terminals.get_mut(name).expect("an open terminal");
        for line in text.lines() {
            terminal.shows(name, line).await;
        }
    }
}

/// Whether a command printed what is told; where nothing is, whether it went well.
fn as_told(output: &Output, prints: Option<&str>) -> bool {
    match prints {
        None => output.status.success(),
        Some(prints) => {
            let printed = String::from_utf8_lossy(&output.stdout);
            let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
            let told: Vec<&str> = prints.lines().collect();
            all_fit(&printed, &told)
        }
    }
}

fn all_fit(printed: &[&str], told: &[&str]) -> bool {
    match told {
        [] => printed.is_empty(),
        ["…", rest @ ..] => (0..=printed.len()).any(|skip| all_fit(&printed[skip..], rest)),
        [first, rest @ ..] => {
            let fits = printed.first().is_some_and(|line| fits(line, first));
            fits && all_fit(&printed[1..], rest)
        }
    }
}

/// Whether a line is as it is told, with any text for each `…`.
fn fits(line: &str, told: &str) -> bool {
    match told.split_once('…') {
        None => line == told,
        Some((before, behind)) => line.strip_prefix(before).is_some_and(|rest| {
            let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            starts.any(|at| fits(&rest[at..], behind))
        }),
    }
}

/// A command that goes on, and what it printed so far.
struct Terminal {
    _child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// So many lines are behind us.
    seen: usize,
}

impl Terminal {
    fn open(mut shell: Command) -> Self {
        let mut child = shell
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh is there");
        let lines = Arc::default();
        read(child.stdout.take().expect("piped"), Arc::clone(&lines));
        read(child.stderr.take().expect("piped"), Arc::clone(&lines));
        Self {
            _child: child,
            lines,
            seen: 0,
        }
    }

    async fn shows(&mut self, name: &str, told: &str) {
        let (lines, seen) = (&self.lines, self.seen);
        let found = async || {
            let lines = lines.lock().expect("no panic while held");
            let found = lines.iter().skip(seen).position(|line| fits(line, told));
            found.map(|at| seen + at + 1)
        };
        self.seen = until(&format!("{told} in the terminal {name}"), found).await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines.lock().expect("no panic while held");
            eprintln!(
                "A terminal printed, behind line {}:\n{}",
                self.seen,
                lines.join("\n")
            );
        }
    }
}

fn read(pipe: impl AsyncRead + Unpin + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    tokio::spawn(async move {
        let mut reader = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            lines.lock().expect("no panic while held").push(line);
        }
    });
}

#[test]
fn what_is_another_at_each_run_may_be_left_out() {
    assert!(fits("a b c", "a b c") && fits("a b c", "a … c") && fits("a b c", "a b…"));
    assert!(!fits("a b c", "a b") && !fits("a b c", "a … d"));
    assert!(all_fit(&["a", "b", "c"], &["a", "…"]) && all_fit(&["a"], &["a", "…"]));
    assert!(!all_fit(&["a", "b"], &["a"]) && !all_fit(&["a"], &["…", "b"]));
}
