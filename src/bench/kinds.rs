//! The kinds of error that a run counts, and what each means.

/// Every kind, in the order of a connection's life: its word, and what happened.
///
/// `docs/benchmarking.md` has the same words in the same order.
pub const KINDS: [(&str, &str); 16] = [
    ("refused", "nothing listens there"),
    ("reset", "the target reset the connection"),
    ("tls_alert", "the target ended the handshake with an alert"),
    (
        "certificate_refused",
        "the target refused the device's certificate",
    ),
    ("tls_failed", "the handshake failed on this side"),
    ("closed", "the target closed without a word"),
    ("connack_refused", "CONNACK with a code other than 0"),
    (
        "publish_refused",
        "PUBACK of MQTT 5.0 with a code of 0x80 or more",
    ),
    (
        "closed_while_held",
        "a connection that stood was closed by the target",
    ),
    ("reset_while_held", "it was reset"),
    ("timeout_while_held", "its PINGREQ had no answer in time"),
    ("timeout", "no answer in time"),
    ("gave_up", "no answer within --give-up"),
    (
        "client_descriptors",
        "the harness had no file descriptor left",
    ),
    ("client_ports", "the harness had no source port left"),
    ("other", "anything else"),
];

/// What an error of this kind means; empty for a word that is not in [`KINDS`].
///
/// A kind may be told more exactly behind its word, as `tls_alert_decode_error`.
pub fn meaning(kind: &str) -> &'static str {
    let of = |word: &str| {
        kind.strip_prefix(word)
            .is_some_and(|more| more.is_empty() || more.starts_with('_'))
    };
    let known = KINDS.iter().filter(|(word, _)| of(word));
    let known = known.max_by_key(|(word, _)| word.len());
    known.map_or("", |(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_told_more_exactly_means_the_same() {
        let alert = "the target ended the handshake with an alert";
        assert_eq!(meaning("tls_alert"), alert);
        assert_eq!(meaning("tls_alert_decode_error"), alert);
        assert_eq!(meaning("tls_alerts"), "");
        assert_eq!(meaning("reset_while_held"), "it was reset");
        assert_eq!(meaning("closed"), "the target closed without a word");
        assert_eq!(meaning(""), "");
    }
}
