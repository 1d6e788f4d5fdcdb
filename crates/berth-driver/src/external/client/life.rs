//! One life of a VM: the stream of `Start`.

use std::sync::{Arc, Mutex, PoisonError};

use berth_grpc::client::Answers;
use berth_instance::dir::InstanceDir;
use berth_process::exit::gone;
use berth_process::identity::ProcessIdentity;
use berth_process::spawn::Child;
use tokio::sync::{broadcast, watch};

use super::process::{Server, vm_of};
use super::{Ask, MAX_TEXT, shown};
use crate::driver::{VmEvent, VmExit};
use crate::error::DriverError;
use crate::external::message::{Empty, StartResponse, method};
use crate::files::remove_all;
use crate::tasks::Tasks;

/// What is known of the VM.
#[derive(Debug)]
pub(super) struct Life {
    tell: Arc<watch::Sender<Option<VmExit>>>,
    /// Nothing comes from it; it is open for as long as the VM may live.
    events: broadcast::Sender<VmEvent>,
    vm: Mutex<Option<ProcessIdentity>>,
    tasks: Tasks,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            tell: Arc::new(watch::channel(None).0),
            events: broadcast::channel(1).0,
            vm: Mutex::default(),
            tasks: Tasks::default(),
        }
    }

    pub(super) fn exit(&self) -> watch::Receiver<Option<VmExit>> {
        self.tell.subscribe()
    }

    pub(super) fn is_running(&self) -> bool {
        self.tell.borrow().is_none()
    }

    pub(super) fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.events.subscribe()
    }

    /// Has the server start the VM, and follows the stream from then on. Dropped before its end, it takes the start back.
    pub(super) async fn start(&self, ask: &Ask<'_>, dir: &InstanceDir) -> Result<(), DriverError> {
        let started = self.try_start(ask, dir).await;
        if started.is_err() {
            let end = lost("it did not start", &ask.server.child);
            self.tell.send_replace(Some(end));
        }
        started
    }

    async fn try_start(&self, ask: &Ask<'_>, dir: &InstanceDir) -> Result<(), DriverError> {
        // Of an earlier life: what it names now is nobody's VM.
        remove_all([dir.vm_pid(&ask.driver.name)])?;
        let client = &ask.server.client;
        let began = async {
            let mut answers = client.streaming(method("Start"), &Empty {}).await?;
            let first = answers.next::<StartResponse>().await;
            Ok((answers, first))
        };
        let refused = |why: &str| Err(ask.fault(format!("did not start the VM: {why}")));
        let answers = match began.await {
            Err(why) | Ok((_, Some(Err(why)))) => return Err(ask.explain(why).await),
            Ok((_, None)) => return refused("it said nothing"),
            Ok((_, Some(Ok(answer)))) if !answer.success => {
                return refused(&shown(&answer.error, MAX_TEXT));
            }
            Ok((answers, Some(Ok(_)))) => answers,
        };
        self.vm(ask.server, dir, &ask.driver.name);
        let (tell, cancel) = (Arc::clone(&self.tell), self.tasks.cancellation());
        let child = Arc::clone(&ask.server.child);
        self.tasks.tracker().spawn(async move {
            let end = cancel.run_until_cancelled(follow(answers, &child)).await;
            tell.send_replace(Some(
                end.unwrap_or_else(|| lost("berth let go of it", &child)),
            ));
        });
        Ok(())
    }

    /// Shows the VM's window, which takes as long as the VM runs.
    pub(super) fn show_window(&self, server: &Server) {
        let client = server.client.clone();
        self.tasks.spawn(async move {
            let window = client.unary::<Empty>(method("RunGUI"), &Empty {}, None);
            if let Err(error) = window.await {
                tracing::warn!(%error, "The VM has no window.");
            }
        });
    }

    /// The process of the VM, as far as its pid file tells.
    pub(super) fn vm(
        &self,
        server: &Server,
        dir: &InstanceDir,
        name: &str,
    ) -> Option<ProcessIdentity> {
        let mut vm = self.vm.lock().unwrap_or_else(PoisonError::into_inner);
        if vm.is_none() {
            *vm = vm_of(server.child.identity(), dir, name);
        }
        vm.clone()
    }

    /// Waits until a VM that was stopped is said to be gone, or a moment: not every server sends its last word when it ends.
    pub(super) async fn last_word(&self) {
        let mut exit = self.exit();
        let _ = tokio::time::timeout(MOMENT, exit.wait_for(Option::is_some)).await;
    }

    /// Ends what follows the VM, and waits for it.
    pub(super) async fn end(&self) {
        self.tasks.end().await;
    }
}

/// Waits for the end of the VM: the first error, the last success, or the end of whatever would have told.
async fn follow(mut answers: Answers, child: &Child) -> VmExit {
    let mut exit = child.exit();
    let answer = tokio::select! {
        // What the stream has still to say is more than how the process ended.
        biased;
        answer = answers.next::<StartResponse>() => answer,
        exit = gone(&mut exit) => {
            let why = format!("the external driver ended ({})", exit.describe());
            return lost(&why, child);
        }
    };
    match answer {
        Some(Ok(answer)) if answer.success => VmExit {
            failure: None,
            stderr_tail: String::new(),
        },
        Some(Ok(answer)) => lost(&shown(&answer.error, MAX_TEXT), child),
        None => lost("the external driver ended its report without a word", child),
        Some(Err(why)) => match tokio::time::timeout(MOMENT, gone(&mut exit)).await {
            Ok(exit) => lost(
                &format!("the external driver ended ({})", exit.describe()),
                child,
            ),
            Err(_) => lost(&why.to_string(), child),
        },
    }
}

/// A process that ends closes its connections first; how it ended is known a moment later.
const MOMENT: std::time::Duration = std::time::Duration::from_secs(1);

fn lost(why: &str, child: &Child) -> VmExit {
    VmExit {
        failure: Some(why.to_owned()),
        stderr_tail: child.stderr_tail(),
    }
}
