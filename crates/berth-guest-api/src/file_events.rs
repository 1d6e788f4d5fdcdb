//! File events of the host, for the guest (`PostInotify`).

use std::fmt;
use std::future::poll_fn;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::client::CALL_DEADLINE;
use crate::error::GuestApiError;
use crate::message::Inotify;
use berth_grpc::call::Call;
use berth_grpc::error::CallError;
use berth_grpc::frame::framed;

/// Longest path that Linux takes, in bytes.
const MAX_PATH: usize = 4095;

/// A stream of file events to the agent. Dropping it ends it.
pub struct FileEvents {
    call: Call,
}

impl FileEvents {
    pub(crate) fn new(call: Call) -> Self {
        Self { call }
    }

    /// Tells that a file was changed at `modified`. Lima's agent sets the file's times to it, and says nothing about files that
    /// are not there. `path` is absolute, in the guest.
    pub async fn post(&mut self, path: &str, modified: SystemTime) -> Result<(), GuestApiError> {
        if !path.starts_with('/') || path.len() > MAX_PATH || path.contains('\0') {
            return Err(GuestApiError::Unusable(
                "a file event names an absolute path of at most 4095 bytes",
            ));
        }
        let event = framed(&Inotify {
            mount_path: path.to_owned(),
            time: Some(modified.into()),
        });
        self.within(async |call| Ok(call.send_message(event).await?))
            .await
    }

    /// Ends the stream and waits until the agent has read everything.
    pub async fn finish(mut self) -> Result<(), GuestApiError> {
        self.call.send(Bytes::new(), true)?;
        let end = async |call: &mut Call| {
            let mut begun = BytesMut::new();
            while let Some(answer) = poll_fn(|cx| call.answer.poll_message(&mut begun, cx)).await {
                answer?;
            }
            Ok(())
        };
        match self.within(end).await {
            // Lima's agent returns the end of the stream as if it were a failure.
            Err(GuestApiError::Call(CallError::Failed { message, .. })) if message == "EOF" => {
                Ok(())
            }
            end => end,
        }
    }

    async fn within(
        &mut self,
        work: impl AsyncFnOnce(&mut Call) -> Result<(), GuestApiError>,
    ) -> Result<(), GuestApiError> {
        let method = self.call.answer.method();
        let done = timeout(CALL_DEADLINE, work(&mut self.call)).await;
        done.unwrap_or(Err(GuestApiError::Call(CallError::TimedOut {
            method,
            after: CALL_DEADLINE,
        })))
    }
}

impl fmt::Debug for FileEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEvents").finish_non_exhaustive()
    }
}
