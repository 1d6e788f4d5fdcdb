//! `networks`: merged by interface name.

use std::path::PathBuf;

use crate::mac;
use crate::model::Network;
use crate::schema;
use crate::sources::{Origin, Source};

use super::Resolver;

const DEFAULT_METRIC: u32 = 100;

impl Resolver<'_> {
    pub(super) fn networks(&mut self) -> Vec<Network> {
        let mut merged: Vec<(schema::Network, Origin)> = Vec::new();
        for source in [Source::Default, Source::Instance, Source::Over] {
            for (index, network) in self.sources.yaml(source).networks.iter().enumerate() {
                let name = named(network);
                match merged
                    .iter_mut()
                    .find(|(earlier, _)| name.is_some() && named(earlier) == name)
                {
                    Some((earlier, _)) => overwrite(earlier, network),
                    None => merged.push((network.clone(), Origin { source, index })),
                }
            }
        }
        let origins = merged.iter().map(|(_, origin)| *origin).collect();
        self.report.record("networks", origins);
        let lima_yaml = self.ctx.instance_dir.join("lima.yaml");
        merged
            .into_iter()
            .enumerate()
            .map(|(index, (network, _))| {
                let machine_id = &self.ctx.platform.machine_id;
                Network {
                    mac_address: given(network.mac_address)
                        .unwrap_or_else(|| mac::extra_nic(machine_id, &lima_yaml, index)),
                    interface: given(network.interface).unwrap_or_else(|| format!("lima{index}")),
                    lima: given(network.lima),
                    socket: given(network.socket).map(PathBuf::from),
                    vz_nat: network.vz_nat.unwrap_or(false),
                    metric: network.metric.unwrap_or(DEFAULT_METRIC),
                }
            })
            .collect()
    }
}

/// An empty text is none.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn named(network: &schema::Network) -> Option<&str> {
    network.interface.as_deref().filter(|name| !name.is_empty())
}

/// Lets a later entry for the same interface say where it leads; `vzNAT` stays as it is.
fn overwrite(earlier: &mut schema::Network, later: &schema::Network) {
    if let Some(socket) = given(later.socket.clone()) {
        earlier.socket = Some(socket);
        earlier.lima = None;
    }
    if let Some(lima) = given(later.lima.clone()) {
        earlier.lima = Some(lima);
        earlier.socket = None;
    }
    if let Some(address) = given(later.mac_address.clone()) {
        earlier.mac_address = Some(address);
    }
    if later.metric.is_some() {
        earlier.metric = later.metric;
    }
}
