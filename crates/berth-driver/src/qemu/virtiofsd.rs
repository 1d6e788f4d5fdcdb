//! The servers of virtiofs: one `virtiofsd` for each share, a process that lives as long as the VM.
//!
//! Each is sandboxed by virtiofsd itself (namespaces of its own, with nothing but the shared directory in them), and enforces
//! read-only. QEMU cannot take a new one in the place of one that died: that is told, and lasts until the next start.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use berth_image::error::with_causes;
use berth_instance::dir::InstanceDir;
use berth_process::exit::{Exit, Signal, gone};
use berth_process::ladder::{self, Rung};
use berth_process::spawn::{Child, Spec};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use crate::error::DriverError;
use crate::programs::{get, look_up};
use crate::qemu::life::Life;
use crate::qemu::plan::VirtiofsShare;
use crate::sys;

/// Names the program, where it is not found by itself.
const VARIABLE: &str = "BERTH_VIRTIOFSD";

/// Where distributions put it, which is not in PATH.
const PLACES: &[&str] = &[
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
];

/// Where packages say which program it is: files in the format of QEMU's `vhost-user.json`, below the home directory and these.
const DESCRIPTIONS: &[&str] = &[
    ".local/share/qemu/vhost-user",
    "/etc/qemu/vhost-user",
    "/usr/local/share/qemu/vhost-user",
    "/usr/share/qemu/vhost-user",
];

const STDERR_MAX: u64 = 64 << 10;
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long after its servers' end the VM's may be seen.
const VM_IS_DYING: Duration = Duration::from_secs(2);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Longest help text that is read.
const HELP_MAX: u64 = 64 << 10;

/// A description of a vhost-user program.
#[derive(Debug, Deserialize)]
struct Description {
    #[serde(rename = "type")]
    kind: String,
    binary: PathBuf,
}

/// Finds the program. Nothing is run: [`Abilities::ask`] tells whether it is the right one.
pub(super) fn find(home: &Path, env: &[(String, String)]) -> Result<PathBuf, DriverError> {
    if let Some(named) = get(env, VARIABLE).filter(|named| !named.is_empty()) {
        return look_up(named, env).ok_or_else(|| DriverError::Program {
            program: format!("{VARIABLE}={named}"),
            why: "there is no such program".to_owned(),
        });
    }
    let described = DESCRIPTIONS
        .iter()
        .filter_map(|directory| described(&home.join(directory)));
    let placed = PLACES.iter().map(PathBuf::from);
    let found = look_up("virtiofsd", env)
        .into_iter()
        .chain(described)
        .chain(placed)
        .find(|program| sys::is_executable(program));
    found.ok_or_else(|| DriverError::Program {
        program: "virtiofsd".to_owned(),
        why: format!(
            "not found, and `mountType: virtiofs` needs it; install it (Debian, Ubuntu, Fedora: package `virtiofsd`), or name it by {VARIABLE}"
        ),
    })
}

/// The program that the first fitting description of a directory names.
fn described(directory: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    // Their names begin with numbers that say which comes first.
    files.sort();
    files.into_iter().find_map(|file| {
        let description: Description = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let fits = description.kind == "fs" && sys::is_executable(&description.binary);
        fits.then_some(description.binary)
    })
}

/// What a program says that it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abilities {
    read_only: bool,
}

impl Abilities {
    /// Asks the program. QEMU's former virtiofsd, in C, is refused: it has other options, and nobody repairs it.
    async fn ask(program: &Path) -> Result<Self, DriverError> {
        let failed = |why: String| DriverError::Program {
            program: program.display().to_string(),
            why,
        };
        let asking = async {
            let spec = Spec::new(program).arg("--help").stdout(Stdio::piped());
            let mut child = spec
                .new_group()
                .kill_on_drop()
                .spawn()
                .map_err(|error| with_causes(&error))?;
            let mut help = String::new();
            if let Some(stdout) = child.take_stdout().map_err(|error| error.to_string())? {
                let read = stdout.take(HELP_MAX).read_to_string(&mut help).await;
                read.map_err(|error| error.to_string())?;
            }
            Ok(help)
        };
        let help = tokio::time::timeout(START_LIMIT, asking).await;
        let help = help.map_err(|_| failed("does not answer to --help".to_owned()))?;
        Self::of(&help.map_err(failed)?)
            .ok_or_else(|| failed("is not the virtiofsd that is written in Rust".to_owned()))
    }

    fn of(help: &str) -> Option<Self> {
        let knows = |option: &str| help.contains(option);
        (knows("--shared-dir") && knows("--sandbox")).then(|| Self {
            read_only: knows("--readonly"),
        })
    }
}

/// Starts one server for each share, side by side, and waits until each listens.
pub(super) async fn start(
    program: &Path,
    shares: &[VirtiofsShare],
    dir: &InstanceDir,
    life: &Life,
    files: &mut sys::DirectoryWatch,
) -> Result<(), DriverError> {
    let abilities = Abilities::ask(program).await?;
    let mut daemons = Vec::new();
    for share in shares {
        if !share.writable && !abilities.read_only {
            return Err(DriverError::Program {
                program: program.display().to_string(),
                why: format!(
                    "has no --readonly, so {} cannot be shared read-only; install virtiofsd 1.11 or later, or set `writable: true`",
                    share.directory.display()
                ),
            });
        }
        std::fs::create_dir_all(&share.directory)
            .map_err(DriverError::io("create", &share.directory))?;
        daemons.push((share, life.note_daemon(spawn(program, share)?)));
    }
    for (share, daemon) in daemons {
        wait_for_socket(share, dir, &daemon, files).await?;
    }
    Ok(())
}

fn spawn(program: &Path, share: &VirtiofsShare) -> Result<Child, DriverError> {
    Spec::new(program)
        .args(arguments(share))
        .new_session()
        .kill_on_drop()
        .stderr_capped_file(share.socket.with_extension("stderr.log"), STDERR_MAX)
        .spawn()
        .map_err(|error| DriverError::Program {
            program: program.display().to_string(),
            why: with_causes(&error),
        })
}

fn arguments(share: &VirtiofsShare) -> Vec<std::ffi::OsString> {
    let mut arguments = vec![
        "--socket-path".into(),
        share.socket.clone().into(),
        "--shared-dir".into(),
        share.directory.clone().into(),
        "--sandbox".into(),
        "namespace".into(),
    ];
    if !share.writable {
        arguments.push("--readonly".into());
    }
    arguments
}

async fn wait_for_socket(
    share: &VirtiofsShare,
    dir: &InstanceDir,
    daemon: &Child,
    files: &mut sys::DirectoryWatch,
) -> Result<(), DriverError> {
    let there = async {
        while !share.socket.exists() {
            let changed = files.changed().await;
            changed.map_err(DriverError::io("watch", dir.path()))?;
        }
        Ok(())
    };
    let mut exit = daemon.exit();
    tokio::select! {
        there = there => there,
        exit = gone(&mut exit) => Err(DriverError::Died {
            program: format!("virtiofsd for {}", share.directory.display()),
            how: exit.describe(),
            stderr_tail: daemon.stderr_tail(),
        }),
        () = tokio::time::sleep(START_LIMIT) => Err(DriverError::Timeout {
            what: format!("virtiofsd to open {}", share.socket.display()),
            seconds: START_LIMIT.as_secs(),
        }),
    }
}

/// Tells of a server that ends before its VM.
pub(super) fn watch(
    share: &VirtiofsShare,
    daemon: &Arc<Child>,
    mut vm: watch::Receiver<Option<Exit>>,
    life: &Life,
) {
    let troubles = life.troubles_out();
    let directory = share.directory.clone();
    let mut exit = daemon.exit();
    // Weak: the last strong one ends the process when nobody wants it any more.
    let daemon = Arc::downgrade(daemon);
    life.tasks().tracker().spawn(async move {
        let ended = gone(&mut exit).await;
        // The end of the VM is the end of its servers, and may be seen after theirs.
        if tokio::time::timeout(VM_IS_DYING, gone(&mut vm)).await.is_ok() {
            return;
        }
        let tail = daemon.upgrade().map(|daemon| daemon.stderr_tail());
        let tail = tail.unwrap_or_default();
        let said = if tail.is_empty() {
            String::new()
        } else {
            format!("; its last words: {tail}")
        };
        let trouble = format!(
            "virtiofsd for {} has ended ({}){said}: the mount is dead until the instance is restarted",
            directory.display(),
            ended.describe()
        );
        troubles.send_modify(|known| known.push(trouble));
    });
}

/// Ends a server, once the VM is gone.
pub(super) async fn stop(
    daemon: &Arc<Child>,
    hurry: watch::Receiver<bool>,
) -> Result<(), DriverError> {
    let signal =
        |signal: Signal| async move { daemon.signal(signal).map_err(|error| error.to_string()) };
    let rungs = vec![
        Rung::new("SIGTERM", STOP_LIMIT, signal(Signal::Terminate)),
        Rung::new("SIGKILL", STOP_LIMIT, signal(Signal::Kill)),
    ];
    match ladder::descend(daemon.exit(), hurry, rungs).await {
        Ok(_) => Ok(()),
        Err(error) => Err(DriverError::Program {
            program: "virtiofsd".to_owned(),
            why: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(writable: bool) -> VirtiofsShare {
        VirtiofsShare {
            tag: "lima-0".to_owned(),
            socket: "/i/virtiofsd-0.sock".into(),
            queue_size: 1024,
            directory: "/srv/a,b".into(),
            writable,
        }
    }

    #[test]
    fn every_server_is_sandboxed_and_read_only_unless_writable() {
        let words = "--socket-path /i/virtiofsd-0.sock --shared-dir /srv/a,b --sandbox namespace";
        let joined = |share| {
            let arguments = arguments(&share);
            let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
            words.join(" ")
        };
        assert_eq!(joined(share(true)), words);
        assert_eq!(joined(share(false)), format!("{words} --readonly"));
    }

    #[test]
    fn the_program_of_qemu_and_old_ones_are_told_apart() {
        assert_eq!(Abilities::of("-o source=PATH  shared directory tree"), None);
        let old = "--shared-dir <SHARED_DIR> --sandbox <SANDBOX>";
        assert_eq!(Abilities::of(old), Some(Abilities { read_only: false }));
        let new = format!("{old} --readonly");
        assert_eq!(Abilities::of(&new), Some(Abilities { read_only: true }));
    }

    #[cfg(unix)]
    #[test]
    fn a_description_names_the_program() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(DESCRIPTIONS[0]);
        std::fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, kind: &str, binary: &str| {
            let text =
                format!("{{\"description\":\"x\",\"type\":\"{kind}\",\"binary\":\"{binary}\"}}");
            std::fs::write(directory.join(name), text).unwrap();
        };
        write("10-gpu.json", "gpu", "/bin/false");
        write("20-gone.json", "fs", "/no/such/program");
        write("50-fs.json", "fs", "/bin/sh");
        std::fs::write(directory.join("00-broken.json"), "{").unwrap();
        assert_eq!(find(home.path(), &[]).unwrap(), Path::new("/bin/sh"));
        let named = [(VARIABLE.to_owned(), "/bin/cat".to_owned())];
        assert_eq!(find(home.path(), &named).unwrap(), Path::new("/bin/cat"));
        let wrong = [(VARIABLE.to_owned(), "/no/such".to_owned())];
        let why = find(home.path(), &wrong).unwrap_err().to_string();
        assert!(why.starts_with("BERTH_VIRTIOFSD=/no/such"), "{why}");
    }
}
