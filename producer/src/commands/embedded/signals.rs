//! What asks a command to end: Ctrl-C, SIGTERM, and a terminal that goes away.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens to them, from when it is made.
pub(super) struct Signals(Vec<Signal>);

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let heard = kinds.into_iter().filter(|kind| !is_ignored(*kind)).map(signal);
        Ok(Self(heard.collect::<Result<_, _>>()?))
    }

    /// Returns when the next one comes.
    pub(super) async fn next(&mut self) {
        poll_fn(|context| {
            // All of them are asked, so that each wakes this.
            let came =
                self.0.iter_mut().filter_map(|signal| signal.poll_recv(context).is_ready().then_some(())).count();
            if came > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Whether whoever started this program wants a signal to be passed over, as `nohup` does.
fn is_ignored(kind: SignalKind) -> bool {
    // SAFETY: a `sigaction` of zeros is a valid one, and with no new action the call only writes the present one there.
    let (read, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(kind.as_raw_value(), std::ptr::null(), &raw mut action) == 0, action)
    };
    read && action.sa_sigaction == libc::SIG_IGN
}
