//! QEMU's command line, in Lima's order, as a pure function of a [`Plan`].
//!
//! Differences from Lima's, each on purpose:
//!
//! - disks name their format, and additional disks a serial number: neither QEMU nor the guest guesses;
//! - flash has a second half for the UEFI variables, a copy of the instance's own;
//! - the user network starts without `hostfwd`: forwards are added by monitor command, whose answer says why one fails;
//! - a second monitor, `qmp-berth.sock`, for the agent; `qmp.sock` stays free for people and Lima's CLI;
//! - the guest agent's virtio-serial port is there on every host system;
//! - commas in paths are doubled, as QEMU's option lists want.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use berth_config::model::Arch;

use crate::qemu::accel::Accel;
use crate::qemu::arch::{self, Bus};
use crate::qemu::plan::{
    Audio, DiskFile, Display, Firmware, Nic, NicBackend, Plan, Reconnect, Shares, SoundCard,
};
use crate::sys;

/// Name of the virtio-serial port of the guest agent.
pub const AGENT_PORT: &str = "io.lima-vm.guest_agent.0";
/// QEMU's id of that port's device, as its events name it.
pub const AGENT_DEVICE: &str = "agent-port";
/// QEMU's id of the root disk, unless an installer is attached.
pub const ROOT_DRIVE: &str = "boot-disk";
/// QEMU's id of the network that forwards are added to.
pub const USER_NETWORK: &str = "net0";

/// All arguments after the program's name.
#[must_use]
pub fn argv(plan: &Plan) -> Vec<OsString> {
    let mut args = Arguments::new(plan);
    args.memory_and_cpu();
    args.machine();
    args.firmware();
    args.add("-device", "qemu-xhci,id=usb-bus");
    args.disks();
    args.cidata();
    args.kernel();
    args.tpm();
    for nic in &plan.nics {
        args.nic(nic);
    }
    args.add("-device", "virtio-rng-pci");
    args.audio();
    args.display();
    args.add("-parallel", "none");
    args.serial();
    args.shares();
    args.monitors();
    args.agent_port();
    args.add("-name", format!("lima-{}", plan.name));
    args.add("-pidfile", plan.dir.vm_pid("qemu"));
    args.words
}

struct Arguments<'a> {
    plan: &'a Plan,
    words: Vec<OsString>,
}

impl<'a> Arguments<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            words: plan.program.leading.iter().map(OsString::from).collect(),
        }
    }

    fn add(&mut self, option: &str, value: impl AsRef<OsStr>) {
        self.words.push(option.into());
        self.words.push(value.as_ref().to_owned());
    }

    /// An option of which there is one: the user's wins.
    fn add_once(&mut self, option: &str, value: impl AsRef<OsStr>) {
        if !self.plan.given.contains(option.trim_start_matches('-')) {
            self.add(option, value);
        }
    }

    fn memory_and_cpu(&mut self) {
        let plan = self.plan;
        self.add_once("-m", (plan.memory >> 20).to_string());
        if matches!(plan.shares, Shares::Virtiofs(_)) {
            let bytes = plan.memory;
            self.add_once(
                "-object",
                format!(
                    "memory-backend-file,id=virtiofs-shm,size={bytes},mem-path=/dev/shm,share=on"
                ),
            );
            self.add_once("-numa", "node,memdev=virtiofs-shm");
        }
        self.add_once("-cpu", &plan.cpu);
    }

    fn machine(&mut self) {
        let (plan, accel) = (self.plan, self.plan.accel);
        let machine = arch::machine(plan.arch);
        match plan.arch {
            Arch::X8664 if accel == Accel::Tcg => {
                self.add_once("-machine", format!("{machine},vmport=off"));
                self.add_once("-accel", "tcg,thread=multi,tb-size=512");
                self.add("-global", "ICH9-LPC.disable_s3=1");
                self.add("-global", "ICH9-LPC.disable_s4=1");
            }
            Arch::Riscv64 => self.add_once("-machine", format!("{machine},acpi=off,accel={accel}")),
            _ => self.add_once("-machine", format!("{machine},accel={accel}")),
        }
        let cpus = plan.cpus;
        self.add_once("-smp", format!("{cpus},sockets=1,cores={cpus},threads=1"));
    }

    fn firmware(&mut self) {
        let Firmware::Flash { code, vars } = &self.plan.firmware else {
            return;
        };
        self.add(
            "-drive",
            with_path("if=pflash,format=raw,readonly=on,file=", code, ""),
        );
        if let Some(vars) = vars {
            self.add("-drive", with_path("if=pflash,format=raw,file=", vars, ""));
        }
    }

    fn disks(&mut self) {
        let plan = self.plan;
        let bus = Bus::of(plan.arch).suffix();
        let root = drive(&plan.disk);
        if plan.discs.is_empty() {
            let id = format!(",if=none,discard=on,id={ROOT_DRIVE}");
            self.add("-drive", joined(&root, &id));
            let device = format!("virtio-blk-{bus},drive={ROOT_DRIVE},bootindex=1");
            self.add("-device", device);
            self.add_once("-boot", "order=c,splash-time=0,menu=on");
        } else {
            self.add("-drive", joined(&root, ",if=virtio,discard=on"));
            self.add_once("-boot", "order=d,splash-time=0,menu=on");
        }
        if plan.windows_guest && plan.arch == Arch::Aarch64 && !plan.discs.is_empty() {
            self.add("-device", "usb-kbd");
        }
        for (index, disc) in plan.discs.iter().enumerate() {
            self.disc(index, disc);
        }
        for (index, disk) in plan.data_disks.iter().enumerate() {
            let id = format!("data-{index}");
            let options = format!(",if=none,discard=on,id={id}");
            self.add("-drive", joined(&drive(&disk.file), &options));
            let serial = &disk.serial;
            let device = format!("virtio-blk-{bus},drive={id},serial={serial}");
            self.add("-device", device);
        }
    }

    /// A disc in a drive that the guest's installer knows.
    fn disc(&mut self, index: usize, disc: &Path) {
        if self.plan.windows_guest && self.plan.arch == Arch::Aarch64 {
            let tail = format!(",if=none,id=cd{index},format=raw,media=cdrom,readonly=on");
            self.add("-drive", with_path("file=", disc, &tail));
            self.add("-device", format!("usb-storage,drive=cd{index}"));
        } else {
            let tail = ",format=raw,media=cdrom,readonly=on";
            self.add("-drive", with_path("file=", disc, tail));
        }
    }

    fn cidata(&mut self) {
        let Some(cidata) = &self.plan.cidata else {
            return;
        };
        if self.plan.windows_guest {
            self.disc(2, cidata);
            return;
        }
        let head = "id=cdrom0,if=none,format=raw,readonly=on,file=";
        self.add("-drive", with_path(head, cidata, ""));
        self.add("-device", "virtio-scsi,id=scsi0");
        self.add("-device", "scsi-cd,bus=scsi0.0,drive=cdrom0");
    }

    fn kernel(&mut self) {
        let kernel = &self.plan.kernel;
        if let Some(path) = &kernel.kernel {
            self.add_once("-kernel", path);
        }
        if let Some(text) = &kernel.cmdline {
            self.add_once("-append", text);
        }
        if let Some(path) = &kernel.initrd {
            self.add_once("-initrd", path);
        }
    }

    fn tpm(&mut self) {
        let (Some(socket), Some(device)) = (&self.plan.tpm, arch::tpm_device(self.plan.arch))
        else {
            return;
        };
        self.add("-chardev", with_path("socket,id=chrtpm,path=", socket, ""));
        self.add("-tpmdev", "emulator,id=tpm0,chardev=chrtpm");
        self.add("-device", format!("{device},tpmdev=tpm0"));
    }

    fn nic(&mut self, nic: &Nic) {
        let index = nic.index;
        match &nic.backend {
            NicBackend::User => self.add(
                "-netdev",
                format!("user,id=net{index},net=192.168.5.0/24,dhcpstart=192.168.5.15"),
            ),
            NicBackend::Stream { socket, reconnect } => {
                let head = format!("stream,id=net{index},server=off,addr.type=unix,addr.path=");
                let tail = match reconnect {
                    Reconnect::Never => "",
                    Reconnect::Seconds => ",reconnect=1",
                    Reconnect::Milliseconds => ",reconnect-ms=500",
                };
                self.add("-netdev", with_path(&head, socket, tail));
            }
        }
        let (bus, mac) = (Bus::of(self.plan.arch).suffix(), &nic.mac);
        self.add(
            "-device",
            format!("virtio-net-{bus},netdev=net{index},mac={mac}"),
        );
    }

    fn audio(&mut self) {
        match &self.plan.audio {
            Audio::None => self.add("-audiodev", "none,id=snd0"),
            Audio::Card { driver, card } => {
                self.add("-audiodev", format!("{driver},id=snd0"));
                match card {
                    SoundCard::Hda => {
                        self.add("-device", "ich9-intel-hda");
                        self.add("-device", "hda-output,audiodev=snd0");
                    }
                    SoundCard::Virtio => self.add("-device", "virtio-sound-pci,audiodev=snd0"),
                }
            }
        }
    }

    fn display(&mut self) {
        let plan = self.plan;
        let pointer = match &plan.display {
            Display::None => {
                self.add_once("-display", "none");
                self.add("-vga", "none");
                return;
            }
            Display::Vnc(options) => {
                self.add_once("-display", format!("vnc={options},password=on"));
                "virtio-tablet-pci"
            }
            Display::Other(options) => {
                self.add_once("-display", options);
                "virtio-mouse-pci"
            }
        };
        let screen = match plan.arch {
            Arch::X8664 | Arch::Riscv64 => "virtio-vga",
            Arch::Aarch64 if plan.windows_guest => "ramfb",
            _ => "virtio-gpu",
        };
        self.add("-device", screen);
        self.add("-device", "virtio-keyboard-pci");
        self.add("-device", pointer);
    }

    /// A chardev that listens on a unix socket and waits for nobody, so that it outlives whoever is connected.
    fn socket_chardev(&mut self, id: &str, socket: &Path, log: Option<&Path>) {
        let head = format!("socket,id={id},path=");
        let mut value = with_path(&head, socket, ",server=on,wait=off");
        if let Some(log) = log {
            value = joined(&value, with_path(",logfile=", log, ""));
        }
        self.add("-chardev", value);
    }

    fn serial(&mut self) {
        let dir = &self.plan.dir;
        self.socket_chardev("char-serial", &dir.serial_sock(), Some(&dir.serial_log()));
        self.add("-serial", "chardev:char-serial");
        if arch::has_pci_serial(self.plan.arch) {
            self.socket_chardev(
                "char-serial-pci",
                &dir.serialp_sock(),
                Some(&dir.serialp_log()),
            );
            self.add("-device", "pci-serial,chardev=char-serial-pci");
        }
        if !self.plan.windows_guest {
            self.socket_chardev(
                "char-serial-virtio",
                &dir.serialv_sock(),
                Some(&dir.serialv_log()),
            );
            // On s390x the machine's own console takes a port.
            let ports = if self.plan.arch == Arch::S390x { 2 } else { 1 };
            let device = format!("virtio-serial-pci,id=virtio-serial0,max_ports={ports}");
            self.add("-device", device);
            self.add(
                "-device",
                "virtconsole,chardev=char-serial-virtio,id=console0",
            );
        }
    }

    fn shares(&mut self) {
        match &self.plan.shares {
            Shares::None => {}
            Shares::NineP(shares) => {
                for share in shares {
                    let (tag, model) = (&share.tag, &share.security_model);
                    let access = if share.writable { "" } else { ",readonly=on" };
                    let head = format!("local,mount_tag={tag},path=");
                    let tail = format!(",security_model={model}{access}");
                    self.add("-virtfs", with_path(&head, &share.path, &tail));
                }
            }
            Shares::Virtiofs(shares) => {
                for (index, share) in shares.iter().enumerate() {
                    let id = format!("char-virtiofs-{index}");
                    let head = format!("socket,id={id},path=");
                    self.add("-chardev", with_path(&head, &share.socket, ""));
                    let (queue, tag) = (share.queue_size, &share.tag);
                    let device =
                        format!("vhost-user-fs-pci,queue-size={queue},chardev={id},tag={tag}");
                    self.add("-device", device);
                }
            }
        }
    }

    fn monitors(&mut self) {
        let dir = &self.plan.dir;
        self.socket_chardev("char-qmp", &dir.qmp_sock(), None);
        self.add("-qmp", "chardev:char-qmp");
        self.socket_chardev("char-qmp-berth", &dir.qmp_berth_sock(), None);
        self.add("-qmp", "chardev:char-qmp-berth");
    }

    /// On a controller of its own, so that the console keeps its number.
    fn agent_port(&mut self) {
        self.socket_chardev("char-agent", &self.plan.dir.ga_link_sock(), None);
        self.add("-device", "virtio-serial-pci,id=virtio-serial1,max_ports=2");
        self.add(
            "-device",
            format!("virtserialport,id={AGENT_DEVICE},bus=virtio-serial1.0,chardev=char-agent,name={AGENT_PORT}"),
        );
    }
}

fn drive(disk: &DiskFile) -> OsString {
    with_path("file=", &disk.path, &format!(",format={}", disk.format))
}

/// `head`, the path with its commas doubled, `tail`.
fn with_path(head: &str, path: &Path, tail: &str) -> OsString {
    let mut value = OsString::from(head);
    value.push(sys::double_commas(path.as_os_str()));
    value.push(tail);
    value
}

fn joined(head: &OsStr, tail: impl AsRef<OsStr>) -> OsString {
    let mut value = head.to_owned();
    value.push(tail);
    value
}
