//! Services as `kubectl get --watch` tells them: a JSON object for each change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::ports::{GuestSocket, Transport};

/// Most ports of all services together: more than a host wants to know of.
const MAX_PORTS: usize = 4096;

/// Why a line is no event.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// It is something else.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The cluster ends the watch.
    #[error("the cluster reports an error")]
    Refused,
}

/// The services that there are.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// By namespace and name.
    known: BTreeMap<(String, String), Vec<GuestSocket>>,
}

impl Services {
    /// Takes notice of a line.
    pub(super) fn apply(&mut self, line: &[u8]) -> Result<(), WatchError> {
        let kind: Kind = serde_json::from_slice(line)?;
        let is_gone = match kind.name.as_str() {
            "ADDED" | "MODIFIED" => false,
            "DELETED" => true,
            "ERROR" => return Err(WatchError::Refused),
            // A bookmark.
            _ => return Ok(()),
        };
        let Event { object } = serde_json::from_slice(line)?;
        let name = (object.metadata.namespace, object.metadata.name);
        self.known.remove(&name);
        let sockets = object.spec.sockets();
        let count: usize = self.known.values().map(Vec::len).sum();
        if !is_gone && !sockets.is_empty() && count + sockets.len() <= MAX_PORTS {
            self.known.insert(name, sockets);
        }
        Ok(())
    }

    /// All their ports.
    pub(super) fn sockets(&self) -> BTreeSet<GuestSocket> {
        self.known.values().flatten().copied().collect()
    }
}

/// What every event has.
#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    name: String,
}

/// An event about a service.
#[derive(Debug, Deserialize)]
struct Event {
    object: Service,
}

#[derive(Debug, Deserialize)]
struct Service {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    kind: String,
    ports: Vec<Port>,
    ip_families: Vec<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    protocol: String,
    #[serde(rename = "port")]
    of_service: u16,
    #[serde(rename = "nodePort")]
    of_node: u16,
}

impl Spec {
    /// Where the node answers for it.
    fn sockets(&self) -> Vec<GuestSocket> {
        let number = |port: &Port| match self.kind.as_str() {
            "NodePort" => port.of_node,
            "LoadBalancer" => port.of_service,
            // Reachable in the cluster only.
            _ => 0,
        };
        let families = self.families();
        let sockets = self.ports.iter().flat_map(|port| {
            let number = number(port);
            let transport = port.transport();
            families
                .iter()
                .filter_map(move |family| GuestSocket::new(transport?, (*family, number).into()))
        });
        sockets.collect()
    }

    /// All addresses of the node, of each family that it is for. Clusters before 1.20 name none.
    fn families(&self) -> Vec<IpAddr> {
        const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let named = self
            .ip_families
            .iter()
            .filter_map(|family| match family.as_str() {
                "IPv4" => Some(IPV4),
                "IPv6" => Some(IPV6),
                _ => None,
            });
        let named: Vec<_> = named.collect();
        match named[..] {
            [] if self.cluster_ip.contains(':') => vec![IPV6],
            [] => vec![IPV4],
            _ => named,
        }
    }
}

impl Port {
    fn transport(&self) -> Option<Transport> {
        match self.protocol.as_str() {
            "TCP" | "" => Some(Transport::Tcp),
            "UDP" => Some(Transport::Udp),
            _ => None,
        }
    }
}
