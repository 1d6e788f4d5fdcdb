//! A network of a test's own, so that ports mean the same on every machine and nobody else listens on them.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The host's address that is not its loopback's.
pub(crate) const IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// The same for IPv6.
pub(crate) const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x77);

/// This thread's network, until dropped: loopback with both versions of IP, and [`IPV4`] and [`IPV6`]. Programs that the thread
/// starts, agents and guests included, are in it as well.
pub(crate) struct OwnNetwork {
    before: File,
}

impl OwnNetwork {
    /// Makes the network, and moves this thread into it.
    #[track_caller]
    pub(crate) fn enter() -> Self {
        let before = File::open("/proc/thread-self/ns/net").expect("a network");
        let script = format!(
            "ip link set lo up && ip address add {IPV4}/32 dev lo && ip address add {IPV6}/128 dev lo nodad && echo made && exec cat"
        );
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut made = [0; 5];
        let mut said = keeper.stdout.take().expect("a pipe");
        std::io::Read::read_exact(&mut said, &mut made)
            .expect("root may make networks: run `cargo xtask test` as root");
        let network = File::open(format!("/proc/{}/ns/net", keeper.id())).expect("its network");
        enter(&network);
        drop(keeper.stdin.take());
        keeper.wait().expect("it ends with its input");
        Self { before }
    }

    /// Addresses that lead to what listens on `host`: every one that this thread's network has, when it listens on all.
    pub(crate) fn ways_to(host: IpAddr) -> Vec<IpAddr> {
        if !host.is_unspecified() {
            return vec![host];
        }
        let mut ways: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let others: [IpAddr; 2] = [IPV4.into(), IPV6.into()];
        let is_here = |ip: &IpAddr| UdpSocket::bind((*ip, 0)).is_ok();
        ways.extend(others.into_iter().filter(is_here));
        ways
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        enter(&self.before);
    }
}

fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may change its network");
}
