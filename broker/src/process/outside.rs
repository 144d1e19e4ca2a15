//! A thread that isn't confined, because it was started before. It does what the others can't do
//! any more: it runs the programs of a `credential_process`, which open files of their own, and
//! looks up the program of a peer, which the kernel doesn't show to a confined thread.
//!
//! Invariant: of a caller's data, only a process id reaches it.

use std::io;
use std::sync::{OnceLock, mpsc};

type Work = Box<dyn FnOnce() + Send>;

static THREAD: OnceLock<mpsc::Sender<Work>> = OnceLock::new();

/// Starts the thread.
///
/// # Errors
/// The thread can't be started.
pub(super) fn start() -> io::Result<()> {
    let (sender, asked) = mpsc::channel::<Work>();
    let work = move || asked.into_iter().for_each(|work| work());
    std::thread::Builder::new().name("outside".to_owned()).spawn(work)?;
    // There is at most one; a second one would end at once, because its sender is dropped.
    THREAD.get_or_init(|| sender);
    Ok(())
}

/// Runs short work on that thread; without a confinement, on the current one.
///
/// # Errors
/// The error of the work, or the thread is gone.
pub(crate) fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(thread) = THREAD.get() else { return work() };
    let gone = || io::Error::other("the thread that isn't confined is gone");
    let (sender, done) = mpsc::sync_channel(1);
    let work = move || drop(sender.send(work()));
    thread.send(Box::new(work)).map_err(|_| gone())?;
    done.recv().map_err(|_| gone())?
}
