//! Choosing the driver.

use std::path::Path;

use berth_config::model::VmType;

use crate::driver::{Driver, DriverContext};
use crate::error::DriverError;
use crate::qemu::QemuDriver;

/// Makes the driver that `vmType` of the configuration names. Runs nothing and writes nothing.
///
/// `cache_dir`: `lima` in the user's cache directory, for downloads and for what was learned about programs.
pub fn create_driver(
    context: DriverContext,
    cache_dir: &Path,
) -> Result<Box<dyn Driver>, DriverError> {
    match &context.config.vm_type {
        VmType::Qemu => Ok(Box::new(QemuDriver::new(context, cache_dir)?)),
        other => Err(DriverError::Unsupported {
            key: "vmType".to_owned(),
            why: format!(
                "{:?} is not built yet; only \"qemu\" is",
                String::from(other.clone())
            ),
        }),
    }
}
