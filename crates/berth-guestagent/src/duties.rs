//! What the agent does when the host asks.

use std::time::Duration;

use berth_link::event::{PortInterest, Refusal, Request, Response, Welcome};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::guest::{Duties, ReverseOpener};
use berth_link::mux::LinkStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::args::chain;
use crate::cloud_init::Follower;
use crate::mounts::Mounts;
use crate::tunnels::{TunnelError, Tunnels};

/// How long the first look at the ports may take; the host waits only a little longer for the answer.
const FIRST_LOOK: Duration = Duration::from_millis(2500);

/// What the host wants to know of ports, and whether anything was told since.
#[derive(Debug)]
pub(crate) struct PortWatch {
    interest: watch::Sender<Option<PortInterest>>,
    is_told: watch::Sender<bool>,
}

impl Default for PortWatch {
    fn default() -> Self {
        Self {
            interest: watch::Sender::new(None),
            is_told: watch::Sender::new(false),
        }
    }
}

impl PortWatch {
    /// What the host wants; `None` before it has asked.
    pub(crate) fn interest(&self) -> watch::Receiver<Option<PortInterest>> {
        self.interest.subscribe()
    }

    /// Notes that what there is now stands on the board.
    pub(crate) fn told(&self) {
        self.is_told.send_replace(true);
    }

    /// Takes the wish, and waits until there is something to tell. What is told first may still belong to an earlier wish: the
    /// difference follows.
    async fn ask(&self, interest: PortInterest) -> Response {
        let mut told = self.is_told.subscribe();
        self.interest.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&interest);
            *known = Some(interest);
            changed
        });
        match timeout(FIRST_LOOK, told.wait_for(|told| *told)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal(
                "the kernel does not tell which sockets there are; see the journal of the guest agent"
                    .to_owned(),
            )),
        }
    }
}

/// The agent's answers.
#[derive(Debug)]
pub(crate) struct HostDuties<'a> {
    follower: &'a Follower,
    tunnels: &'a Tunnels,
    mounts: &'a Mounts,
    ports: &'a PortWatch,
}

impl<'a> HostDuties<'a> {
    /// Passes requests on to those who do the work.
    pub(crate) fn new(
        follower: &'a Follower,
        tunnels: &'a Tunnels,
        mounts: &'a Mounts,
        ports: &'a PortWatch,
    ) -> Self {
        Self {
            follower,
            tunnels,
            mounts,
            ports,
        }
    }
}

impl Duties for HostDuties<'_> {
    fn begin(&self, reverse: ReverseOpener) {
        self.tunnels.begin(reverse);
        self.mounts.begin();
    }

    fn flow(&self, header: FlowHeader, stream: LinkStream) {
        match header.kind() {
            FlowKind::Mount | FlowKind::MountData | FlowKind::Files => {
                self.mounts.flow(&header, stream);
            }
            _ => self.tunnels.flow(header, stream),
        }
    }

    fn welcome(&self, _welcome: Welcome) {
        tracing::debug!("the host is connected");
    }

    async fn answer(&self, request: Request) -> Response {
        match request {
            Request::FollowCloudInit => self.follower.request(),
            Request::Sync => sync().await?,
            Request::WatchPorts(interest) => self.ports.ask(interest).await?,
            Request::Listen(listener) => done(self.tunnels.listen(listener).await)?,
            Request::Unlisten { id } => done(self.tunnels.unlisten(id).await)?,
            Request::Ping => {}
        }
        Ok(())
    }
}

fn done(result: Result<(), TunnelError>) -> Response {
    result.map_err(|why| Refusal(chain(&why)))
}

/// Not on the agent's own thread: a slow disk must not make the link silent.
async fn sync() -> Response {
    let synced = tokio::task::spawn_blocking(rustix::fs::sync).await;
    synced.map_err(|why| Refusal(format!("could not write everything to the disks: {why}")))
}

#[cfg(test)]
mod tests {
    use berth_link::event::BootId;
    use berth_link::guest::{Board, GuestIdentity};

    use super::*;
    use crate::boot::testing::Scene;

    #[tokio::test(flavor = "current_thread")]
    async fn cloud_init_is_followed_when_the_host_asks_and_told_to_be_over() {
        let scene = Scene::new();
        scene.write("/run/cloud-init/result.json", "{}");
        let board = Board::new(GuestIdentity {
            boot_id: BootId([1; 16]),
            kernel: "6.1.0".to_owned(),
            agent_version: "0.0.0".to_owned(),
            instance_id: String::new(),
        });
        let follower = Follower::default();
        let (tunnels, ports) = (Tunnels::new(&scene.guest), PortWatch::default());
        let mounts = Mounts::new(&scene.guest);
        let duties = HostDuties::new(&follower, &tunnels, &mounts, &ports);
        // Answered before the log is read: the host waits only seconds for an answer.
        assert_eq!(duties.answer(Request::FollowCloudInit).await, Ok(()));
        assert_eq!(duties.answer(Request::FollowCloudInit).await, Ok(()));
        follower.run(&scene.guest, &board).await;
        assert!(board.snapshot().cloud_init.completed);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_disks_are_synced_before_the_answer() {
        let (scene, follower) = (Scene::new(), Follower::default());
        let (tunnels, ports) = (Tunnels::new(&scene.guest), PortWatch::default());
        let mounts = Mounts::new(&scene.guest);
        let duties = HostDuties::new(&follower, &tunnels, &mounts, &ports);
        assert_eq!(duties.answer(Request::Sync).await, Ok(()));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn ports_are_promised_once_they_are_on_the_board() {
        let ports = PortWatch::default();
        let mut interest = ports.interest();
        let wish = PortInterest {
            udp_ranges: vec![53..=53],
            system_udp: false,
        };
        let looker = async {
            interest.changed().await.unwrap();
            assert_eq!(interest.borrow_and_update().as_ref(), Some(&wish));
            ports.told();
        };
        let (answer, ()) = tokio::join!(ports.ask(wish.clone()), looker);
        assert_eq!(answer, Ok(()));
        assert_eq!(
            ports.ask(wish.clone()).await,
            Ok(()),
            "asked again, nothing is new"
        );
        assert!(!interest.has_changed().unwrap());
        let blind = PortWatch::default();
        assert!(blind.ask(PortInterest::default()).await.is_err());
    }
}
