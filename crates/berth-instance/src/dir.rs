//! The files of one instance, by name.

use std::path::{Path, PathBuf};

/// `$LIMA_HOME/NAME`, real path. All file names of an instance live here and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDir(PathBuf);

impl InstanceDir {
    /// Names the directory; touches nothing.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

macro_rules! files {
    ($($method:ident = $name:literal, $doc:literal;)*) => {
        impl InstanceDir {
            $(
                #[doc = $doc]
                #[must_use]
                pub fn $method(&self) -> PathBuf {
                    self.0.join($name)
                }
            )*
        }
    };
}

files! {
    lima_yaml = "lima.yaml", "The user's configuration, as written.";
    lima_version = "lima-version", "Version that created the instance.";
    protected = "protected", "Present: `delete` refuses.";
    record = "berth.json", "berth's own record: instance id, ports, identity of the VM.";
    lock = "berth.lock", "Locked by the agent for as long as it lives.";
    cloud_config = "cloud-config.yaml", "User-data for people to read.";
    cidata_iso = "cidata.iso", "The cidata volume.";
    cidata_dir = "cidata", "The cidata volume as a directory (drivers without cloud-init).";
    host_key = "ssh_host_ed25519_key", "SSH host key of the guest, made on the host.";
    known_hosts = "known_hosts", "The guest's host key, pinned.";
    ha_pid = "ha.pid", "Pid of the host agent.";
    ha_sock = "ha.sock", "HTTP API of the host agent.";
    ha_stdout_log = "ha.stdout.log", "JSON events.";
    ha_stderr_log = "ha.stderr.log", "JSON log lines.";
    timeline = "timeline.json", "Where the last start's time went.";
    ssh_config = "ssh.config", "For `ssh -F`.";
    ssh_sock = "ssh.sock", "`ControlMaster` socket of OpenSSH.";
    ga_sock = "ga.sock", "Lima's guest agent, forwarded.";
    ga_link_sock = "ga-link.sock", "QEMU's end of the virtio-serial port of our guest agent.";
    image = "image", "Downloaded image, before it becomes the disk.";
    disk = "disk", "Root disk.";
    iso = "iso", "Installer image.";
    base_disk = "basedisk", "Legacy image.";
    diff_disk = "diffdisk", "Legacy root disk.";
    kernel = "kernel", "Kernel to boot directly.";
    kernel_cmdline = "kernel.cmdline", "Its command line.";
    initrd = "initrd", "Its initial RAM disk.";
    qmp_sock = "qmp.sock", "QMP for Lima's CLI and people.";
    qmp_berth_sock = "qmp-berth.sock", "QMP for this agent.";
    serial_sock = "serial.sock", "Serial console.";
    serial_log = "serial.log", "What the serial console printed.";
    serialp_sock = "serialp.sock", "PCI serial console.";
    serialp_log = "serialp.log", "What the PCI serial console printed.";
    serialv_sock = "serialv.sock", "virtio console.";
    serialv_log = "serialv.log", "What the virtio console printed.";
    vm_stderr_log = "vm.stderr.log", "What the VM process wrote to stderr (capped).";
    efi_code = "qemu-efi-code.fd", "Firmware fetched for the instance.";
    efi_vars = "qemu-efi-vars.fd", "UEFI variables of the instance.";
    swtpm_sock = "swtpm.sock", "TPM emulator.";
    swtpm_dir = "swtpm", "State of the TPM emulator.";
    vnc_display = "vncdisplay", "`host:display` of the VNC server.";
    vnc_password = "vncpassword", "Its password.";
    sockets = "sock", "Default place of forwarded sockets.";
    vz_identifier = "vz-identifier", "Machine identifier of a VZ instance.";
    ansible_inventory = "ansible-inventory.yaml", "For `ansible-playbook -i`.";
    windows_installed = "win-done-installation", "Present: the installer of a Windows guest is done.";
    driver_stderr_log = "driver.stderr.log", "What an external driver wrote to stderr.";
}

impl InstanceDir {
    /// Pid file of the VM, by driver name (`qemu.pid`).
    #[must_use]
    pub fn vm_pid(&self, driver: &str) -> PathBuf {
        self.0.join(format!("{driver}.pid"))
    }

    /// Whether the instance was ever prepared or started, as opposed to having just been written. Decides which version's
    /// defaults it gets (Lima's rule).
    #[must_use]
    pub fn is_used(&self) -> bool {
        let traces = [
            self.ha_stdout_log(),
            self.ha_stderr_log(),
            self.vz_identifier(),
            self.image(),
            self.disk(),
            self.base_disk(),
            self.diff_disk(),
            self.cidata_iso(),
        ];
        traces.iter().any(|path| path.exists())
    }
}
