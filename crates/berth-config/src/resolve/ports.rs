//! `portForwards` and `copyToHost`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::model::{CopyToHost, HostIp, HostIpError, PortForward, Proto};
use crate::schema;

use super::images::is_absolute;
use super::{Resolver, Templates};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Resolver<'_> {
    pub(super) fn port_forwards(&mut self, templates: &Templates) -> Vec<PortForward> {
        let entries = self
            .report
            .concatenate("portForwards", |yaml| &yaml.port_forwards);
        entries
            .into_iter()
            .enumerate()
            .map(|(index, rule)| {
                self.port_forward(&format!("portForwards[{index}]"), rule, templates)
            })
            .collect()
    }

    fn port_forward(
        &mut self,
        key: &str,
        rule: &schema::PortForward,
        templates: &Templates,
    ) -> PortForward {
        let must_be_zero = rule.guest_ip_must_be_zero;
        let default_ip = if must_be_zero == Some(true) {
            ANY
        } else {
            LOOPBACK
        };
        let guest_ip = self.ip(
            &format!("{key}.guestIP"),
            rule.guest_ip.as_deref(),
            default_ip,
        );
        let guest_port = self.port(&format!("{key}.guestPort"), rule.guest_port);
        let host_port = self.port(&format!("{key}.hostPort"), rule.host_port);
        let guest_port_range = self
            .port_range(&format!("{key}.guestPortRange"), rule.guest_port_range)
            .unwrap_or(if guest_port == 0 {
                [1, u16::MAX]
            } else {
                [guest_port; 2]
            });
        let host_socket = self.host_socket(key, rule.host_socket.as_deref(), templates);
        let host_port_range = self
            .port_range(&format!("{key}.hostPortRange"), rule.host_port_range)
            .unwrap_or(match host_port {
                0 if host_socket.is_some() => [0; 2],
                0 => guest_port_range,
                port => [port; 2],
            });
        let ignore = rule.ignore.unwrap_or(false);
        PortForward {
            // Lima fills in true for `ignore` rules too, and then goes on forwarding what listens on loopback, although its
            // own template offers `{guestIP: 0.0.0.0, ignore: true}` as the way to switch forwarding off. Here that works:
            // only who writes `guestIPMustBeZero: true` means wildcard listeners alone.
            guest_ip_must_be_zero: must_be_zero.unwrap_or(guest_ip == ANY && !ignore),
            guest_ip,
            guest_port,
            guest_port_range,
            guest_socket: self.render(
                &templates.guest,
                &format!("{key}.guestSocket"),
                rule.guest_socket.as_deref().unwrap_or_default(),
            ),
            host_ip: self.host_ip(&format!("{key}.hostIP"), rule.host_ip.as_deref()),
            host_port,
            host_port_range,
            host_socket,
            proto: match rule.proto.as_deref() {
                None | Some("") => Proto::Any,
                Some(word) => self
                    .word(&format!("{key}.proto"), word)
                    .unwrap_or(Proto::Any),
            },
            reverse: rule.reverse.unwrap_or(false),
            ignore,
            is_static: rule.is_static.unwrap_or(false),
        }
    }

    /// A socket on the host; a relative one lies in the instance's `sock` directory.
    fn host_socket(
        &mut self,
        key: &str,
        socket: Option<&str>,
        templates: &Templates,
    ) -> Option<PathBuf> {
        let socket = socket.filter(|socket| !socket.is_empty())?;
        let socket = self.render(&templates.host, &format!("{key}.hostSocket"), socket);
        if is_absolute(self.ctx.platform, &socket) {
            return Some(PathBuf::from(socket));
        }
        Some(self.ctx.instance_dir.join("sock").join(socket))
    }

    fn port_range(&mut self, key: &str, range: Option<[i64; 2]>) -> Option<[u16; 2]> {
        let [first, last] = range.filter(|range| *range != [0, 0])?;
        Some([self.port(key, Some(first)), self.port(key, Some(last))])
    }

    /// Reads a port, where 0 means none.
    pub(super) fn port(&mut self, key: &str, port: Option<i64>) -> u16 {
        let port = port.unwrap_or(0);
        u16::try_from(port).unwrap_or_else(|_| {
            self.report
                .refuse(key, format!("{port} is no port: write 1 to 65535"));
            0
        })
    }

    fn ip(&mut self, key: &str, text: Option<&str>, default: IpAddr) -> IpAddr {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.report.refuse(
                key,
                format!("{text:?} is no IP address: names are not resolved here"),
            );
            default
        })
    }

    fn host_ip(&mut self, key: &str, text: Option<&str>) -> HostIp {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return HostIp::Address(LOOPBACK);
        };
        text.parse().unwrap_or_else(|why: HostIpError| {
            self.report.refuse(key, why.to_string());
            HostIp::Address(LOOPBACK)
        })
    }

    pub(super) fn copy_to_host(&mut self, templates: &Templates) -> Vec<CopyToHost> {
        let entries = self
            .report
            .concatenate("copyToHost", |yaml| &yaml.copy_to_host);
        let mut copies = Vec::new();
        for (index, copy) in entries.into_iter().enumerate() {
            let key = format!("copyToHost[{index}]");
            let guest = copy.guest.as_deref().unwrap_or_default();
            let host = copy.host.as_deref().unwrap_or_default();
            copies.push(CopyToHost {
                guest: self.render(&templates.guest, &format!("{key}.guest"), guest),
                host: PathBuf::from(self.render(&templates.host, &format!("{key}.host"), host)),
                skip_if_missing: copy.skip_if_missing.unwrap_or(false),
                delete_on_stop: copy.delete_on_stop.unwrap_or(false),
            });
        }
        copies
    }
}
