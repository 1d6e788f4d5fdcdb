//! Checks of a configuration before an instance is made from it or started.

mod caution;
mod files;
mod guest;
mod machine;
mod mounts;
mod networks;
mod ports;

use crate::problem::Problem;
use crate::resolve::{ResolveContext, Resolved};

pub use caution::cautions;

/// The keys in the order in which Lima checks them.
const ORDER: [&str; 27] = [
    "base",
    "minimumLimaVersion",
    "vmType",
    "vmOpts",
    "os",
    "arch",
    "user",
    "images",
    "firmware",
    "cpus",
    "memory",
    "disk",
    "additionalDisks",
    "mounts",
    "ssh",
    "mountType",
    "provision",
    "guestInstallPrefix",
    "containerd",
    "probes",
    "portForwards",
    "copyToHost",
    "dns",
    "networks",
    "env",
    "param",
    "tpm",
];

/// Finds everything that keeps an instance from being started, in the order of Lima's own checks.
///
/// Looks at the host's file system where the configuration names a directory to mount or a socket to connect to.
#[must_use]
pub fn validate(resolved: &Resolved, ctx: &ResolveContext<'_>) -> Vec<Problem> {
    let mut findings = Findings::default();
    let config = &resolved.config;
    machine::check(config, ctx, &mut findings);
    guest::check_user(config, &mut findings);
    files::check(config, &mut findings);
    mounts::check(config, &mut findings);
    guest::check(config, &mut findings);
    ports::check(config, ctx, &mut findings);
    networks::check(config, &mut findings);
    let mut problems = findings.placed(resolved);
    sort(&mut problems);
    problems
}

/// Puts problems into the order of Lima's checks; those of one section stay as they are.
pub(crate) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| {
        let section = problem.key.split(['.', '[']).next().unwrap_or_default();
        ORDER
            .iter()
            .position(|key| *key == section)
            .unwrap_or(ORDER.len())
    });
}

/// What the checks have found so far.
#[derive(Default)]
struct Findings(Vec<(String, String)>);

impl Findings {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push((key.into(), message.into()));
    }

    fn placed(self, resolved: &Resolved) -> Vec<Problem> {
        self.0
            .into_iter()
            .map(|(key, message)| Problem {
                position: resolved.origins.position(&key),
                key,
                message,
            })
            .collect()
    }
}
