//! Settings of the guest's system: names, certificates.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::{CaCerts, HostResolver};
use crate::sources::{Origin, Source};

use super::Resolver;

impl Resolver<'_> {
    /// The highest list that is not empty, as a whole.
    pub(super) fn dns(&mut self) -> Vec<IpAddr> {
        let chosen = Source::HIGHEST_FIRST
            .into_iter()
            .find(|source| !self.sources.yaml(*source).dns.is_empty());
        let Some(source) = chosen else {
            return Vec::new();
        };
        let servers = &self.sources.yaml(source).dns;
        let origins = (0..servers.len()).map(|index| Origin { source, index });
        self.report.record("dns", origins.collect());
        let mut addresses = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            match server.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => self.report.refuse(
                    format!("dns[{index}]"),
                    format!("{server:?} is no IP address"),
                ),
            }
        }
        addresses
    }

    pub(super) fn host_resolver(&mut self) -> HostResolver {
        HostResolver {
            enabled: self.flag(|yaml| yaml.host_resolver.enabled, true),
            ipv6: self.flag(|yaml| yaml.host_resolver.ipv6, false),
            hosts: self
                .sources
                .overlaid(|yaml| Some(&yaml.host_resolver.hosts)),
        }
    }

    pub(super) fn ca_certs(&mut self) -> CaCerts {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut certs: Vec<String> = Vec::new();
        for source in [Source::Default, Source::Instance, Source::Over] {
            let section = &self.sources.yaml(source).ca_certs;
            for file in &section.files {
                let file = PathBuf::from(self.expand_home("caCerts.files", file));
                if !files.contains(&file) {
                    files.push(file);
                }
            }
            for cert in &section.certs {
                if !certs.contains(cert) {
                    certs.push(cert.clone());
                }
            }
        }
        CaCerts {
            remove_defaults: self
                .sources
                .highest(|yaml| yaml.ca_certs.remove_defaults)
                .unwrap_or(false),
            files,
            certs,
        }
    }
}
