//! Port forwards and copies to the host.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{Config, PortForward};
use crate::resolve::{ResolveContext, is_absolute};

use super::Findings;

pub(super) fn check(config: &Config, ctx: &ResolveContext<'_>, findings: &mut Findings) {
    for (index, rule) in config.port_forwards.iter().enumerate() {
        let key = format!("portForwards[{index}]");
        check_guest_side(&key, rule, findings);
        check_host_side(&key, rule, ctx, findings);
        check_both_sides(&key, rule, findings);
    }
    for (index, copy) in config.copy_to_host.iter().enumerate() {
        let key = format!("copyToHost[{index}]");
        let host = copy.host.to_string_lossy();
        if !copy.guest.starts_with('/') {
            findings.add(
                format!("{key}.guest"),
                format!("{:?} must be an absolute path", copy.guest),
            );
        }
        if !is_absolute(ctx.platform, &host) {
            findings.add(
                format!("{key}.host"),
                format!("{host:?} must be an absolute path"),
            );
        }
    }
    if config.host_resolver.enabled && !config.dns.is_empty() {
        findings.add(
            "dns",
            "has no effect while `hostResolver.enabled` is true: set that to false, or remove this",
        );
    }
}

fn check_guest_side(key: &str, rule: &PortForward, findings: &mut Findings) {
    if rule.guest_ip_must_be_zero && rule.guest_ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        findings.add(
            format!("{key}.guestIPMustBeZero"),
            format!("true needs `guestIP: 0.0.0.0`, not {}", rule.guest_ip),
        );
    }
    if rule.guest_socket.is_empty() {
        check_ports(
            key,
            "guest",
            rule.guest_port,
            rule.guest_port_range,
            findings,
        );
        return;
    }
    if rule.guest_port != 0 {
        findings.add(
            format!("{key}.guestPort"),
            "cannot stand beside `guestSocket`: remove one",
        );
    }
    if !rule.guest_socket.starts_with('/') {
        findings.add(
            format!("{key}.guestSocket"),
            format!("{:?} must be an absolute path", rule.guest_socket),
        );
    }
}

fn check_host_side(
    key: &str,
    rule: &PortForward,
    ctx: &ResolveContext<'_>,
    findings: &mut Findings,
) {
    let Some(socket) = &rule.host_socket else {
        if rule.host_port != 0 || rule.host_port_range != rule.guest_port_range {
            check_ports(key, "host", rule.host_port, rule.host_port_range, findings);
        }
        return;
    };
    if rule.host_port != 0 {
        findings.add(
            format!("{key}.hostPort"),
            "cannot stand beside `hostSocket`: remove one",
        );
    }
    let length = socket.as_os_str().len();
    let limit = ctx.platform.unix_path_max() - 1;
    if length > limit {
        findings.add(
            format!("{key}.hostSocket"),
            format!(
                "{} has {length} bytes, and a unix socket allows {limit}: choose a shorter path",
                socket.display()
            ),
        );
    }
}

/// Checks a port, or the range if no single port is named, so that one mistake makes one message.
fn check_ports(key: &str, side: &str, port: u16, range: [u16; 2], findings: &mut Findings) {
    let range_key = format!("{key}.{side}PortRange");
    if port == 0 {
        for end in range {
            if let Some(why) = unusable(side, end) {
                findings.add(&*range_key, why);
            }
        }
    } else if let Some(why) = unusable(side, port) {
        findings.add(format!("{key}.{side}Port"), why);
        return;
    } else if port != range[0] {
        findings.add(
            format!("{key}.{side}Port"),
            format!("{port} is not the start of `{side}PortRange`: remove one of them"),
        );
    }
    if range[0] > range[1] {
        findings.add(range_key, "must be ascending");
    }
}

fn unusable(side: &str, port: u16) -> Option<&'static str> {
    match (port, side) {
        (0, _) => Some("must be set: write ports from 1 to 65535"),
        (22, "guest") => Some("must not be 22: that is the guest's own SSH server"),
        (22, _) => Some("must not be 22: the host's SSH server stands there"),
        _ => None,
    }
}

fn check_both_sides(key: &str, rule: &PortForward, findings: &mut Findings) {
    let width = |range: [u16; 2]| range[1].saturating_sub(range[0]);
    let (guest, host) = (width(rule.guest_port_range), width(rule.host_port_range));
    match (rule.guest_socket.is_empty(), &rule.host_socket) {
        (true, None) if guest != host => findings.add(
            format!("{key}.hostPortRange"),
            "must have as many ports as `guestPortRange`",
        ),
        (true, Some(_)) if guest > 0 => findings.add(
            format!("{key}.hostSocket"),
            "takes only one guest port: write `guestPort`",
        ),
        (false, None) if host > 0 => findings.add(
            format!("{key}.guestSocket"),
            "goes to only one host port: write `hostPort` or `hostSocket`",
        ),
        _ => {}
    }
    if rule.reverse && (rule.guest_socket.is_empty() || rule.host_socket.is_none()) {
        findings.add(
            format!("{key}.reverse"),
            "needs both `guestSocket` and `hostSocket`",
        );
    }
}
