//! Packets over a stream, whatever they hold.

use tidegate::mqtt::length::remaining_length;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads whole packets from a stream.
pub struct Reader<S> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next whole packet; `None` when the stream ended, or broke, before one.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.buffer.len() > 1
                && let Some((length, spelt)) =
                    remaining_length(&self.buffer[1..]).expect("a length")
                && self.buffer.len() > spelt + length
            {
                let rest = self.buffer.split_off(1 + spelt + length);
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Reads and forgets until the stream ends; gives how many bytes came.
    pub async fn drain(&mut self) -> usize {
        let mut came = self.buffer.len();
        let mut scrap = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = self.stream.read(&mut scrap).await {
            came += n;
        }
        came
    }
}

/// A packet of any type: first byte, Remaining Length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest % 128).expect("below 128");
        rest /= 128;
        packet.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}
