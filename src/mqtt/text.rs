//! What MQTT calls text: UTF-8, without U+0000.

use super::Malformed;

/// Reads text. `what` names the field in the error.
///
/// A byte order mark is a character like any other and stays [MQTT-1.5.4-3]. Control characters and non-characters are
/// allowed: the standard only advises against them. MQTT 3.1 asks for the same encoding without saying so about
/// U+0000; it is refused there too, because no later version could carry it.
///
/// # Errors
/// [`Malformed::NotUtf8`] for anything that is not well-formed UTF-8, surrogates (U+D800 to U+DFFF) and overlong forms
/// included; [`Malformed::Null`] for U+0000.
///
/// Source: MQTT 3.1 §2.5; MQTT 3.1.1 §1.5.3; MQTT 5.0 §1.5.4.
pub fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8 { what })?;
    if bytes.contains(&0) {
        return Err(Malformed::Null { what });
    }
    Ok(text)
}

/// Whether `name` can name a topic. `what` names the field in the error.
///
/// # Errors
/// [`Malformed::EmptyTopic`] or [`Malformed::Wildcard`].
///
/// Source: MQTT 3.1 appendix A; MQTT 3.1.1 and 5.0 §4.7.
pub fn topic(name: &str, what: &'static str) -> Result<(), Malformed> {
    if name.is_empty() {
        return Err(Malformed::EmptyTopic { what });
    }
    if name.contains(['+', '#']) {
        return Err(Malformed::Wildcard { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str = "the client id";

    #[test]
    fn text_is_utf8() {
        for good in [
            "",
            "meter-7",
            "Zähler",
            "計器",
            "🜛",
            "\u{feff}x",
            "\u{1}",
            "\u{ffff}",
        ] {
            assert_eq!(text(good.as_bytes(), WHAT), Ok(good));
        }
    }

    #[test]
    fn surrogates_overlong_and_cut_forms_are_not_text() {
        let bad: [&[u8]; 8] = [
            b"\xed\xa0\x80",             // U+D800
            b"\xed\xbf\xbf",             // U+DFFF
            b"\xed\xa0\xbd\xed\xb8\x80", // a pair of surrogates (CESU-8)
            b"\xc0\x80",                 // U+0000, overlong
            b"\xc0\xaf",                 // '/', overlong
            b"\xf4\x90\x80\x80",         // U+110000
            b"ab\xe2\x82",               // cut
            b"\xff",
        ];
        for bytes in bad {
            assert_eq!(
                text(bytes, WHAT),
                Err(Malformed::NotUtf8 { what: WHAT }),
                "{bytes:02x?}"
            );
        }
    }

    #[test]
    fn a_null_character_is_not_text() {
        assert_eq!(text(b"a\0b", WHAT), Err(Malformed::Null { what: WHAT }));
    }

    #[test]
    fn a_topic_name_is_not_empty_and_has_no_wildcard() {
        assert_eq!(topic("/", WHAT), Ok(()));
        assert_eq!(topic("$SYS/x y", WHAT), Ok(()));
        assert_eq!(topic("", WHAT), Err(Malformed::EmptyTopic { what: WHAT }));
        for name in ["#", "a/+/b", "a+", "a#b"] {
            assert_eq!(topic(name, WHAT), Err(Malformed::Wildcard { what: WHAT }));
        }
    }
}
