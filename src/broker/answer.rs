//! Asking a broker: CONNECT out, CONNACK in.

use std::future::poll_fn;
use std::io;

use crate::mqtt::connack::{self, Connack};
use crate::mqtt::{Malformed, Version};

use super::socket::Socket;

/// No CONNACK came.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The broker closed instead.
    #[error("it closed instead of a CONNACK: {0}")]
    Closed(io::Error),
    /// It said something else.
    #[error("its answer is no CONNACK: {0}")]
    Garbage(Malformed),
}

impl Socket {
    /// Sends `connect`, a CONNECT of `version`, and reads the CONNACK, of `largest` bytes at most; gives what came behind it, too. It
    /// has no deadline of its own. Dropping it half-way leaves the broker with a part, or its answer unread.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub async fn ask(
        &mut self,
        connect: &[u8],
        version: Version,
        largest: usize,
    ) -> Result<(Connack, Vec<u8>), NoAnswer> {
        self.send(connect).await.map_err(NoAnswer::Closed)?;
        let mut came = Vec::new();
        loop {
            if let Some(length) = connack::measure(&came, largest).map_err(NoAnswer::Garbage)? {
                let behind = came.split_off(length);
                let connack = Connack::decode(&came, version).map_err(NoAnswer::Garbage)?;
                return Ok((connack, behind));
            }
            let read = poll_fn(|cx| self.poll_read(cx, &mut came)).await;
            if read.map_err(NoAnswer::Closed)? == 0 {
                return Err(NoAnswer::Closed(io::Error::other("end of stream")));
            }
        }
    }
}
