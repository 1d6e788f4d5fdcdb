//! Who has a port: the kernel's socket tables (`proc_net(5)`) name inodes, `/proc/PID/fd` who holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use berth_process::escape::escape_untrusted;

use crate::address::Transport;

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Who has these ports, e.g. `nginx (pid 123)`. Reads much of `/proc`: for a thread that may block.
pub(crate) fn owners_of_ports(
    ports: &BTreeSet<(Transport, u16)>,
) -> BTreeMap<(Transport, u16), String> {
    let mut holders = Holders::default();
    for (table, transport) in [
        ("tcp", Transport::Tcp),
        ("tcp6", Transport::Tcp),
        ("udp", Transport::Udp),
        ("udp6", Transport::Udp),
    ] {
        // The thread's own, because a thread may have a network of its own. A host without IPv6 has no such file.
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1).filter_map(Line::parse) {
            let port = (transport, line.port);
            if ports.contains(&port) && (transport == Transport::Udp || line.state == LISTEN) {
                holders.inodes.insert(line.inode.to_owned(), port);
                let uid = format!("a process of user {}", line.uid);
                holders.owners.entry(port).or_insert(uid);
            }
        }
    }
    if !holders.inodes.is_empty() {
        holders.find();
    }
    holders.owners
}

/// One line of a socket table.
struct Line<'a> {
    port: u16,
    state: &'a str,
    uid: &'a str,
    inode: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // sl local rem st tx:rx tr:when retrnsmt uid timeout inode
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (_, port) = fields.next()?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let state = fields.nth(1)?;
        let uid = fields.nth(3)?;
        let inode = fields.nth(1)?;
        (inode != "0").then_some(Self {
            port,
            state,
            uid,
            inode,
        })
    }
}

#[derive(Default)]
struct Holders {
    /// Sockets whose process is not found yet.
    inodes: BTreeMap<String, (Transport, u16)>,
    owners: BTreeMap<(Transport, u16), String>,
}

impl Holders {
    fn find(&mut self) {
        let Ok(processes) = fs::read_dir("/proc") else {
            return;
        };
        for process in processes.flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            self.look_into(&process.path(), pid);
            if self.inodes.is_empty() {
                return;
            }
        }
    }

    fn look_into(&mut self, process: &Path, pid: u32) {
        // Processes of other users, and those that have just ended, cannot be looked into.
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
            return;
        };
        for descriptor in descriptors.flatten() {
            let Ok(link) = fs::read_link(descriptor.path()) else {
                continue;
            };
            let inode = link
                .to_str()
                .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(port) = inode.and_then(|inode| self.inodes.remove(inode)) {
                let program = fs::read(process.join("comm")).unwrap_or_default();
                let program = escape_untrusted(program.trim_ascii_end());
                self.owners.insert(port, format!("{program} (pid {pid})"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_as_the_kernel_writes_it() {
        let text = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 41235 1 0000000000000000 100 0 0 10 0";
        let line = Line::parse(text).unwrap();
        assert_eq!(
            (line.port, line.state, line.uid, line.inode),
            (8080, "0A", "1000", "41235")
        );
        let six = "  1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0";
        assert_eq!(Line::parse(six).unwrap().port, 22);
        for cut in [0, 20, 60, text.find("41235").unwrap()] {
            assert!(Line::parse(&text[..cut]).is_none());
        }
    }

    #[test]
    fn the_owner_of_a_port_is_this_very_process() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let tcp = (Transport::Tcp, tcp.local_addr().unwrap().port());
        let udp_port = (Transport::Udp, udp.local_addr().unwrap().port());
        let owners = owners_of_ports(&[tcp, udp_port, (Transport::Udp, 1)].into());
        let me = format!("(pid {})", std::process::id());
        assert!(owners[&tcp].ends_with(&me), "{owners:?}");
        assert!(owners[&udp_port].ends_with(&me), "{owners:?}");
        assert_eq!(owners.len(), 2);
    }
}
