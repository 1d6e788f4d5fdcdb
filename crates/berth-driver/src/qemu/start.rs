//! Starting QEMU, up to the first word of its monitor.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_instance::dir::InstanceDir;
use berth_process::exit::{Exit, gone};
use berth_process::spawn::{Child, Spec};
use tokio::sync::broadcast;

use crate::driver::{RunningVm, VmEvent};
use crate::error::DriverError;
use crate::process::{connect_when_there, not_started, watch_exit};
use crate::qemu::argv::argv;
use crate::qemu::life::Life;
use crate::qemu::plan::{Plan, Shares};
use crate::qemu::qmp::Qmp;
use crate::qemu::{files, tpm, virtiofsd};
use crate::sys::{self, DirectoryWatch};

/// QEMU says little; what it repeats for ever is cut.
const STDERR_MAX: u64 = 1 << 20;
/// A monitor that hangs up is followed by QEMU's end, if at all, this soon.
const DEATH_RATTLE: Duration = Duration::from_secs(2);

/// What a start depends on beside the plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) env: &'a [(String, String)],
    /// The user's home directory.
    pub(super) home: &'a Path,
    /// How long QEMU may take to the first word of its monitor.
    pub(super) monitor_limit: Duration,
}

/// Starts the processes of the VM. Refused while another VM of the instance runs. What was started is noted in `life` at once, so that a stop finds it, however far this got.
pub(super) async fn start(
    plan: &Plan,
    surroundings: Surroundings<'_>,
    life: &Life,
) -> Result<RunningVm, DriverError> {
    let Surroundings {
        env,
        home,
        monitor_limit,
    } = surroundings;
    let dir = &plan.dir;
    require_no_other(dir).await?;
    files::clear_before_start(dir)?;
    make_share_directories(&plan.shares)?;
    let mut watch =
        DirectoryWatch::new(dir.path()).map_err(DriverError::io("watch", dir.path()))?;
    if plan.tpm.is_some() {
        let tpm = life.note_tpm(tpm::spawn(dir, env)?);
        tpm::wait_for_socket(dir, &tpm, &mut watch).await?;
    }
    if let Shares::Virtiofs(shares) = &plan.shares {
        let program = virtiofsd::find(home, env)?;
        virtiofsd::start(&program, shares, dir, life, &mut watch).await?;
    }
    let vm = life.note_vm(spawn(plan)?);
    if let Shares::Virtiofs(shares) = &plan.shares {
        for (share, daemon) in shares.iter().zip(life.daemons()) {
            virtiofsd::watch(share, &daemon, vm.exit(), life);
        }
    }
    let (monitor, events) = open_monitor(plan, &vm, life, &mut watch, monitor_limit).await?;
    life.note_monitor(monitor);
    Ok(RunningVm {
        identity: vm.identity().clone(),
        exit: watch_exit(&vm, life.tasks().tracker()),
        events,
    })
}

/// An agent that was killed leaves its VM running: its sockets must not be taken from it.
async fn require_no_other(dir: &InstanceDir) -> Result<(), DriverError> {
    if sys::connect(&dir.qmp_berth_sock()).await.is_err() {
        return Ok(());
    }
    let pid = std::fs::read_to_string(dir.vm_pid("qemu")).unwrap_or_default();
    let pid: u32 = pid.trim().parse().unwrap_or_default();
    Err(DriverError::Program {
        program: "QEMU".to_owned(),
        why: format!("a VM of this instance runs already (pid {pid}): stop it first"),
    })
}

fn make_share_directories(shares: &Shares) -> Result<(), DriverError> {
    let Shares::NineP(shares) = shares else {
        return Ok(());
    };
    for share in shares {
        std::fs::create_dir_all(&share.path).map_err(DriverError::io("create", &share.path))?;
    }
    Ok(())
}

fn spawn(plan: &Plan) -> Result<Child, DriverError> {
    let program = &plan.program.path;
    Spec::new(program)
        .args(argv(plan))
        .new_session()
        .kill_on_drop()
        .stderr_capped_file(plan.dir.vm_stderr_log(), STDERR_MAX)
        .spawn()
        .map_err(|error| not_started(program, error))
}

/// Waits for the monitor, QEMU's end, or the limit, whichever comes first.
async fn open_monitor(
    plan: &Plan,
    vm: &Arc<Child>,
    life: &Life,
    watch: &mut DirectoryWatch,
    limit: Duration,
) -> Result<(Qmp, broadcast::Receiver<VmEvent>), DriverError> {
    let socket = plan.dir.qmp_berth_sock();
    let opening = async {
        let stream = connect_when_there(&socket, watch)
            .await
            .map_err(DriverError::io("connect to", &socket))?;
        Qmp::open(
            stream,
            socket.clone(),
            life.tasks().tracker(),
            life.tasks().cancellation(),
        )
        .await
        .map_err(|why| DriverError::Monitor {
            command: "qmp_capabilities".to_owned(),
            why,
        })
    };
    let mut exit = vm.exit();
    let died = |exit: Exit| DriverError::Died {
        program: plan.program.path.display().to_string(),
        how: exit.describe(),
        stderr_tail: vm.stderr_tail(),
    };
    let opened = tokio::select! {
        biased;
        exit = gone(&mut exit) => return Err(died(exit)),
        opened = opening => opened,
        () = tokio::time::sleep(limit) => Err(DriverError::Timeout {
            what: format!("QEMU to answer on {} (see {})", socket.display(), plan.dir.vm_stderr_log().display()),
            seconds: limit.as_secs(),
        }),
    };
    match opened {
        // A hang-up is rarely the whole truth.
        Err(error @ (DriverError::Monitor { .. } | DriverError::Io { .. })) => {
            match tokio::time::timeout(DEATH_RATTLE, gone(&mut exit)).await {
                Ok(exit) => Err(died(exit)),
                Err(_) => Err(error),
            }
        }
        other => other,
    }
}
