//! A few good-looking lines.

use std::io::IsTerminal;

/// Writes to standard output; in colour on a terminal, unless NO_COLOR says otherwise (no-color.org).
pub(crate) struct Show {
    colour: bool,
    steps: std::cell::Cell<u32>,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const CYAN: &str = "36";
const YELLOW: &str = "33";
const GREEN: &str = "32";

impl Show {
    pub(crate) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: std::io::stdout().is_terminal() && !unwanted,
            steps: 0.into(),
        }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn title(&self, title: &str, rest: &str) {
        println!("\n{}  {}", self.paint(BOLD, title), self.paint(DIM, rest));
    }

    pub(crate) fn step(&self, what: &str) {
        self.steps.set(self.steps.get() + 1);
        let number = self.paint(CYAN, &self.steps.get().to_string());
        println!("\n {number} {}", self.paint(BOLD, what));
    }

    pub(crate) fn note(&self, text: &str) {
        println!("   {}", self.paint(DIM, text));
    }

    pub(crate) fn warning(&self, text: &str) {
        println!("   {}", self.paint(YELLOW, text));
    }

    pub(crate) fn line(&self, who: &str, what: &str) {
        println!("   {} {what}", self.paint(GREEN, &format!("{who:<10}")));
    }

    pub(crate) fn names(&self, who: &str, verb: &str, client_id: &str, username: &str) {
        let names = format!(
            "{verb:<8} client id {} username {}",
            self.paint(BOLD, &format!("{client_id:<10}")),
            self.paint(BOLD, username)
        );
        self.line(who, &names);
    }

    pub(crate) fn paste(&self, what: &str, command: &str) {
        println!(
            "\n  {}\n    {command}",
            self.paint(DIM, &format!("# {what}"))
        );
    }
}
