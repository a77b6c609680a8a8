//! Ctrl-C: the first ends a run early, the second ends the process.

use std::sync::OnceLock;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Fault;

/// How often it was heard.
static HEARD: OnceLock<watch::Receiver<u32>> = OnceLock::new();

/// Whether Ctrl-C was heard. It is listened to from the first of these on, without a gap between two runs.
pub(super) struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// Listens, on a thread that ends with the process.
    ///
    /// # Errors
    /// When there is no thread or no descriptor to be had.
    pub(super) fn listen() -> Result<Self, Fault> {
        if let Some(heard) = HEARD.get() {
            return Ok(Self(heard.clone()));
        }
        let heard = start().map_err(|why| Fault::Failed(format!("cannot hear Ctrl-C: {why}")))?;
        Ok(Self(HEARD.get_or_init(|| heard).clone()))
    }

    /// Comes when it was heard, at once if that is past.
    pub(super) async fn heard(&mut self) {
        if self.0.wait_for(|times| *times > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn start() -> std::io::Result<watch::Receiver<u32>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut pressed = {
        let _within = runtime.enter();
        signal(SignalKind::interrupt())?
    };
    let (to, heard) = watch::channel(0);
    let listen = async move {
        while pressed.recv().await.is_some() {
            to.send_modify(|times| *times += 1);
            if *to.borrow() > 1 {
                std::process::exit(130); // as a shell says that INT ended it
            }
        }
    };
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || runtime.block_on(listen))?;
    Ok(heard)
}
