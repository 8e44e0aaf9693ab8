//! Lines of a pipe, each kept up to a limit: whoever writes to it is not trusted to end one.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    pipe: BufReader<R>,
    /// Bytes of a line that are kept.
    limit: usize,
    line: Line,
}

/// A line without its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Its beginning, at most as much as the limit allows.
    pub(super) bytes: Vec<u8>,
    /// Bytes behind that were dropped.
    pub(super) cut: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The lines of `pipe`, of each at most `limit` bytes.
    pub(super) fn new(pipe: R, limit: usize) -> Self {
        Self { pipe: BufReader::new(pipe), limit, line: Line::default() }
    }

    /// The next line, as far as it is kept; `None` where nothing more comes. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        self.read(true).await
    }

    /// The next line; `None` where nothing more comes. Cancel-safe.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] as soon as a line is over the limit, whether it ends or not.
    pub(super) async fn next_whole(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.read(false).await?.map(|line| line.bytes))
    }

    async fn read(&mut self, may_cut: bool) -> io::Result<Option<Line>> {
        loop {
            let read = self.pipe.fill_buf().await?;
            if read.is_empty() {
                let last = std::mem::take(&mut self.line);
                return Ok((last != Line::default()).then_some(last));
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            let kept = part.len().min(self.limit - self.line.bytes.len());
            self.line.bytes.extend_from_slice(&part[..kept]);
            self.line.cut += (part.len() - kept) as u64;
            let used = end.map_or(read.len(), |end| end + 1);
            self.pipe.consume(used);
            if self.line.cut > 0 && !may_cut {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8], limit: usize) -> Vec<(String, u64)> {
        let mut lines = Lines::new(text, limit);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.expect("memory") {
            read.push((String::from_utf8(line.bytes).expect("text"), line.cut));
        }
        read
    }

    #[tokio::test]
    async fn each_line_is_kept_up_to_the_limit() {
        let expected = [("one".into(), 0), (String::new(), 0), ("twen".into(), 2), ("last".into(), 0)];
        assert_eq!(read(b"one\n\ntwenty\nlast", 4).await, expected);
        let long = [vec![b'x'; 100_000], b"\nend\n".to_vec()].concat();
        assert_eq!(read(&long, 3).await, [("xxx".into(), 99_997), ("end".into(), 0)]);
        assert_eq!(read(b"", 3).await, []);
    }

    #[tokio::test]
    async fn a_line_that_must_be_whole_is_given_up_before_its_end() {
        let text = [
            b"one
"
            .to_vec(),
            vec![b'x'; 100_000],
        ]
        .concat();
        let mut lines = Lines::new(&text[..], 3);
        assert_eq!(lines.next_whole().await.expect("memory"), Some(b"one".to_vec()));
        let error = lines.next_whole().await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!lines.pipe.buffer().is_empty() || lines.line.cut < 100_000, "the rest is not read");
    }
}
