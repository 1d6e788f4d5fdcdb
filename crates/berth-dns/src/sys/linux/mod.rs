//! Linux: `recvmmsg(2)` and `sendmmsg(2)`, `inotify(7)`, `rtnetlink(7)`, `timerfd_create(2)`.

pub(super) mod asking;
pub(super) mod batch;
pub(super) mod changes;
