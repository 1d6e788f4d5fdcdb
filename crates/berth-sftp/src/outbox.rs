//! Replies on their way out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Most buffers in one write.
const SLICES: usize = 16;

/// A buffer of at most this size is kept for the next replies, in bytes.
const KEPT: usize = 128 * 1024;

/// Replies that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    sealed: VecDeque<Vec<u8>>,
    /// Bytes of the first that are written.
    written: usize,
    sealed_bytes: usize,
    /// Where replies are appended.
    open: Vec<u8>,
    /// Whether what was written may still be in the writer.
    unflushed: bool,
}

impl Outbox {
    /// The buffer that replies are appended to.
    pub(crate) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.open
    }

    /// Adds a whole reply.
    pub(crate) fn add(&mut self, reply: Vec<u8>) {
        // Small ones go together.
        if self.open.len() + reply.len() <= KEPT / 8 {
            self.open.extend_from_slice(&reply);
        } else {
            self.seal();
            self.sealed_bytes += reply.len();
            self.sealed.push_back(reply);
        }
    }

    /// Bytes that are not written.
    pub(crate) fn len(&self) -> usize {
        self.sealed_bytes - self.written + self.open.len()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// Writes some of it. Nothing is lost or doubled if this is dropped.
    pub(crate) async fn write_some(
        &mut self,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        self.seal();
        if self.sealed.is_empty() {
            writer.flush().await?;
            self.unflushed = false;
            return Ok(());
        }
        let first = &self.sealed[0][self.written..];
        let count = if self.sealed.len() > 1 && writer.is_write_vectored() {
            let rest = self.sealed.iter().skip(1).take(SLICES - 1);
            let slices = std::iter::once(first).chain(rest.map(Vec::as_slice));
            let slices: Vec<IoSlice<'_>> = slices.map(IoSlice::new).collect();
            writer.write_vectored(&slices).await?
        } else {
            writer.write(first).await?
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.advance(count);
        if self.sealed.is_empty() {
            writer.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.sealed_bytes += self.open.len();
            self.sealed.push_back(std::mem::take(&mut self.open));
        }
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(first) = self.sealed.front()
            && self.written >= first.len()
            && let Some(mut first) = self.sealed.pop_front()
        {
            self.written -= first.len();
            self.sealed_bytes -= first.len();
            if self.open.capacity() == 0 && first.capacity() <= KEPT {
                first.clear();
                self.open = first;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn everything_arrives_in_order() {
        let (mut ours, mut theirs) = tokio::io::duplex(1000);
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for size in [3, 70_000, 20_000, 1, 1, 200_000, 5] {
            let reply: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[0]).collect();
            expected.extend_from_slice(&reply);
            outbox.add(reply);
            outbox.open().push(7);
            expected.push(7);
        }
        assert_eq!(outbox.len(), expected.len());
        let writing = async {
            while !outbox.is_empty() {
                outbox.write_some(&mut ours).await.unwrap();
            }
            drop(ours);
        };
        let mut read = Vec::new();
        let ((), count) = tokio::join!(writing, theirs.read_to_end(&mut read));
        count.unwrap();
        assert!(read == expected);
    }
}
