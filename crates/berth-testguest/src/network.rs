//! Network namespaces: the guest's, with one card, and the gateway's, at the other end of its cable.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::arguments::UserNetwork;
use crate::sys;

/// The host's network namespace, seen from a thread that lives in another.
#[derive(Debug)]
pub(crate) struct HostNamespace {
    host: OwnedFd,
    home: OwnedFd,
}

impl HostNamespace {
    /// Runs `work` (making a socket, which stays where it was made) in the host's network namespace.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        move_into(&self.host)?;
        let result = work();
        move_into(&self.home).expect("a namespace that we hold open does not vanish");
        result
    }
}

/// What [`set_up`] made.
#[derive(Debug)]
pub(crate) struct Networks {
    /// The guest's namespace.
    pub(crate) guest: OwnedFd,
    /// The gateway's namespace, in which the calling thread now lives.
    pub(crate) gateway: OwnedFd,
    /// The way back to the host's, for that thread.
    pub(crate) host: HostNamespace,
}

/// Moves the calling thread into a new gateway namespace, and lays a cable from there to a new guest namespace.
pub(crate) fn set_up(network: Option<&UserNetwork>, mac: Option<&str>) -> Result<Networks> {
    let host = current().context("open the host's network namespace")?;
    let guest = on_a_thread(new_namespace).context("make the guest's network namespace")?;
    let gateway = new_namespace().context("make the gateway's network namespace")?;
    if let Some(network) = network {
        lay_cable(network, mac, &guest)?;
    }
    let home = gateway.try_clone().context("duplicate a descriptor")?;
    Ok(Networks {
        guest,
        gateway,
        host: HostNamespace { host, home },
    })
}

/// A packet to nowhere is answered; thousands of connections a second to one port of the guest do not run out of ports.
const GATEWAY_SETTINGS: [(&str, &str); 3] = [
    ("ip_forward", "1"),
    ("ip_local_port_range", "1024 65535"),
    ("tcp_tw_reuse", "1"),
];

/// With a default route that leads nowhere, and says so: nothing beyond this host is reachable.
fn lay_cable(network: &UserNetwork, mac: Option<&str>, guest: &OwnedFd) -> Result<()> {
    let UserNetwork { gateway, dns, .. } = network;
    let guest_path = format!("/proc/{}/fd/{}", std::process::id(), guest.as_raw_fd());
    let card_mac = mac.map_or_else(String::new, |mac| format!("address {mac}"));
    ip(&format!(
        "link set lo up\n\
         link add uplink address {} type veth peer name eth0 {card_mac} netns {guest_path}\n\
         addr add {gateway}/24 dev uplink\n\
         addr add {dns}/32 dev uplink\n\
         link set uplink up\n",
        mac_of(*gateway)
    ))
    .context("set up the gateway's end of the network")?;
    for (name, value) in GATEWAY_SETTINGS {
        let path = format!("/proc/sys/net/ipv4/{name}");
        std::fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    let inside = format!(
        "link set lo up\n\
         link set eth0 up\n\
         addr add {}/24 dev eth0\n\
         route add default via {gateway} dev eth0\n",
        network.guest
    );
    let guest = guest.try_clone().context("duplicate a descriptor")?;
    on_a_thread(move || {
        move_into(&guest)?;
        ip(&inside)
    })
    .context("set up the guest's network card")
}

/// The address that QEMU's user network gives its gateway.
fn mac_of(gateway: Ipv4Addr) -> String {
    let [a, b, c, d] = gateway.octets();
    format!("52:55:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Runs commands of `ip` in the calling thread's namespace.
fn ip(commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("start `ip` (package iproute2)")?;
    let mut input = child.stdin.take().expect("it was asked for");
    let written = input.write_all(commands.as_bytes());
    drop(input);
    let status = child.wait().context("wait for `ip`")?;
    if !status.success() {
        bail!("`ip` failed: {status}");
    }
    written.context("write to `ip`")
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().expect("the thread does not panic"))
}

fn new_namespace() -> Result<OwnedFd> {
    sys::unshare(UnshareFlags::NEWNET)?;
    Ok(current()?)
}

fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn move_into(namespace: &OwnedFd) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        kind,
    )?)
}
