//! Hyper-V sockets: a connection to a vsock port of WSL's virtual machine.
//!
//! All distributions of a Windows user run in one machine, so each instance has a port of its own. The machine's id is new with
//! each of its boots. WSL tells it to nobody but its helper `wslhost.exe`, on the command line (`--vm-id {GUID}`; WSL 2.9.4,
//! `src/windows/common/helpers.cpp`), where it is read. A vsock port is the service `PPPPPPPP-facb-11e6-bd58-64006a7986d3`
//! (Microsoft's "Make your own integration services"); only listeners on the host must be registered, and there are none.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_image::digest::sha256_hex;
use berth_instance::dir::InstanceDir;

use crate::driver::Carrier;
use crate::error::DriverError;
use crate::programs;
use crate::sys;
use crate::wsl2::text::decode;
use crate::wsl2::wsl::run;

const POWERSHELL: &str = "powershell.exe";
/// Prints the command line of each `wslhost.exe` on a line of its own: unlike JSON, one is not printed differently from two.
const COMMAND_LINES: &str = "[Console]::OutputEncoding = [Text.Encoding]::UTF8; \
    Get-CimInstance -ClassName Win32_Process -Filter \"Name = 'wslhost.exe'\" | ForEach-Object { $_.CommandLine }";
/// PowerShell takes its time.
const FIND: Duration = Duration::from_secs(30);
/// A machine that is there answers at once.
const CONNECT: Duration = Duration::from_secs(3);

/// The ports of instances: far above those that WSL's own programs listen on (50000 and a few more).
const FIRST_PORT: u32 = 0x4000_0000;
const PORTS: u32 = 0x1000_0000;

/// Names a directory whose unix sockets stand in for Hyper-V's (`VM-ID/PORT`), where there is no Hyper-V.
pub(super) const STAND_IN: &str = "BERTH_HYPERV_SOCKETS";

/// The instance's port: it stays the same, as the guest keeps it, and differs from every other instance's.
pub(super) fn port(dir: &InstanceDir) -> u32 {
    let hash = sha256_hex(dir.path().as_os_str().as_encoded_bytes());
    let number = u32::from_str_radix(&hash[..8], 16).unwrap_or_default();
    FIRST_PORT + number % PORTS
}

/// A GUID, its first digit first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guid(pub(crate) u128);

impl Guid {
    /// Stands for every machine.
    const NOBODY: Self = Self(0);

    /// The service of a vsock port.
    fn of_port(port: u32) -> Self {
        const TEMPLATE: u128 = 0x0000_0000_facb_11e6_bd58_6400_6a79_86d3;
        Self(u128::from(port) << 96 | TEMPLATE)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (start, end) = (&digits[..20], &digits[20..]);
        let part = |at: usize| &start[at..at + 4];
        write!(
            f,
            "{}-{}-{}-{}-{end}",
            &start[..8],
            part(8),
            part(12),
            part(16)
        )
    }
}

impl FromStr for Guid {
    type Err = ();

    /// With or without braces.
    fn from_str(text: &str) -> Result<Self, ()> {
        let bare = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(text);
        let parts: Vec<&str> = bare.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let digits = parts.concat();
        if lengths != [8, 4, 4, 4, 12] || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| ())
    }
}

/// Whose sockets they are.
#[derive(Debug)]
enum Sockets {
    HyperV,
    StandIn(PathBuf),
}

/// The way to one port of WSL's machine.
#[derive(Debug)]
pub(super) struct HvSocket {
    port: u32,
    sockets: Sockets,
    powershell: Option<PathBuf>,
    /// Machines that were found, until one of them is not there any more.
    machines: Mutex<Vec<Guid>>,
}

impl HvSocket {
    pub(super) fn new(port: u32, env: &[(String, String)]) -> Self {
        Self {
            port,
            sockets: match programs::get(env, STAND_IN) {
                Some(directory) => Sockets::StandIn(directory.into()),
                None => Sockets::HyperV,
            },
            powershell: programs::look_up(POWERSHELL, env),
            machines: Mutex::default(),
        }
    }

    fn machines(&self) -> MutexGuard<'_, Vec<Guid>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another machine runs, or none.
    pub(super) fn forget(&self) {
        self.machines().clear();
    }

    /// Connects. There is nearly always one machine; where several are told of, one of an earlier boot is not there any more.
    pub(super) async fn connect(&self) -> Result<Box<dyn Carrier>, DriverError> {
        let known = self.machines().clone();
        let machines = if known.is_empty() {
            self.find().await?
        } else {
            known
        };
        let mut failure = io::ErrorKind::NotFound.into();
        for machine in &machines {
            match self.connect_to(*machine).await {
                Ok(stream) => {
                    *self.machines() = vec![*machine];
                    return Ok(stream);
                }
                Err(why) => failure = why,
            }
        }
        // A machine that refuses is there, and its agent is not yet.
        let refused = failure.kind() == io::ErrorKind::ConnectionRefused;
        *self.machines() = if refused { machines } else { Vec::new() };
        Err(DriverError::Io {
            verb: "connect to",
            path: format!("port {} of WSL's machine", self.port).into(),
            source: failure,
        })
    }

    async fn connect_to(&self, machine: Guid) -> io::Result<Box<dyn Carrier>> {
        let connecting = async {
            Ok::<Box<dyn Carrier>, io::Error>(match &self.sockets {
                Sockets::HyperV => {
                    Box::new(sys::connect_hyperv(machine, Guid::of_port(self.port)).await?)
                }
                Sockets::StandIn(directory) => {
                    let socket = directory.join(machine.to_string());
                    Box::new(sys::connect(&socket.join(self.port.to_string())).await?)
                }
            })
        };
        let connected = tokio::time::timeout(CONNECT, connecting).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks who runs.
    async fn find(&self) -> Result<Vec<Guid>, DriverError> {
        let Some(powershell) = &self.powershell else {
            return Err(DriverError::Program {
                program: POWERSHELL.to_owned(),
                why: "not found in PATH; it is a part of Windows".to_owned(),
            });
        };
        let words = [
            "-NoLogo",
            "-NoProfile",
            "-NonInteractive",
            "-Command",
            COMMAND_LINES,
        ];
        let reply = run(powershell, &words, FIND).await?;
        let machines = machines_of(&decode(&reply.stdout));
        if machines.is_empty() {
            let words = reply.words();
            let said = if words.is_empty() {
                String::new()
            } else {
                format!("; PowerShell says: {words}")
            };
            return Err(DriverError::Program {
                program: "wslhost.exe".to_owned(),
                why: format!("no such process names WSL's virtual machine{said}"),
            });
        }
        Ok(machines)
    }
}

/// Ids of machines in command lines, each once, as they come.
fn machines_of(command_lines: &str) -> Vec<Guid> {
    /// One is what there ought to be.
    const MOST: usize = 8;
    let mut machines = Vec::new();
    for line in command_lines.lines() {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "--vm-id");
        let id = words.nth(1).and_then(|word| word.parse().ok());
        match id {
            Some(id) if id != Guid::NOBODY && !machines.contains(&id) => machines.push(id),
            _ => {}
        }
    }
    machines.truncate(MOST);
    machines
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "89abcdef-0123-4567-89ab-cdef01234567";

    #[test]
    fn a_port_is_a_service_of_eight_digits() {
        let service = Guid::of_port(2222).to_string();
        assert_eq!(service, "000008ae-facb-11e6-bd58-64006a7986d3");
    }

    #[test]
    fn ids_are_read_strictly() {
        let id: Guid = VM.parse().unwrap();
        assert_eq!(id.to_string(), VM);
        assert_eq!(format!("{{{VM}}}").parse(), Ok(id));
        for wrong in [
            "",
            "{}",
            "89abcdef",
            &VM[1..],
            &VM.replace('a', "g"),
            &VM.replace("-4567-", "-+567-"),
        ] {
            assert_eq!(wrong.parse::<Guid>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn machines_are_found_in_command_lines_and_nothing_else_is() {
        let other = VM.replace('8', "7");
        let lines = format!(
            "\"C:\\Program Files\\WSL\\wslhost.exe\" --distro-id {{{other}}} --vm-id {{{VM}}} --handle 1\r\n\
             wslhost.exe --vm-id {{{VM}}} --handle 2\r\n\
             wslhost.exe --vm-id\r\n\
             wslhost.exe --vm-id {{00000000-0000-0000-0000-000000000000}}\r\n\
             wslhost.exe --vm-id {{..\\..\\pipe}}\r\n\
             wslhost.exe --distro-id {{{other}}}\r\n\
             Zugriff verweigert\r\n"
        );
        assert_eq!(machines_of(&lines), [VM.parse().unwrap()]);
    }

    #[test]
    fn instances_have_ports_of_their_own() {
        let ports = ["/h/a", "/h/b", "/i/a"].map(|dir| port(&InstanceDir::new(dir.into())));
        assert!(
            ports
                .iter()
                .all(|port| (FIRST_PORT..FIRST_PORT + PORTS).contains(port))
        );
        assert!(ports[0] != ports[1] && ports[0] != ports[2], "{ports:?}");
        assert_eq!(
            port(&InstanceDir::new("/h/a".into())),
            ports[0],
            "from start to start"
        );
    }
}
