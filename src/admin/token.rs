//! The operators' token: who has it may do everything under `/v1`.

use std::fmt;

use aws_lc_rs::{constant_time, digest};

/// What a caller has to show. Only its SHA-256 is kept, and not even that prints (threats.md K2).
#[derive(Clone, Eq, PartialEq)]
pub struct Token {
    print: [u8; 32],
}

/// The fewest characters of a token: 32 of hex are 128 bits of chance.
const LEAST: usize = 32;
/// The most: it has to fit into a header.
const MOST: usize = 4096;

impl Token {
    /// Takes the token that a file holds, without the end of its line.
    ///
    /// # Errors
    /// What is wrong with it, and the way out; never a word of what it is.
    pub fn new(text: &[u8]) -> Result<Self, (String, String)> {
        let way_out = || "write one token into it: openssl rand -hex 32".to_owned();
        if text.len() < LEAST {
            let what = format!(
                "holds {} bytes, and a token has {LEAST} or more",
                text.len()
            );
            return Err((what, way_out()));
        }
        if text.len() > MOST {
            let what = format!(
                "holds {} bytes, and a token has {MOST} at the most",
                text.len()
            );
            return Err((what, way_out()));
        }
        if !text.iter().all(u8::is_ascii_graphic) {
            let what = "holds more than one line, or characters that no header can hold";
            return Err((what.to_owned(), way_out()));
        }
        Ok(Self { print: print(text) })
    }

    /// Whether `shown` is it, in a time that does not tell how much of it was right.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.print, &print(shown)).is_ok()
    }
}

fn print(text: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, text);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_nothing_else() {
        let text = "0123456789abcdef0123456789abcdef";
        let token = Token::new(text.as_bytes()).expect("long enough");
        assert!(token.is(text.as_bytes()));
        for other in [
            "",
            "0",
            &text[1..],
            &format!("{text}0"),
            &text.to_uppercase(),
        ] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
    }

    /// threats.md K2
    #[test]
    fn what_is_no_token_is_told_without_a_word_of_it() {
        for text in [
            String::new(),
            "hunter2".into(),
            "hunter2".repeat(4),
            format!("{}\n{}", "hunter2".repeat(9), "hunter2".repeat(9)),
            "hunter2 ".repeat(9),
            "hünter2".repeat(9),
            "hunter2".repeat(1000),
        ] {
            let (what, way_out) = Token::new(text.as_bytes()).expect_err("no token");
            assert!(
                !what.contains("nter") && way_out.contains("openssl rand"),
                "{what}"
            );
        }
        let token = Token::new(&[b'7'; 32]).expect("long enough");
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
