//! The guest's name servers, and multicast DNS on shared networks.

use std::fs;
use std::net::IpAddr;

use berth_link::boot::BootSpec;

use crate::block::{BERTH, Place};
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, FileError, Loss, edit, ensure_directory, put, read_text, remove};
use crate::guest::Guest;
use crate::programs::Command;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLVED_DIRECTORY: &str = "/etc/systemd/resolved.conf.d";
const RESOLVED_DROP_IN: &str = "/etc/systemd/resolved.conf.d/10-berth-dns.conf";
/// Lima's name for it.
const MDNS_DROP_IN: &str = "/etc/systemd/resolved.conf.d/00-lima-enable-mdns.conf";
const NETWORK_MANAGER_DIRECTORY: &str = "/etc/NetworkManager/conf.d";
const NETWORK_MANAGER_DROP_IN: &str = "/etc/NetworkManager/conf.d/90-berth-dns.conf";
/// The name servers that systemd-resolved asks now.
const RESOLVED_NOW: &str = "/run/systemd/resolve/resolv.conf";

/// Who decides which name servers the guest asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    Resolved,
    NetworkManager,
    File,
}

fn resolver(guest: &Guest) -> Resolver {
    let target = fs::read_link(guest.path(RESOLV_CONF)).unwrap_or_default();
    if target.to_string_lossy().contains("systemd/resolve/") {
        Resolver::Resolved
    } else if guest.has(NETWORK_MANAGER_DIRECTORY) && guest.has_program("NetworkManager") {
        Resolver::NetworkManager
    } else {
        Resolver::File
    }
}

/// Has the guest ask the host's choice of name servers, or its own again when there is none.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let servers = &work.spec.dns;
    if let Some(wrong) = servers
        .iter()
        .find(|server| server.parse::<IpAddr>().is_err())
    {
        return Err(impossible(format!("dns: {wrong:?} is no IP address")));
    }
    match resolver(work.guest) {
        Resolver::Resolved => resolved(work, servers).await,
        Resolver::NetworkManager => network_manager(work, servers).await,
        Resolver::File => {
            let lines: Vec<String> = servers
                .iter()
                .map(|server| format!("nameserver {server}"))
                .collect();
            let path = work.guest.path(RESOLV_CONF);
            Ok(Done::changed(edit(&path, 0o644, |text| {
                BERTH.set(text, Place::Top, &lines)
            })?))
        }
    }
}

async fn resolved(work: &Work<'_>, servers: &[String]) -> Result<Done, StepError> {
    // `~.`: ask these for all names, whatever servers the interfaces got by DHCP.
    let text = (!servers.is_empty())
        .then(|| format!("[Resolve]\nDNS={}\nDomains=~.\n", servers.join(" ")));
    let changed = drop_in(
        work.guest,
        RESOLVED_DIRECTORY,
        RESOLVED_DROP_IN,
        text.as_deref(),
    )?;
    // On a first boot DHCP mostly says the same: no reason to restart it in the middle of the boot.
    if changed && !asks_already(work.guest, servers)? {
        reload_resolved(work).await?;
    }
    Ok(Done::changed(changed))
}

fn asks_already(guest: &Guest, servers: &[String]) -> Result<bool, FileError> {
    let now = read_text(&guest.path(RESOLVED_NOW))?.unwrap_or_default();
    let asked = now
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    Ok(asked.map(str::trim).eq(servers.iter().map(String::as_str)))
}

async fn reload_resolved(work: &Work<'_>) -> Result<(), StepError> {
    work.systemctl_no_wait(&["try-reload-or-restart", "systemd-resolved.service"])
        .await
}

async fn network_manager(work: &Work<'_>, servers: &[String]) -> Result<Done, StepError> {
    let text = (!servers.is_empty())
        .then(|| format!("[global-dns-domain-*]\nservers={}\n", servers.join(",")));
    let changed = drop_in(
        work.guest,
        NETWORK_MANAGER_DIRECTORY,
        NETWORK_MANAGER_DROP_IN,
        text.as_deref(),
    )?;
    if changed {
        work.systemctl_no_wait(&["try-reload-or-restart", "NetworkManager.service"])
            .await?;
    }
    Ok(Done::changed(changed))
}

/// Writes a drop-in, or takes it away.
fn drop_in(
    guest: &Guest,
    directory: &str,
    path: &str,
    text: Option<&str>,
) -> Result<bool, FileError> {
    let Some(text) = text else {
        return remove(&guest.path(path));
    };
    ensure_directory(&guest.path(directory), Attributes::root(0o755))?;
    put(
        &guest.path(path),
        text.as_bytes(),
        Attributes::root(0o644),
        Loss::Repaired,
    )
}

/// There is systemd-resolved, and a network that others are on too: QEMU's user network carries no multicast.
pub(crate) fn multicast_applies(spec: &BootSpec, guest: &Guest) -> bool {
    spec.nics.len() > 1 && resolver(guest) == Resolver::Resolved
}

/// Has the guest answer to `NAME.local` on its shared networks.
pub(crate) async fn multicast(work: &Work<'_>) -> Result<Done, StepError> {
    let text = "[Resolve]\nMulticastDNS=yes\n";
    let changed = drop_in(work.guest, RESOLVED_DIRECTORY, MDNS_DROP_IN, Some(text))?;
    if changed {
        reload_resolved(work).await?;
    }
    for nic in work.spec.nics.iter().skip(1) {
        work.run(Command::new("resolvectl").args(["mdns", &nic.name, "yes"]))
            .await?;
    }
    Ok(Done::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    const RELOAD: &str = "systemctl --no-block try-reload-or-restart systemd-resolved.service";

    fn scene(servers: &[&str]) -> Scene {
        let mut scene = Scene::systemd();
        scene.spec.dns = servers.iter().map(|server| (*server).to_owned()).collect();
        scene
    }

    #[tokio::test(flavor = "current_thread")]
    async fn resolved_gets_a_drop_in_and_loses_it_again() {
        let mut scene = scene(&["192.168.5.3", "fd00::3"]);
        scene.link(RESOLV_CONF, "../run/systemd/resolve/stub-resolv.conf");
        scene.run_twice(run).await;
        assert_eq!(scene.ran(), [RELOAD]);
        assert_eq!(
            scene.read(RESOLVED_DROP_IN),
            "[Resolve]\nDNS=192.168.5.3 fd00::3\nDomains=~.\n"
        );
        scene.spec.dns.clear();
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        assert!(!scene.guest.has(RESOLVED_DROP_IN));
        assert_eq!(scene.run(run).await.unwrap(), Done::Already);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn resolved_is_left_running_where_it_asks_them_already() {
        let scene = scene(&["192.168.5.3"]);
        scene.link(RESOLV_CONF, "../run/systemd/resolve/stub-resolv.conf");
        scene.write(
            RESOLVED_NOW,
            "# comment\nnameserver 192.168.5.3\nsearch .\n",
        );
        scene.run_twice(run).await;
        assert_eq!(scene.ran(), Vec::<String>::new());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn network_manager_gets_its_own_form() {
        let scene = scene(&["192.168.5.3", "1.1.1.1"]);
        scene.install("NetworkManager");
        fs::create_dir_all(scene.path(NETWORK_MANAGER_DIRECTORY)).unwrap();
        scene.run_twice(run).await;
        let text = "[global-dns-domain-*]\nservers=192.168.5.3,1.1.1.1\n";
        assert_eq!(scene.read(NETWORK_MANAGER_DROP_IN), text);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_plain_file_gets_a_block_at_its_top() {
        let scene = scene(&["192.168.5.3"]);
        scene.write(RESOLV_CONF, "nameserver 10.0.2.3\n");
        scene.run_twice(run).await;
        let block = format!("{}\nnameserver 192.168.5.3\n{}\n", BERTH.begin, BERTH.end);
        assert_eq!(
            scene.read(RESOLV_CONF),
            format!("{block}nameserver 10.0.2.3\n")
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_must_be_an_address() {
        let why = scene(&["8.8.8.8\nDomains=evil"])
            .run(run)
            .await
            .unwrap_err();
        assert_eq!(
            why.to_string(),
            "dns: \"8.8.8.8\\nDomains=evil\" is no IP address"
        );
    }
}
