//! Ports that Kubernetes hands out: no socket listens on them, the packets are redirected before.
//!
//! `kubectl` runs while there is a cluster on this machine, and only then: its kubeconfig is waited for, and so is its server's
//! port, which the agent sees itself. The services of a cluster that cannot be asked any more are forgotten.

mod kubectl;
mod services;

use std::collections::BTreeSet;
use std::fs;
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use self::kubectl::{Kubectl, KubectlError, Server};
use super::{GuestSocket, Sockets, Transport};
use crate::args::chain;
use crate::guest::Guest;
use crate::programs::PATH;
use crate::watch::Watcher;

/// Where clusters leave the configuration of their administrator; the first that exists counts.
const KUBECONFIGS: [&str; 3] = [
    "/etc/rancher/k3s/k3s.yaml",
    "/root/.kube/config.localhost",
    "/root/.kube/config",
];

/// How long to wait when `kubectl` fails; doubles from the first to the second.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Keeps `services` as the cluster on this machine has them, if there is one. `sockets` are the guest's own.
pub(super) async fn follow(
    guest: &Guest,
    sockets: watch::Receiver<Sockets>,
    services: &watch::Sender<BTreeSet<GuestSocket>>,
) {
    if let Err(why) = attend(guest, &sockets, services).await {
        tracing::warn!("a Kubernetes cluster would not be noticed: {why}");
    }
    pending::<()>().await;
}

/// Follows the cluster of the kubeconfig that there is, from change to change.
async fn attend(
    guest: &Guest,
    sockets: &watch::Receiver<Sockets>,
    services: &watch::Sender<BTreeSet<GuestSocket>>,
) -> io::Result<()> {
    let mut watcher = Watcher::new()?;
    let mut paths = KUBECONFIGS.map(|path| guest.path(path)).to_vec();
    paths.extend(
        PATH.split(':')
            .map(|directory| guest.path(directory).join("kubectl")),
    );
    loop {
        watcher.cover(&paths)?;
        let installed = Installed::find(guest);
        let has_changed = async {
            loop {
                watcher.changed().await?;
                watcher.cover(&paths)?;
                if Installed::find(guest) != installed {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        let cluster = async {
            match &installed {
                Some(installed) => installed.cluster(guest, sockets.clone(), services).await,
                None => pending().await,
            }
        };
        tokio::select! {
            changed = has_changed => changed?,
            () = cluster => {}
        }
        forget(services);
    }
}

fn forget(services: &watch::Sender<BTreeSet<GuestSocket>>) {
    services.send_if_modified(|services| !std::mem::take(services).is_empty());
}

/// What it takes to ask a cluster.
#[derive(Debug, PartialEq, Eq)]
struct Installed {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// Which version of the file: device, inode, size, seconds and nanoseconds of its last change.
    version: [u64; 5],
}

impl Installed {
    fn find(guest: &Guest) -> Option<Self> {
        let kubectl = guest.find_program("kubectl")?;
        let kubeconfigs = KUBECONFIGS.map(|path| guest.path(path));
        let found = kubeconfigs.into_iter().find_map(|path| {
            let file = fs::metadata(&path).ok()?;
            Some((path, file))
        });
        let (kubeconfig, file) = found?;
        let [seconds, nanoseconds] = [file.mtime(), file.mtime_nsec()].map(i64::cast_unsigned);
        Some(Self {
            kubectl,
            kubeconfig,
            version: [file.dev(), file.ino(), file.size(), seconds, nanoseconds],
        })
    }

    /// Keeps `services`; does not end.
    async fn cluster(
        &self,
        guest: &Guest,
        mut sockets: watch::Receiver<Sockets>,
        services: &watch::Sender<BTreeSet<GuestSocket>>,
    ) {
        let kubectl = Kubectl::new(&self.kubectl, &self.kubeconfig);
        let mut failures = Failures::default();
        let server = loop {
            match kubectl.server(guest).await {
                Ok(server) => break server,
                Err(why) => failures.wait_after(&why).await,
            }
        };
        if !server.is_here(guest) {
            let kubeconfig = self.kubeconfig.display();
            tracing::info!("{kubeconfig} is for a cluster elsewhere: {server}");
            return pending().await;
        }
        loop {
            forget(services);
            let listens = |sockets: &Sockets| is_listening(sockets, &server);
            if sockets.wait_for(listens).await.is_err() {
                return pending().await;
            }
            tokio::select! {
                () = keep(&kubectl, services, &mut failures) => {}
                _ = sockets.wait_for(|sockets| !listens(sockets)) => {}
            }
        }
    }
}

/// Keeps `services` until a watch fails.
async fn keep(
    kubectl: &Kubectl,
    services: &watch::Sender<BTreeSet<GuestSocket>>,
    failures: &mut Failures,
) {
    loop {
        let end = kubectl.watch(services).await;
        if !end.has_told_all {
            forget(services);
            return failures.wait_after(&end.why).await;
        }
        // The next one begins at once, and with what is known.
        *failures = Failures::default();
    }
}

fn is_listening(sockets: &Sockets, server: &Server) -> bool {
    sockets.iter().any(|socket| {
        socket.transport() == Transport::Tcp && socket.address().port() == server.port
    })
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    /// Says the first, and waits longer after each.
    async fn wait_after(&mut self, why: &KubectlError) {
        if self.0 == 0 {
            tracing::warn!("the services of Kubernetes are not known: {}", chain(why));
        }
        let [first, last] = RETRY;
        sleep((first * 2_u32.pow(self.0.min(16))).min(last)).await;
        self.0 += 1;
    }
}

#[cfg(test)]
mod tests;
