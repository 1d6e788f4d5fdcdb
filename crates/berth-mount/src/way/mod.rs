//! The ways to have the guest mount a share.

pub mod link;
pub mod ssh;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::error::MountError;
use crate::server::Server;
use crate::share::Share;

/// A way into the guest.
#[async_trait]
pub trait Way: Send + Sync + std::fmt::Debug {
    /// A number that changes when the guest is connected anew; `None` while it is not.
    fn sessions(&self) -> watch::Receiver<Option<u64>>;

    /// Has the guest mount a share, and returns when it is mounted, by the guest's own table. Dropping the future gives it up.
    async fn mount(&self, share: &Share, server: &Server) -> Result<Box<dyn Live>, MountError>;
}

/// A share that is mounted. Dropping it takes the files away, and leaves a dead mount in the guest.
#[async_trait]
pub trait Live: Send {
    /// Waits until it is mounted no more, and tells why. May be cancelled and called again.
    async fn ended(&mut self) -> MountError;

    /// Has everything written out and unmounted. Programs that have files open in the guest are served until they close them.
    async fn unmount(self: Box<Self>) -> Result<(), MountError>;
}

/// The task that serves one mount's files.
#[derive(Debug)]
pub(crate) struct Serving {
    ended: watch::Receiver<Option<String>>,
    cancel: DropGuard,
}

impl Serving {
    /// Starts it. It ends when this is dropped.
    pub(crate) fn start<R, W>(
        server: &Server,
        share: &Share,
        (reader, writer): (R, W),
        tasks: &Tasks,
    ) -> Self
    where
        R: tokio::io::AsyncRead + Unpin + Send + 'static,
        W: tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (tell, ended) = watch::channel(None);
        let cancel = tasks.cancel.child_token();
        let (server, share, stop) = (server.clone(), share.clone(), cancel.clone());
        tasks.tracker.spawn(async move {
            let why = Box::pin(server.serve(&share, reader, writer, &stop)).await;
            tell.send_replace(Some(why));
        });
        Self {
            ended,
            cancel: cancel.drop_guard(),
        }
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> MountError {
        let why = self.ended.wait_for(Option::is_some).await;
        let why = why.ok().and_then(|why| why.clone());
        MountError::Server(why.unwrap_or_else(|| "it was dropped".to_owned()))
    }

    /// Lets it serve until its client is gone.
    pub(crate) fn leave(self) {
        self.cancel.disarm();
    }
}

/// Whose tasks these are.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// Waits for all of them.
    pub tracker: TaskTracker,
    /// Ends all of them.
    pub cancel: CancellationToken,
}
