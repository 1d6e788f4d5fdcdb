//! The parts of a QEMU command line that this machine is made of.

mod options;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use crate::forward_rule::ForwardRule;
use options::Options;

/// Options without an argument; those that change nothing here are accepted silently.
const FLAGS: &[&str] = &[
    "S",
    "daemonize",
    "enable-kvm",
    "no-acpi",
    "no-hpet",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "snapshot",
    "usb",
];

/// Options with an argument that change nothing here: this machine has no such hardware.
const IGNORED: &[&str] = &[
    "D",
    "accel",
    "action",
    "audiodev",
    "bios",
    "boot",
    "compat",
    "cpu",
    "d",
    "fsdev",
    "fw_cfg",
    "global",
    "machine",
    "M",
    "msg",
    "numa",
    "object",
    "overcommit",
    "parallel",
    "rtc",
    "sandbox",
    "smbios",
    "smp",
    "tpmdev",
    "uuid",
    "vga",
    "virtfs",
    "k",
    "monitor",
    "append",
    "set",
];

/// What the caller asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// `--version`.
    Version,
    /// `-accel help` and its like, by option name.
    Help(String),
    /// A machine to run.
    Machine(Box<Hardware>),
}

/// A machine, as far as it exists here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// `-name`.
    pub(crate) name: String,
    /// `-pidfile`.
    pub(crate) pid_file: Option<PathBuf>,
    /// `-m`, in bytes.
    pub(crate) memory: u64,
    /// `-no-reboot`: a reset ends the machine.
    pub(crate) no_reboot: bool,
    /// Every `-chardev` (and those that `-qmp unix:…` implies).
    pub(crate) chardevs: Vec<Chardev>,
    /// Chardev ids of QMP monitors.
    pub(crate) monitors: Vec<String>,
    /// Chardev id of the first serial port, where the console is.
    pub(crate) console: Option<String>,
    /// virtio-serial ports.
    pub(crate) ports: Vec<SerialPort>,
    /// The root disk: the first writable drive.
    pub(crate) disk: Option<PathBuf>,
    /// Every file that must exist, with the words that name it.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// The first read-only drive named `*.iso`; the cidata volume.
    pub(crate) cidata: Option<PathBuf>,
    /// The user network.
    pub(crate) network: Option<UserNetwork>,
    /// Address of the first network card, as written.
    pub(crate) mac: Option<String>,
    /// `-device berth-vsock,directory=…`: vsock as unix sockets, which the guest sees as `/dev/vsock`.
    pub(crate) vsock: Option<PathBuf>,
    /// `-display vnc=…` or `-vnc …`.
    pub(crate) vnc: Option<VncDisplay>,
}

/// One character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chardev {
    /// Its id.
    pub(crate) id: String,
    /// The option that made it, for error messages.
    pub(crate) origin: String,
    /// Listening unix socket.
    pub(crate) socket: Option<PathBuf>,
    /// Log file, written anew.
    pub(crate) log: Option<PathBuf>,
}

/// One virtio-serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SerialPort {
    /// Its chardev.
    pub(crate) chardev: String,
    /// Name in the guest: `/dev/virtio-ports/NAME`.
    pub(crate) name: String,
    /// Device id, which `VSERPORT_CHANGE` carries; without one QEMU sends no such event.
    pub(crate) device: Option<String>,
}

/// QEMU's user network: a gateway to this host, and a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserNetwork {
    /// netdev id.
    pub(crate) id: String,
    /// The option that made it, for error messages.
    pub(crate) origin: String,
    /// Address of the gateway.
    pub(crate) gateway: Ipv4Addr,
    /// Address of the name server.
    pub(crate) dns: Ipv4Addr,
    /// Address of the guest: the first that DHCP would lease.
    pub(crate) guest: Ipv4Addr,
    /// Rules to open at start.
    pub(crate) forwards: Vec<ForwardRule>,
}

/// Where a VNC server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VncDisplay {
    /// Host part.
    pub(crate) host: String,
    /// First display number, and the last one that `to=` allows.
    pub(crate) displays: std::ops::RangeInclusive<u16>,
    /// Whether a password may be set.
    pub(crate) password: bool,
}

impl Request {
    /// Parses a command line without the program's name. Errors read like QEMU's.
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut machine = Hardware::empty();
        let mut words = words.iter();
        let mut card = false;
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                bail!("{word}: Could not open '{word}': No such file or directory");
            };
            match option {
                "version" => return Ok(Self::Version),
                "h" | "help" => return Ok(Self::Help("help".to_owned())),
                "no-reboot" => machine.no_reboot = true,
                flag if FLAGS.contains(&flag) => {}
                _ => {
                    let Some(value) = takes_argument(option).then(|| words.next()) else {
                        bail!("{word}: invalid option");
                    };
                    let Some(value) = value else {
                        bail!("{word}: requires an argument");
                    };
                    if matches!(value.as_str(), "help" | "?") {
                        return Ok(Self::Help(option.to_owned()));
                    }
                    machine
                        .apply(option, value, &mut card)
                        .map_err(|error| anyhow!("{word} {value}: {error}"))?;
                }
            }
        }
        machine.check_references()?;
        Ok(Self::Machine(Box::new(machine)))
    }
}

fn takes_argument(option: &str) -> bool {
    const USED: &[&str] = &[
        "name", "pidfile", "m", "chardev", "qmp", "mon", "serial", "device", "drive", "cdrom",
        "netdev", "display", "vnc", "kernel", "initrd",
    ];
    USED.contains(&option) || IGNORED.contains(&option)
}

impl Hardware {
    fn empty() -> Self {
        Self {
            name: String::new(),
            pid_file: None,
            memory: 128 << 20,
            no_reboot: false,
            chardevs: Vec::new(),
            monitors: Vec::new(),
            console: None,
            ports: Vec::new(),
            disk: None,
            files: Vec::new(),
            cidata: None,
            network: None,
            mac: None,
            vsock: None,
            vnc: None,
        }
    }

    /// Takes one option. `card` says whether a network card was seen.
    fn apply(&mut self, option: &str, value: &str, card: &mut bool) -> Result<()> {
        let origin = || format!("-{option} {value}");
        match option {
            "name" => {
                let options = Options::parse(value, "guest");
                options
                    .get("guest")
                    .unwrap_or("")
                    .clone_into(&mut self.name);
            }
            "pidfile" => self.pid_file = Some(PathBuf::from(value)),
            "m" => self.memory = parse_memory(Options::parse(value, "size").get("size"))?,
            "chardev" => self.chardevs.push(Chardev::parse(value, origin())?),
            "qmp" => {
                let id = self.named_or_inline(value, origin())?;
                self.monitors.push(id);
            }
            "mon" => {
                let options = Options::parse(value, "chardev");
                if options.get("mode") == Some("control") {
                    let id = options.get("chardev").unwrap_or("").to_owned();
                    self.monitors.push(id);
                }
            }
            "serial" if self.console.is_none() && value != "none" => {
                self.console = Some(self.named_or_inline(value, origin())?);
            }
            "drive" => self.add_drive(value, origin()),
            "cdrom" => self.cidata = Some(PathBuf::from(value)),
            "kernel" | "initrd" => self.files.push((origin(), PathBuf::from(value))),
            "netdev" => self.add_network(value, origin())?,
            "device" => self.add_device(value, card),
            "display" => {
                if let Some(display) = value.strip_prefix("vnc=") {
                    self.vnc = Some(VncDisplay::parse(display)?);
                }
            }
            "vnc" => self.vnc = Some(VncDisplay::parse(value)?),
            _ => {}
        }
        Ok(())
    }

    /// `chardev:ID`, or a chardev of its own: `unix:PATH,server=on` or `file:PATH`.
    fn named_or_inline(&mut self, value: &str, origin: String) -> Result<String> {
        let (kind, rest) = value.split_once(':').unwrap_or((value, ""));
        if kind == "chardev" {
            return Ok(rest.to_owned());
        }
        let path = Options::parse(rest, "path").get("path").map(PathBuf::from);
        let (socket, log) = match kind {
            "unix" => (path, None),
            "file" => (None, path),
            "null" => (None, None),
            _ => bail!("'{value}' is not a valid char driver here; use unix:, file: or chardev:"),
        };
        let id = format!("inline{}", self.chardevs.len());
        self.chardevs.push(Chardev {
            id: id.clone(),
            origin,
            socket,
            log,
        });
        Ok(id)
    }

    fn add_drive(&mut self, value: &str, origin: String) {
        let options = Options::parse(value, "file");
        let Some(file) = options.get("file").map(PathBuf::from) else {
            return;
        };
        self.files.push((origin, file.clone()));
        let firmware = options.get("if") == Some("pflash");
        let read_only = options.is_on("readonly") || options.get("media") == Some("cdrom");
        let iso = file.extension().is_some_and(|extension| extension == "iso");
        if read_only && iso && self.cidata.is_none() {
            self.cidata = Some(file);
        } else if !firmware && !read_only && self.disk.is_none() {
            self.disk = Some(file);
        }
    }

    fn add_network(&mut self, value: &str, origin: String) -> Result<()> {
        let options = Options::parse(value, "type");
        match options.get("type") {
            Some("user") => {}
            other => bail!(
                "only 'user' networks exist here, not '{}'",
                other.unwrap_or("")
            ),
        }
        if self.network.is_none() {
            self.network = Some(UserNetwork::parse(&options, origin)?);
        }
        Ok(())
    }

    fn add_device(&mut self, value: &str, card: &mut bool) {
        let options = Options::parse(value, "driver");
        let driver = options.get("driver").unwrap_or("");
        if driver == "virtserialport" {
            self.ports.push(SerialPort {
                chardev: options.get("chardev").unwrap_or("").to_owned(),
                name: options.get("name").unwrap_or("").to_owned(),
                device: options.get("id").map(str::to_owned),
            });
        } else if driver == "berth-vsock" {
            self.vsock = options.get("directory").map(PathBuf::from);
        } else if driver.starts_with("virtio-net") && !*card {
            *card = true;
            self.mac = options.get("mac").map(str::to_owned);
        }
    }

    fn check_references(&self) -> Result<()> {
        let known = |id: &str| self.chardevs.iter().any(|chardev| chardev.id == id);
        let named = (self.monitors.iter().map(|id| ("-qmp", id)))
            .chain(self.console.iter().map(|id| ("-serial", id)))
            .chain(self.ports.iter().map(|port| ("-device", &port.chardev)));
        for (option, id) in named {
            if !known(id) {
                bail!("{option} chardev:{id}: chardev \"{id}\" not found");
            }
        }
        Ok(())
    }
}

impl Chardev {
    fn parse(value: &str, origin: String) -> Result<Self> {
        let options = Options::parse(value, "backend");
        let path = |key: &str| options.get(key).map(PathBuf::from);
        let backend = options.get("backend").unwrap_or("");
        let socket = match backend {
            "socket" if options.is_on("server") && options.get("wait") == Some("off") => {
                path("path")
            }
            "socket" if options.is_on("server") => bail!("wait=on is not supported here"),
            // A helper process serves the other end (TPM, virtiofs); this machine has no such device.
            "socket" | "null" | "file" => None,
            other => bail!("'{other}' is not a valid char driver name"),
        };
        Ok(Self {
            id: options.get("id").unwrap_or("").to_owned(),
            origin,
            socket,
            log: path(if backend == "file" { "path" } else { "logfile" }),
        })
    }
}

impl UserNetwork {
    /// Defaults are QEMU's: 10.0.2.0/24, gateway .2, name server .3, first lease .15.
    fn parse(options: &Options, origin: String) -> Result<Self> {
        let address = |key: &str| options.get(key).map(str::parse::<Ipv4Addr>).transpose();
        let net = options.get("net").unwrap_or("10.0.2.0/24");
        let (base, _prefix) = net.split_once('/').unwrap_or((net, "24"));
        let [a, b, c, _] = base.parse::<Ipv4Addr>()?.octets();
        let inside = |last| Ipv4Addr::new(a, b, c, last);
        let guest = address("dhcpstart")?.unwrap_or(inside(15));
        let forwards = options
            .all("hostfwd")
            .map(|rule| ForwardRule::parse(rule, guest))
            .collect::<Result<_>>()?;
        Ok(Self {
            id: options.get("id").unwrap_or("").to_owned(),
            origin,
            gateway: address("host")?.unwrap_or(inside(2)),
            dns: address("dns")?.unwrap_or(inside(3)),
            guest,
            forwards,
        })
    }
}

impl VncDisplay {
    fn parse(value: &str) -> Result<Self> {
        let options = Options::parse(value, "display");
        let display = options.get("display").unwrap_or("");
        let (host, number) = display
            .rsplit_once(':')
            .ok_or_else(|| anyhow!("no vnc port specified"))?;
        let first: u16 = number.parse()?;
        let last = match options.get("to") {
            Some(to) => to.parse()?,
            None => first,
        };
        Ok(Self {
            host: host.to_owned(),
            displays: first..=last.max(first),
            password: options.is_on("password"),
        })
    }
}

fn parse_memory(text: Option<&str>) -> Result<u64> {
    let text = text.unwrap_or("");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "M" => 20,
        "K" => 10,
        "G" => 30,
        "T" => 40,
        _ => bail!("Parameter 'size' expects a non-negative number below 2^64"),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| anyhow!("Parameter 'size' expects a non-negative number below 2^64"))?;
    Ok(number << shift)
}

#[cfg(test)]
mod tests;
