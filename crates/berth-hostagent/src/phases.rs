//! The phases between "the VM runs" and "ready", as values.
//!
//! Each has a name, a deadline and a body. The body returns what did not work; nothing of it stops the later phases, except that
//! without a login the ones that need SSH are skipped.

use std::pin::Pin;
use std::time::Duration;

use berth_config::model::GuestOs;
use berth_events::timeline::Outcome;

use crate::agent::HostAgent;
use crate::{copy_to_host, file_events, forwarding, mounts, requirements};

/// What a phase could not do; each becomes a cause of degradation.
pub(crate) type Causes = Vec<String>;

type Body = for<'a> fn(&'a HostAgent) -> Pin<Box<dyn Future<Output = Causes> + Send + 'a>>;

/// One phase.
struct Phase {
    name: &'static str,
    /// Whether the phase has anything to do for this instance.
    applies: fn(&HostAgent) -> bool,
    /// Whether it is pointless without a login.
    needs_login: bool,
    deadline: Duration,
    body: Body,
}

const MINUTE: Duration = Duration::from_secs(60);

/// In order. The names appear in events, in the progress display and in `berth status --timeline`.
const PHASES: &[Phase] = &[
    Phase {
        name: "essential",
        applies: |_| true,
        needs_login: false,
        // Lima's limit for one requirement: 200 attempts, 3 s apart.
        deadline: Duration::from_secs(600),
        body: |agent| Box::pin(requirements::essential(agent)),
    },
    Phase {
        name: "agent forwarding",
        applies: |agent| agent.config().ssh.forward_agent && !agent.config().plain,
        needs_login: true,
        deadline: MINUTE,
        body: |agent| Box::pin(requirements::forward_ssh_agent(agent)),
    },
    Phase {
        name: "mounts",
        applies: mounts::applies,
        // The guest link needs no login.
        needs_login: false,
        // The guest may have to install sshfs first.
        deadline: Duration::from_secs(600),
        body: |agent| Box::pin(mounts::begin(agent)),
    },
    Phase {
        name: "static forwards",
        applies: |_| true,
        // The guest link needs no login.
        needs_login: false,
        deadline: MINUTE,
        body: |agent| Box::pin(forwarding::begin(agent)),
    },
    Phase {
        name: "file events",
        applies: file_events::applies,
        needs_login: false,
        deadline: MINUTE,
        body: |agent| Box::pin(std::future::ready(file_events::begin(agent))),
    },
    Phase {
        name: "optional",
        applies: |agent| agent.config().os != GuestOs::Windows,
        needs_login: true,
        deadline: Duration::from_secs(600),
        body: |agent| Box::pin(requirements::optional(agent)),
    },
    Phase {
        name: "final",
        applies: |agent| agent.config().os != GuestOs::Windows,
        needs_login: true,
        deadline: Duration::from_secs(600),
        body: |agent| Box::pin(requirements::boot_finished(agent)),
    },
    Phase {
        name: "copyToHost",
        applies: |agent| !agent.config().copy_to_host.is_empty(),
        // It names what it did not copy, and has old copies removed at the stop.
        needs_login: false,
        // Each file has a deadline of its own.
        deadline: Duration::from_secs(3600),
        body: |agent| Box::pin(copy_to_host::begin(agent)),
    },
];

/// Runs every phase and returns every cause. Cancelled by dropping the future.
pub(crate) async fn run(agent: &HostAgent) -> Causes {
    let mut causes = Causes::new();
    for phase in PHASES.iter().filter(|phase| (phase.applies)(agent)) {
        if phase.needs_login && !agent.logged_in() {
            agent
                .board
                .phase_started(phase.name)
                .finish(Outcome::Skipped);
            continue;
        }
        let shown = agent.board.phase_started(phase.name);
        let result = tokio::time::timeout(phase.deadline, (phase.body)(agent)).await;
        let failed = result.unwrap_or_else(|_| {
            let waited = phase.deadline.as_secs();
            vec![format!(
                "phase {:?} was not done after {waited} s{}",
                phase.name,
                agent.evidence()
            )]
        });
        if failed.is_empty() {
            shown.finish(Outcome::Ok);
        } else {
            for cause in &failed {
                tracing::warn!(phase = phase.name, cause, "not everything works");
            }
            shown.finish(Outcome::Degraded(failed.clone()));
        }
        causes.extend(failed);
    }
    causes
}
