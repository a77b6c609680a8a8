//! Text from the wire, made harmless: one line stays one line, and shows what was sent.

use std::fmt::{self, Write};

/// The two forms of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// Bare where that is safe, else in double quotes.
    Text,
    /// A JSON string.
    Json,
}

/// Appends `value` to `line` in the given form, and no more than `most` of its characters: `…` tells of a cut.
///
/// What a reader could not see, or a terminal would obey, is escaped: control characters (line ends and ANSI escapes
/// among them), bidirectional overrides, invisible and combining characters, unassigned ones (threats.md V11). A value
/// longer than `most` is not even formatted to its end.
pub(super) fn append(line: &mut String, form: Form, value: fmt::Arguments<'_>, most: usize) {
    let start = line.len();
    line.push('"');
    let mut escaper = Escaper {
        line,
        form,
        left: most,
        bare: true,
        cut: false,
    };
    // Its only errors are the cut, which it remembers, and those of the value's own `Display`: then less is told.
    let _ = escaper.write_fmt(value);
    let (bare, cut) = (escaper.bare, escaper.cut);
    if cut {
        line.push('…');
    }
    let empty = line.len() == start + 1;
    if form == Form::Text && bare && !cut && !empty {
        line.remove(start);
    } else {
        line.push('"');
    }
}

struct Escaper<'a> {
    line: &'a mut String,
    form: Form,
    /// Characters that may still be taken.
    left: usize,
    /// Nothing yet that needs quotes in text.
    bare: bool,
    cut: bool,
}

impl Write for Escaper<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.left == 0 {
                self.cut = true;
                return Err(fmt::Error);
            }
            self.left -= 1;
            self.character(c);
        }
        Ok(())
    }
}

impl Escaper<'_> {
    fn character(&mut self, c: char) {
        self.bare &= c.is_alphanumeric() || (c.is_ascii_graphic() && !"\"'\\=".contains(c));
        match c {
            '"' | '\\' => self.line.extend(['\\', c]),
            '\'' => self.line.push(c),
            '\n' => self.line.push_str("\\n"),
            '\r' => self.line.push_str("\\r"),
            '\t' => self.line.push_str("\\t"),
            c if visible(c) => self.line.push(c),
            c => self.escaped(c),
        }
    }

    fn escaped(&mut self, c: char) {
        self.bare = false;
        // Writing to a String does not fail.
        let _ = match self.form {
            Form::Text => write!(self.line, "\\u{{{:x}}}", u32::from(c)),
            Form::Json => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .try_for_each(|unit| write!(self.line, "\\u{unit:04x}")),
        };
    }
}

/// Whether `c` shows as itself and does nothing else: what the standard library's `Debug` leaves as it is.
fn visible(c: char) -> bool {
    c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(form: Form, value: &str) -> String {
        let mut line = String::new();
        append(&mut line, form, format_args!("{value}"), 256);
        line
    }

    /// V11: what a device sends can neither end a line, nor colour it, nor turn it round.
    const HOSTILE: &[&str] = &[
        "a\nb",
        "a\r\n{\"event\":\"closed\"}",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{9b}31m",
        "\0",
        "\u{7f}",
        "\u{202e}txt.exe",
        "\u{2066}\u{2069}",
        "\u{200b}\u{feff}\u{ad}",
        "line\u{2028}paragraph\u{2029}",
        "\u{85}",
        "\u{e0041}",
        "Z\u{0335}\u{0321}",
        "\" device=\"meter-8",
        "\\",
        "\\\"",
        "",
        " ",
        "a=b",
    ];

    #[test]
    fn hostile_text_stays_one_visible_line() {
        for text in HOSTILE {
            for form in [Form::Text, Form::Json] {
                let shown = shown(form, text);
                assert!(shown.chars().all(visible_or_quote), "{shown:?}");
                assert!(shown.starts_with('"') && shown.ends_with('"'), "{shown}");
            }
        }
    }

    fn visible_or_quote(c: char) -> bool {
        visible(c) || matches!(c, '"' | '\\' | '\'')
    }

    #[test]
    fn json_gives_back_exactly_what_was_sent() {
        for text in HOSTILE.iter().chain(&["meter-7", "Müller", "𝔘𝔫𝔦"]) {
            let back: String = serde_json::from_str(&shown(Form::Json, text)).expect("valid JSON");
            assert_eq!(back, *text);
        }
    }

    #[test]
    fn text_quotes_only_where_it_must() {
        assert_eq!(shown(Form::Text, "192.0.2.7:49152"), "192.0.2.7:49152");
        assert_eq!(shown(Form::Text, "Müller"), "Müller");
        assert_eq!(shown(Form::Text, "CN=meter-7"), r#""CN=meter-7""#);
        assert_eq!(shown(Form::Text, "O'Brien"), r#""O'Brien""#);
        assert_eq!(shown(Form::Text, "\u{1b}[31m"), r#""\u{1b}[31m""#);
        assert_eq!(shown(Form::Text, ""), r#""""#);
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let client_id = "x".repeat(65_535);
        for form in [Form::Text, Form::Json] {
            let shown = shown(form, &client_id);
            assert_eq!(shown, format!("\"{}…\"", "x".repeat(256)));
        }
        let exact = "x".repeat(256);
        assert_eq!(shown(Form::Text, &exact), exact);
    }

    #[test]
    fn a_cut_falls_between_characters() {
        let mut line = String::new();
        append(&mut line, Form::Json, format_args!("ää\u{1b}{}", "ä"), 3);
        assert_eq!(line, "\"ää\\u001b…\"");
    }
}
