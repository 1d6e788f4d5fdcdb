//! What the kernel tells about ports: who has one, and when it is free again.

mod freed;
mod owners;

pub(crate) use freed::FreedPorts;
pub(crate) use owners::owners_of_ports;

/// What a person can do about a port that may not be bound.
pub(crate) fn denied_hint(port: u16) -> String {
    format!(
        "ports below `sysctl net.ipv4.ip_unprivileged_port_start` need a privilege: run `sudo sysctl \
         net.ipv4.ip_unprivileged_port_start={port}`, or `sudo setcap cap_net_bind_service=+ep` on the berth binary"
    )
}
