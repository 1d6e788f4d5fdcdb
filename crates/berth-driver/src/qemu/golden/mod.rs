//! Command lines, from configuration to the last argument, for every architecture and variant.

mod choices;

use std::path::{Path, PathBuf};

use berth_config::model::{Arch, Config};
use berth_config::platform::{HostOs, HostPlatform};
use berth_instance::dir::InstanceDir;
use serde_json::json;

use crate::error::DriverError;
use crate::qemu::accel::Hardware;
use crate::qemu::argv::argv;
use crate::qemu::defaults;
use crate::qemu::probe::{Capabilities, Version};
use crate::qemu::program::Program;
use crate::qemu::resolve::{Inputs, Resolved};
use crate::testing::{config, mount, platform};

/// An instance `x86` in a directory of its own, with an empty raw disk.
struct Instance {
    home: tempfile::TempDir,
    dir: InstanceDir,
    host: HostPlatform,
    env: Vec<(String, String)>,
    program: Program,
    capabilities: Capabilities,
    hardware: Hardware,
}

impl Instance {
    fn named(prefix: &str, host: HostPlatform) -> Self {
        let home = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        let dir = home.path().join("x86");
        std::fs::create_dir(&dir).unwrap();
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let instance = Self {
            dir: InstanceDir::new(dir),
            host,
            env: Vec::new(),
            program: Program {
                path: PathBuf::from("/opt/qemu/bin/qemu-system-x86_64"),
                leading: Vec::new(),
            },
            capabilities: Capabilities {
                version: Some(Version(7, 2, 0)),
                accels: set(&["tcg", "kvm", "hvf", "whpx", "nvmm"]),
                netdevs: set(&["user", "stream"]),
                cpus: set(&["host", "max", "qemu64", "cortex-a72"]),
                host_cpu_allowed: true,
            },
            hardware: Hardware::Usable,
            home,
        };
        Self::empty_disk(&instance.dir.disk());
        instance
    }

    fn new() -> Self {
        Self::named("home", platform(HostOs::Linux, Arch::X8664))
    }

    fn empty_disk(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
    }

    /// Firmware of the user's own, so that the test does not depend on this machine's.
    fn with_firmware(mut self, code: &str, vars: Option<&str>) -> Self {
        self.host.home = self.home.path().join("user");
        let share = self.host.home.join(".local/share/qemu");
        std::fs::create_dir_all(&share).unwrap();
        std::fs::write(share.join(code), "code").unwrap();
        if let Some(vars) = vars {
            std::fs::write(share.join(vars), "template").unwrap();
        }
        self
    }

    fn resolve(&self, mut config: Config) -> Result<Resolved, DriverError> {
        defaults::fill(&mut config, &self.host, None)?;
        let inputs = Inputs {
            name: "x86",
            dir: &self.dir,
            config: &config,
            host: &self.host,
            env: &self.env,
            program: &self.program,
            capabilities: &self.capabilities,
        };
        inputs.resolve(|| self.hardware.clone())
    }

    /// One line per option, with the directories' names shortened.
    fn lines(&self, changes: serde_json::Value) -> String {
        let resolved = self.resolve(config(changes)).unwrap();
        let mut text = String::new();
        for word in argv(&resolved.plan) {
            let word = word.into_string().unwrap();
            let separator = if word.starts_with('-') && !text.is_empty() {
                "\n"
            } else {
                " "
            };
            text += separator;
            text += &word;
        }
        let doubled = |path: &Path| path.to_str().unwrap().replace(',', ",,");
        text.trim_start()
            .replace(&doubled(self.dir.path()), "$INST")
            .replace(self.dir.path().to_str().unwrap(), "$INST")
            .replace(&doubled(self.home.path()), "$HOME")
    }

    /// The lines that contain one of the words.
    fn lines_with(&self, changes: serde_json::Value, words: &[&str]) -> String {
        let lines = self.lines(changes);
        let chosen = lines
            .lines()
            .filter(|line| words.iter().any(|word| line.contains(word)));
        chosen.collect::<Vec<_>>().join("\n")
    }

    fn mac(&self) -> String {
        berth_config::mac::first_nic(&self.host.machine_id, self.dir.path())
    }
}

/// What every Linux guest has behind its network card.
const TAIL: &str = "\
-device virtio-rng-pci
-audiodev none,id=snd0
-display none
-vga none
-parallel none
-chardev socket,id=char-serial,path=$INST/serial.sock,server=on,wait=off,logfile=$INST/serial.log
-serial chardev:char-serial
";
const CONSOLE: &str = "\
-chardev socket,id=char-serial-virtio,path=$INST/serialv.sock,server=on,wait=off,logfile=$INST/serialv.log
-device virtio-serial-pci,id=virtio-serial0,max_ports=1
-device virtconsole,chardev=char-serial-virtio,id=console0
";
const MONITORS: &str = "\
-chardev socket,id=char-qmp,path=$INST/qmp.sock,server=on,wait=off
-qmp chardev:char-qmp
-chardev socket,id=char-qmp-berth,path=$INST/qmp-berth.sock,server=on,wait=off
-qmp chardev:char-qmp-berth
-chardev socket,id=char-agent,path=$INST/ga-link.sock,server=on,wait=off
-device virtio-serial-pci,id=virtio-serial1,max_ports=2
-device virtserialport,id=agent-port,bus=virtio-serial1.0,chardev=char-agent,name=io.lima-vm.guest_agent.0
-name lima-x86
-pidfile $INST/qemu.pid";
const PCI_SERIAL: &str = "\
-chardev socket,id=char-serial-pci,path=$INST/serialp.sock,server=on,wait=off,logfile=$INST/serialp.log
-device pci-serial,chardev=char-serial-pci
";

#[test]
fn x86_64_with_kvm() {
    let instance = Instance::new().with_firmware("edk2-x86_64-code.fd", Some("edk2-i386-vars.fd"));
    let mac = instance.mac();
    let want = format!(
        "\
-m 1024
-cpu host
-machine q35,accel=kvm
-smp 2,sockets=1,cores=2,threads=1
-drive if=pflash,format=raw,readonly=on,file=$HOME/user/.local/share/qemu/edk2-x86_64-code.fd
-drive if=pflash,format=raw,file=$INST/qemu-efi-vars.fd
-device qemu-xhci,id=usb-bus
-drive file=$INST/disk,format=raw,if=none,discard=on,id=boot-disk
-device virtio-blk-pci,drive=boot-disk,bootindex=1
-boot order=c,splash-time=0,menu=on
-drive id=cdrom0,if=none,format=raw,readonly=on,file=$INST/cidata.iso
-device virtio-scsi,id=scsi0
-device scsi-cd,bus=scsi0.0,drive=cdrom0
-netdev user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15
-device virtio-net-pci,netdev=net0,mac={mac}
{TAIL}{CONSOLE}{MONITORS}"
    );
    assert_eq!(
        instance.lines(json!({"firmware": {"legacyBIOS": false}})),
        want
    );
    assert_eq!(std::fs::read(instance.dir.efi_vars()).unwrap(), b"template");
}

/// The other architectures, emulated.
#[test]
fn every_architecture() {
    for (arch, code, head, bus, serial, console) in [
        (
            "aarch64",
            Some("edk2-aarch64-code.fd"),
            "-machine virt,accel=tcg",
            "pci",
            PCI_SERIAL,
            CONSOLE.to_owned(),
        ),
        (
            "armv7l",
            Some("edk2-arm-code.fd"),
            "-machine virt,accel=tcg",
            "pci",
            PCI_SERIAL,
            CONSOLE.to_owned(),
        ),
        (
            "riscv64",
            Some("edk2-riscv-code.fd"),
            "-machine virt,acpi=off,accel=tcg",
            "pci",
            "",
            CONSOLE.to_owned(),
        ),
        (
            "ppc64le",
            None,
            "-machine pseries,accel=tcg",
            "pci",
            "",
            CONSOLE.to_owned(),
        ),
        (
            "s390x",
            None,
            "-machine s390-ccw-virtio,accel=tcg",
            "ccw",
            "",
            CONSOLE.replace("max_ports=1", "max_ports=2"),
        ),
    ] {
        let instance = Instance::new();
        let instance = match code {
            Some(code) => instance.with_firmware(code, None),
            None => instance,
        };
        let flash = code.map_or_else(String::new, |code| {
            format!(
                "-drive if=pflash,format=raw,readonly=on,file=$HOME/user/.local/share/qemu/{code}\n"
            )
        });
        let mac = instance.mac();
        let want = format!(
            "\
-m 1024
-cpu max
{head}
-smp 2,sockets=1,cores=2,threads=1
{flash}-device qemu-xhci,id=usb-bus
-drive file=$INST/disk,format=raw,if=none,discard=on,id=boot-disk
-device virtio-blk-{bus},drive=boot-disk,bootindex=1
-boot order=c,splash-time=0,menu=on
-drive id=cdrom0,if=none,format=raw,readonly=on,file=$INST/cidata.iso
-device virtio-scsi,id=scsi0
-device scsi-cd,bus=scsi0.0,drive=cdrom0
-netdev user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15
-device virtio-net-{bus},netdev=net0,mac={mac}
{TAIL}{serial}{console}{MONITORS}"
        );
        assert_eq!(
            instance.lines(json!({"arch": arch, "firmware": {"legacyBIOS": false}})),
            want,
            "{arch}"
        );
        assert!(!instance.dir.efi_vars().exists());
    }
}

#[test]
fn x86_64_without_acceleration() {
    let mut instance = Instance::new();
    instance.hardware = Hardware::Unusable("the CPU shows neither vmx nor svm".to_owned());
    let want = "\
-m 1024
-cpu max
-machine q35,vmport=off
-accel tcg,thread=multi,tb-size=512
-global ICH9-LPC.disable_s3=1
-global ICH9-LPC.disable_s4=1
-smp 2,sockets=1,cores=2,threads=1
-device qemu-xhci,id=usb-bus
";
    let lines = instance.lines(json!({}));
    assert!(lines.starts_with(want), "{lines}");
    let resolved = instance.resolve(config(json!({}))).unwrap();
    assert!(
        resolved.warnings[0].contains("runs without acceleration"),
        "{:?}",
        resolved.warnings
    );
}

#[test]
fn other_hosts() {
    for (os, arch, cpu, machine) in [
        (
            HostOs::Darwin,
            Arch::Aarch64,
            "-cpu host",
            "-machine virt,accel=hvf",
        ),
        (
            HostOs::Windows,
            Arch::X8664,
            "-cpu qemu64",
            "-machine q35,accel=whpx",
        ),
        (
            HostOs::Other,
            Arch::X8664,
            "-cpu max",
            "-machine q35,accel=nvmm",
        ),
    ] {
        let guest = if arch == Arch::Aarch64 {
            "aarch64"
        } else {
            "x86_64"
        };
        let instance =
            Instance::named("home", platform(os, arch)).with_firmware("edk2-aarch64-code.fd", None);
        let lines = instance.lines_with(json!({"arch": guest}), &["-cpu", "-machine"]);
        assert_eq!(lines, format!("{cpu}\n{machine}"), "{os:?}");
    }
}

#[test]
fn a_mac_before_12_4_gives_little_memory() {
    let mut instance = Instance::named("home", platform(HostOs::Darwin, Arch::Aarch64))
        .with_firmware("edk2-aarch64-code.fd", None);
    let large = json!({"arch": "aarch64", "memory": "8GiB"});
    for (version, want) in [("12.3.1", "-m 3072"), ("12.4", "-m 8192"), ("", "-m 8192")] {
        version.clone_into(&mut instance.host.os_version);
        assert_eq!(
            instance.lines_with(large.clone(), &["-m "]),
            want,
            "{version}"
        );
    }
}

#[test]
fn an_installer_and_data_disks() {
    let instance = Instance::new();
    std::fs::write(instance.dir.iso(), "iso").unwrap();
    let disks = instance.home.path().join("_disks");
    Instance::empty_disk(&disks.join("data1/datadisk"));
    Instance::empty_disk(&disks.join("a-long-name-of-a-disk/datadisk"));
    let disk = |name: &str| json!({"name": name, "format": true, "fsType": "ext4"});
    let changes = json!({"additionalDisks": [disk("data1"), disk("a-long-name-of-a-disk")]});
    let lines = instance.lines_with(changes.clone(), &["disk", "-boot", "iso", "data-"]);
    let serial = crate::disk_serial("a-long-name-of-a-disk");
    let want = format!(
        "\
-drive file=$INST/disk,format=raw,if=virtio,discard=on
-boot order=d,splash-time=0,menu=on
-drive file=$INST/iso,format=raw,media=cdrom,readonly=on
-drive file=$HOME/_disks/data1/datadisk,format=raw,if=none,discard=on,id=data-0
-device virtio-blk-pci,drive=data-0,serial=data1
-drive file=$HOME/_disks/a-long-name-of-a-disk/datadisk,format=raw,if=none,discard=on,id=data-1
-device virtio-blk-pci,drive=data-1,serial={serial}
-drive id=cdrom0,if=none,format=raw,readonly=on,file=$INST/cidata.iso"
    );
    assert_eq!(lines, want);

    std::fs::remove_file(disks.join("data1/datadisk")).unwrap();
    let error = instance.resolve(config(changes)).unwrap_err().to_string();
    assert!(
        error.starts_with("additionalDisks: the disk \"data1\" does not exist"),
        "{error}"
    );
}

#[test]
fn commas_in_paths_are_doubled_and_spaces_kept() {
    let instance = Instance::named("a,b c ", platform(HostOs::Linux, Arch::X8664));
    let home = instance.home.path().to_str().unwrap().to_owned();
    let resolved = instance
        .resolve(config(
            json!({"mounts": [mount("/x,y z", true)], "mountType": "9p"}),
        ))
        .unwrap();
    let words: Vec<_> = argv(&resolved.plan)
        .into_iter()
        .map(|word| word.into_string().unwrap())
        .collect();
    let doubled = home.replace(',', ",,");
    let whole = words.iter().filter(|word| word.starts_with(&home));
    let pidfile = format!("{home}/x86/qemu.pid");
    assert_eq!(whole.collect::<Vec<_>>(), [&pidfile], "no option list");
    let single = |word: &&String| word.contains(&home) && **word != pidfile;
    assert_eq!(words.iter().find(single), None);
    assert!(words.contains(&format!(
        "file={doubled}/x86/disk,format=raw,if=none,discard=on,id=boot-disk"
    )));
    let shared = |word: &String| word.ends_with(",path=/x,,y z,security_model=none");
    assert!(words.iter().any(shared));
}

#[test]
fn shares() {
    let instance = Instance::new();
    let changes = json!({"mounts": [mount("/r", false), mount("/w", true)]});
    let tag = |location: &str| crate::mount_tag(Path::new(location), "/mnt/x");
    let (r, w) = (tag("/r"), tag("/w"));
    assert_eq!(
        instance.lines_with(changes.clone(), &["-virtfs"]),
        format!(
            "-virtfs local,mount_tag={r},path=/r,security_model=none,readonly=on\n\
             -virtfs local,mount_tag={w},path=/w,security_model=none"
        )
    );
    let mut virtiofs = changes.clone();
    virtiofs["mountType"] = json!("virtiofs");
    let lines = instance.lines_with(virtiofs, &["-m ", "virtiofs", "vhost"]);
    let want = format!(
        "\
-m 1024
-object memory-backend-file,id=virtiofs-shm,size=1073741824,mem-path=/dev/shm,share=on
-numa node,memdev=virtiofs-shm
-chardev socket,id=char-virtiofs-0,path=$INST/virtiofsd-0.sock
-device vhost-user-fs-pci,queue-size=1024,chardev=char-virtiofs-0,tag={r}
-chardev socket,id=char-virtiofs-1,path=$INST/virtiofsd-1.sock
-device vhost-user-fs-pci,queue-size=1024,chardev=char-virtiofs-1,tag={w}"
    );
    assert_eq!(lines, want);
    let mut sshfs = changes;
    sshfs["mountType"] = json!("reverse-sshfs");
    assert_eq!(instance.lines_with(sshfs, &["-virtfs", "virtiofs"]), "");
}

#[test]
fn screen_sound_and_tpm() {
    let mut instance = Instance::new();
    instance.capabilities.version = Some(Version(8, 2, 0));
    let changes = json!({
        "tpm": true, "video": {"display": "vnc"}, "audio": {"device": "default", "interface": "virtio"},
    });
    let words = [
        "tpm",
        "snd0",
        "hda",
        "-display",
        "-device virtio-vga",
        "keyboard",
        "tablet",
        "mouse",
        "-vga",
    ];
    let want = "\
-chardev socket,id=chrtpm,path=$INST/swtpm.sock
-tpmdev emulator,id=tpm0,chardev=chrtpm
-device tpm-crb,tpmdev=tpm0
-audiodev pa,id=snd0
-device virtio-sound-pci,audiodev=snd0
-display vnc=127.0.0.1:0,to=9,password=on
-device virtio-vga
-device virtio-keyboard-pci
-device virtio-tablet-pci";
    assert_eq!(instance.lines_with(changes.clone(), &words), want);

    instance.capabilities.version = Some(Version(8, 1, 9));
    let old = instance.lines_with(changes, &["snd0", "hda"]);
    assert_eq!(
        old,
        "-audiodev pa,id=snd0\n-device ich9-intel-hda\n-device hda-output,audiodev=snd0"
    );
    let gtk = instance.lines_with(
        json!({"video": {"display": "gtk,gl=on"}}),
        &["-display", "mouse"],
    );
    assert_eq!(gtk, "-display gtk,gl=on\n-device virtio-mouse-pci");
    for (arch, device) in [("aarch64", "tpm-tis-device"), ("riscv64", "tpm-tis-device")] {
        let instance = Instance::new()
            .with_firmware("edk2-aarch64-code.fd", None)
            .with_firmware("edk2-riscv-code.fd", None);
        let lines = instance.lines_with(json!({"arch": arch, "tpm": true}), &["tpmdev=tpm0"]);
        assert_eq!(lines, format!("-device {device},tpmdev=tpm0"));
    }
    for (arch, device) in [
        ("aarch64", "virtio-gpu"),
        ("riscv64", "virtio-vga"),
        ("s390x", "virtio-gpu"),
    ] {
        let instance = Instance::new()
            .with_firmware("edk2-aarch64-code.fd", None)
            .with_firmware("edk2-riscv-code.fd", None);
        let lines = instance.lines_with(
            json!({"arch": arch, "video": {"display": "sdl"}}),
            &["gpu", "vga"],
        );
        assert_eq!(lines, format!("-device {device}"));
    }
}

#[test]
fn kernels_are_loaded_directly() {
    let instance = Instance::new();
    let words = ["-kernel", "-append", "-initrd"];
    assert_eq!(instance.lines_with(json!({}), &words), "");
    std::fs::write(instance.dir.kernel(), "kernel").unwrap();
    std::fs::write(
        instance.dir.kernel_cmdline(),
        "root=/dev/vda, console=ttyS0",
    )
    .unwrap();
    std::fs::write(instance.dir.initrd(), "initrd").unwrap();
    let want = "-kernel $INST/kernel\n-append root=/dev/vda, console=ttyS0\n-initrd $INST/initrd";
    assert_eq!(instance.lines_with(json!({}), &words), want);
}

#[test]
fn extra_networks_by_socket() {
    let mut instance = Instance::new();
    let network = |extra: serde_json::Value| {
        let mut value =
            json!({"macAddress": "52:55:55:aa:bb:cc", "interface": "lima0", "metric": 100});
        crate::testing::merge(&mut value, extra);
        value
    };
    let changes = json!({"networks": [network(json!({"socket": "/run/a,b.sock"}))]});
    for (version, tail) in [
        (Version(7, 2, 0), ""),
        (Version(8, 0, 0), ",reconnect=1"),
        (Version(9, 2, 0), ",reconnect-ms=500"),
    ] {
        instance.capabilities.version = Some(version);
        let want = format!(
            "-netdev stream,id=net1,server=off,addr.type=unix,addr.path=/run/a,,b.sock{tail}\n\
             -device virtio-net-pci,netdev=net1,mac=52:55:55:aa:bb:cc"
        );
        assert_eq!(instance.lines_with(changes.clone(), &["net1"]), want);
    }
    instance.capabilities.netdevs.clear();
    let error = instance.resolve(config(changes)).unwrap_err().to_string();
    assert!(
        error.starts_with("networks[0].socket: needs QEMU 7.2"),
        "{error}"
    );
}
