//! The TPM emulator of a VM: `swtpm`, a process that lives as long as the VM.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_image::error::with_causes;
use berth_instance::dir::InstanceDir;
use berth_process::exit::{Signal, gone};
use berth_process::ladder::{self, Rung};
use berth_process::spawn::{Child, Spec};
use tokio::sync::watch;

use crate::error::DriverError;
use crate::programs::look_up;
use crate::sys;

const STDERR_MAX: u64 = 64 << 10;
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Finds the program, and checks that its option lists can carry the paths.
pub(super) fn find(dir: &InstanceDir, env: &[(String, String)]) -> Result<PathBuf, DriverError> {
    if dir.path().as_os_str().as_encoded_bytes().contains(&b',') {
        return Err(DriverError::Unsupported {
            key: "tpm".to_owned(),
            why: format!(
                "swtpm cannot use a directory with a comma in its name ({})",
                dir.path().display()
            ),
        });
    }
    look_up("swtpm", env).ok_or_else(|| DriverError::Program {
        program: "swtpm".to_owned(),
        why: "not found in PATH, and `tpm: true` needs it; install it (Debian, Ubuntu: `apt install swtpm`; macOS: `brew install swtpm`)"
            .to_owned(),
    })
}

/// Starts it. It ends by itself when QEMU goes away, also when we are gone by then.
pub(super) fn spawn(dir: &InstanceDir, env: &[(String, String)]) -> Result<Child, DriverError> {
    let program = find(dir, env)?;
    let state = dir.swtpm_dir();
    sys::create_private_dir(&state).map_err(DriverError::io("create", &state))?;
    let old_lock = state.join(".lock");
    match std::fs::remove_file(&old_lock) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(DriverError::io("remove", &old_lock)(error));
        }
        _ => {}
    }
    Spec::new(&program)
        .arg("socket")
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", dir.swtpm_sock().display()))
        .args(["--tpm2", "--terminate", "--log", "level=1"])
        .new_session()
        .kill_on_drop()
        .stderr_capped_file(state.join("stderr.log"), STDERR_MAX)
        .spawn()
        .map_err(|error| DriverError::Program {
            program: program.display().to_string(),
            why: with_causes(&error),
        })
}

/// Waits until its socket is there. Does not connect: it would end when we leave.
pub(super) async fn wait_for_socket(
    dir: &InstanceDir,
    tpm: &Child,
    files: &mut sys::DirectoryWatch,
) -> Result<(), DriverError> {
    let socket = dir.swtpm_sock();
    let there = async {
        while !socket.exists() {
            let changed = files.changed().await;
            changed.map_err(DriverError::io("watch", dir.path()))?;
        }
        Ok(())
    };
    let mut exit = tpm.exit();
    tokio::select! {
        there = there => there,
        exit = gone(&mut exit) => Err(DriverError::Died {
            program: "swtpm".to_owned(),
            how: exit.describe(),
            stderr_tail: tpm.stderr_tail(),
        }),
        () = tokio::time::sleep(START_LIMIT) => Err(DriverError::Timeout {
            what: format!("swtpm to open {}", socket.display()),
            seconds: START_LIMIT.as_secs(),
        }),
    }
}

/// Ends it, once the VM is gone.
pub(super) async fn stop(
    tpm: &Arc<Child>,
    hurry: watch::Receiver<bool>,
) -> Result<(), DriverError> {
    let signal =
        |signal: Signal| async move { tpm.signal(signal).map_err(|error| error.to_string()) };
    let rungs = vec![
        Rung::new("SIGTERM", STOP_LIMIT, signal(Signal::Terminate)),
        Rung::new("SIGKILL", STOP_LIMIT, signal(Signal::Kill)),
    ];
    match ladder::descend(tpm.exit(), hurry, rungs).await {
        Ok(_) => Ok(()),
        Err(error) => Err(DriverError::Program {
            program: "swtpm".to_owned(),
            why: error.to_string(),
        }),
    }
}
