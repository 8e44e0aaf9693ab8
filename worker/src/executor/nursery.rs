//! The thread that starts executors.
//!
//! The kernel ends an executor with its supervisor (`PR_SET_PDEATHSIG`), and by that means the *thread* that started it.
//! So it has to be one that ends with the process alone: no thread of a runtime, which come and go.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, mpsc};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// What is to be started, the runtime that will wait for it, and who asks.
type Birth = (Command, Handle, oneshot::Sender<io::Result<Child>>);

static NURSERY: LazyLock<mpsc::Sender<Birth>> = LazyLock::new(|| {
    let (sender, births) = mpsc::channel();
    // Where it cannot be started its end of the channel is gone, and every birth fails.
    if let Err(error) = std::thread::Builder::new().name("nursery".into()).spawn(move || attend(births)) {
        tracing::error!(%error, "cannot start the thread that starts executors");
    }
    sender
});

#[expect(clippy::needless_pass_by_value, reason = "the thread owns its end of the channel")]
fn attend(births: mpsc::Receiver<Birth>) {
    for (mut command, runtime, asks) in &births {
        let inside = runtime.enter();
        // A runtime that ends meanwhile makes this panic; the executors of others must not die of it.
        let born = catch_unwind(AssertUnwindSafe(|| command.spawn()))
            .unwrap_or_else(|_| Err(io::Error::other("this program is about to end")));
        // Dropped where nobody waits for it any more, and by that killed.
        let _ = asks.send(born);
        drop(inside);
    }
}

/// Starts a process that lives at most as long as this one.
///
/// # Errors
/// The system's.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let (asks, born) = oneshot::channel();
    let closed = || io::Error::other("the thread that starts executors is not there");
    NURSERY.send((command, Handle::current(), asks)).map_err(|_| closed())?;
    born.await.map_err(|_| closed())?
}
