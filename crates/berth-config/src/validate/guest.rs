//! The guest's account, what runs in the guest, and what is copied out of it.

use crate::model::{Config, GuestOs, Provision, ProvisionMode, VmType};

use super::Findings;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    for (index, entry) in config.provision.iter().enumerate() {
        check_provision(&format!("provision[{index}]"), entry, config.os, findings);
    }
    if config.os != GuestOs::Windows && !config.guest_install_prefix.starts_with('/') {
        findings.add(
            "guestInstallPrefix",
            format!("{:?} must be an absolute path", config.guest_install_prefix),
        );
    }
    for (index, probe) in config.probes.iter().enumerate() {
        if probe.mode != "readiness" {
            findings.add(
                format!("probes[{index}].mode"),
                format!("{:?} is unknown: write `readiness`", probe.mode),
            );
        }
        if !probe.script.starts_with("#!") {
            findings.add(
                format!("probes[{index}].script"),
                "must start with `#!`, such as `#!/bin/sh`",
            );
        }
    }
    check_environment(config, findings);
}

pub(super) fn check_user(config: &Config, findings: &mut Findings) {
    let user = &config.user;
    if user.name.is_empty() || user.name == "root" {
        findings.add(
            "user.name",
            format!(
                "{:?} cannot be the guest's user: choose another name",
                user.name
            ),
        );
    }
    if user.uid == 0 {
        findings.add("user.uid", "must not be 0: the guest's user is not root");
    }
    if config.os == GuestOs::Windows {
        let program = user.shell.rsplit(['/', '\\']).next().unwrap_or_default();
        let known = ["cmd.exe", "powershell.exe", "pwsh.exe"];
        if !known.iter().any(|name| name.eq_ignore_ascii_case(program)) {
            findings.add(
                "user.shell",
                format!(
                    "{:?} is unknown: use one of {}",
                    user.shell,
                    known.join(", ")
                ),
            );
        }
    } else {
        for (name, path) in [("shell", &user.shell), ("home", &user.home)] {
            if !path.starts_with('/') {
                findings.add(
                    format!("user.{name}"),
                    format!("{path:?} must be an absolute path"),
                );
            }
        }
    }
    check_sudo(config, findings);
}

fn check_sudo(config: &Config, findings: &mut Findings) {
    let key = "user.passwordlessSudo";
    let is_darwin = config.os == GuestOs::Darwin;
    match config.user.passwordless_sudo {
        true if is_darwin => findings.add(key, "must be false for macOS guests"),
        false if config.vm_type == VmType::Wsl2 => {
            findings.add(key, "must be true with `vmType: wsl2`");
        }
        false if !is_darwin && !config.plain => findings.add(
            key,
            "false needs `plain: true`: without it the agent in the guest needs sudo",
        ),
        _ => {}
    }
}

fn check_provision(key: &str, entry: &Provision, os: GuestOs, findings: &mut Findings) {
    use ProvisionMode::{Ansible, Boot, Data, Yq};
    if os == GuestOs::Windows && matches!(entry.mode, Ansible | Boot | Yq) {
        findings.add(format!("{key}.mode"), "not available for Windows guests");
    }
    let required = match entry.mode {
        Data => None,
        Ansible => Some(("playbook", &entry.playbook)),
        Yq => Some(("expression", &entry.script)),
        _ => Some(("script", &entry.script)),
    };
    if let Some((name, text)) = required
        && text.is_empty()
    {
        findings.add(format!("{key}.{name}"), "missing: there is nothing to run");
    }
    if !matches!(entry.mode, Data | Yq) {
        return;
    }
    if !entry.path.starts_with('/') {
        findings.add(
            format!("{key}.path"),
            format!("{:?} must be an absolute path in the guest", entry.path),
        );
    }
    let permissions = &entry.permissions;
    let octal = permissions
        .bytes()
        .all(|byte| (b'0'..=b'7').contains(&byte));
    if !octal || !(1..=5).contains(&permissions.len()) {
        findings.add(
            format!("{key}.permissions"),
            format!("{permissions:?} are no octal permissions, such as 644"),
        );
    }
}

fn check_environment(config: &Config, findings: &mut Findings) {
    for name in config.env.keys() {
        let spoils_the_line = |c: char| c.is_whitespace() || c.is_control() || "=#'\"".contains(c);
        if name.is_empty() || name.contains(spoils_the_line) {
            findings.add(
                format!("env.{name}"),
                format!("{name:?} is no name of a variable"),
            );
        }
    }
    for (name, value) in &config.param {
        let key = format!("param.{name}");
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
        let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !starts_well || !name.chars().all(goes_on) {
            findings.add(
                &*key,
                "no name of a parameter: use letters, digits and `_`, a letter first",
            );
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            findings.add(
                &*key,
                "the value must be a single line of printable characters",
            );
        }
    }
}
