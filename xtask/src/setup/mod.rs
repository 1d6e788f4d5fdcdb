//! What has to be installed, and installing it. Quiet when nothing is missing.

mod packages;
mod targets;
mod tools;

use anyhow::Result;
use clap::Args;

use crate::image::Arch;
use crate::workspace::{Workspace, is_root};

pub(crate) use targets::{OUTSIDE_LINUX, has_std, musl};
pub(crate) use tools::Purpose;

/// Arguments of `cargo xtask setup`.
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Install only what `cargo xtask demo` needs.
    #[arg(long)]
    for_demo: bool,
}

/// Installs what is missing for everything, or for the demo.
pub(crate) fn run(args: &SetupArgs, workspace: &Workspace) -> Result<()> {
    let purpose = if args.for_demo {
        Purpose::Demo
    } else {
        Purpose::Tests
    };
    setup(purpose, workspace)
}

/// Installs Debian packages and Rust's standard library for other targets, as far as they are missing.
///
/// Fails when a package cannot be installed, with the command that would do it. A target that cannot be added is only
/// reported: whoever needs it says what it does without.
pub(crate) fn setup(purpose: Purpose, workspace: &Workspace) -> Result<()> {
    let arch = Arch::native()?;
    let missing = tools::missing(purpose, arch, is_root());
    packages::install(&missing)?;
    targets::add_missing(purpose, workspace)
}
