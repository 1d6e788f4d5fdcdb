//! containerd and nerdctl, from the archive in the cidata volume.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use berth_link::boot::BootSpec;
use sha2::{Digest as _, Sha256};

use crate::boot::gates::runtime_directory;
use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, Loss, ensure_directory, failed, put, read_text};
use crate::guest::{Guest, Init};
use crate::programs::Command;

/// Unpacking hundreds of megabytes on an emulated CPU.
const UNPACK_LIMIT: Duration = Duration::from_mins(20);

/// Setting up the user's services, which may start containers of their own.
const SETUP_LIMIT: Duration = Duration::from_mins(5);

/// What was unpacked last.
const STATE_DIRECTORY: &str = "/var/lib/lima-guestagent";
const UNPACKED: &str = "/var/lib/lima-guestagent/containerd-archive";

/// So much of the archive tells it from another one, besides its size.
const FINGERPRINT: u64 = 1 << 20;

/// Lets rootlesskit make user namespaces where `AppArmor` forbids them to others (Ubuntu 23.10 and later).
const APPARMOR_RULE: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// There is an archive, and somebody to use it.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    let wanted = spec.containerd_system || spec.containerd_user;
    wanted && !spec.containerd_archive.is_empty() && guest.init == Init::Systemd
}

/// Unpacks the archive if it is another one than the last, and sets the services up.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let archive = work.volume.join(&work.spec.containerd_archive);
    // Also when another one of the two is asked for than last time.
    let who = format!(
        "system={} user={}",
        work.spec.containerd_system, work.spec.containerd_user
    );
    let fingerprint = format!("{} {who}\n", fingerprint(&archive)?);
    let unpacked = work.guest.path(UNPACKED);
    if read_text(&unpacked)?.is_some_and(|old| old == fingerprint) {
        return Ok(Done::Already);
    }
    let prefix = &work.spec.guest_install_prefix;
    ensure_directory(&work.guest.path(prefix), Attributes::root(0o755))?;
    let unpack = Command::new("tar")
        .args(["-C", prefix, "-xzf"])
        .arg(&archive);
    work.run(unpack.limit(UNPACK_LIMIT)).await?;
    work.run(Command::new("systemctl").arg("daemon-reload"))
        .await?;
    if work.spec.containerd_system {
        let services = ["enable", "--now", "containerd.service", "buildkit.service"];
        work.run(Command::new("systemctl").args(services).limit(SETUP_LIMIT))
            .await?;
    }
    if work.spec.containerd_user {
        set_up_rootless(work).await?;
    }
    // Last, so that an interrupted set-up is repeated.
    ensure_directory(&work.guest.path(STATE_DIRECTORY), Attributes::root(0o755))?;
    put(
        &unpacked,
        fingerprint.as_bytes(),
        Attributes::root(0o644),
        Loss::Matters,
    )?;
    Ok(Done::Changed)
}

fn fingerprint(archive: &Path) -> Result<String, StepError> {
    let file = File::open(archive).map_err(failed("open", archive))?;
    let length = file.metadata().map_err(failed("look at", archive))?.len();
    let mut head = Vec::new();
    file.take(FINGERPRINT)
        .read_to_end(&mut head)
        .map_err(failed("read", archive))?;
    let hash = Sha256::digest(&head);
    let digits: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{length} {}", digits.concat()))
}

/// The archive's own tool, as the user.
async fn set_up_rootless(work: &Work<'_>) -> Result<(), StepError> {
    allow_user_namespaces(work).await?;
    let mut tasks = vec!["install", "install-buildkit-containerd"];
    if work.guest.kernel_version() < (5, 13) {
        tasks.push("install-fuse-overlayfs");
    } else {
        tasks.push("install-stargz");
    }
    for task in tasks {
        work.run(as_user(work, task)?).await?;
    }
    Ok(())
}

fn as_user(work: &Work<'_>, task: &str) -> Result<Command, StepError> {
    let account = work.account()?;
    let prefix = &work.spec.guest_install_prefix;
    let runtime = runtime_directory(account.owner.uid);
    // Nothing here comes from a place that could hold a quote: the account is the guest's own, the prefix the host's.
    let script = format!(
        "export XDG_RUNTIME_DIR={runtime} PATH={prefix}/bin:$PATH:/usr/sbin:/sbin CONTAINERD_NAMESPACE=default; \
         exec containerd-rootless-setuptool.sh {task}"
    );
    Ok(Command::new("su")
        .args(["-l", &account.name, "-s", "/bin/sh", "-c", &script])
        .limit(SETUP_LIMIT))
}

async fn allow_user_namespaces(work: &Work<'_>) -> Result<(), StepError> {
    if !work.guest.has(APPARMOR_RULE) || !work.guest.has_program("apparmor_parser") {
        return Ok(());
    }
    let program = format!("{}/bin/rootlesskit", work.spec.guest_install_prefix);
    let name = program.trim_start_matches('/').replace('/', ".");
    let profile = format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n\n{program} flags=(unconfined) {{\n  userns,\n  include if exists <local/{name}>\n}}\n"
    );
    let path = format!("/etc/apparmor.d/{name}");
    if put(
        &work.guest.path(&path),
        profile.as_bytes(),
        Attributes::root(0o644),
        Loss::Repaired,
    )? {
        work.run(Command::new("apparmor_parser").args(["-r", &path]))
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn scene() -> Scene {
        let mut scene = Scene::systemd();
        scene.spec.containerd_archive = "nerdctl-full.tgz".to_owned();
        scene.write_volume("nerdctl-full.tgz", "version 1");
        scene
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_archive_is_unpacked_once_and_a_new_one_again() {
        let mut scene = scene();
        scene.spec.containerd_system = true;
        scene.run_twice(run).await;
        let ran = scene.ran();
        assert!(
            ran[0].starts_with("tar -C /usr/local -xzf ") && ran[0].ends_with("/nerdctl-full.tgz"),
            "{ran:?}"
        );
        assert_eq!(
            ran[1..],
            [
                "systemctl daemon-reload",
                "systemctl enable --now containerd.service buildkit.service"
            ]
        );
        scene.write_volume("nerdctl-full.tgz", "version 2");
        scene.run_twice(run).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn rootless_is_set_up_as_the_user() {
        let mut scene = scene();
        scene.spec.containerd_user = true;
        scene.write("/proc/sys/kernel/osrelease", "6.1.0\n");
        scene.run_twice(run).await;
        let ran = scene.ran();
        let uses: Vec<_> = ran[2..]
            .iter()
            .map(|line| line.rsplit(' ').next().unwrap())
            .collect();
        assert_eq!(
            uses,
            ["install", "install-buildkit-containerd", "install-stargz"]
        );
        assert!(
            ran[2].starts_with("su -l lima -s /bin/sh -c export XDG_RUNTIME_DIR=/run/user/"),
            "{ran:?}"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_set_up_that_failed_is_repeated() {
        let mut scene = scene();
        scene.spec.containerd_system = true;
        scene.answer("systemctl enable", 1, "Failed to enable unit\n");
        let why = scene.run(run).await.unwrap_err();
        assert_eq!(why.exit_code(), Some(1));
        assert!(!scene.guest.has(UNPACKED));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_archive_is_named() {
        let mut scene = scene();
        scene.spec.containerd_system = true;
        scene.spec.containerd_archive = "none.tgz".to_owned();
        let why = scene.run(run).await.unwrap_err().to_string();
        assert!(
            why.starts_with("could not open ") && why.ends_with("/none.tgz"),
            "{why}"
        );
    }
}
