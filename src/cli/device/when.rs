//! Times and spans as they are typed.

use std::time::Duration;

use crate::registry::form;

/// A moment that was typed: a date, a time, a span from now, or never.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum When {
    /// In seconds since 1970.
    At(i64),
    /// So many seconds from now.
    In(i64),
    /// No end.
    Never,
}

impl When {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        if let Ok(at) = form::time(text) {
            return Ok(Self::At(at));
        }
        span(text).map(Self::In).map_err(|_| {
            format!("{text:?} is no time; write 2027-01-31, 2027-01-31T12:00:00Z (UTC), 90d (from now), or never")
        })
    }

    /// In seconds since 1970; `None`: never.
    pub(super) fn moment(self, now: i64) -> Option<i64> {
        match self {
            Self::At(at) => Some(at),
            Self::In(seconds) => Some(now.saturating_add(seconds)),
            Self::Never => None,
        }
    }
}

/// A span in whole seconds, up to a hundred years.
pub(super) fn span(text: &str) -> Result<i64, String> {
    const MOST: Duration = Duration::from_hours(100 * 366 * 24);
    let span = humantime::parse_duration(text)
        .ok()
        .filter(|span| *span <= MOST);
    span.and_then(|span| i64::try_from(span.as_secs()).ok())
        .ok_or_else(|| format!("{text:?} is no span of time; write 7d, 24h or 30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_people_write_it() {
        for (text, moment) in [
            ("1970-01-01", Some(86_399)),
            ("1970-01-01T00:00:10Z", Some(10)),
            ("90d", Some(90 * 86_400 + 5)),
            ("0s", Some(5)),
            ("never", None),
        ] {
            assert_eq!(When::read(text).expect(text).moment(5), moment, "{text}");
        }
        for bad in ["", "soon", "90", "1000000000000y", "2027-02-30"] {
            assert!(When::read(bad).is_err(), "{bad:?}");
        }
    }
}
