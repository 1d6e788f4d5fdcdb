//! Conversations on streams of their own: each message is a u32 with its length, then protobuf.

use std::io;

use bytes::{Buf as _, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::message::framed_bytes;
use crate::mux::LinkStream;

/// Longest message, in bytes: two paths of the longest kind, and a little.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// Space for one read.
const READ_SIZE: usize = 512;
/// Length of the length in front of each message.
const PREFIX_LEN: usize = 4;

/// Why a conversation came to an end.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The stream failed. The error's kind tells of a reset as [`crate::mux::LinkStream`] does.
    #[error("the connection to the other end was lost")]
    Io(#[from] io::Error),
    /// The other end said that it sends no more.
    #[error("the other end ended the conversation")]
    Ended,
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes, more than {MAX_MESSAGE}")]
    TooLong(u32),
    /// No protobuf of the expected type.
    #[error("a message cannot be decoded")]
    Undecodable(#[from] prost::DecodeError),
    /// A field that is not what it must be.
    #[error("the {field} {problem}")]
    Field {
        /// `mount point`.
        field: &'static str,
        /// `is longer than 4095 bytes`.
        problem: String,
    },
}

/// Messages on a stream.
#[derive(Debug)]
pub(crate) struct Messages {
    stream: LinkStream,
    held: BytesMut,
}

impl Messages {
    pub(crate) fn new(stream: LinkStream) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
        }
    }

    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), TalkError> {
        Ok(self.stream.write_all(&framed_bytes(message)).await?)
    }

    /// Says that nothing follows, and waits until the other end has gone: a stream that is dropped takes back what was not read.
    pub(crate) async fn finish(mut self) -> Result<(), TalkError> {
        self.stream.shutdown().await?;
        let mut rest = [0; READ_SIZE];
        while self.stream.read(&mut rest).await? > 0 {}
        Ok(())
    }

    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<M, TalkError> {
        loop {
            if let Some(message) = take(&mut self.held)? {
                return Ok(message);
            }
            self.held.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.held).await? == 0 {
                return Err(TalkError::Ended);
            }
        }
    }
}

/// Takes a whole message off the front.
pub(crate) fn take<M: Message + Default>(held: &mut BytesMut) -> Result<Option<M>, TalkError> {
    let Some(prefix) = held.first_chunk::<PREFIX_LEN>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*prefix);
    let end = usize::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_MESSAGE)
        .ok_or(TalkError::TooLong(length))?
        + PREFIX_LEN;
    if held.len() < end {
        return Ok(None);
    }
    let mut message = held.split_to(end);
    message.advance(PREFIX_LEN);
    Ok(Some(M::decode(message)?))
}
