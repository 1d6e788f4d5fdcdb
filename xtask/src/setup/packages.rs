//! Installing Debian packages with apt.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Result, bail};

use super::tools::Tool;
use crate::program::{self, Program};
use crate::workspace::is_root;

/// Present while systemd runs the machine, as `sd_booted(3)` says.
const SYSTEMD: &str = "/run/systemd/system";
/// Services that Debian starts along with a package of which only the program is wanted.
const SERVICES: [(&str, &[&str]); 2] = [
    ("openssh-server", &["ssh.service", "ssh.socket"]),
    ("nsd", &["nsd.service"]),
];

/// Says what is missing, and installs it.
pub(super) fn install(missing: &[Tool]) -> Result<()> {
    let packages: BTreeSet<&str> = missing.iter().map(|tool| tool.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: these Debian packages are missing:");
    for package in &packages {
        let tool = missing.iter().find(|tool| tool.package == *package);
        println!("  {package:<24}{}", tool.map_or("", |tool| tool.use_for));
    }
    if program::find("apt-get").is_none() {
        bail!("this machine has no apt-get: install what is listed above, and try again");
    }
    let rights = Rights::of_this_process(&packages)?;
    if !apt_knows(&packages) {
        rights.run(&["apt-get", "update", "-q"])?;
    }
    if let Some(bytes) = download_size(&packages) {
        println!("setup: {} MB to download", bytes.div_ceil(1_000_000));
    }
    let services = Services::keep_from_starting(&packages, rights)?;
    // An archive that moved on since its index was fetched answers 404.
    let installed = rights.install(&packages).or_else(|_| {
        rights.run(&["apt-get", "update", "-q"])?;
        rights.install(&packages)
    });
    services.release()?;
    installed
}

/// How this process may become root.
#[derive(Debug, Clone, Copy)]
enum Rights {
    Root,
    Sudo,
}

impl Rights {
    fn of_this_process(packages: &BTreeSet<&str>) -> Result<Self> {
        if is_root() {
            return Ok(Self::Root);
        }
        let sudo = program::find("sudo").is_some();
        let can_ask = std::io::stdin().is_terminal();
        if sudo && (can_ask || Program::new("sudo").args(["-n", "true"]).succeeds()) {
            return Ok(Self::Sudo);
        }
        bail!(
            "installing needs root, and sudo {}: run this as root, and try again:\n  apt-get install \
             --no-install-recommends {}",
            if sudo {
                "wants a password that nobody here can type"
            } else {
                "is not installed"
            },
            join(packages)
        )
    }

    fn run(self, words: &[&str]) -> Result<()> {
        let environment = ["env", "DEBIAN_FRONTEND=noninteractive"];
        let program = match self {
            Self::Root => Program::new(environment[0]),
            Self::Sudo => Program::new("sudo").arg(environment[0]),
        };
        program.arg(environment[1]).args(words).run()
    }

    fn install(self, packages: &BTreeSet<&str>) -> Result<()> {
        let mut words = vec!["apt-get", "install", "-q", "-y", "--no-install-recommends"];
        words.extend(packages);
        self.run(&words)
    }
}

fn join(packages: &BTreeSet<&str>) -> String {
    packages.iter().copied().collect::<Vec<_>>().join(" ")
}

fn planned(packages: &BTreeSet<&str>) -> Program {
    Program::new("apt-get")
        .args([
            "install",
            "--no-install-recommends",
            "-y",
            "--print-uris",
            "-qq",
        ])
        .args(packages)
}

/// Whether the index of packages was fetched.
fn apt_knows(packages: &BTreeSet<&str>) -> bool {
    planned(packages).succeeds()
}

/// Bytes to fetch, with all dependencies.
fn download_size(packages: &BTreeSet<&str>) -> Option<u64> {
    planned(packages)
        .read()
        .ok()
        .map(|uris| sum_of_sizes(&uris))
}

/// Adds up the sizes in lines of `'URI' FILE SIZE HASH`.
fn sum_of_sizes(uris: &str) -> u64 {
    uris.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .sum()
}

/// The units of [`SERVICES`] that would be started.
#[must_use = "the units stay masked until they are released"]
struct Services {
    masked: Vec<&'static str>,
    rights: Rights,
}

impl Services {
    fn keep_from_starting(packages: &BTreeSet<&str>, rights: Rights) -> Result<Self> {
        let is_wanted = |(package, _): &&(&str, &[&str])| packages.contains(package);
        let units = SERVICES
            .iter()
            .filter(is_wanted)
            .flat_map(|(_, units)| *units);
        let mut masked: Vec<&str> = units.copied().collect();
        if !Path::new(SYSTEMD).exists() {
            masked.clear();
        }
        if !masked.is_empty() {
            rights.run(&[&["systemctl", "mask", "--runtime"], masked.as_slice()].concat())?;
        }
        Ok(Self { masked, rights })
    }

    /// Leaves the services installed, stopped, and not started at boot.
    fn release(self) -> Result<()> {
        let Self { masked, rights } = self;
        if masked.is_empty() {
            return Ok(());
        }
        rights.run(&[&["systemctl", "unmask", "--runtime"], masked.as_slice()].concat())?;
        rights.run(&[&["systemctl", "disable"], masked.as_slice()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_added_up_and_other_lines_are_not_read() {
        let uris = "'http://deb.example/a_1_amd64.deb' a_1_amd64.deb 1200 SHA256:00\n\
                    Reading package lists... 7 7\n\
                    'http://deb.example/b_1_amd64.deb' b_1_amd64.deb 34 SHA256:01\n";
        assert_eq!(sum_of_sizes(uris), 1234);
        assert_eq!(sum_of_sizes(""), 0);
    }
}
