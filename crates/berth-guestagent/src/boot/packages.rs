//! Packages of the guest's distribution: what berth needs there, and upgrades.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::pending;
use std::io::Read as _;
use std::time::Duration;

use berth_link::boot::BootSpec;
use tokio::time::timeout;

use crate::boot::markers;
use crate::boot::shares;
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::guest::{Guest, Init};
use crate::programs::Command;

/// Mirrors may be far, and a release may have hundreds of upgrades.
const LIMIT: Duration = Duration::from_hours(1);

/// How long a guest may take to end.
const REBOOT_LIMIT: Duration = Duration::from_mins(5);

/// A distribution's tool for packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Apt,
    Dnf,
    Yum,
    Pacman,
    Zypper,
    Apk,
}

/// Something berth needs from a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Sshfs,
    Iptables,
    Uidmap,
    Fuse3,
    DbusUserSession,
}

impl Need {
    /// The program that shows that it is there; `None` where only the package manager knows.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Sshfs => Some("sshfs"),
            Self::Iptables => Some("iptables"),
            Self::Uidmap => Some("newuidmap"),
            Self::Fuse3 => Some("fusermount3"),
            Self::DbusUserSession => None,
        }
    }

    /// The package that has it; `None` where it is part of something that is always there.
    fn package(self, tool: Tool) -> Option<&'static str> {
        match (self, tool) {
            (Self::Sshfs, Tool::Dnf | Tool::Yum) => Some("fuse-sshfs"),
            (Self::Sshfs, _) => Some("sshfs"),
            (Self::Iptables, _) => Some("iptables"),
            (Self::Uidmap, Tool::Apt) => Some("uidmap"),
            (Self::Uidmap, Tool::Dnf | Tool::Yum) => Some("shadow-utils"),
            (Self::Uidmap, Tool::Pacman | Tool::Zypper) => Some("shadow"),
            (Self::Uidmap, Tool::Apk) => Some("shadow-uidmap"),
            (Self::Fuse3, _) => Some("fuse3"),
            (Self::DbusUserSession, Tool::Apt) => Some("dbus-user-session"),
            (Self::DbusUserSession, _) => None,
        }
    }
}

fn tool(guest: &Guest) -> Option<Tool> {
    let tools = [
        ("dnf", Tool::Dnf),
        ("yum", Tool::Yum),
        ("pacman", Tool::Pacman),
        ("zypper", Tool::Zypper),
        ("apk", Tool::Apk),
    ];
    // Some distributions have a script of that name that only looks like it.
    if is_binary(guest, "/usr/bin/apt-get") {
        return Some(Tool::Apt);
    }
    tools
        .into_iter()
        .find(|(program, _)| guest.has_program(program))
        .map(|(_, tool)| tool)
}

fn is_binary(guest: &Guest, path: &str) -> bool {
    let mut magic = [0; 4];
    let read = File::open(guest.path(path)).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

fn needs(spec: &BootSpec) -> Vec<Need> {
    let mut needs = Vec::new();
    if shares::REVERSE_SSHFS == spec.mount_type && !spec.mounts.is_empty() {
        needs.push(Need::Sshfs);
    }
    if spec.containerd_system || spec.containerd_user {
        needs.push(Need::Iptables);
    }
    if spec.containerd_user {
        needs.extend([Need::Uidmap, Need::Fuse3, Need::DbusUserSession]);
    }
    needs
}

fn missing(spec: &BootSpec, guest: &Guest) -> Vec<Need> {
    let is_missing = |need: &Need| match need.program() {
        Some(program) => !guest.has_program(program),
        None => !guest.has("/usr/lib/systemd/user/dbus.socket"),
    };
    needs(spec).into_iter().filter(is_missing).collect()
}

/// Something is missing, and berth is to install it.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    !spec.skip_default_dependencies && !missing(spec, guest).is_empty()
}

/// Installs what is missing.
pub(crate) async fn install(work: &Work<'_>) -> Result<Done, StepError> {
    let missing = missing(work.spec, work.guest);
    let Some(tool) = tool(work.guest) else {
        let programs: Vec<_> = missing.iter().filter_map(|need| need.program()).collect();
        return Err(impossible(format!(
            "the guest has none of apt-get, dnf, yum, pacman, zypper, apk: install {} yourself",
            programs.join(", ")
        )));
    };
    let packages: BTreeSet<&str> = missing
        .iter()
        .filter_map(|need| need.package(tool))
        .collect();
    if packages.is_empty() {
        return Ok(Done::Already);
    }
    if missing.contains(&Need::Sshfs) && is_enterprise_linux(work.guest, tool) {
        // sshfs is not among its own packages.
        let epel = Command::new(if tool == Tool::Yum { "yum" } else { "dnf" });
        work.run(epel.args(["install", "-y", "epel-release"]).limit(LIMIT))
            .await?;
    }
    for command in install_commands(tool, &packages) {
        work.run(command.limit(LIMIT)).await?;
    }
    Ok(Done::Changed)
}

fn is_enterprise_linux(guest: &Guest, tool: Tool) -> bool {
    matches!(tool, Tool::Dnf | Tool::Yum)
        && guest.has("/etc/redhat-release")
        && !guest.has("/etc/fedora-release")
}

fn apt(args: &[&str]) -> Command {
    Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        // cloud-init and unattended-upgrades use it too; files that steps have changed are kept.
        .args([
            "-o",
            "DPkg::Lock::Timeout=600",
            "-o",
            "Dpkg::Options::=--force-confold",
            "-q",
            "-y",
        ])
        .args(args)
}

fn install_commands(tool: Tool, packages: &BTreeSet<&str>) -> Vec<Command> {
    let install = match tool {
        Tool::Apt => {
            let install = apt(&["install", "--no-upgrade", "--no-install-recommends"]);
            return vec![apt(&["update"]), install.args(packages)];
        }
        Tool::Dnf => {
            Command::new("dnf").args(["install", "-y", "--setopt=install_weak_deps=False"])
        }
        Tool::Yum => Command::new("yum").args(["install", "-y"]),
        Tool::Pacman => Command::new("pacman").args(["-Sy", "--noconfirm", "--needed"]),
        Tool::Zypper => {
            Command::new("zypper").args(["--non-interactive", "install", "-y", "--no-recommends"])
        }
        Tool::Apk => Command::new("apk").args(["--update-cache", "add"]),
    };
    vec![install.args(packages)]
}

/// The configuration asks for upgrades.
pub(crate) fn upgrade_applies(spec: &BootSpec, _guest: &Guest) -> bool {
    spec.upgrade_packages
}

/// Upgrades all packages, and has the guest boot again where that needs it.
pub(crate) async fn upgrade(work: &Work<'_>) -> Result<Done, StepError> {
    let tool = tool(work.guest).ok_or_else(|| {
        impossible("upgradePackages: the guest has none of apt-get, dnf, yum, pacman, zypper, apk")
    })?;
    for command in upgrade_commands(tool) {
        work.run(command.limit(LIMIT)).await?;
    }
    if needs_reboot(work, tool).await? {
        reboot(work).await?;
    }
    Ok(Done::Changed)
}

/// Has the guest boot again, and ends with it: what comes after an upgrade is for the next boot.
async fn reboot(work: &Work<'_>) -> Result<(), StepError> {
    markers::require_reboot(work)?;
    match work.guest.init {
        Init::Systemd => work.systemctl_no_wait(&["reboot"]).await?,
        Init::OpenRc | Init::Unknown => work.run(Command::new("reboot")).await?,
    }
    // The agent's own end comes first, unless something holds the shutdown up.
    let _ = timeout(REBOOT_LIMIT, pending::<()>()).await;
    Err(impossible(format!(
        "the guest did not reboot within {} s, as the upgrade needs: reboot it",
        REBOOT_LIMIT.as_secs()
    )))
}

fn upgrade_commands(tool: Tool) -> Vec<Command> {
    match tool {
        Tool::Apt => vec![apt(&["update"]), apt(&["dist-upgrade"])],
        Tool::Dnf => vec![Command::new("dnf").args(["upgrade", "-y"])],
        Tool::Yum => vec![Command::new("yum").args(["update", "-y"])],
        Tool::Pacman => vec![Command::new("pacman").args(["-Syu", "--noconfirm"])],
        Tool::Zypper => vec![Command::new("zypper").args(["--non-interactive", "update", "-y"])],
        Tool::Apk => vec![Command::new("apk").args(["--update-cache", "upgrade"])],
    }
}

async fn needs_reboot(work: &Work<'_>, tool: Tool) -> Result<bool, StepError> {
    match tool {
        Tool::Apt => Ok(work.guest.has("/run/reboot-required")),
        Tool::Dnf | Tool::Yum if work.guest.has_program("needs-restarting") => Ok(work
            .exit_code(&Command::new("needs-restarting").arg("-r"))
            .await?
            == 1),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use berth_link::boot::GuestMount;

    use super::*;
    use crate::boot::testing::Scene;

    fn scene() -> Scene {
        let mut scene = Scene::systemd();
        scene.spec.mount_type = "reverse-sshfs".to_owned();
        scene.spec.mounts = vec![GuestMount {
            tag: String::new(),
            mount_point: "/x".to_owned(),
            fs_type: String::new(),
            options: String::new(),
        }];
        scene
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_what_is_missing_is_installed() {
        let mut scene = scene();
        scene.write("/usr/bin/apt-get", "\x7fELF");
        scene.spec.containerd_user = true;
        scene.install("iptables");
        scene.run(install).await.unwrap();
        let ran = scene.commands();
        let options = "-o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold -q -y";
        assert_eq!(ran[0].words(), format!("apt-get {options} update"));
        let packages = "dbus-user-session fuse3 sshfs uidmap";
        let install =
            format!("apt-get {options} install --no-upgrade --no-install-recommends {packages}");
        assert_eq!(ran[1].words(), install);
        assert_eq!(
            ran[1].variables(),
            [("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())]
        );
    }

    #[test]
    fn nothing_missing_needs_no_network() {
        let mut scene = scene();
        assert!(applies(&scene.spec, &scene.guest));
        scene.install("sshfs");
        assert!(!applies(&scene.spec, &scene.guest));
        scene.spec.containerd_system = true;
        scene.spec.skip_default_dependencies = true;
        assert!(!applies(&scene.spec, &scene.guest));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn enterprise_linux_has_sshfs_elsewhere() {
        let scene = scene();
        scene.install("dnf");
        scene.write("/usr/bin/apt-get", "#!/bin/sh\n");
        scene.write("/etc/redhat-release", "Rocky Linux");
        scene.run(install).await.unwrap();
        let dnf = "dnf install -y --setopt=install_weak_deps=False fuse-sshfs";
        assert_eq!(scene.ran(), ["dnf install -y epel-release", dnf]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_guest_without_packages_names_what_is_missing() {
        let why = scene().run(install).await.unwrap_err().to_string();
        assert!(why.ends_with("install sshfs yourself"), "{why}");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_upgrade_boots_again_where_it_must() {
        let mut scene = scene();
        scene.spec.upgrade_packages = true;
        scene.install("dnf");
        scene.install("needs-restarting");
        scene.answer("needs-restarting", 1, "");
        let why = scene.run(upgrade).await.unwrap_err().to_string();
        assert!(
            why.starts_with("the guest did not reboot within 300 s"),
            "{why}"
        );
        assert_eq!(
            scene.ran(),
            [
                "dnf upgrade -y",
                "needs-restarting -r",
                "systemctl --no-block reboot"
            ]
        );
        assert!(scene.guest.has("/run/lima-reboot-required"));
    }
}
