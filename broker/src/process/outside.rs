//! A thread that a confinement doesn't hold for, since it was there before. It does for the others what they can't do
//! any more: it runs the programs of a `credential_process`, which open files of their own, and looks up which program a
//! peer runs, which the kernel doesn't show to a confined thread.
//!
//! Invariant: nothing that a caller sends reaches it but a process id.

use std::io;
use std::sync::{OnceLock, mpsc};

type Work = Box<dyn FnOnce() + Send>;

static THREAD: OnceLock<mpsc::Sender<Work>> = OnceLock::new();

/// Starts it.
///
/// # Errors
/// The system has no thread for it.
pub(super) fn start() -> io::Result<()> {
    let (sender, asked) = mpsc::channel::<Work>();
    let work = move || asked.into_iter().for_each(|work| work());
    std::thread::Builder::new().name("outside".to_owned()).spawn(work)?;
    // There is one at most; a second one would end at once, since nobody asks it.
    THREAD.get_or_init(|| sender);
    Ok(())
}

/// Does a small piece of work there; here, where nothing is confined.
///
/// # Errors
/// That of the work; or the thread is gone.
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
