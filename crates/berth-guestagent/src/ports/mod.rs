//! The guest's ports: which TCP sockets listen, which UDP sockets serve, which services Kubernetes publishes.
//!
//! The kernel is asked for its sockets (`scan`) when something tells that they have changed (`source`: `cgroup`, `tracepoints`,
//! or a tick), and only what serves somebody counts (`filter`). Kubernetes hands out ports that no socket listens on
//! (`kubernetes`). Nothing of this works before a host wants to know, nor while nothing changes.

mod by_number;
mod cgroup;
mod detached;
mod filter;
mod follow;
mod kubernetes;
mod scan;
mod source;
mod tracepoints;

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_link::event::{GuestSocket, PortInterest, Transport};
use tokio::sync::watch;

use self::follow::Follower;
use self::source::Source;
use crate::guest::Guest;

/// What there is at one moment.
pub(crate) type Sockets = Arc<BTreeSet<GuestSocket>>;

/// Publishes the guest's ports, at first and after each change, for as long as the host is interested.
///
/// Nothing is watched until an interest arrives. Ends when nobody can change it any more.
pub(crate) async fn watch(
    guest: &Guest,
    interest: watch::Receiver<Option<PortInterest>>,
    publish: impl Fn(Sockets),
) {
    let mut begins = interest.clone();
    let mut ends = interest.clone();
    while begins.wait_for(Option::is_some).await.is_ok() {
        let services = watch::Sender::default();
        let listening = watch::Sender::default();
        let follower = Follower::begin(
            Source::best(),
            guest,
            interest.clone(),
            services.subscribe(),
            &listening,
        );
        tokio::select! {
            () = follower.run(&publish) => return,
            () = kubernetes::follow(guest, listening.subscribe(), &services) => {}
            ended = ends.wait_for(Option::is_none) => if ended.is_err() {
                return;
            },
        }
    }
}

#[cfg(test)]
mod tests;
