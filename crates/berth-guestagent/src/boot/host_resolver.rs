//! Questions for names go to the host's resolver: what is sent to the user network's name server arrives at ports of the host.
//!
//! Through `nf_tables` where the kernel has it, which needs no program; else through `iptables`. Whatever flushes the guest's firewall
//! takes the redirection away with it, so the kernel is asked to tell.

use std::net::Ipv4Addr;

use berth_link::boot::{BootSpec, HostResolverSpec};

use crate::args::chain;
use crate::boot::step::{Done, Site, StepError, Work, impossible};
use crate::guest::Guest;
use crate::netlink::{Deleted, Deletions, Redirection, RedirectionTable};
use crate::programs::Command;

/// Name of the step, and of its log.
pub(crate) const NAME: &str = "host-resolver";
/// Our table in `nf_tables`.
const TABLE: &str = "berth-names";
/// The chain in iptables has Lima's name: its users' scripts know it.
const CHAIN: &str = "LIMADNS";
/// The table of `nf_tables` that iptables works with, where it does.
const IPTABLES_TABLE: &str = "nat";
const PORT: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The host has a resolver.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    spec.host_resolver.is_some()
}

/// Redirects questions to it.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let Some(resolver) = &work.spec.host_resolver else {
        return Ok(Done::Already);
    };
    let without_program = RedirectionTable::named(TABLE).and_then(|table| set(&table, resolver));
    match without_program {
        Ok(()) => Ok(Done::Changed),
        Err(why) => through_iptables(work, resolver, &why).await,
    }
}

fn set(table: &RedirectionTable, resolver: &HostResolverSpec) -> std::io::Result<()> {
    let redirection = |protocol, port| Redirection {
        protocol,
        from: (resolver.address, PORT),
        to: (resolver.host, port),
    };
    table.set(&[
        redirection(UDP, resolver.udp_port),
        redirection(TCP, resolver.tcp_port),
    ])
}

async fn through_iptables(
    work: &Work<'_>,
    resolver: &HostResolverSpec,
    why: &std::io::Error,
) -> Result<Done, StepError> {
    if !work.guest.has_program("iptables") {
        return Err(impossible(format!(
            "the kernel's nf_tables cannot be used ({why}), and there is no iptables: names of hostResolver.hosts are not found"
        )));
    }
    let restore = Command::new("iptables-restore").args(["--noflush", "--wait"]);
    work.run(restore.input(chain_text(resolver))).await?;
    let iptables = |words: &[&str]| {
        Command::new("iptables")
            .args(["--wait", "-t", "nat"])
            .args(words)
    };
    for hook in ["PREROUTING", "OUTPUT"] {
        if work
            .exit_code(&iptables(&["-C", hook, "-j", CHAIN]))
            .await?
            != 0
        {
            work.run(iptables(&["-I", hook, "1", "-j", CHAIN])).await?;
        }
    }
    Ok(Done::Changed)
}

/// The chain as `iptables-restore` reads it; what it held before goes.
fn chain_text(resolver: &HostResolverSpec) -> String {
    let rule = |protocol: &str, from: Ipv4Addr, port: u16| {
        let to = resolver.host;
        format!(
            "-A {CHAIN} -d {from}/32 -p {protocol} --dport {PORT} -j DNAT --to-destination {to}:{port}\n"
        )
    };
    let from = resolver.address;
    format!(
        "*nat\n:{CHAIN} - [0:0]\n{}{}COMMIT\n",
        rule("udp", from, resolver.udp_port),
        rule("tcp", from, resolver.tcp_port)
    )
}

/// Restores the redirection whenever somebody else takes it away; never ends while the kernel tells. Where iptables works without
/// `nf_tables` (a legacy kernel), nobody tells of changes.
pub(crate) async fn keep(site: &Site<'_>) {
    let Some(resolver) = site
        .spec
        .host_resolver
        .as_ref()
        .filter(|_| !site.spec.plain)
    else {
        return;
    };
    if let Err(why) = kept(site, resolver).await {
        tracing::warn!(
            "the redirection of names is no longer restored: {}",
            chain(&why)
        );
    }
}

async fn kept(site: &Site<'_>, resolver: &HostResolverSpec) -> Result<(), StepError> {
    let deletions = Deletions::listen().map_err(StepError::Network)?;
    // The step has a socket of its own: that it sets the table anew is news, once, and does no harm.
    let table = RedirectionTable::named(TABLE).map_err(StepError::Network)?;
    loop {
        let ours = deletions.next(&table, IPTABLES_TABLE).await;
        match ours.map_err(StepError::Network)? {
            Deleted::FromTable if set(&table, resolver).is_ok() => {
                tracing::info!("questions for names are redirected again");
            }
            // Nothing of ours is in that table where ours is in place.
            Deleted::FromOther if set(&table, resolver).is_ok() => {}
            Deleted::FromTable | Deleted::FromOther => {
                run(&Work::new(site, NAME)).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn resolver() -> HostResolverSpec {
        HostResolverSpec {
            address: Ipv4Addr::new(192, 168, 5, 3),
            host: Ipv4Addr::new(192, 168, 5, 2),
            udp_port: 1053,
            tcp_port: 1054,
        }
    }

    fn refused() -> std::io::Error {
        std::io::ErrorKind::Unsupported.into()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn iptables_does_it_where_the_kernel_cannot() {
        let scene = Scene::systemd();
        scene.install("iptables");
        scene.answer("iptables --wait -t nat -C PREROUTING", 1, "");
        let done = scene
            .run(async |work| through_iptables(work, &resolver(), &refused()).await)
            .await;
        assert_eq!(done.unwrap(), Done::Changed);
        let ran = scene.commands();
        assert_eq!(
            ran[0].given(),
            "*nat\n:LIMADNS - [0:0]\n\
             -A LIMADNS -d 192.168.5.3/32 -p udp --dport 53 -j DNAT --to-destination 192.168.5.2:1053\n\
             -A LIMADNS -d 192.168.5.3/32 -p tcp --dport 53 -j DNAT --to-destination 192.168.5.2:1054\n\
             COMMIT\n"
        );
        let words: Vec<String> = ran.iter().map(Command::words).collect();
        assert_eq!(
            words[1..],
            [
                "iptables --wait -t nat -C PREROUTING -j LIMADNS",
                "iptables --wait -t nat -I PREROUTING 1 -j LIMADNS",
                "iptables --wait -t nat -C OUTPUT -j LIMADNS",
            ]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_either_it_says_what_is_missing() {
        let scene = Scene::systemd();
        let why = scene
            .run(async |work| through_iptables(work, &resolver(), &refused()).await)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("nf_tables") && why.contains("iptables"),
            "{why}"
        );
    }

    #[test]
    fn it_applies_where_the_host_has_a_resolver() {
        let mut scene = Scene::systemd();
        assert!(!applies(&scene.spec, &scene.guest));
        scene.spec.host_resolver = Some(resolver());
        assert!(applies(&scene.spec, &scene.guest));
    }
}
