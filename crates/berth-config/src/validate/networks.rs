//! Extra network interfaces.

use std::collections::BTreeSet;
use std::path::Path;

use crate::mac;
use crate::model::{Config, Network};

use super::Findings;

/// `IFNAMSIZ`, with its terminating zero byte.
const MAX_INTERFACE_NAME: usize = 16;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let mut interfaces = BTreeSet::new();
    for (index, network) in config.networks.iter().enumerate() {
        let key = format!("networks[{index}]");
        check_kind(&key, network, findings);
        if mac::parse(&network.mac_address).is_none() {
            findings.add(
                format!("{key}.macAddress"),
                format!("{:?} is no MAC address of six bytes", network.mac_address),
            );
        }
        check_interface(&format!("{key}.interface"), &network.interface, findings);
        if !interfaces.insert(&network.interface) {
            findings.add(
                format!("{key}.interface"),
                format!("{:?} is used twice: choose another name", network.interface),
            );
        }
    }
}

fn check_kind(key: &str, network: &Network, findings: &mut Findings) {
    let kinds = [
        network.lima.is_some(),
        network.socket.is_some(),
        network.vz_nat,
    ];
    match kinds.iter().filter(|is_set| **is_set).count() {
        0 => findings.add(key, "needs one of `lima`, `socket` or `vzNAT`"),
        1 => {}
        _ => findings.add(key, "must have only one of `lima`, `socket` and `vzNAT`"),
    }
    if let Some(name) = &network.lima {
        findings.add(
            format!("{key}.lima"),
            format!("network {name:?} cannot be joined: berth does not run Lima's networks yet; use `socket`, or remove the entry"),
        );
    }
    if let Some(socket) = &network.socket
        && exists_as_something_else(socket)
    {
        findings.add(
            format!("{key}.socket"),
            format!("{} is no socket", socket.display()),
        );
    }
}

#[cfg(unix)]
fn exists_as_something_else(socket: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(socket).is_ok_and(|metadata| !metadata.file_type().is_socket())
}

#[cfg(not(unix))]
fn exists_as_something_else(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|metadata| metadata.is_dir())
}

fn check_interface(key: &str, name: &str, findings: &mut Findings) {
    if name == "eth0" {
        findings.add(key, "must not be `eth0`: that is the first interface");
    }
    if name.len() >= MAX_INTERFACE_NAME || name.contains([' ', '\t', '\n', '/']) {
        findings.add(
            key,
            format!("{name:?} is no interface name: at most 15 bytes, without blanks and `/`"),
        );
    }
}
