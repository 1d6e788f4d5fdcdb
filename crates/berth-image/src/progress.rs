//! How far a fetch is, told to whoever shows it, who may also stop it.

use std::ops::ControlFlow;

use crate::error::ImageError;

/// What a fetch is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another process downloads the same file; it is waited for.
    Waiting,
    /// Bytes come over the network.
    Downloading,
    /// The digest of what is there is computed.
    Checking,
    /// The file is copied or unpacked to where it is needed.
    Unpacking,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// URL or path.
    pub location: &'a str,
    /// What is being done.
    pub step: Step,
    /// Bytes done in this step.
    pub done: u64,
    /// Bytes there are, when known.
    pub total: Option<u64>,
}

/// Hears of progress, at most once per mebibyte or so; `Break` ends the fetch with [`ImageError::Cancelled`].
pub type Watch<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// One location's way to the watcher.
pub(crate) struct Reporter<'a, 'w> {
    location: &'a str,
    watch: &'a mut Watch<'w>,
}

impl<'a, 'w> Reporter<'a, 'w> {
    pub(crate) fn new(location: &'a str, watch: &'a mut Watch<'w>) -> Self {
        Self { location, watch }
    }

    pub(crate) fn location(&self) -> &'a str {
        self.location
    }

    pub(crate) fn at(
        &mut self,
        step: Step,
        done: u64,
        total: Option<u64>,
    ) -> Result<(), ImageError> {
        let progress = Progress {
            location: self.location,
            step,
            done,
            total,
        };
        match (self.watch)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImageError::Cancelled {
                location: self.location.to_owned(),
            }),
        }
    }
}
