//! A sample instance, and the tools that judge what is made from it.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_cidata::input::{AgentKind, Input, LimaFacts, Proxies, Subnet};
use berth_config::model::Config;
use berth_link::boot::HostKey;

/// A configuration with a little of everything, and with names that need quoting.
pub(crate) fn config() -> Config {
    serde_json::from_str(include_str!("config.json")).expect("the sample is a configuration")
}

/// A host key as `ssh-keygen` writes it, in shape.
pub(crate) fn host_key() -> HostKey {
    HostKey {
        kind: "ed25519".to_owned(),
        private: "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
            .to_owned(),
        public: "ssh-ed25519 AAAA lima-sample".to_owned(),
    }
}

/// The facts of the sample instance.
pub(crate) fn input<'a>(
    config: &'a Config,
    agent: AgentKind,
    host_keys: &'a [HostKey],
    keys: &'a [String],
) -> Input<'a> {
    Input {
        name: "sample",
        instance_id: "iid-0123",
        hostname: "lima-sample",
        config,
        authorized_keys: keys,
        host_keys,
        mac: "52:55:55:01:02:03",
        subnet: Subnet::SLIRP,
        host_dns: &[],
        dns_ports: None,
        proxies: Proxies::default(),
        ca_files: &[],
        agent,
        nerdctl_archive: None,
        driver_scripts: BTreeMap::new(),
        ssh_port: 22,
        lima: LimaFacts::default(),
        host_home: PathBuf::from("/home/me"),
        debug: false,
    }
}

/// Runs a tool that must be there and must succeed, and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// All files below a directory, by path.
pub(crate) fn read_tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}
