//! Rust's standard library for the targets that are built beside the machine's own.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tools::Purpose;
use crate::image::Arch;
use crate::program::{self, Program};
use crate::workspace::Workspace;

/// Where berth has to compile, although nothing here can run it.
pub(crate) const OUTSIDE_LINUX: [&str; 2] = ["aarch64-apple-darwin", "x86_64-pc-windows-gnu"];

/// The target of the static guest agent.
pub(crate) fn musl(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-unknown-linux-musl",
        Arch::Aarch64 => "aarch64-unknown-linux-musl",
    }
}

/// Adds with rustup what is missing; says so when that is impossible.
pub(super) fn add_missing(purpose: Purpose, workspace: &Workspace) -> Result<()> {
    let mut wanted = vec![musl(Arch::X86_64), musl(Arch::Aarch64)];
    if purpose == Purpose::Tests {
        wanted.extend(OUTSIDE_LINUX);
    }
    let libraries = libraries(workspace)?;
    wanted.retain(|target| !libraries.join(target).join("lib").is_dir());
    if wanted.is_empty() {
        return Ok(());
    }
    let list = wanted.join(" ");
    if program::find("rustup").is_none() {
        eprintln!(
            "warning: this Rust has no standard library for {list}, and there is no rustup to add it"
        );
        return Ok(());
    }
    println!("setup: adding Rust's standard library for {list} (about 30 MB each)");
    let added = Program::new("rustup")
        .args(["target", "add"])
        .args(&wanted)
        .current_dir(workspace.root())
        .run();
    if let Err(error) = added {
        eprintln!("warning: going on without the standard library for {list}: {error:#}");
    }
    Ok(())
}

/// Whether the toolchain can build for a target.
pub(crate) fn has_std(target: &str, workspace: &Workspace) -> Result<bool> {
    Ok(libraries(workspace)?.join(target).join("lib").is_dir())
}

fn libraries(workspace: &Workspace) -> Result<PathBuf> {
    let sysroot = Program::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(workspace.root())
        .read()?;
    Ok(Path::new(sysroot.trim_end()).join("lib/rustlib"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_of_this_machine_are_seen() {
        let workspace = Workspace::here().unwrap();
        let own = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        assert!(has_std(&own, &workspace).unwrap());
        assert!(!has_std("z80-unknown-cpm", &workspace).unwrap());
    }
}
