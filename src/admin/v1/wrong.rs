//! Callers with a wrong token: told, but not at their pace (threats.md V11).

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines on wrong tokens are at least so far apart.
const APART: Duration = Duration::from_secs(10);

/// When it was last told, and how many were not told since.
#[derive(Debug, Default)]
pub(super) struct Wrong(Mutex<(Option<Instant>, u64)>);

impl Wrong {
    /// Tells that `caller` showed a wrong token, unless another was told just now.
    pub(super) fn tell(&self, caller: SocketAddr) {
        if let Some(suppressed) = self.due(Instant::now()) {
            tracing::info!(
                event = "admin_refused",
                address = %caller,
                suppressed = (suppressed > 0).then_some(suppressed),
                "a caller of /v1 showed a token that is not in admin.token_file"
            );
        }
    }

    /// Whether one is to be told at `now`, and how many were not since the last.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, suppressed) = &mut *told;
        if last.is_some_and(|last| now.saturating_duration_since(last) < APART) {
            *suppressed += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guesser_writes_a_line_in_ten_seconds() {
        let wrong = Wrong::default();
        let began = Instant::now();
        let told: Vec<_> = (0..25)
            .filter_map(|second| wrong.due(began + Duration::from_secs(second)))
            .collect();
        assert_eq!(told, [0, 9, 9]);
    }
}
