//! The command line.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::ready::Readiness;
use crate::{daemon, install, log, once};

/// Where the cidata volume is mounted.
const CIDATA: &str = "/mnt/lima-cidata";

/// Name of the virtio-serial port that leads to the host.
const PORT: &str = "io.lima-vm.guest_agent.0";

/// What stands before the number of a vsock port.
const VSOCK: &str = "vsock:";

/// The same, of a machine that runs several guests (WSL).
const SHARED_VSOCK: &str = "hvsock:";

const USAGE: &str = "\
Usage: berth-guestagent COMMAND [--cidata DIR] [--from DIR] [--port NAME] [--debug]

  daemon    apply boot.json, tell the host how far the boot is, and stay
  install   install this program as a service and start it, without waiting
  boot      apply boot.json once, without a host
  --version

  --cidata  where the cidata volume is or will be mounted (/mnt/lima-cidata)
  --from    where cidata is a directory of the guest already: install has --cidata lead there
  --port    name of the virtio-serial port to the host (io.lima-vm.guest_agent.0), vsock:NUMBER,
            or hvsock:NUMBER where several guests share a machine
  --debug   log more
";

/// What every command may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the cidata volume is or will be mounted.
    pub(crate) cidata: PathBuf,
    /// The directory that takes the volume's place.
    pub(crate) from: Option<PathBuf>,
    /// Name of the port to the host, `vsock:NUMBER`, or `hvsock:NUMBER`.
    pub(crate) port: String,
    /// Log more.
    pub(crate) debug: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Daemon,
    Install,
    Boot,
    Version,
    Help,
}

/// A command line that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

impl Options {
    /// The port's number, if it is one of vsock.
    pub(crate) fn vsock_port(&self) -> Option<u32> {
        let port = self.port.strip_prefix(VSOCK);
        let port = port.or_else(|| self.port.strip_prefix(SHARED_VSOCK));
        port?.parse().ok()
    }

    /// Whether other guests have ports of the same vsock.
    pub(crate) fn is_shared_vsock(&self) -> bool {
        self.port.starts_with(SHARED_VSOCK)
    }
}

/// Runs a command line; `notify_socket` is where systemd wants to hear that a service is ready.
pub fn run(args: impl IntoIterator<Item = String>, notify_socket: Option<OsString>) -> ExitCode {
    let (command, options) = match parse(args) {
        Ok(parsed) => parsed,
        Err(why) => {
            say(
                &mut std::io::stderr(),
                &format!("berth-guestagent: {why}\n\n{USAGE}"),
            );
            return ExitCode::from(2);
        }
    };
    log::begin(options.debug);
    let done = match command {
        Command::Daemon => daemon::run(&options, &Readiness::new(notify_socket)),
        Command::Install => install::run(&options).map_err(Into::into),
        Command::Boot => once::run(&options),
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            say(
                &mut std::io::stdout(),
                &format!("berth-guestagent {version}\n"),
            );
            Ok(())
        }
        Command::Help => {
            say(&mut std::io::stdout(), USAGE);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(
                &mut std::io::stderr(),
                &format!("berth-guestagent: {}\n", chain(&*why)),
            );
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn say(stream: &mut impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<(Command, Options), UsageError> {
    let mut options = Options {
        cidata: CIDATA.into(),
        from: None,
        port: PORT.to_owned(),
        debug: false,
    };
    let mut args = args.into_iter();
    let command = match args.next().as_deref() {
        Some("daemon") => Command::Daemon,
        Some("install") => Command::Install,
        Some("boot") => Command::Boot,
        Some("--version") => Command::Version,
        Some("--help" | "-h" | "help") => Command::Help,
        Some(other) => return Err(UsageError(format!("{other:?} is no command"))),
        None => return Err(UsageError("a command is missing".to_owned())),
    };
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || {
            let value = value.clone().or_else(|| args.next());
            value.ok_or_else(|| UsageError(format!("{name} needs a value")))
        };
        match name {
            "--cidata" => options.cidata = value()?.into(),
            "--from" => options.from = Some(value()?.into()),
            "--port" => options.port = port(value()?)?,
            "--debug" => options.debug = true,
            _ => return Err(UsageError(format!("{arg:?} is not understood"))),
        }
    }
    Ok((command, options))
}

fn port(name: String) -> Result<String, UsageError> {
    let is_bad_number = |number: &str| number.parse::<u32>().is_err();
    if name.is_empty()
        || name.contains('/')
        || name.starts_with('.')
        || [VSOCK, SHARED_VSOCK]
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(is_bad_number))
    {
        return Err(UsageError(format!("{name:?} is no name of a port")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Command, Options), String> {
        parse(line.split_whitespace().map(str::to_owned)).map_err(|why| why.to_string())
    }

    #[test]
    fn options_come_in_both_spellings() {
        let (command, options) = parsed("daemon --cidata=/x --port a.b --debug").unwrap();
        assert_eq!(command, Command::Daemon);
        let expected = Options {
            cidata: "/x".into(),
            from: None,
            port: "a.b".to_owned(),
            debug: true,
        };
        assert_eq!(options, expected);
        assert_eq!(options.vsock_port(), None);
        assert_eq!(parsed("install").unwrap().1.port, PORT);
        let options = parsed("install --port=vsock:2222").unwrap().1;
        assert_eq!(options.vsock_port(), Some(2222));
        assert!(!options.is_shared_vsock());
        let options = parsed("install --from=/mnt/c/x --port=hvsock:7").unwrap().1;
        assert_eq!(options.vsock_port(), Some(7));
        assert!(options.is_shared_vsock());
        assert_eq!(options.from, Some("/mnt/c/x".into()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, why) in [
            ("", "a command is missing"),
            ("deamon", "\"deamon\" is no command"),
            ("daemon --cidata", "--cidata needs a value"),
            ("daemon --port ../x", "\"../x\" is no name of a port"),
            ("daemon --port hvsock:", "\"hvsock:\" is no name of a port"),
            ("daemon --port vsock:x", "\"vsock:x\" is no name of a port"),
            ("daemon now", "\"now\" is not understood"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), why);
        }
    }
}
