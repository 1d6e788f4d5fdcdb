//! From nothing to a command that ran in a guest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::binaries::{Binaries, Effort};
use crate::image::Image;
use crate::program::Program;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;

const INSTANCE: &str = "demo";

/// Runs in the guest, with the shell of its user.
const GREETING: &str = r#"uname -a
. /etc/os-release
echo "Hello from $PRETTY_NAME. I am $(whoami), this is $(hostname), up for $(cut -d ' ' -f 1 /proc/uptime) s.""#;

/// Longest path of LIMA_HOME in bytes, so that `/demo/ssh.sock.` with 16 random characters and a zero byte fits into the
/// 108 bytes that Linux has for the path of a socket.
const LONGEST_HOME: usize = 108 - "/demo/ssh.sock.0123456789abcdef\0".len();

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Stop the instance that an earlier demo started.
    #[arg(long)]
    stop: bool,
    /// Keep the instance in this directory [default: LIMA_HOME, else one below `target`]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

/// Starts an instance, or stops it.
pub(crate) fn run(workspace: &Workspace, args: &DemoArgs) -> Result<()> {
    let home = home(args, workspace)?;
    if args.stop {
        let berth = Binaries::installed_berth(workspace);
        return Demo { berth, home }.stop();
    }
    announce(&home)?;
    setup::setup(Purpose::Demo, workspace)?;
    step("building berth and the guest agent");
    let berth = Binaries::build(workspace, Effort::Quick)?.berth;
    step("looking for the guest image, or building it");
    let image = Image::obtain(false)?;
    Demo { berth, home }.start(&image)
}

/// Says what is going to happen before anything does.
fn announce(home: &Path) -> Result<()> {
    let cache = Workspace::image_cache()?;
    println!(
        "This boots a Debian guest with berth and runs a command in it.\n\
         \x20 1. Installs what is missing, with apt: QEMU, OpenSSH's client, mmdebstrap (about 45 MB to download);\n\
         \x20    adds two musl targets to Rust's toolchain (about 70 MB).\n\
         \x20 2. Builds berth and its guest agent: about four minutes on two cores.\n\
         \x20 3. Builds the guest image from Debian packages: 165 MB to download, two minutes. Kept in\n\
         \x20    {} (1.3 GB).\n\
         \x20 4. Starts the instance `{INSTANCE}` in {}: seconds with KVM, about a minute without.\n\
         What is there already is not done again.",
        cache.display(),
        home.display()
    );
    Ok(())
}

fn step(what: &str) {
    println!("demo: {what}");
}

/// Where the instance lives: `--home`, `LIMA_HOME`, or a directory of the demo's own whose sockets have short paths.
fn home(args: &DemoArgs, workspace: &Workspace) -> Result<PathBuf> {
    let variable = std::env::var_os("LIMA_HOME").filter(|home| !home.is_empty());
    if let Some(home) = args.home.clone().or(variable.map(PathBuf::from)) {
        return std::path::absolute(&home)
            .with_context(|| format!("find the full path of {}", home.display()));
    }
    let beside = workspace.target().join("demo-home");
    if beside.as_os_str().len() <= LONGEST_HOME {
        return Ok(beside);
    }
    Ok(Workspace::image_cache()?.with_file_name("demo-home"))
}

/// An installation, and the home of its instance.
struct Demo {
    berth: PathBuf,
    home: PathBuf,
}

impl Demo {
    fn start(&self, image: &Image) -> Result<()> {
        if self.exists() {
            step("starting the instance of the last demo");
            self.berth().args(["start", INSTANCE]).run()?;
        } else {
            step("creating and starting the instance");
            self.berth()
                .args(["start", "--yes", "--name", INSTANCE])
                .arg(image.template())
                .run()?;
        }
        step("running a command in the guest");
        self.berth()
            .args(["shell", "--workdir", "/", INSTANCE])
            .args(["sh", "-c", GREETING])
            .run()?;
        step("where the time of the start went");
        self.berth()
            .args(["status", INSTANCE, "--timeline"])
            .run()?;
        self.say_how_to_go_on();
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        if !self.exists() {
            println!(
                "there is no instance `{INSTANCE}` in {}",
                self.home.display()
            );
            return Ok(());
        }
        self.berth().args(["stop", INSTANCE]).run()
    }

    fn exists(&self) -> bool {
        self.home.join(INSTANCE).join("lima.yaml").exists()
    }

    fn berth(&self) -> Program {
        Program::new(&self.berth).env("LIMA_HOME", &self.home)
    }

    fn say_how_to_go_on(&self) {
        let (home, berth) = (self.home.display(), self.berth.display());
        println!(
            "\nThe guest is running. To go on:\n\
             \x20 export LIMA_HOME={home}\n\
             \x20 {berth} shell {INSTANCE}             a shell in the guest\n\
             \x20 {berth} list                   all instances\n\
             \x20 {berth} status {INSTANCE} --svg start.svg\n\
             \x20 cargo xtask demo --stop   stops it; another `cargo xtask demo` starts it again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_home_leaves_room_for_the_longest_socket() {
        let home = "h".repeat(LONGEST_HOME);
        assert_eq!(
            format!("{home}/demo/ssh.sock.0123456789abcdef\0").len(),
            108
        );
    }
}
