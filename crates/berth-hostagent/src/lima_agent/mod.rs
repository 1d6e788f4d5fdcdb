//! Lima's own guest agent, reached by gRPC through `ga.sock`, which the ControlMaster forwards, or over vsock.
//!
//! | module | owns |
//! |---|---|
//! | `owner` | the task: forward, connect, listen to events, start over |
//! | `socket` | `ga.sock`: its forward, and connections to it |
//! | `ports` | what the guest listens on, filtered and capped |
//! | `dial` | connections into the guest |
//!
//! Two connections are kept. Calls and events have one of their own, so that they never wait behind bulk data, and streams
//! that a program on this host does not read cannot hold them up.

mod dial;
mod owner;
mod ports;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use berth_driver::driver::VmEvent;
use berth_forward::address::GuestPorts;
use berth_guest_api::client::GuestApi;
use berth_link::event::PortInterest;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::{HostAgent, Tasks};
use crate::forwarding;
use crate::guest::kick_on_events;
use crate::master::{MasterHandle, MasterState};
use owner::{Complaints, Owner};
use ports::PortTable;
use socket::{AgentSocket, DriverSocket, SshSocket};

/// Limit of one `ssh -O forward`, and of taking it back.
const FORWARD: Duration = Duration::from_secs(5);

/// Where the connection to the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentState {
    /// There is none.
    Down {
        /// Why the last one ended, or the last attempt failed.
        why: Option<String>,
    },
    /// The agent has answered.
    Up {
        /// Counts connections from 1.
        generation: u64,
    },
}

/// A handle to the owner task.
#[derive(Debug, Clone)]
pub struct LimaAgent {
    /// What the guest listens on: all of it, and known since the agent's first answer. UDP ports that mean nothing to others
    /// (ephemeral ones, the system's own) are left out.
    pub ports: watch::Receiver<GuestPorts>,
    current: watch::Receiver<Current>,
    kick: Arc<Notify>,
    stop: CancellationToken,
    stopped: CancellationToken,
}

/// What the owner publishes.
#[derive(Debug, Clone)]
struct Current {
    state: AgentState,
    session: Option<Session>,
}

/// The connections of one session.
#[derive(Debug, Clone)]
struct Session {
    calls: GuestApi,
    tunnels: GuestApi,
    /// Cancelled by whoever finds that it takes no more tunnels.
    condemned: CancellationToken,
}

impl LimaAgent {
    /// Starts the owner task.
    fn start(
        socket: Arc<dyn AgentSocket>,
        master: watch::Receiver<MasterState>,
        interest: PortInterest,
        tasks: &Tasks,
    ) -> Self {
        let (publish_ports, ports) = watch::channel(GuestPorts::default());
        let (publish, current) = watch::channel(Current::down(None));
        let kick = Arc::new(Notify::new());
        let (stop, stopped) = (tasks.cancel.child_token(), CancellationToken::new());
        let owner = Owner {
            socket,
            master,
            table: PortTable::new(interest),
            ports: publish_ports,
            current: publish,
            kick: Arc::clone(&kick),
            tracker: tasks.tracker.clone(),
            // Not with `stop`: the owner would take that for the agent's end.
            connections: CancellationToken::new(),
            exposed: None,
            touched: false,
            generation: 0,
            up_since: None,
            complaints: Complaints::default(),
        };
        let (until, done) = (stop.clone(), stopped.clone().drop_guard());
        tasks.tracker.spawn(async move {
            Box::pin(owner.run(until)).await;
            drop(done);
        });
        Self {
            ports,
            current,
            kick,
            stop,
            stopped,
        }
    }

    /// Where the connection is.
    #[must_use]
    pub fn state(&self) -> AgentState {
        self.current.borrow().state.clone()
    }

    /// Waits until the agent answers, at once if it does now. `Err`: the supervisor was stopped.
    pub async fn answered(&self) -> Result<(), &'static str> {
        let mut current = self.current.clone();
        let up = current.wait_for(|current| current.session.is_some()).await;
        up.map(drop).map_err(|_| "the connection was shut down")
    }

    /// Whether it was connected, and is no more.
    pub(crate) fn lost(&self, tasks: &Tasks) -> watch::Receiver<bool> {
        let ports = self.ports.clone();
        forwarding::mapped(&self.current, tasks, move |current| {
            ports.borrow().known && current.session.is_none()
        })
    }

    /// The number of the session that is up; `None` while there is none.
    pub(crate) fn sessions(&self, tasks: &Tasks) -> watch::Receiver<Option<u64>> {
        forwarding::mapped(&self.current, tasks, |current| match current.state {
            AgentState::Up { generation } => Some(generation),
            AgentState::Down { .. } => None,
        })
    }

    /// The connection for calls, while there is one: the time, file events.
    #[must_use]
    pub fn calls(&self) -> Option<GuestApi> {
        let current = self.current.borrow();
        current
            .session
            .as_ref()
            .map(|session| session.calls.clone())
    }

    /// Says that something happened to the guest (a reset, it was resumed): ends a wait before the next attempt, and has a
    /// running connection prove itself.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Ends the connections and the forward of `ga.sock`, and waits for that.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

impl Current {
    fn down(why: Option<String>) -> Self {
        Self {
            state: AgentState::Down { why },
            session: None,
        }
    }
}

impl HostAgent {
    /// Starts the supervisor of Lima's guest agent, and registers how it ends.
    pub(crate) fn connect_lima_agent(
        &self,
        master: &MasterHandle,
        vm: broadcast::Receiver<VmEvent>,
    ) {
        let Some(session) = self.live.session.get() else {
            return;
        };
        let socket: Arc<dyn AgentSocket> = if self.driver.forward_guest_agent() {
            Arc::new(SshSocket::new(Arc::clone(session), self.dir.ga_sock()))
        } else {
            Arc::new(DriverSocket(Arc::clone(&self.driver)))
        };
        let interest = forwarding::interest(&self.config.port_forwards);
        let agent = LimaAgent::start(socket, master.state.clone(), interest, &self.tasks);
        let (kicked, cancel) = (agent.clone(), self.tasks.cancel.clone());
        self.tasks.tracker.spawn(async move {
            let kicking = kick_on_events(vm, || kicked.kick());
            cancel.run_until_cancelled(kicking).await;
        });
        let ending = agent.clone();
        self.cleanups
            .register("Lima's guest agent", FORWARD, move || async move {
                ending.stop().await;
                Ok(())
            });
        // The first of its kind, so it cannot be set already.
        let _ = self.live.lima.set(agent);
    }
}

#[cfg(test)]
mod tests;
