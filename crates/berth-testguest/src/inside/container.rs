//! The guest's root directory and the command line of systemd-nspawn.
//!
//! Three layers: the image below, what a machine's hardware brings in the middle (cidata, ports), the guest's own changes
//! on top.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::files::{Sources, path_of};
use super::{Boot, mount};

/// Where the guest is put together: a directory that every system has, covered in our mount namespace only.
const BASE: &str = "/mnt";

/// Where the guest finds the content of the cidata volume.
const CIDATA: &str = "/run/berth-testguest/cidata";

/// What `mount` is in the guest: the cidata volume is a directory, as the kernel may know neither CDs nor ISO 9660.
const MOUNT: &str = include_str!("mount.sh");

/// Puts the guest together under [`BASE`] and returns the listening sockets of its virtio-serial ports.
pub(super) fn put_together(boot: &Boot, sources: &Sources) -> Result<Vec<OwnedFd>> {
    mount("tmpfs", "/run", "mode=0755")?;
    make_dir("/run/systemd")?;
    mount("tmpfs", BASE, "mode=0755")?;
    for name in ["root", "hardware", "cidata", "tracing", "upper", "work"] {
        make_dir(&format!("{BASE}/{name}"))?;
    }
    mount("tracefs", &format!("{BASE}/tracing"), "")?;
    let hardware = format!("{BASE}/hardware");
    let put = |path: &str, text: &[u8], mode| put(Path::new(&hardware), path, text, mode);
    put("usr/local/sbin/mount", MOUNT.as_bytes(), 0o755)?;
    put("etc/fstab", b"", 0o644)?;
    put(
        "etc/cloud/cloud.cfg.d/99-berth-testguest.cfg",
        b"network: {config: disabled}\n",
        0o644,
    )?;
    if let Some(volume) = &sources.cidata {
        let cidata = format!("{BASE}/cidata");
        extract(volume, &cidata)?;
        for name in ["user-data", "meta-data"] {
            let path = format!("{cidata}/{name}");
            let text =
                fs::read(&path).with_context(|| format!("read {name} of the cidata volume"))?;
            put(&format!("var/lib/cloud/seed/nocloud/{name}"), &text, 0o600)?;
        }
    }
    mount_root(sources)?;
    if let Some(directory) = &sources.vsock {
        let at = format!("{BASE}/vsock");
        make_dir(&at)?;
        rustix::mount::mount_bind(path_of(directory), &at)
            .context("mount the directory of vsock's ports")?;
    }
    let listen = |(number, _)| listen(&format!("{BASE}/port{number}"));
    boot.ports.iter().enumerate().map(listen).collect()
}

fn mount_root(sources: &Sources) -> Result<()> {
    let changes = match &sources.state {
        Some(state) => path_of(state),
        None => BASE.to_owned(),
    };
    let options = format!(
        "lowerdir={BASE}/hardware:{},upperdir={changes}/upper,workdir={changes}/work",
        path_of(&sources.rootfs)
    );
    mount("overlay", &format!("{BASE}/root"), &options).context(
        "the guest's disk must lie on a file system that can be the upper layer of an overlay (ext4, xfs, btrfs, tmpfs)",
    )
}

/// The files of the volume, for root only, and executable as the options say that guests mount it with.
fn extract(volume: &fs::File, into: &str) -> Result<()> {
    let volume = volume.try_clone().context("duplicate a descriptor")?;
    let status = Command::new("bsdtar")
        .args(["--no-same-owner", "-xf", "-", "-C", into])
        .stdin(volume)
        .stdout(Stdio::null())
        .status()
        .context("start bsdtar (package libarchive-tools)")?;
    if !status.success() {
        bail!("bsdtar could not read the cidata volume: {status}");
    }
    let status = Command::new("chmod")
        .args(["-R", "0700", into])
        .status()
        .context("start chmod")?;
    if !status.success() {
        bail!("chmod could not change the cidata volume's files: {status}");
    }
    Ok(())
}

/// Writes a file of a layer.
fn put(layer: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = layer.join(name);
    let parent = path.parent().expect("it lies in the layer");
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let mut file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(content)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .with_context(|| format!("write {}", path.display()))
}

fn make_dir(path: &str) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {path}"))
}

/// A port that only root in the guest may open.
fn listen(path: &str) -> Result<OwnedFd> {
    let context = || format!("listen on {path}");
    let listener = UnixListener::bind(path).with_context(context)?;
    listener.set_nonblocking(true).with_context(context)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(context)?;
    Ok(listener.into())
}

/// The command that boots the guest.
pub(super) fn command(boot: &Boot) -> Command {
    let mut command = Command::new("systemd-nspawn");
    command
        .stdin(Stdio::null())
        .arg(format!("--directory={BASE}/root"))
        .arg(format!("--machine={}", machine_name(&boot.name)))
        .args(["--quiet", "--boot", "--register=no", "--keep-unit"])
        .args(["--console=read-only", "--kill-signal=SIGRTMIN+4"])
        .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
        // We are in it already; saying so lets systemd-nspawn treat the network as the guest's own.
        .arg("--network-namespace-path=/proc/self/ns/net")
        // As much as root has in a VM, but for what reaches the host through the shared kernel, its clock above all.
        .arg("--capability=all")
        .arg(
            "--drop-capability=CAP_SYS_TIME,CAP_SYS_MODULE,CAP_SYS_RAWIO,CAP_WAKE_ALARM,CAP_SYSLOG",
        )
        .arg("--system-call-filter=bpf perf_event_open @keyring @memlock")
        .arg(format!("--bind={BASE}/tracing:/sys/kernel/tracing"))
        // A system with a clock does not wait for the network to tell it the time.
        .arg("--bind=/dev/null:/dev/rtc0");
    for device in ["/dev/fuse", "/dev/net/tun"] {
        if Path::new(device).exists() {
            command.arg(format!("--bind={device}"));
        }
    }
    if boot.cidata.is_some() {
        command.arg(format!("--bind-ro={BASE}/cidata:{CIDATA}"));
    }
    if boot.vsock.is_some() {
        command.arg(format!("--bind={BASE}/vsock:/dev/vsock"));
    }
    for (number, name) in boot.ports.iter().enumerate() {
        command.arg(format!(
            "--bind={BASE}/port{number}:/dev/virtio-ports/{name}"
        ));
    }
    command
}

/// systemd-nspawn takes host names only.
fn machine_name(name: &str) -> String {
    let mut name: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .take(60)
        .collect();
    if !name.starts_with(|letter: char| letter.is_ascii_alphanumeric()) {
        name.insert_str(0, "vm");
    }
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_a_host_name() {
        assert_eq!(machine_name("lima-a.b"), "lima-a-b");
        assert_eq!(machine_name(""), "vm");
        assert_eq!(machine_name("-x-"), "vm-x");
        assert!(machine_name(&"a".repeat(100)).len() <= 64);
    }

    #[test]
    fn the_guest_may_not_touch_the_clock() {
        let boot = Boot {
            front: 1,
            network: 3,
            rootfs: "/".into(),
            state: None,
            cidata: None,
            ports: vec!["io.lima-vm.guest_agent.0".to_owned()],
            vsock: Some("/tmp/ports".into()),
            name: "x".to_owned(),
        };
        let command = command(&boot);
        let arguments: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy())
            .collect();
        let dropped = arguments
            .iter()
            .find_map(|arg| arg.strip_prefix("--drop-capability="));
        assert!(
            dropped
                .unwrap()
                .split(',')
                .any(|name| name == "CAP_SYS_TIME")
        );
        assert!(
            arguments
                .contains(&"--bind=/mnt/port0:/dev/virtio-ports/io.lima-vm.guest_agent.0".into())
        );
        assert!(arguments.contains(&"--bind=/mnt/vsock:/dev/vsock".into()));
    }
}
