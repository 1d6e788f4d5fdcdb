//! Other people's name servers: nsd, which is asked, and dnsmasq, which is compared with.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{PATIENCE, client, write};
use crate::bench::lab::free_port;
use crate::bench::processes::Process;

/// An authoritative server at port 53 of an address of its own, because `resolv.conf` names no ports.
pub(super) struct Nsd(Child);

impl Nsd {
    /// Answers every name beneath `domain`, with a time of one minute.
    pub(super) fn start(directory: &Path, domain: &str) -> Result<Self> {
        let directory = directory.join("nsd");
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let (path, address) = (directory.display(), Self::ADDRESS);
        let conf = format!(
            "server:\n  ip-address: {address}\n  zonesdir: \"{path}\"\n  username: \"\"\n  pidfile: \"\"\n  database: \"\"\n  \
             xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/list\"\n  xfrdir: \"{path}\"\n  server-count: 1\n  rrl-ratelimit: 0\n\
             remote-control:\n  control-enable: no\nzone:\n  name: {domain}\n  zonefile: zone\n"
        );
        let zone = format!(
            "$ORIGIN {domain}.\n$TTL 60\n@ IN SOA ns admin 1 3600 600 86400 60\n@ IN NS ns\nns IN A {address}\n* IN A 10.0.0.1\n"
        );
        write(&directory.join("nsd.conf"), &conf)?;
        write(&directory.join("zone"), &zone)?;
        let mut command = Command::new("nsd");
        command.args(["-d", "-c"]).arg(directory.join("nsd.conf"));
        Ok(Self(start(command, "nsd")?))
    }

    /// Where it listens.
    pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 72);
}

/// dnsmasq, with a static name, and everything else forwarded.
pub(super) struct Dnsmasq {
    child: Child,
    port: u16,
}

impl Dnsmasq {
    pub(super) fn start(directory: &Path, upstream: Ipv4Addr, name: &str) -> Result<Self> {
        let port = free_port()?;
        let empty = directory.join("dnsmasq.conf");
        write(&empty, "")?;
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
                "--pid-file=",
            ])
            .arg(format!("--conf-file={}", empty.display()))
            .arg(format!("--port={port}"))
            .args([
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--dns-forward-max=2000",
            ])
            .arg(format!("--server={upstream}"))
            .arg(format!("--host-record={name},192.168.5.2"));
        let dnsmasq = Self {
            child: start(command, "dnsmasq")?,
            port,
        };
        let until = Instant::now() + PATIENCE;
        while !client::answers(port, false, name) {
            if Instant::now() > until {
                bail!("dnsmasq does not answer within {} s", PATIENCE.as_secs());
            }
        }
        Ok(dnsmasq)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn process(&self) -> Process {
        Process::of_pid(self.child.id())
    }
}

fn start(mut command: Command, name: &str) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {name}, from Debian's package"))
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Nsd {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
