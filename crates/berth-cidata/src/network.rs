//! The guest's network: its interfaces, its name servers, and cloud-init's `network-config`.

use std::net::IpAddr;

use berth_config::model::Config;
use berth_link::boot::Nic;

use crate::input::{Input, Subnet};
use crate::yaml::Yaml;

/// Route metric of the default network.
const DEFAULT_METRIC: u32 = 200;

/// Parameter of the configuration that marks every interface as optional, so that the guest's boot does not wait for it.
const OPTIONAL_PARAM: &str = "internal_netplanOptional";

/// The interfaces of the guest: `eth0` on the default network, then one for each entry of `networks`.
#[must_use]
pub fn nics(config: &Config, eth0_mac: &str) -> Vec<Nic> {
    let eth0 = Nic {
        mac: eth0_mac.to_ascii_lowercase(),
        name: "eth0".to_owned(),
        metric: DEFAULT_METRIC,
    };
    let others = config.networks.iter().map(|network| Nic {
        mac: network.mac_address.to_ascii_lowercase(),
        name: network.interface.clone(),
        metric: network.metric,
    });
    std::iter::once(eth0).chain(others).collect()
}

/// The name servers that the guest is told; empty: what DHCP says.
///
/// `dns` of the configuration, else what DHCP says where the host resolver is out of reach, else the network's own name server
/// while the host resolver is on, else the host's servers.
#[must_use]
pub fn name_servers(config: &Config, subnet: &Subnet, host_dns: &[IpAddr]) -> Vec<IpAddr> {
    match subnet.dns {
        _ if !config.dns.is_empty() => config.dns.clone(),
        None => Vec::new(),
        Some(server) if config.host_resolver.enabled => vec![server],
        Some(_) => host_dns.to_vec(),
    }
}

/// Renders `network-config` (netplan version 2): each interface is found by MAC address, named, and set up by DHCP.
pub(crate) fn network_config(input: &Input<'_>) -> String {
    let servers = name_servers(input.config, &input.subnet, input.host_dns);
    let optional = input
        .config
        .param
        .get(OPTIONAL_PARAM)
        .is_some_and(|value| value == "true");
    let ethernets = nics(input.config, input.mac).into_iter().map(|nic| {
        let mut keys = vec![
            ("match", Yaml::map([("macaddress", Yaml::text(&nic.mac))])),
            ("dhcp4", Yaml::Bool(true)),
            ("set-name", Yaml::text(&nic.name)),
            (
                "dhcp4-overrides",
                Yaml::map([("route-metric", Yaml::Int(nic.metric.into()))]),
            ),
            ("dhcp-identifier", Yaml::text("mac")),
        ];
        if optional {
            keys.push(("optional", Yaml::Bool(true)));
        }
        if nic.name == "eth0" && !servers.is_empty() {
            let addresses = Yaml::texts(servers.iter().map(IpAddr::to_string));
            keys.push(("nameservers", Yaml::map([("addresses", addresses)])));
        }
        (nic.name, Yaml::map(keys))
    });
    Yaml::map([
        ("version", Yaml::Int(2)),
        ("ethernets", Yaml::map(ethernets)),
    ])
    .render()
}
