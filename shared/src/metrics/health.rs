//! Asks a running program of this machine whether it lives: for health checks in images that have no shell.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Docker's own limit is 30 s unless it is told otherwise.
const LIMIT: Duration = Duration::from_secs(5);

/// Why a program is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum NotHealthy {
    /// It is not known where it answers.
    #[error(
        "where the program answers is not known: give --metrics-address (GANNET_METRICS) to both, with a port that is not 0"
    )]
    Nowhere,
    /// Nobody answers, or not in time.
    #[error("{at} does not answer: {source}")]
    Silent {
        /// Where was asked.
        at: SocketAddr,
        /// What came back.
        source: io::Error,
    },
    /// It says so itself.
    #[error("{0}")]
    Says(String),
}

/// Asks the program that answers at `address` for its `/healthz`.
///
/// # Errors
/// It is not healthy, or does not answer within five seconds.
pub fn ask(address: Option<SocketAddr>) -> Result<(), NotHealthy> {
    let at = address.filter(|address| address.port() != 0).map(reachable).ok_or(NotHealthy::Nowhere)?;
    let answer = talk(at).map_err(|source| NotHealthy::Silent { at, source })?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let reason = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
    Err(NotHealthy::Says(reason.trim().to_owned()))
}

/// A program that listens on every network listens on this machine's own, too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn talk(at: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // Whatever answers there: a reason has no more.
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
