//! The process of a VM: starting it, waiting for its sockets, and its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_image::error::with_causes;
use berth_process::adopt::Adopted;
use berth_process::exit::{Exit, Signal, gone};
use berth_process::identity::ProcessIdentity;
use berth_process::ladder::{self, Landing, Rung};
use berth_process::spawn::{Child, SpawnError};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::driver::{StopLadder, VmExit};
use crate::error::DriverError;
use crate::sys::{self, DirectoryWatch};

/// Words for a program that could not be started.
pub(crate) fn not_started(program: &Path, error: SpawnError) -> DriverError {
    match error {
        SpawnError::StderrFile { path, source, .. } => DriverError::Io {
            verb: "create",
            path,
            source,
        },
        other => DriverError::Program {
            program: program.display().to_string(),
            why: with_causes(&other),
        },
    }
}

/// Connects to a socket that is there, if whoever listens takes the connection in time.
pub(crate) async fn connect_within(
    socket: &Path,
    limit: Duration,
) -> Result<sys::LocalStream, DriverError> {
    tokio::time::timeout(limit, sys::connect(socket))
        .await
        .map_err(|_| DriverError::Timeout {
            what: format!("a connection to {}", socket.display()),
            seconds: limit.as_secs(),
        })?
        .map_err(DriverError::io("connect to", socket))
}

/// Connects to a socket as soon as it is there.
pub(crate) async fn connect_when_there(
    socket: &Path,
    watch: &mut DirectoryWatch,
) -> std::io::Result<sys::LocalStream> {
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);
    let mut pause = Duration::from_millis(1);
    loop {
        match sys::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => watch.changed().await?,
            // Between bind and listen of the other side. Nothing tells of the latter, but the next file often comes after it.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                tokio::select! {
                    changed = watch.changed() => changed?,
                    () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause * 2),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Turns the end of the process into the end of the VM.
pub(crate) fn watch_exit(vm: &Arc<Child>, tasks: &TaskTracker) -> watch::Receiver<Option<VmExit>> {
    let (tell, receiver) = watch::channel(None);
    let mut exit = vm.exit();
    // Weak: the last strong one ends the process when nobody wants it any more.
    let vm = Arc::downgrade(vm);
    tasks.spawn(async move {
        let exit = gone(&mut exit).await;
        tell.send_replace(Some(VmExit {
            failure: (!exit.success()).then(|| exit.describe()),
            stderr_tail: vm.upgrade().map(|vm| vm.stderr_tail()).unwrap_or_default(),
        }));
    });
    receiver
}

/// The VM of an agent that is gone, by the identity that it recorded; `None` if it is gone, too.
pub(crate) fn adopt(
    program: &str,
    identity: &ProcessIdentity,
) -> Result<Option<Adopted>, DriverError> {
    Adopted::open(identity.clone()).map_err(|error| DriverError::Program {
        program: format!("{program} (pid {})", identity.pid),
        why: format!("cannot be watched: {error}"),
    })
}

/// A process that is to end.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Child(&'a Child),
    Adopted(&'a Adopted),
}

impl Target<'_> {
    pub(crate) fn exit(self) -> watch::Receiver<Option<Exit>> {
        match self {
            Self::Child(child) => child.exit(),
            Self::Adopted(adopted) => adopted.exit(),
        }
    }

    pub(crate) fn signal(self, signal: Signal) -> Result<(), String> {
        let sent = match self {
            Self::Child(child) => child.signal(signal),
            Self::Adopted(adopted) => adopted.signal(signal),
        };
        sent.map_err(|error| error.to_string())
    }
}

/// What a killed process still needs to be gone, on a busy machine with a full disk.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(20);

/// Presses the power button again and again, until the guest reacts and this future is dropped.
///
/// A guest that boots loses what it is told before something in it listens to the button, and nothing tells when that is.
pub(crate) async fn press_power_button<F>(press: impl Fn() -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    const FIRST_PAUSE: Duration = Duration::from_secs(3);
    const LONGEST_PAUSE: Duration = Duration::from_secs(15);
    press().await?;
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        if press().await.is_err() {
            // Who does not answer after the first press is on the way out.
            return Ok(());
        }
    }
}

/// Ends a VM by going down the ladder.
pub(crate) async fn descend(
    program: &str,
    target: Target<'_>,
    steps: &StopLadder,
    rungs: Vec<Rung<'_>>,
) -> Result<(), DriverError> {
    let landing = land("the VM", program, target, steps, rungs).await?;
    tracing::info!(step = landing.rung, exit = %landing.exit, "The VM is gone.");
    Ok(())
}

/// Goes down the ladder, and tells of steps that failed; `what` ends by it.
pub(crate) async fn land(
    what: &str,
    program: &str,
    target: Target<'_>,
    steps: &StopLadder,
    rungs: Vec<Rung<'_>>,
) -> Result<Landing, DriverError> {
    let landing = ladder::descend(target.exit(), steps.hurry.clone(), rungs).await;
    let landing = landing.map_err(|error| DriverError::Program {
        program: program.to_owned(),
        why: error.to_string(),
    })?;
    for why in &landing.failures {
        tracing::warn!(why, "A step of stopping {what} failed.");
    }
    Ok(landing)
}
