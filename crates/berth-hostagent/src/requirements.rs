//! What must hold before a guest counts as ready, each as one function that returns what does not hold.
//!
//! With our agent in the guest these are waits on its reports. Without it they are small scripts over SSH that wait inside the
//! guest, where the event is.

use std::time::Duration;

use berth_config::model::GuestOs;
use berth_process::escape::escape_untrusted;
use berth_ssh::exec::{ExecError, Output, Script};
use tokio::sync::watch;

use crate::agent::{GuestAgentKind, HostAgent};
use crate::guest::GuestView;
use crate::lima_agent::AgentState;
use crate::master::MasterState;
use crate::phases::Causes;

/// Wait between runs of a user's probe: nothing tells when its answer changes.
const PROBE_FIRST_WAIT: Duration = Duration::from_millis(100);
const PROBE_LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How long one run of a probe, and all runs together, may take.
const PROBE_RUN: Duration = Duration::from_secs(60);
const PROBE_ALL: Duration = Duration::from_secs(300);
/// How long Lima's guest agent may take to answer (Lima's own limit).
const LIMA_AGENT: Duration = Duration::from_secs(60);
/// Refusals of our key in a row that count as an answer.
const REFUSALS: u32 = 5;

/// A login works: the ControlMaster is up, and the user's session is set up.
pub(crate) async fn essential(agent: &HostAgent) -> Causes {
    let Some(master) = agent.live.master.get() else {
        return vec!["ssh was never set up".into()];
    };
    if let Err(why) = logged_in(master.state.clone()).await {
        return vec![format!("cannot log in over ssh: {why}{}", agent.evidence())];
    }
    // Our agent has the user ready before it says so; Lima's scripts leave a marker.
    if agent.agent_kind == GuestAgentKind::Lima {
        return marker(
            agent,
            "/run/lima-ssh-ready",
            "the user's session to be set up",
        )
        .await;
    }
    Causes::new()
}

/// Waits for a login, or for an answer that will not change.
async fn logged_in(mut state: watch::Receiver<MasterState>) -> Result<(), String> {
    let mut refusals = 0;
    loop {
        match &*state.borrow_and_update() {
            MasterState::Up { .. } => return Ok(()),
            MasterState::Down {
                why: Some(why),
                refused: true,
            } => {
                refusals += 1;
                if refusals >= REFUSALS {
                    return Err(format!("the guest refuses our key: {why}"));
                }
            }
            MasterState::Down { .. } => {}
        }
        if state.changed().await.is_err() {
            return Err("the ssh master was stopped".into());
        }
    }
}

/// Makes the host's SSH agent reachable under a name that stays: `/run/host-services/ssh-auth.sock`.
pub(crate) async fn forward_ssh_agent(agent: &HostAgent) -> Causes {
    let script = Script::new(include_str!("guest-scripts/link-ssh-agent.sh"));
    match agent.exec(&script, Duration::from_secs(30)).await {
        Ok(output) if output.success() => Causes::new(),
        failed => vec![format!(
            "cannot offer the ssh agent in the guest: {}",
            words(failed)
        )],
    }
}

/// containerd, the user's probes, and the guest agent's answer.
pub(crate) async fn optional(agent: &HostAgent) -> Causes {
    let mut causes = Causes::new();
    let config = agent.config();
    let linux = config.os == GuestOs::Linux && !config.plain;
    if linux && (config.containerd.system || config.containerd.user) {
        causes.extend(containerd(agent).await);
    }
    for probe in &config.probes {
        let script = Script::new(&probe.script).with_params(&config.param);
        if let Err(why) = until_it_succeeds(agent, &script).await {
            let hint = if probe.hint.is_empty() {
                String::new()
            } else {
                format!("\n{}", probe.hint)
            };
            causes.push(format!("probe {:?} failed: {why}{hint}", probe.description));
        }
    }
    match agent.agent_kind {
        GuestAgentKind::Lima if linux => causes.extend(lima_agent(agent).await),
        GuestAgentKind::Berth if linux => causes.extend(our_agent(agent).await),
        _ => {}
    }
    causes
}

/// systemd first, since without it there is no use in waiting for nerdctl.
async fn containerd(agent: &HostAgent) -> Causes {
    let systemd = Script::new("#!/bin/sh\ncommand -v systemctl\n");
    match agent.exec(&systemd, Duration::from_secs(30)).await {
        Ok(output) if output.success() => {}
        failed => {
            return vec![format!(
                "containerd needs systemd in the guest, and there is no systemctl: {}",
                words(failed)
            )];
        }
    }
    if agent.agent_kind == GuestAgentKind::Berth {
        // The agent installs it, and reports how that ended.
        return Causes::new();
    }
    let prefix = &agent.config().guest_install_prefix;
    let nerdctl = format!("#!/bin/sh\ncommand -v nerdctl || test -x '{prefix}/bin/nerdctl'\n");
    match until_it_succeeds(agent, &Script::new(&nerdctl)).await {
        Ok(()) => Causes::new(),
        Err(why) => vec![format!("containerd was not installed: {why}")],
    }
}

async fn until_it_succeeds(agent: &HostAgent, script: &Script) -> Result<(), String> {
    let give_up = tokio::time::Instant::now() + PROBE_ALL;
    let mut wait = PROBE_FIRST_WAIT;
    loop {
        let result = agent.exec(script, PROBE_RUN).await;
        if result.as_ref().is_ok_and(Output::success) {
            return Ok(());
        }
        if tokio::time::Instant::now() + wait >= give_up {
            return Err(format!(
                "no success in {} s; {}",
                PROBE_ALL.as_secs(),
                words(result)
            ));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(PROBE_LONGEST_WAIT);
    }
}

async fn lima_agent(agent: &HostAgent) -> Causes {
    let Some(supervised) = agent.live.lima.get() else {
        return vec!["there is no way to Lima's guest agent".into()];
    };
    match tokio::time::timeout(LIMA_AGENT, supervised.answered()).await {
        Ok(Ok(())) => Causes::new(),
        Ok(Err(why)) => vec![format!("Lima's guest agent: {why}")],
        Err(_) => {
            let last = match supervised.state() {
                AgentState::Down { why: Some(why) } => format!(" ({why})"),
                AgentState::Down { why: None } | AgentState::Up { .. } => String::new(),
            };
            vec![format!(
                "Lima's guest agent did not answer within {} s{last}; see `journalctl -u lima-guestagent` in the guest",
                LIMA_AGENT.as_secs()
            )]
        }
    }
}

/// The login worked; if our agent is still silent then something is wrong with it, not with the guest.
async fn our_agent(agent: &HostAgent) -> Causes {
    let Some(guest) = agent.live.guest.get() else {
        return Causes::new();
    };
    let mut view = guest.view.clone();
    let seen = tokio::time::timeout(LIMA_AGENT, view.wait_for(|view| view.seen)).await;
    if seen.is_ok() {
        return Causes::new();
    }
    vec![format!(
        "the guest agent did not answer within {} s of the login; see `journalctl -u lima-guestagent` in the guest{}",
        LIMA_AGENT.as_secs(),
        agent.evidence()
    )]
}

/// Every boot step and provision script has ended, whatever their result; the failed ones are causes.
pub(crate) async fn boot_finished(agent: &HostAgent) -> Causes {
    let link = agent
        .live
        .guest
        .get()
        .filter(|link| link.view.borrow().seen);
    let Some(link) = link else {
        let mut causes = marker(agent, "/run/lima-boot-done", "the boot scripts to finish").await;
        if causes.is_empty() {
            causes = failed_boot_scripts(agent).await;
        }
        return causes;
    };
    let mut view = link.view.clone();
    match view.wait_for(GuestView::boot_done).await {
        Ok(view) => view.failed_steps(),
        Err(_) => vec!["the guest link was shut down before the boot steps ended".into()],
    }
}

/// What `boot.sh` has noted in a guest without our agent. Its output is in cloud-init's log, among everything else.
async fn failed_boot_scripts(agent: &HostAgent) -> Causes {
    let script = Script::new("#!/bin/sh\ncat /run/lima-boot-failed 2>/dev/null || true\n");
    match agent.exec(&script, Duration::from_secs(30)).await {
        Ok(output) if output.success() => named_failures(&output.stdout),
        failed => vec![format!(
            "cannot tell whether the boot scripts succeeded: {}",
            words(failed)
        )],
    }
}

/// One cause for each line, and an end to them: the guest writes this.
fn named_failures(notes: &[u8]) -> Causes {
    let steps = notes.split(|byte| *byte == b'\n');
    let steps = steps.map(<[u8]>::trim_ascii).filter(|s| !s.is_empty());
    steps
        .take(32)
        .map(|step| {
            format!(
                "guest step {} failed; see /var/log/cloud-init-output.log in the guest",
                escape_untrusted(step)
            )
        })
        .collect()
}

/// Waits inside the guest for a marker file with this boot's instance id.
pub(crate) async fn marker(agent: &HostAgent, path: &str, what: &str) -> Causes {
    const LIMIT: Duration = Duration::from_secs(590);
    let script = Script::new(include_str!("guest-scripts/wait-for-marker.sh"))
        .with_env("MARKER", path)
        .with_env("EXPECTED", agent.instance_id());
    match agent.exec(&script, LIMIT).await {
        Ok(output) if output.success() => Causes::new(),
        failed => vec![format!(
            "waited for {what} ({path} in the guest): {}",
            words(failed)
        )],
    }
}

/// What a command over SSH came to, in words for a person.
fn words(result: Result<Output, ExecError>) -> String {
    match result {
        Ok(output) => output.describe(),
        Err(why) => crate::error::chain(&why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> MasterState {
        MasterState::Down {
            why: Some("Permission denied (publickey)".into()),
            refused: true,
        }
    }

    #[test]
    fn each_step_that_failed_is_a_cause_and_the_guest_cannot_paint_the_terminal() {
        assert!(named_failures(b"").is_empty());
        let causes =
            named_failures(b"user /mnt/lima-cidata/provision.user/00000001\nsystem \x1b[2J\n");
        assert_eq!(causes.len(), 2);
        assert!(
            causes[0]
                .starts_with("guest step user /mnt/lima-cidata/provision.user/00000001 failed")
        );
        assert!(!causes[1].contains('\x1b'));
    }

    #[tokio::test]
    async fn a_login_is_waited_for() {
        let (tx, rx) = watch::channel(MasterState::Down {
            why: None,
            refused: false,
        });
        let (result, ()) = tokio::join!(logged_in(rx), async {
            tx.send_replace(refused());
            tokio::task::yield_now().await;
            tx.send_replace(MasterState::Up { generation: 1 });
        });
        assert_eq!(result, Ok(()));
    }

    #[tokio::test]
    async fn a_key_that_is_refused_again_and_again_is_an_answer() {
        let (tx, rx) = watch::channel(MasterState::Down {
            why: None,
            refused: false,
        });
        let refusing = async {
            loop {
                tx.send_replace(refused());
                tokio::task::yield_now().await;
            }
        };
        let result = tokio::select! {
            result = logged_in(rx) => result,
            () = refusing => unreachable!("refuses for ever"),
        };
        assert!(result.unwrap_err().contains("refuses our key"));
    }
}
