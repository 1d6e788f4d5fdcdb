//! Where packages come from: the mirrors that this machine's apt uses already.

use super::recipe::SUITE;
use crate::program::Program;

const DEFAULT_MAIN: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian mirrors and the proxies on the way to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    main: String,
    security: String,
    proxies: Vec<String>,
}

impl Mirror {
    /// Asks apt; what it does not know (no Debian, or lists never fetched) gets Debian's own address.
    pub(crate) fn of_this_machine() -> Self {
        let targets = Program::new("apt-get")
            .args(["indextargets", "--format"])
            .arg("$(REPO_URI)|$(ORIGIN)|$(LABEL)")
            .arg("Created-By: Packages")
            .read()
            .unwrap_or_default();
        let config = Program::new("apt-config")
            .args(["dump", "--no-empty", "--format", "%f=%v%n"])
            .args(["Acquire::http", "Acquire::https"])
            .read()
            .unwrap_or_default();
        Self::parse(&targets, &config)
    }

    fn parse(targets: &str, config: &str) -> Self {
        let find = |wanted: &str| {
            targets.lines().find_map(|line| {
                let mut fields = line.split('|');
                let uri = fields.next()?;
                let ours = fields.eq(["Debian", wanted]) && uri.starts_with("http");
                ours.then(|| uri.trim_end_matches('/').to_owned())
            })
        };
        let proxies = config
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(key, _)| key.contains("::Proxy"))
            .map(|(key, value)| format!("{key} \"{value}\""))
            .collect();
        Self {
            main: find("Debian").unwrap_or_else(|| DEFAULT_MAIN.to_owned()),
            security: find("Debian-Security").unwrap_or_else(|| DEFAULT_SECURITY.to_owned()),
            proxies,
        }
    }

    /// Lines of a `sources.list`.
    pub(crate) fn sources(&self) -> [String; 3] {
        let line =
            |uri: &str, suite: String| format!("deb [signed-by={KEYRING}] {uri} {suite} main");
        [
            line(&self.main, SUITE.to_owned()),
            line(&self.main, format!("{SUITE}-updates")),
            line(&self.security, format!("{SUITE}-security")),
        ]
    }

    /// Options for apt, for as long as the image is built.
    pub(crate) fn apt_options(&self) -> &[String] {
        &self.proxies
    }

    /// The archive that most packages come from.
    pub(crate) fn main(&self) -> &str {
        &self.main
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_debian_mirrors_win() {
        let targets = "https://apt.example.com/|Example|Example\n\
                       http://mirror.example/debian/|Debian|Debian\n\
                       http://mirror.example/security/|Debian|Debian-Security\n";
        let mirror = Mirror::parse(targets, "Acquire::http::Proxy=http://cache:3142\n");
        assert_eq!(mirror.main(), "http://mirror.example/debian");
        assert_eq!(
            mirror.sources()[2],
            format!(
                "deb [signed-by={KEYRING}] http://mirror.example/security bookworm-security main"
            )
        );
        assert_eq!(
            mirror.apt_options(),
            ["Acquire::http::Proxy \"http://cache:3142\""]
        );
    }

    #[test]
    fn without_debian_sources_the_defaults_serve() {
        let ubuntu = "http://archive.ubuntu.com/ubuntu/|Ubuntu|Ubuntu\n";
        let files = "file:/srv/debian/|Debian|Debian\n";
        for targets in ["", ubuntu, files, "garbage"] {
            let mirror = Mirror::parse(targets, "");
            assert_eq!(mirror.main(), DEFAULT_MAIN);
            assert!(mirror.sources()[2].contains(DEFAULT_SECURITY));
            assert!(mirror.apt_options().is_empty());
        }
    }
}
