//! A TCP line with faults: it stands between a program and a server, and delays, narrows, holds back or cuts what passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Every piece of at most 16 KiB takes so long on its way.
    Slow(Duration),
    /// At most so many bytes a second pass, each way.
    Narrow(u32),
    /// Nothing passes and nobody is told; what was sent comes through at the end. A partition.
    Silent,
    /// Connections break, and new ones are hung up on.
    Cut,
}

/// A line to one server. Dropping it cuts it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    line: Arc<Line>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Line {
    target: String,
    state: watch::Sender<State>,
    /// The number of the next connection.
    next: AtomicU64,
    /// Answers that are still to break off.
    to_break: AtomicU32,
    /// Connections on which a program spoke into the void.
    unheard: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct State {
    trouble: Trouble,
    /// Connections with a smaller number are dead.
    first_alive: u64,
}

impl Proxy {
    /// A line to `target` (`host:port`) from a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("open a port for a proxy")?;
        let port = listener.local_addr()?.port();
        let line = Arc::new(Line {
            target: target.into(),
            state: watch::Sender::new(State { trouble: Trouble::None, first_alive: 0 }),
            next: AtomicU64::new(0),
            to_break: AtomicU32::new(0),
            unheard: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&line)));
        Ok(Self { port, line, accepting })
    }

    /// Its address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on this is wrong with it.
    pub fn set(&self, trouble: Trouble) {
        self.line.state.send_modify(|state| state.trouble = trouble);
    }

    /// Forgets the connections that it has: both ends keep them, and nothing passes any more. New ones are sound. What a
    /// firewall does that restarts, or a host that vanishes: a half-open line.
    pub fn forget(&self) {
        let next = self.line.next.load(Ordering::SeqCst);
        self.line.state.send_modify(|state| state.first_alive = next);
    }

    /// The next so many pieces of answers break off in the middle, and their connections with them.
    pub fn break_answers(&self, count: u32) {
        self.line.to_break.store(count, Ordering::SeqCst);
    }

    /// Forgotten connections on which a program has said something since.
    pub fn unheard(&self) -> u64 {
        self.line.unheard.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, line: Arc<Line>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let number = line.next.fetch_add(1, Ordering::SeqCst);
                    let line = Arc::clone(&line);
                    connections.spawn(async move { line.carry(client, number).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "a proxy cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// The connection is to break.
struct Broken;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

impl Line {
    async fn carry(&self, client: TcpStream, number: u64) {
        let mut state = self.state.subscribe();
        // A partition holds up the first packet, too.
        while state.borrow_and_update().trouble == Trouble::Silent {
            if state.changed().await.is_err() {
                return;
            }
        }
        if state.borrow().trouble == Trouble::Cut {
            return;
        }
        let Ok(server) = TcpStream::connect(&self.target).await else { return };
        // Small requests and answers take turns: no piece waits for another.
        if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
            return;
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let there = self.pump(from_client, to_server, number, Way::There);
        let back = self.pump(from_server, to_client, number, Way::Back);
        let _ = tokio::try_join!(there, back);
    }

    async fn pump(
        &self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        number: u64,
        way: Way,
    ) -> Result<(), Broken> {
        let mut state = self.state.subscribe();
        let mut piece = vec![0; 16 * 1024];
        loop {
            let State { trouble, first_alive } = *state.borrow_and_update();
            if number < first_alive {
                self.swallow(from, way).await;
                return Ok(());
            }
            match trouble {
                Trouble::Cut => return Err(Broken),
                Trouble::Silent => {
                    state.changed().await.map_err(|_| Broken)?;
                    continue;
                }
                Trouble::None | Trouble::Slow(_) | Trouble::Narrow(_) => {}
            }
            let read = tokio::select! {
                biased;
                _ = state.changed() => continue,
                read = from.read(&mut piece) => read.map_err(|_| Broken)?,
            };
            if read == 0 {
                return to.shutdown().await.map_err(|_| Broken);
            }
            match trouble {
                Trouble::Slow(delay) => sleep(delay).await,
                Trouble::Narrow(rate) => sleep(Duration::from_secs_f64(read as f64 / f64::from(rate.max(1)))).await,
                Trouble::None | Trouble::Silent | Trouble::Cut => {}
            }
            if way == Way::Back && self.takes_a_break() {
                let _ = to.write_all(&piece[..read / 2]).await;
                return Err(Broken);
            }
            to.write_all(&piece[..read]).await.map_err(|_| Broken)?;
        }
    }

    /// Reads what a program says on a dead connection until it hangs up; the other end never hears of either.
    async fn swallow(&self, mut from: impl AsyncReadExt + Unpin, way: Way) {
        let mut piece = vec![0; 16 * 1024];
        let mut said = false;
        while from.read(&mut piece).await.is_ok_and(|read| read > 0) {
            if way == Way::There && !said {
                said = true;
                self.unheard.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn takes_a_break(&self) -> bool {
        self.to_break.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LIMIT, eventually};

    /// A line to a server that says everything again.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Proxy::start(&address).await.expect("a proxy")
    }

    async fn say(stream: &mut TcpStream, words: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(words).await?;
        let mut heard = vec![0; words.len()];
        stream.read_exact(&mut heard).await.map(|_| heard)
    }

    #[tokio::test]
    async fn what_passes_is_what_was_said_also_when_it_is_slow_or_held_back() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
        for trouble in [Trouble::None, Trouble::Slow(Duration::from_millis(1)), Trouble::Narrow(1024)] {
            proxy.set(trouble);
            assert_eq!(say(&mut stream, b"words").await.expect("passes"), b"words");
        }
        proxy.set(Trouble::Silent);
        stream.write_all(b"later").await.expect("taken");
        proxy.set(Trouble::None);
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.expect("it comes through");
        assert_eq!(&heard, b"later");
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_a_break_ends_one_in_the_middle_of_an_answer() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
        proxy.break_answers(1);
        stream.write_all(b"words").await.expect("taken");
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("it ends");
        assert_eq!(heard, b"wo");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
        assert_eq!(say(&mut stream, b"words").await.expect("passes"), b"words");
        proxy.set(Trouble::Cut);
        assert!(say(&mut stream, b"words").await.is_err());
    }

    #[tokio::test]
    async fn a_forgotten_connection_carries_nothing_and_a_new_one_everything() {
        let proxy = echo().await;
        let mut old = TcpStream::connect(proxy.address()).await.expect("connected");
        say(&mut old, b"words").await.expect("passes");
        proxy.forget();
        old.write_all(b"words").await.expect("taken");
        eventually(LIMIT, "it is spoken into the void", async || Ok((proxy.unheard() == 1).then_some(())))
            .await
            .expect("it is");
        let mut new = TcpStream::connect(proxy.address()).await.expect("connected");
        assert_eq!(say(&mut new, b"words").await.expect("passes"), b"words");
        assert!(old.try_read(&mut [0; 5]).is_err(), "no answer on the old one");
    }
}
