//! Hears what an executor says, hands it to whoever waits, and tells of what it died.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::lines::Lines;
use super::{Death, LONGEST_WORD, Say, Tally};
use crate::memory;

/// What a caller hears of its order.
#[derive(Debug)]
pub(super) enum Heard {
    /// Its turn has come.
    Begun,
    /// Something of it was said.
    Said(Say),
}

/// Who waits for an order.
pub(super) type Caller = mpsc::UnboundedSender<Heard>;

/// Who waits for what an executor says.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The first one's order is being carried out.
    callers: VecDeque<Caller>,
    /// When it last said something, or was sent an order while it had none.
    heard: Instant,
    /// Orders that it was sent.
    sent: u64,
    /// Orders that it has carried out.
    pub(super) done: u64,
    /// The memory that it held after the last of them, in bytes.
    pub(super) memory: u64,
    /// What it died of, and how many orders it had then.
    pub(super) fate: Option<(Death, usize)>,
}

impl Waiting {
    /// Before it takes orders.
    pub(super) fn for_the_first_word(ready: Caller) -> Self {
        Self { callers: [ready].into(), heard: Instant::now(), sent: 0, done: 0, memory: 0, fate: None }
    }

    /// Adds the caller of the next order, and returns the order's number.
    pub(super) fn push(&mut self, caller: Caller) -> u64 {
        if self.callers.is_empty() {
            self.heard = Instant::now();
            // Of a caller that has gone nobody wants to know, here and below.
            let _ = caller.send(Heard::Begun);
        }
        self.callers.push_back(caller);
        self.sent += 1;
        self.sent
    }

    fn hand_on(&mut self, said: Say) {
        self.heard = Instant::now();
        if let Say::Report { memory, .. } = said {
            (self.done, self.memory) = (self.done + 1, memory);
        }
        let is_last = matches!(said, Say::Ready | Say::Report { .. });
        if let Some(caller) = self.callers.front() {
            let _ = caller.send(Heard::Said(said));
        }
        if is_last {
            self.callers.pop_front();
            if let Some(next) = self.callers.front() {
                let _ = next.send(Heard::Begun);
            }
        }
    }
}

/// What was heard.
enum Word {
    /// Something that makes sense.
    Said(Say),
    /// It is dead, or talks nonsense, which only a broken one does.
    Nothing,
    /// A line that is too long.
    Endless,
}

/// Owns the process.
pub(super) struct Listener {
    pub(super) child: Child,
    pub(super) says: Lines<ChildStdout>,
    pub(super) errors: Arc<Mutex<VecDeque<String>>>,
    pub(super) reader: JoinHandle<()>,
    pub(super) waiting: Arc<Mutex<Waiting>>,
    pub(super) stall: Duration,
    /// What it was given, in bytes.
    pub(super) memory: Option<u64>,
    /// How often the kernel had killed for lack of memory when it was started.
    pub(super) starved_before: u64,
    /// The process's id.
    pub(super) id: u32,
    pub(super) tally: Arc<Tally>,
}

impl Listener {
    /// Until it is dead.
    pub(super) async fn run(mut self, mut kill: watch::Receiver<Option<Death>>) {
        let death = loop {
            let overdue = self.overdue();
            tokio::select! {
                said = timeout_at(overdue, self.hear()) => match said {
                    Ok(Word::Said(said)) => self.waiting().hand_on(said),
                    Ok(Word::Nothing) => break self.death().await,
                    Ok(Word::Endless) => {
                        let how = format!("it said a line of more than {} MiB and was killed", LONGEST_WORD >> 20);
                        break self.kill(Death::Died { how, said: String::new() }).await;
                    }
                    // An order may have come since.
                    Err(_) if self.overdue() > overdue => {}
                    Err(_) => break self.kill(Death::Silent(self.stall)).await,
                },
                why = kill.changed() => {
                    let why = why.ok().and_then(|()| kill.borrow().clone());
                    break self.kill(why.unwrap_or(Death::GivenUp)).await;
                }
            }
        };
        self.tally.ended(self.id, &death);
        let mut waiting = self.waiting();
        waiting.fate = Some((death, waiting.callers.len()));
        // Whoever waits hears that nothing more comes.
        waiting.callers.clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic holds it")
    }

    /// When it will have been silent for too long. One that has nothing to do may be silent.
    fn overdue(&self) -> Instant {
        let mut waiting = self.waiting();
        if waiting.callers.is_empty() {
            waiting.heard = Instant::now();
        }
        waiting.heard + self.stall
    }

    /// The next thing it says. May be dropped while it waits.
    async fn hear(&mut self) -> Word {
        match self.says.next_whole().await {
            Ok(Some(line)) => serde_json::from_slice(&line).map_or(Word::Nothing, Word::Said),
            Err(error) if error.kind() == ErrorKind::InvalidData => Word::Endless,
            Ok(None) | Err(_) => Word::Nothing,
        }
    }

    async fn kill(&mut self, why: Death) -> Death {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "cannot kill an executor");
        }
        why
    }

    async fn death(&mut self) -> Death {
        // Its pipe is closed, so it is dying; one that is not is helped.
        let status = match timeout(Duration::from_millis(500), self.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Death::Died { how: error.to_string(), said: String::new() },
            Err(_) => {
                let how = "it closed its pipe, or talks nonsense, and was killed".into();
                return self.kill(Death::Died { how, said: String::new() }).await;
            }
        };
        let _ = timeout(Duration::from_millis(300), &mut self.reader).await;
        let said = {
            let lines = self.errors.lock().expect("no panic holds it");
            match lines.is_empty() {
                true => String::new(),
                false => format!("; it said: {}", Vec::from_iter(lines.iter().cloned()).join(" | ")),
            }
        };
        Death::of(status, said, self.memory, memory::kills() > self.starved_before)
    }
}
