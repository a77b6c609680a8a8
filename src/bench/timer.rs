//! A timer that is true to microseconds. The runtime's own counts in milliseconds, and a schedule of 5,000 calls a
//! second would be one of bursts.

use std::io;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// A timer of the kernel (timerfd_create(2)). It is waited for and read like a pipe, and to the runtime it is one.
pub(super) struct Timer(Receiver);

impl Timer {
    /// A timer of this thread's runtime.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(Receiver::from_owned_fd_unchecked(timer)?))
    }

    /// Waits until `due`; at once when that is past. Dropped half-way, the next wait sets the timer anew.
    pub(super) async fn until(&mut self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let value = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: Timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                },
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &value)?;
            // What is read is how often it went off, which is known; nothing is there when the readiness was an old one.
            loop {
                self.0.readable().await?;
                if self.0.try_read(&mut [0; 8]).is_ok() {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_never_goes_off_early() -> io::Result<()> {
        let mut timer = Timer::new()?;
        for micros in [0, 50, 700, 3000] {
            let due = Instant::now() + Duration::from_micros(micros);
            timer.until(due).await?;
            assert!(Instant::now() >= due);
        }
        Ok(())
    }
}
