//! This program as one of Lima's external drivers: called `lima-driver-NAME`, it serves the driver that the name stands for.
//!
//! `NAME` is one of berth's drivers, with `berth-` before it where the other side has one of that name itself. Lima tells two
//! things on the command line: the instance's directory, or that it only wants a status.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use berth_driver::external::discovery::driver_name;
use berth_driver::external::inspect_status;
use berth_driver::external::server::{self, ServerOptions};
use berth_instance::dir::InstanceDir;
use indicatif::{MultiProgress, ProgressDrawTarget};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

use crate::environment::Environment;
use crate::logging::{self, Shape};
use crate::{failure, interrupt, platform, sys};

/// The driver that this program was called as, if it was.
pub(crate) fn called_as() -> Option<String> {
    let called = std::env::args_os().next()?;
    let file = Path::new(&called).file_name()?.to_str()?;
    driver_name(file).map(ToOwned::to_owned)
}

/// What Lima asks for.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Serve(PathBuf),
    InspectStatus,
}

/// Does what the command line says. Its log goes to stderr, in full: whoever starts a driver keeps it in a file.
pub(crate) fn run(name: &str) -> ExitCode {
    let display = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
    // It fails only when a log is there already.
    let _ = logging::init(Shape::Text, LevelFilter::DEBUG, &display);
    let done = match order(std::env::args_os().skip(1)) {
        Ok(Order::Serve(dir)) => serve(name, &dir),
        Ok(Order::InspectStatus) => inspect(),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failure::report(&error, Shape::Text);
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line in Go's syntax: one dash or two, the value behind `=` or in the next word.
fn order(mut words: impl Iterator<Item = OsString>) -> anyhow::Result<Order> {
    let Some(word) = words.next() else {
        bail!("Lima starts this program as a driver: --inst-dir DIRECTORY, or --inspect-status");
    };
    let text = word.to_string_lossy();
    let option = text.strip_prefix("--").or(text.strip_prefix('-'));
    let option = option.map(|option| option.split_once('=').unwrap_or((option, "")));
    match option {
        Some(("inspect-status", "" | "true")) => Ok(Order::InspectStatus),
        Some(("inst-dir", "")) => {
            let directory = words.next();
            Ok(Order::Serve(
                directory.context("--inst-dir needs a directory")?.into(),
            ))
        }
        Some(("inst-dir", directory)) => Ok(Order::Serve(directory.into())),
        _ => bail!("unknown word {text:?}: use --inst-dir DIRECTORY, or --inspect-status"),
    }
}

/// berth's drivers have no status of their own: pid files tell.
fn inspect() -> anyhow::Result<()> {
    let (stdin, stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    let answered = inspect_status::answer(stdin, stdout, |_| String::new());
    answered.map_err(anyhow::Error::msg)
}

fn serve(name: &str, dir: &Path) -> anyhow::Result<()> {
    let engine = server::engine_of(name).with_context(|| {
        format!("berth has no driver {name:?}: call this program lima-driver-berth-qemu, for one")
    })?;
    let env = Environment::of_this_process();
    let platform = platform::detect(&env)?;
    let cache = platform::cache_directory(&env, &platform);
    let dir = dir
        .canonicalize()
        .with_context(|| format!("cannot use {}", dir.display()))?;
    let options = ServerOptions {
        name: name.to_owned(),
        engine,
        dir: InstanceDir::new(dir),
        platform: Arc::new(platform),
        env: Arc::clone(env.pairs()),
        make: server::of_berth(cache),
    };
    interrupt::run(async {
        let asked = sys::wait_for_interrupt().context("cannot take over signals")?;
        let stop = CancellationToken::new();
        let serving = server::serve(options, stop.clone());
        tokio::pin!(serving);
        tokio::select! {
            served = &mut serving => Ok(served?),
            () = asked => {
                stop.cancel();
                Ok(serving.await?)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Option<Order> {
        order(words.iter().map(OsString::from)).ok()
    }

    #[test]
    fn the_command_line_is_gos() {
        let serve = |dir: &str| Some(Order::Serve(dir.into()));
        assert_eq!(read(&["--inst-dir", "/i"]), serve("/i"));
        assert_eq!(read(&["-inst-dir", "/i"]), serve("/i"));
        assert_eq!(read(&["--inst-dir=/i=j"]), serve("/i=j"));
        assert_eq!(read(&["-inst-dir=/i"]), serve("/i"));
        assert_eq!(read(&["--inspect-status"]), Some(Order::InspectStatus));
        assert_eq!(read(&["-inspect-status"]), Some(Order::InspectStatus));
        for words in [&[][..], &["--inst-dir"], &["start"], &["--help"]] {
            assert_eq!(read(words), None, "{words:?}");
        }
    }
}
