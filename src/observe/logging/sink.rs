//! Where lines end up. Runs on the log's own thread, the only one that may wait for a reader.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_appender::non_blocking::ErrorCounter;

/// How many lines were lost, because nobody read them or writing failed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Lines that found the queue full. Known once the queue is made.
    queue: Arc<OnceLock<ErrorCounter>>,
    /// Lines that could not be written.
    failed: Arc<AtomicU64>,
}

impl Losses {
    /// Lines lost since the start.
    pub fn lines(&self) -> u64 {
        let queue = self.queue.get().map_or(0, ErrorCounter::dropped_lines);
        self.failed
            .load(Ordering::Relaxed)
            .saturating_add(queue as u64)
    }

    pub(super) fn count_queue(&self, counter: ErrorCounter) {
        // Each `Losses` is made for one queue.
        let _ = self.queue.set(counter);
    }
}

/// Writes whole lines; loses and counts those that it cannot write; tells the loss once it is over.
pub(super) struct Sink<W, T> {
    out: W,
    losses: Losses,
    /// Losses that a line has told already.
    told: u64,
    /// Makes the line that tells of so many lost ones.
    tell: T,
    /// Half a line was written: the next one must not go on from there.
    torn: bool,
}

impl<W: Write, T: Fn(u64) -> String> Sink<W, T> {
    pub(super) fn new(out: W, losses: Losses, tell: T) -> Self {
        Self {
            out,
            losses,
            told: 0,
            tell,
            torn: false,
        }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.bytes(b"\n")?;
            self.torn = false;
        }
        self.bytes(line)
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let whole = bytes.len();
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Whoever gave us this end made it non-blocking. Waiting is this thread's office.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::park_timeout(Duration::from_millis(10));
                }
                Err(e) => {
                    self.torn |= bytes.len() < whole;
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

impl<W: Write, T: Fn(u64) -> String> Write for Sink<W, T> {
    /// Takes one whole line. Never fails: a full disk or a reader that left must not end the log (threats.md V4).
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.line(line).is_err() {
            self.losses.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    /// Called whenever the queue has run empty: the reader keeps up again.
    fn flush(&mut self) -> io::Result<()> {
        let lost = self.losses.lines();
        if lost > self.told {
            let line = (self.tell)(lost - self.told);
            if self.line(line.as_bytes()).is_ok() {
                self.told = lost;
            }
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full from the third write to the fifth.
    #[derive(Default)]
    struct Disk {
        writes: usize,
        held: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes += 1;
            match self.writes {
                2 => {
                    self.held.extend(&bytes[..2]);
                    Ok(2)
                }
                3..=5 => Err(io::ErrorKind::StorageFull.into()),
                _ => {
                    self.held.extend(bytes);
                    Ok(bytes.len())
                }
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_lines_then_tells_how_many() {
        let losses = Losses::default();
        let mut sink = Sink::new(Disk::default(), losses.clone(), |n| format!("lost {n}\n"));
        for line in ["one\n", "two\n", "three\n"] {
            sink.write_all(line.as_bytes()).expect("never fails");
        }
        sink.flush()
            .expect("the loss cannot be told yet, but that is no error");
        sink.write_all(b"four\n").expect("never fails");
        sink.flush().expect("flushes");
        sink.flush().expect("flushes");

        assert_eq!(losses.lines(), 2);
        let held = String::from_utf8(sink.out.held).expect("text");
        assert_eq!(held, "one\ntw\nfour\nlost 2\n");
    }
}
