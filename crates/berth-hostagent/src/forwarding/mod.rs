//! Port forwarding, as this instance has it: which carrier, what feeds the reconciler, and who is told.
//!
//! | module | owns |
//! |---|---|
//! | `guest_ports` | what our agent reports, put together |
//! | `health` | whether the way into the guest is there |
//! | `over_link` | connections as streams of the guest link |
//! | `over_ssh` | forwards of the ControlMaster |
//! | `shown` | notices as events, and the state of every forward |

pub(crate) mod guest_ports;
mod health;
mod over_link;
mod over_ssh;
pub(crate) mod shown;

use std::sync::Arc;
use std::time::Duration;

use berth_config::model::{PortForward, Proto};
use berth_forward::address::GuestPorts;
use berth_forward::forwarders::Carrier;
use berth_forward::guest::{Access, Reverse};
use berth_forward::limits::Limits;
use berth_forward::reconcile::{Reconciler, Setting};
use berth_link::event::PortInterest;
use tokio::sync::watch;

use crate::agent::{HostAgent, Tasks};
use crate::phases::Causes;
use over_link::LinkCarrier;
use over_ssh::SshCarrier;

/// Limit of taking every forward down.
const STOP: Duration = Duration::from_secs(5);

impl HostAgent {
    /// Starts the reconciler, and registers its end. What the guest reports is forwarded from now on.
    pub(crate) fn start_forwarding(&self) {
        let Some(access) = self.access() else {
            tracing::warn!("there is no way into the guest, so nothing is forwarded");
            return;
        };
        let setting = Setting {
            rules: self.forwarders.rules().clone(),
            os: self.host_os,
            own_dir: self.dir.sockets(),
            limits: Limits::default(),
        };
        let forwards = Reconciler::start(
            setting,
            access,
            self.guest_ports(),
            shown::notices(Arc::clone(&self.board)),
            &self.tasks.tracker,
            &self.tasks.cancel,
        );
        let ending = forwards.clone();
        self.cleanups
            .register("port forwards", STOP, move || async move {
                ending.stop().await;
                Ok(())
            });
        if self.live.forwards.set(forwards).is_err() {
            tracing::error!("the port forwards were started twice");
        }
        let board = || Arc::clone(&self.board);
        if let Some(link) = self.live.guest.get() {
            let gone = mapped(&link.view, &self.tasks, |view| !view.connected);
            health::watch("berth-guestagent", gone, board(), &self.tasks);
        }
        if let Some(lima) = self.live.lima.get() {
            health::watch(
                "lima-guestagent",
                lima.lost(&self.tasks),
                board(),
                &self.tasks,
            );
        }
    }

    fn access(&self) -> Option<Access> {
        let over_ssh = || {
            let session = Arc::clone(self.live.session.get()?);
            let master = self.live.master.get()?;
            Some(SshCarrier::new(session, master, &self.tasks))
        };
        if self.forwarders.carrier() == Carrier::Ssh {
            return Some(Access::Ssh(over_ssh()?));
        }
        if let Some(link) = self.live.guest.get() {
            let carrier = LinkCarrier::new(link.clone(), &self.tasks);
            return Some(Access::Agent {
                dialer: Arc::clone(&carrier) as _,
                reverse: Reverse::Agent(carrier),
            });
        }
        if let Some(lima) = self.live.lima.get() {
            return Some(Access::Agent {
                dialer: Arc::new(lima.clone()),
                // Its protocol has no word for a connection that the guest begins.
                reverse: over_ssh().map_or(Reverse::None, |ssh| Reverse::Ssh(ssh)),
            });
        }
        Some(Access::Ssh(over_ssh()?))
    }

    /// What listens in the guest; of a guest without an agent nothing is ever known.
    fn guest_ports(&self) -> watch::Receiver<GuestPorts> {
        if let Some(link) = self.live.guest.get() {
            link.watch_ports(interest(&self.config.port_forwards), &self.tasks);
            link.ports.clone()
        } else if let Some(lima) = self.live.lima.get() {
            lima.ports.clone()
        } else {
            watch::channel(GuestPorts::default()).1
        }
    }
}

/// Starts forwarding, and waits until all that does not depend on the guest's ports was tried once.
pub(crate) async fn begin(agent: &HostAgent) -> Causes {
    agent.start_forwarding();
    let Some(forwards) = agent.live.forwards.get() else {
        return Causes::new();
    };
    if agent.forwarders.carrier() == Carrier::Ssh && !agent.logged_in() {
        return Causes::new();
    }
    let missing = forwards.settled().await;
    missing.iter().map(shown::trouble).collect()
}

/// The UDP ports that a rule names: those count even where they look like a client's.
pub(crate) fn interest(rules: &[PortForward]) -> PortInterest {
    let named = rules.iter().filter(|rule| {
        !rule.ignore
            && rule.guest_socket.is_empty()
            && rule.proto != Proto::Tcp
            && rule.guest_port_range != [1, u16::MAX]
    });
    PortInterest {
        udp_ranges: named
            .map(|rule| rule.guest_port_range[0]..=rule.guest_port_range[1])
            .collect(),
        system_udp: false,
    }
}

/// Follows a watch channel through a function; tells only changes of its result.
pub(crate) fn mapped<T, U>(
    source: &watch::Receiver<T>,
    tasks: &Tasks,
    map: impl Fn(&T) -> U + Send + Sync + 'static,
) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: PartialEq + Send + Sync + 'static,
{
    let mut source = source.clone();
    let (out, result) = watch::channel(map(&source.borrow_and_update()));
    let cancel = tasks.cancel.clone();
    tasks.tracker.spawn(async move {
        let following = async {
            while source.changed().await.is_ok() {
                let now = map(&source.borrow_and_update());
                out.send_if_modified(|known| {
                    let changed = *known != now;
                    if changed {
                        *known = now;
                    }
                    changed
                });
            }
        };
        cancel.run_until_cancelled(following).await;
    });
    result
}
