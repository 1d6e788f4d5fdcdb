//! News of the host's network.
#![allow(
    unsafe_code,
    reason = "the IP Helper's notifications have no safe wrapper"
)]

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::Arc;

use tokio::sync::Notify;
use windows_sys::Win32::Foundation::{HANDLE, NO_ERROR, WIN32_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CancelMibChangeNotify2, MIB_NOTIFICATION_TYPE, NotifyIpInterfaceChange, NotifyRouteChange2,
};
use windows_sys::Win32::Networking::WinSock::AF_UNSPEC;

use crate::host::HostFiles;

/// Says when the host's network may have changed: its interfaces or its routes. What other servers it is told without that, it
/// does not tell; addresses come from the system, and are not kept for long.
#[derive(Debug)]
pub(crate) struct HostChanges {
    // Cancelled before what they tell goes.
    _subscriptions: [Subscription; 2],
    news: Arc<Notify>,
}

impl HostChanges {
    /// Begins to watch.
    pub(crate) fn watch(_files: &HostFiles) -> io::Result<Self> {
        let news = Arc::new(Notify::new());
        let context = Arc::as_ptr(&news).cast();
        let interfaces = Subscription::new(|handle| {
            // SAFETY: the context is what the callback takes it for, and lives until the subscription is cancelled; the handle
            // is on the stack.
            unsafe { NotifyIpInterfaceChange(AF_UNSPEC, Some(tell), context, false, handle) }
        })?;
        let routes = Subscription::new(|handle| {
            // SAFETY: as above.
            unsafe { NotifyRouteChange2(AF_UNSPEC, Some(tell), context, false, handle) }
        })?;
        Ok(Self {
            _subscriptions: [interfaces, routes],
            news,
        })
    }

    /// Waits until something may have changed since the last call.
    #[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        self.news.notified().await;
        Ok(())
    }
}

/// Called by the system on a thread of its own.
unsafe extern "system" fn tell<Row>(
    context: *const c_void,
    _row: *const Row,
    _kind: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: it is the `Notify` that was given with the subscription, which outlives that.
    unsafe { &*context.cast::<Notify>() }.notify_one();
}

/// A standing order for news.
#[derive(Debug)]
struct Subscription(HANDLE);

// SAFETY: the handle is a number to the system, valid on any thread.
unsafe impl Send for Subscription {}

impl Subscription {
    fn new(subscribe: impl FnOnce(*mut HANDLE) -> WIN32_ERROR) -> io::Result<Self> {
        let mut handle = ptr::null_mut();
        match subscribe(&raw mut handle) {
            NO_ERROR => Ok(Self(handle)),
            code => Err(io::Error::from_raw_os_error(code.cast_signed())),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the handle came with the subscription and is given back once. Waits for callbacks that run, which do not wait.
        unsafe { CancelMibChangeNotify2(self.0) };
    }
}
