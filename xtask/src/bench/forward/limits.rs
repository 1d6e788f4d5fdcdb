//! What the kernel itself can do: chains of plain relays on this host, and the way through the machine's own user network.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::lab::{Lab, free_port};
use crate::bench::monitor::Monitor;
use crate::traffic::relay::Place;
use crate::traffic::{client, server};

/// A limit against hanging.
const APPEARS: Duration = Duration::from_secs(10);

/// A server on this host behind relays that do nothing but splice, each a process. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Chain {
    relays: Vec<Child>,
    target: SocketAddr,
}

impl Chain {
    /// `relays` of them: TCP at both ends, unix sockets between, as between host agent and guest agent.
    pub(super) fn start(lab: &Lab, relays: usize) -> Result<Self> {
        let server = server::start((Ipv4Addr::LOCALHOST, 0).into())?;
        let directory = lab.make_directory(&format!("chain{relays}"))?;
        let socket = |number: usize| directory.join(number.to_string());
        let mut chain = Self {
            relays: Vec::new(),
            target: (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        for number in (0..relays).rev() {
            let from = match number {
                0 => Place::Tcp(chain.target),
                _ => Place::Unix(socket(number)),
            };
            let to = if number + 1 == relays {
                Place::Tcp(server)
            } else {
                Place::Unix(socket(number + 1))
            };
            chain.add(&from, &to)?;
        }
        chain.wait_until_it_passes()?;
        Ok(chain)
    }

    /// Its beginning.
    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    fn add(&mut self, from: &Place, to: &Place) -> Result<()> {
        let program = std::env::current_exe().context("find our own program")?;
        let child = Command::new(program)
            .args(["traffic", "relay", &from.to_string(), &to.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("start a relay")?;
        self.relays.push(child);
        Ok(())
    }

    fn wait_until_it_passes(&self) -> Result<()> {
        let deadline = Instant::now() + APPEARS;
        while let Err(error) = client::connect_in_turn(self.target, 1) {
            if Instant::now() > deadline {
                return Err(error.context("a chain of relays does not work"));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            let _ = relay.kill();
            let _ = relay.wait();
        }
    }
}

/// Opens a way from the host to a port of the guest in the machine's user network, past all agents.
pub(super) fn forward_by_machine(instance: &Path, guest_port: u16) -> Result<SocketAddr> {
    let port = free_port()?;
    let command = format!("hostfwd_add tcp:127.0.0.1:{port}-:{guest_port}");
    let mut monitor = Monitor::open(&instance.join("qmp.sock"))?;
    let said = monitor.human(&command)?;
    if !said.trim().is_empty() {
        bail!("{command}: {said}");
    }
    Ok((Ipv4Addr::LOCALHOST, port).into())
}
