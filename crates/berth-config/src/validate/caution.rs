//! What may be started, and yet should be known.

use crate::model::{Arch, Config, GuestOs, MountType, Proto, ProvisionMode};
use crate::platform::HostOs;
use crate::problem::Problem;
use crate::resolve::{ResolveContext, Resolved};

use super::Findings;

/// More static ports than this are a sign of a rule that was meant to be dynamic.
const MANY_STATIC_PORTS: u16 = 10;

/// Finds what works and yet may surprise: experimental features, missing directories, deprecated modes.
#[must_use]
pub fn cautions(resolved: &Resolved, ctx: &ResolveContext<'_>) -> Vec<Problem> {
    let mut findings = Findings::default();
    let config = &resolved.config;
    find_experimental(config, ctx, &mut findings);
    find_missing_directories(config, &mut findings);
    find_odd_scripts(config, &mut findings);
    find_wide_static_rules(config, &mut findings);
    find_datagrams_to_sockets(config, &mut findings);
    findings.placed(resolved)
}

fn find_experimental(config: &Config, ctx: &ResolveContext<'_>, findings: &mut Findings) {
    let is_linux_host = ctx.platform.os == HostOs::Linux;
    let sudo_needs_password = !config.user.passwordless_sudo;
    let experimental = [
        ("os", config.os == GuestOs::Windows),
        (
            "mountType",
            config.mount_type == Some(MountType::Virtiofs) && is_linux_host,
        ),
        ("arch", !matches!(config.arch, Arch::X8664 | Arch::Aarch64)),
        ("video.display", config.video.display.contains("vnc")),
        ("audio.device", !config.audio.device.is_empty()),
        ("audio.interface", !config.audio.interface.is_empty()),
        ("mountInotify", config.mount_inotify),
        (
            "user.passwordlessSudo",
            sudo_needs_password && config.os != GuestOs::Darwin,
        ),
        ("param", sudo_needs_password && !config.param.is_empty()),
    ];
    for (key, is_used) in experimental {
        if is_used {
            findings.add(key, "experimental with this value");
        }
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        if mount.virtiofs.queue_size.is_some() && !is_linux_host {
            findings.add(
                format!("mounts[{index}].virtiofs.queueSize"),
                "has an effect on Linux hosts only",
            );
        }
    }
}

fn find_missing_directories(config: &Config, findings: &mut Findings) {
    for (index, mount) in config.mounts.iter().enumerate() {
        if std::fs::metadata(&mount.location).is_err() {
            findings.add(
                format!("mounts[{index}].location"),
                format!(
                    "{} does not exist: it will be made",
                    mount.location.display()
                ),
            );
        }
    }
}

fn find_odd_scripts(config: &Config, findings: &mut Findings) {
    for (index, entry) in config.provision.iter().enumerate() {
        if entry.mode == ProvisionMode::Ansible {
            findings.add(
                format!("provision[{index}].mode"),
                "`ansible` is deprecated: run the playbook yourself after the start",
            );
        }
        if entry.script.contains("LIMA_CIDATA") {
            findings.add(
                format!("provision[{index}]"),
                "uses LIMA_CIDATA variables, which may change: use template variables such as {{.User}}",
            );
        }
    }
}

fn find_wide_static_rules(config: &Config, findings: &mut Findings) {
    for (index, rule) in config.port_forwards.iter().enumerate() {
        let [first, last] = rule.guest_port_range;
        let is_wide = last.saturating_sub(first) >= MANY_STATIC_PORTS;
        if config.plain && rule.is_static && rule.guest_socket.is_empty() && is_wide {
            findings.add(
                format!("portForwards[{index}]"),
                "forwards more than 10 ports from the start: name the ports that are needed",
            );
        }
    }
}

/// Lima takes such a rule too; what it then sets up cannot listen.
fn find_datagrams_to_sockets(config: &Config, findings: &mut Findings) {
    for (index, rule) in config.port_forwards.iter().enumerate() {
        let to_socket = rule.host_socket.is_some() || !rule.guest_socket.is_empty();
        if rule.proto == Proto::Udp && to_socket {
            findings.add(
                format!("portForwards[{index}].proto"),
                "a unix socket carries no datagrams: this rule forwards nothing",
            );
        }
    }
}
