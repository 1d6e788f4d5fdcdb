//! An authoritative server that is not ours, from Debian's package `nsd`, and `dig`.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

const ZONE: &str = include_str!("example.zone");

/// A server of the zone `example.org`; ends with the value.
pub(crate) struct Nsd {
    child: Child,
    address: Ipv4Addr,
    pub(crate) port: u16,
    _dir: TempDir,
}

impl Drop for Nsd {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Nsd {
    /// At loopback, at any port.
    pub(crate) async fn start_anywhere() -> Self {
        Self::start(Ipv4Addr::LOCALHOST, free_port()).await
    }

    /// Returns when it answers.
    pub(crate) async fn start(address: Ipv4Addr, port: u16) -> Self {
        let started = tokio::task::spawn_blocking(move || Self::start_blocking(address, port));
        started.await.unwrap()
    }

    /// It answers as fast as it can: with its usual 200 a second it would drop half of the answers after a
    /// [hang](Self::hang), as all that has waited comes at once.
    fn start_blocking(address: Ipv4Addr, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let conf = format!(
            "server:\n  ip-address: {address}@{port}\n  zonesdir: \"{path}\"\n  username: \"\"\n  pidfile: \"\"\n  \
             database: \"\"\n  xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/list\"\n  server-count: 1\n  \
             xfrdir: \"{path}\"\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\n\
             zone:\n  name: example.org\n  zonefile: example.zone\n"
        );
        fs::write(dir.path().join("nsd.conf"), conf).unwrap();
        fs::write(dir.path().join("example.zone"), ZONE).unwrap();
        let nsd = if Path::new("/usr/sbin/nsd").exists() {
            "/usr/sbin/nsd"
        } else {
            "nsd"
        };
        let child = Command::new(nsd)
            .args(["-d", "-c"])
            .arg(dir.path().join("nsd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("nsd, from Debian's package of the name: `cargo xtask setup` installs it");
        let nsd = Self {
            child,
            address,
            port,
            _dir: dir,
        };
        until_it_answers(address, port);
        nsd
    }

    /// From now on it takes questions and says nothing, until it [goes on](Self::go_on).
    pub(crate) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a [hang](Self::hang). Returns when it answers, which it does once it is through with what has come meanwhile.
    pub(crate) async fn go_on(&self) {
        self.signal(Signal::CONT);
        let (address, port) = (self.address, self.port);
        let answers = tokio::task::spawn_blocking(move || until_it_answers(address, port));
        answers.await.unwrap();
    }

    /// To all of its processes.
    fn signal(&self, signal: Signal) {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, signal).expect("a server that runs");
    }
}

fn until_it_answers(address: Ipv4Addr, port: u16) {
    let until = Instant::now() + Duration::from_secs(30);
    let words = ["+tries=1", "+time=1", "example.org", "SOA"];
    while !dig(address, port, &words).status.success() {
        assert!(Instant::now() < until, "nsd did not answer within 30 s");
    }
}

/// A port that nobody has over UDP.
pub(crate) fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

pub(crate) fn dig(at: Ipv4Addr, port: u16, words: &[&str]) -> Output {
    let mut command = Command::new("dig");
    command.args([&format!("@{at}"), "-p", &port.to_string()]);
    command
        .args(words)
        .output()
        .expect("dig, from Debian's package bind9-dnsutils")
}
