//! Ending what an agent left that was killed.

use std::path::Path;

use berth_instance::dir::InstanceDir;
use berth_process::identity::ProcessIdentity;

use super::process::{adopt, clear, end, end_another, end_vm, vm_of};
use crate::driver::StopLadder;
use crate::error::DriverError;
use crate::process::Target;

/// Ends the server that the agent recorded, or the VM that its pid file names, with everything that is left of the life.
///
/// The VM has lost its `Start` stream with the agent, so its driver has ended it or is about to.
pub(crate) async fn stop_orphan(
    name: &str,
    dir: &InstanceDir,
    identity: &ProcessIdentity,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    let program = Path::new(name);
    let vm = vm_of(identity, dir, name);
    if let Some(left) = &adopt(program, identity)? {
        end(Target::Adopted(left), program, steps).await?;
    }
    end_another(dir, name, program).await?;
    end_vm(vm, program).await?;
    clear(dir, name)
}
