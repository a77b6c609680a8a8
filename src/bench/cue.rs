//! The cue: a run that is prepared says so, and begins when it is told to.

use std::io::Write as _;

use tokio::sync::oneshot;

/// Says `ready` on standard error, and gives what comes with the next line on standard input, or with its end.
///
/// The thread that reads is not waited for: a run that is ended before it was told to begin ends.
pub(super) fn wait() -> oneshot::Receiver<()> {
    let (to, told) = oneshot::channel();
    let _ = writeln!(std::io::stderr(), "ready");
    let reading = move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = to.send(());
    };
    // Without a thread to be had nobody waits: the sender is dropped, and that is the cue.
    let _ = std::thread::Builder::new()
        .name("cue".into())
        .spawn(reading);
    told
}
