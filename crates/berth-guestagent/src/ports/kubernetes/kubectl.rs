//! Asking a cluster with `kubectl`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::watch;
use tokio::time::sleep;

use super::services::{Services, WatchError};
use crate::guest::Guest;
use crate::ports::GuestSocket;
use crate::programs::{Command, Output, ProgramError, spawn};

/// Longest line that `kubectl` may write: a service with all its annotations.
const MAX_LINE: u64 = 10 << 20;

/// How long a cluster may take until it has told all its services.
const TELLING: Duration = Duration::from_secs(10);

/// Why a cluster's services are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum KubectlError {
    /// `kubectl` does not do its work.
    #[error("kubectl does not tell what its configuration is")]
    Config(#[source] ProgramError),
    /// The configuration names no server.
    #[error("the configuration of kubectl has no server that can be understood")]
    NoServer,
    /// `kubectl` could not be started or read from.
    #[error("could not {verb} kubectl")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line is longer than any service.
    #[error("kubectl wrote a line of more than {} MiB", MAX_LINE >> 20)]
    TooLong,
    /// It wrote something else than events.
    #[error("kubectl wrote what is no event of a service")]
    Event(#[from] WatchError),
    /// It ended by itself: the cluster has gone, or refuses.
    #[error("kubectl ended")]
    Ended,
}

fn failed(verb: &'static str) -> impl FnOnce(io::Error) -> KubectlError {
    move |source| KubectlError::Io { verb, source }
}

/// `kubectl` with a configuration.
#[derive(Debug)]
pub(super) struct Kubectl {
    command: Command,
}

impl Kubectl {
    /// Will use these files.
    pub(super) fn new(kubectl: &Path, kubeconfig: &Path) -> Self {
        let kubeconfig = kubeconfig.to_string_lossy();
        Self {
            command: Command::new(kubectl).env("KUBECONFIG", kubeconfig),
        }
    }

    /// Where the API server of the configuration is.
    pub(super) async fn server(&self, guest: &Guest) -> Result<Server, KubectlError> {
        let words = ["config", "view", "--minify", "--output", "json"];
        let command = self.command.clone().args(words);
        let log = null().map_err(failed("start"))?;
        let finished = guest.programs.run(&command, Output::Answer(log)).await;
        let finished = finished.map_err(KubectlError::Config)?;
        if finished.code != 0 {
            let program = command.name();
            let code = finished.code;
            return Err(KubectlError::Config(ProgramError::Failed { program, code }));
        }
        let config: Config =
            serde_json::from_str(&finished.answer).map_err(|_| KubectlError::NoServer)?;
        let [cluster] = &config.clusters[..] else {
            return Err(KubectlError::NoServer);
        };
        Server::parse(&cluster.cluster.server).ok_or(KubectlError::NoServer)
    }

    /// Keeps `services` for as long as the cluster tells them.
    ///
    /// Those that are there at the beginning stay until a cluster has had the time to tell all that it has.
    pub(super) async fn watch(&self, services: &watch::Sender<BTreeSet<GuestSocket>>) -> End {
        let old = services.borrow().clone();
        let mut known = Services::default();
        let mut told_all = pin!(sleep(TELLING));
        let mut has_told_all = false;
        let mut running = match Running::start(&self.watching()) {
            Ok(running) => running,
            Err(why) => return End::early(failed("start")(why)),
        };
        loop {
            tokio::select! {
                line = running.line() => {
                    let applied = line.and_then(|line| Ok(known.apply(&line)?));
                    if let Err(why) = applied {
                        return End { why, has_told_all };
                    }
                }
                () = &mut told_all, if !has_told_all => has_told_all = true,
            }
            // Those that exist come at once, at first.
            if running.has_line() {
                continue;
            }
            let mut sockets = known.sockets();
            if !has_told_all {
                sockets.extend(&old);
            }
            services.send_if_modified(|services| {
                let has_changed = *services != sockets;
                *services = sockets;
                has_changed
            });
        }
    }

    fn watching(&self) -> Command {
        let words = "get --all-namespaces service --watch --output-watch-events --output json";
        self.command.clone().args(words.split(' '))
    }
}

/// How a watch ended.
#[derive(Debug)]
pub(super) struct End {
    /// Why.
    pub(super) why: KubectlError,
    /// It was a good watch: API servers end each after a while.
    pub(super) has_told_all: bool,
}

impl End {
    fn early(why: KubectlError) -> Self {
        Self {
            why,
            has_told_all: false,
        }
    }
}

fn null() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

/// Killed when dropped, with its children.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    /// What was read of the next line.
    line: Vec<u8>,
}

impl Running {
    fn start(command: &Command) -> io::Result<Self> {
        let mut child = spawn(command, Output::Answer(null()?))?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            child,
            output: BufReader::new(output),
            line: Vec::new(),
        })
    }

    /// The next line. Dropped before its end, the next call goes on with it.
    async fn line(&mut self) -> Result<Vec<u8>, KubectlError> {
        let mut limited = (&mut self.output).take(MAX_LINE - self.line.len() as u64);
        let read = limited.read_until(b'\n', &mut self.line).await;
        read.map_err(failed("read from"))?;
        match self.line.last() {
            Some(b'\n') => Ok(std::mem::take(&mut self.line)),
            Some(_) if self.line.len() as u64 == MAX_LINE => Err(KubectlError::TooLong),
            _ => Err(KubectlError::Ended),
        }
    }

    /// Tells whether a line is there already.
    fn has_line(&self) -> bool {
        self.output.buffer().contains(&b'\n')
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // The runtime collects it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// `kubectl config view --minify --output json`.
#[derive(Debug, Deserialize)]
struct Config {
    clusters: Vec<NamedCluster>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    server: String,
}

/// Where an API server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    host: String,
    /// Its TCP port.
    pub(super) port: u16,
}

impl Server {
    /// Reads a URL; what comes after the port does not matter.
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let usual = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(ipv6) => ipv6.split_once(']')?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if port.is_empty() => usual,
            None => return None,
        };
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }

    /// Tells whether it is this machine. Names are not looked up.
    pub(super) fn is_here(&self, guest: &Guest) -> bool {
        match self.host.parse::<IpAddr>() {
            // The kernel binds to its own addresses only.
            Ok(ip) => ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok(),
            Err(_) => self.host == "localhost" || guest.host_name() == Some(self.host.clone()),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.host.escape_debug(), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    #[test]
    fn a_server_is_host_and_port() {
        let server = |url| Server::parse(url).map(|server| (server.host, server.port));
        let expected = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(
            server("https://127.0.0.1:6443"),
            expected("127.0.0.1", 6443)
        );
        assert_eq!(server("https://[::1]:6443/x"), expected("::1", 6443));
        assert_eq!(server("https://[fd00::1]"), expected("fd00::1", 443));
        assert_eq!(server("http://name/k8s?a#b"), expected("name", 80));
        for url in [
            "",
            "127.0.0.1:6443",
            "ftp://a",
            "https://",
            "https://a:x",
            "https://[::1",
        ] {
            assert_eq!(server(url), None, "{url}");
        }
    }

    #[test]
    fn a_server_elsewhere_is_told_from_this_machine() {
        let scene = Scene::new();
        scene.write("/proc/sys/kernel/hostname", "lima-k8s\n");
        let is_here = |url| Server::parse(url).unwrap().is_here(&scene.guest);
        for url in [
            "https://127.0.0.1:6443",
            "https://127.1.2.3",
            "https://[::1]:6443",
            "https://0.0.0.0:6443",
            "https://localhost:6443",
            "https://lima-k8s:6443",
        ] {
            assert!(is_here(url), "{url}");
        }
        for url in [
            "https://192.0.2.1:6443",
            "https://[2001:db8::1]",
            "https://k8s.example",
        ] {
            assert!(!is_here(url), "{url}");
        }
    }
}
