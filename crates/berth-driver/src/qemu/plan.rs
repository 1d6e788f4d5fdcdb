//! A VM with everything decided: what [`super::argv`] turns into a command line.
//!
//! Making a plan (`super::resolve`) reads files; a plan itself is a plain value.

use std::collections::BTreeSet;
use std::path::PathBuf;

use berth_config::model::Arch;
use berth_image::format::Format;
use berth_instance::dir::InstanceDir;

use crate::qemu::accel::Accel;
use crate::qemu::program::Program;

/// Everything that decides QEMU's command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// QEMU, and the arguments that the user puts first.
    pub program: Program,
    /// Options that the user gave that way; ours give way to them.
    pub given: BTreeSet<String>,
    /// Instance name.
    pub name: String,
    /// Its directory, where sockets and logs go.
    pub dir: InstanceDir,
    /// Guest architecture.
    pub arch: Arch,
    /// A Windows guest: no virtio console, and devices that its installer knows.
    pub windows_guest: bool,
    /// Memory in bytes.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// `-cpu`.
    pub cpu: String,
    /// Accelerator.
    pub accel: Accel,
    /// What the machine starts from.
    pub firmware: Firmware,
    /// Root disk.
    pub disk: DiskFile,
    /// Discs, in order, before cidata; the first one boots if there is any.
    pub discs: Vec<PathBuf>,
    /// Additional disks.
    pub data_disks: Vec<DataDisk>,
    /// The cidata volume.
    pub cidata: Option<PathBuf>,
    /// Kernel to boot directly.
    pub kernel: DirectKernel,
    /// TPM emulator's socket.
    pub tpm: Option<PathBuf>,
    /// Network interfaces; the first one is the guest's way to sshd.
    pub nics: Vec<Nic>,
    /// Sound.
    pub audio: Audio,
    /// `-display`.
    pub display: Display,
    /// Host directories.
    pub shares: Shares,
}

/// A disk image with its format spelled out: nothing is left to QEMU's probing, which a guest could mislead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFile {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
}

/// An additional disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDisk {
    /// The image.
    pub file: DiskFile,
    /// Serial number by which the guest finds it.
    pub serial: String,
}

/// What the machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// What QEMU brings for the machine.
    BuiltIn,
    /// UEFI in flash.
    Flash {
        /// The code, read-only.
        code: PathBuf,
        /// The instance's own copy of the variables; `None` when no template is known: they are forgotten at the end.
        vars: Option<PathBuf>,
    },
}

/// A kernel that is loaded by QEMU itself. Each part only if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectKernel {
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// Its command line.
    pub cmdline: Option<String>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Number in its QEMU id (`net0`).
    pub index: usize,
    /// Where it leads.
    pub backend: NicBackend,
    /// MAC address.
    pub mac: String,
}

/// Where a network interface leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicBackend {
    /// QEMU's own network. Forwards are added when the VM runs.
    User,
    /// A unix socket that carries frames with a 32-bit length in front.
    Stream {
        /// The socket.
        socket: PathBuf,
        /// What QEMU does when the other end goes away.
        reconnect: Reconnect,
    },
}

/// How QEMU spells "connect again", by its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// It cannot (before 8.0).
    Never,
    /// `reconnect=1`.
    Seconds,
    /// `reconnect-ms=500` (9.2 and later).
    Milliseconds,
}

/// Sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audio {
    /// A backend that plays nothing, and no card.
    None,
    /// A card.
    Card {
        /// `-audiodev` driver.
        driver: String,
        /// Which card.
        card: SoundCard,
    },
}

/// Sound cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoundCard {
    /// Intel HD Audio.
    Hda,
    /// virtio (QEMU 8.2 and later).
    Virtio,
}

/// `-display`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Display {
    /// No screen at all.
    None,
    /// A VNC server, with its options (`127.0.0.1:0,to=9`); its password is set later.
    Vnc(String),
    /// One of QEMU's own (`gtk`, `cocoa`, `sdl`, …), with its options.
    Other(String),
}

/// Host directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shares {
    /// None that QEMU knows of.
    None,
    /// virtio-9p.
    NineP(Vec<NinePShare>),
    /// virtiofs; also shares the guest's memory with the daemons.
    Virtiofs(Vec<VirtiofsShare>),
}

/// A directory shared by virtio-9p.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NinePShare {
    /// Tag by which the guest finds it.
    pub tag: String,
    /// Host directory.
    pub path: PathBuf,
    /// `none`, `mapped-xattr`, …
    pub security_model: String,
    /// Enforced by QEMU.
    pub writable: bool,
}

/// A directory shared by virtiofs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtiofsShare {
    /// Tag by which the guest finds it.
    pub tag: String,
    /// Socket of its daemon.
    pub socket: PathBuf,
    /// Length of its queue.
    pub queue_size: u32,
    /// Host directory.
    pub directory: PathBuf,
    /// Enforced by the daemon.
    pub writable: bool,
}
