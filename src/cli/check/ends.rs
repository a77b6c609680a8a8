//! What ends soon, and no other check tells: revocation lists before they are stale, and what brokers show.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::finding::Finding;
use crate::tls::flight;
use crate::tls::trust::date;

/// In seconds: a certificate that ends within it is warned of.
const MONTH: i64 = 30 * 24 * 3600;

/// Lists of which less than a tenth of their time is left: the new one should be there by now. Those that are over are told by
/// every check.
pub(super) fn of_lists(lists: &[(Arc<str>, String, i64, i64)], now: i64) -> Vec<Finding> {
    let near = lists.iter().filter(|(_, _, this, next)| {
        let whole = next.saturating_sub(*this);
        (0..whole / 10).contains(&next.saturating_sub(now))
    });
    near.map(|(group, issuer, _, next)| {
        Finding::warning(
            "crl_ends",
            format!("trust[{group}].crl"),
            format!(
                "the list of {issuer:?} is to be replaced by {}, and nine tenths of its time are over",
                moment(*next)
            ),
            "fetch the new one; see that whatever fetches it runs",
        )
    })
    .collect()
}

/// What a broker showed.
pub(super) fn of_broker(
    key: &str,
    name: &str,
    chain: &[CertificateDer<'_>],
    now: i64,
) -> Vec<Finding> {
    let ends = flight::ends(chain).into_iter();
    let near = ends.filter(|(_, not_after)| *not_after < now + MONTH);
    near.map(|(subject, not_after)| {
        Finding::warning(
            "broker_certificate_ends",
            key,
            format!(
                "{name} shows the certificate of {subject:?}, which ends on {}",
                date(not_after)
            ),
            "have it renewed: from then on the gate takes that broker for somebody else",
        )
    })
    .collect()
}

/// With the time of day.
fn moment(at: i64) -> String {
    let at = u64::try_from(at).unwrap_or_default();
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_warned_of_in_the_last_tenth_of_its_time() {
        let list = [(Arc::from("fleet"), "CN=CA".to_owned(), 1_000, 2_000)];
        for (now, warned) in [(1_000, 0), (1_899, 0), (1_901, 1), (2_000, 1), (2_001, 0)] {
            let found = of_lists(&list, now);
            assert_eq!(found.len(), warned, "{now}");
        }
        let line = of_lists(&list, 1_950)[0].line();
        assert!(line.starts_with("warning: trust[fleet].crl: the list of \"CN=CA\" is to be replaced by 1970-01-01T00:33:20Z"), "{line}");
    }
}
