//! Kernel modules that containers need and rootless tools cannot load themselves.

use berth_link::boot::BootSpec;

use crate::boot::step::{Done, StepError, Work};
use crate::files::read_text;
use crate::guest::Guest;
use crate::programs::Command;

/// File systems, container networks, packet filters of both generations.
const MODULES: [&str; 24] = [
    "fuse",
    "overlay",
    "tun",
    "tap",
    "bridge",
    "veth",
    "br_netfilter",
    "ip_tables",
    "iptable_filter",
    "iptable_nat",
    "iptable_mangle",
    "ip6_tables",
    "ip6table_filter",
    "ip6table_nat",
    "ip6table_mangle",
    "nf_tables",
    "nf_nat",
    "nft_compat",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_multiport",
];

/// There are containers to run, and modules to load (a guest that is a container itself has none).
///
/// What else needs a module gets it from the kernel by itself; loading all of them at each boot costs seconds of an emulated CPU.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    if !spec.containerd_system && !spec.containerd_user {
        return false;
    }
    let release = read_text(&guest.path("/proc/sys/kernel/osrelease"))
        .ok()
        .flatten()
        .unwrap_or_default();
    guest.has_program("modprobe") && guest.has(&format!("/lib/modules/{}", release.trim()))
}

/// Loads those that this kernel has. Which ones it lacks is no failure: nobody may need them.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let load = Command::new("modprobe").args(["-a", "-q"]).args(MODULES);
    work.exit_code(&load).await?;
    Ok(Done::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    #[tokio::test(flavor = "current_thread")]
    async fn a_module_that_is_missing_is_no_failure() {
        let mut scene = Scene::new();
        scene.spec.containerd_user = true;
        assert!(!applies(&scene.spec, &scene.guest));
        scene.install("modprobe");
        scene.write("/proc/sys/kernel/osrelease", "6.1.0\n");
        assert!(!applies(&scene.spec, &scene.guest));
        scene.write("/lib/modules/6.1.0/modules.dep", "");
        assert!(applies(&scene.spec, &scene.guest));
        scene.spec.containerd_user = false;
        assert!(!applies(&scene.spec, &scene.guest));
        scene.answer("modprobe", 1, "");
        assert_eq!(scene.run(run).await.unwrap(), Done::Changed);
        assert!(scene.ran()[0].starts_with("modprobe -a -q fuse overlay "));
    }
}
