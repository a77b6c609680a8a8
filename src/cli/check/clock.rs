//! Whether this host's clock is right, as far as that can be seen. Its time zone does not matter: everything is told in UTC.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::deployment::now;
use super::finding::Finding;
use crate::config::{Config, Source};
use crate::gate;
use crate::jwks::KeySource;
use crate::registry::look;

/// A clock that says less was never set: this version is of 2026, and that is its first second.
const BUILT: i64 = 1_767_225_600;

/// Files may come from a host whose clock goes a little before this one, in seconds.
const LITTLE: i64 = 300;

/// What a JWT may be off by, in seconds: a clock that differs by more turns devices away.
const LEEWAY: i64 = 30;

/// Made by systemd-timesyncd once it has set the clock.
const SET_BY_SYSTEMD: &str = "/run/systemd/timesync/synchronized";

/// What can be seen without asking anybody; `now` in seconds since 1970.
pub(super) fn of_this_host(config: &Config, source: &Source, now: i64) -> Vec<Finding> {
    let own = std::env::current_exe().ok();
    let keys = config.gate.listeners.iter().filter_map(|listener| {
        let tls = listener.tls.as_ref()?;
        Some(tls.certificate.as_path())
    });
    let files = source.path.as_deref().into_iter().chain(own.as_deref());
    let files: Vec<_> = files.chain(keys).collect();
    let mut found: Vec<_> = behind(now, &files).into_iter().collect();
    found.extend(unset(Path::new(SET_BY_SYSTEMD)));
    found
}

fn behind(now: i64, files: &[&Path]) -> Option<Finding> {
    let what = if now < BUILT {
        "it was not when this version was made".to_owned()
    } else {
        let changed = |file: &&&Path| {
            let data = fs::metadata(file);
            data.is_ok_and(|data| data.mtime() > now.saturating_add(LITTLE))
        };
        let newer = files.iter().find(changed)?;
        format!("{} was changed later than that", newer.display())
    };
    let at = Duration::from_secs(u64::try_from(now).unwrap_or_default());
    let at = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at);
    Some(Finding::warning(
        "clock_behind",
        "clock",
        format!(
            "this host's clock says {at}, and {what}: certificates, revocation lists and tokens are judged by it"
        ),
        "set it, and have it kept (chrony, systemd-timesyncd)",
    ))
}

/// systemd-timesyncd runs, and has not set the clock since this host started.
fn unset(mark: &Path) -> Option<Finding> {
    let runs = mark.parent()?.is_dir();
    (runs && !mark.exists()).then(|| {
        Finding::warning(
            "clock_unsynchronised",
            "clock",
            "systemd-timesyncd runs, and has not set this host's clock since it started",
            "see timedatectl timesync-status: name a time server that can be reached (NTP= in /etc/systemd/timesyncd.conf)",
        )
    })
}

/// What the registry's server and the issuer of tokens have for a time. Dropping it half-way drops the questions.
pub(super) async fn of_others(gate: &gate::Settings, deadline: Instant) -> Vec<Finding> {
    let (registry, issuer) = tokio::join!(of_registry(gate, deadline), of_issuer(gate, deadline));
    registry.into_iter().chain(issuer).collect()
}

async fn of_registry(gate: &gate::Settings, deadline: Instant) -> Option<Finding> {
    let store = &gate.registry.as_ref()?.directory.store;
    let before = now();
    match timeout_at(deadline, look::time(store)).await {
        Ok(Ok(theirs)) => differs(
            "registry.url",
            "the registry's server",
            theirs?,
            before,
            now(),
        ),
        Ok(Err(fault)) => Some(registry_away(&fault.to_string())),
        Err(_) => Some(registry_away("no answer in time")),
    }
}

fn registry_away(why: &str) -> Finding {
    Finding::warning(
        "registry_away",
        "registry.url",
        why,
        "known devices go on for registry.grace, others are told to come back",
    )
}

async fn of_issuer(gate: &gate::Settings, deadline: Instant) -> Option<Finding> {
    let keys = KeySource::load(gate.token.jwt.as_ref()?).ok()?;
    let before = now();
    let within = deadline.saturating_duration_since(Instant::now());
    match keys.ask(within).await {
        #[allow(
            clippy::cast_precision_loss,
            reason = "seconds of this century are exact"
        )]
        Ok(theirs) => differs(
            "token.jwt.keys",
            "the server of the issuer's keys",
            theirs? as f64,
            before,
            now(),
        ),
        Err(why) => Some(Finding::warning(
            "jwks_away",
            "token.jwt.keys",
            why,
            "until the keys can be had, tokens of that issuer are told to come back",
        )),
    }
}

/// `theirs` was read between `before` and `after`, all in seconds since 1970.
fn differs(key: &str, whose: &str, theirs: f64, before: i64, after: i64) -> Option<Finding> {
    #[allow(clippy::cast_possible_truncation, reason = "it saturates")]
    let theirs = theirs as i64;
    let (ahead, late) = (theirs.saturating_sub(after), before.saturating_sub(theirs));
    let (off, word) = if ahead > late {
        (ahead, "behind")
    } else {
        (late, "ahead of")
    };
    (off > LEEWAY).then(|| {
        let off = Duration::from_secs(off.unsigned_abs());
        Finding::warning(
            "clock_differs",
            key,
            format!(
                "this host's clock is {} {word} that of {whose}; a token may be off by {LEEWAY} s",
                humantime::format_duration(off)
            ),
            "see which of the two is wrong, and have both kept (chrony, systemd-timesyncd)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_told() {
        assert_eq!(behind(0, &[]).expect("told").id, "clock_behind");
        assert_eq!(behind(BUILT, &[]), None);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        fs::write(&file, "").expect("written");
        let changed = fs::metadata(&file).expect("there").mtime();
        let files = [file.as_path()];
        assert_eq!(behind(changed, &files), None);
        assert_eq!(behind(changed - LITTLE, &files), None);
        let told = behind(changed - LITTLE - 1, &files).expect("told");
        assert!(
            told.what
                .contains("tidegate.toml was changed later than that"),
            "{told:?}"
        );
    }

    #[test]
    fn systemd_that_has_not_set_it_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mark = folder.path().join("timesync/synchronized");
        assert_eq!(unset(&mark), None, "it does not run");
        fs::create_dir(folder.path().join("timesync")).expect("made");
        assert_eq!(unset(&mark).expect("told").id, "clock_unsynchronised");
        fs::write(&mark, "").expect("written");
        assert_eq!(unset(&mark), None);
    }

    #[test]
    fn clocks_that_differ_by_more_than_a_token_may_be_off_are_told() {
        let told = |theirs, before, after| {
            let found = differs("registry.url", "it", theirs, before, after);
            found.map(|found| found.what)
        };
        assert_eq!(told(1000.9, 1000, 1005), None);
        assert_eq!(told(1035.0, 1000, 1005), None);
        let behind = told(1036.0, 1000, 1005).expect("told");
        assert!(
            behind.starts_with("this host's clock is 31s behind that of it"),
            "{behind}"
        );
        let ahead = told(400.0, 1000, 1005).expect("told");
        assert!(
            ahead.starts_with("this host's clock is 10m ahead of that of it"),
            "{ahead}"
        );
    }
}
