//! The one place that runs `wsl.exe`, and its relatives.
//!
//! Command lines and exit codes follow Microsoft's documentation (`basic-commands` of 2026-09-26) and the source of WSL 2.9.4
//! (`src/windows/common/WslClient.cpp`); earlier versions differ in what is said here of each.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_image::error::with_causes;
use berth_process::exit::Exit;
use berth_process::spawn::{Child, Spec};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::DriverError;
use crate::process::not_started;
use crate::programs;
use crate::wsl2::text::shown;

/// The program.
const PROGRAM: &str = "wsl.exe";
/// More than any list of distributions, and than any answer that is asked of a guest.
const OUTPUT_MAX: u64 = 64 << 10;
/// The keep-alive process says little; what a guest repeats for ever is cut.
const STDERR_MAX: u64 = 1 << 20;
/// Longer than any guest runs, in seconds, and short enough for every `sleep`.
const FOR_EVER: &str = "2147483647";

/// What only looks. The service of WSL may have to start first.
pub(super) const QUICK: Duration = Duration::from_secs(60);

/// `wsl.exe`, for one distribution.
#[derive(Debug, Clone)]
pub(super) struct Wsl {
    program: PathBuf,
    distribution: String,
}

/// How a command ended, and what it has printed.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) exit: Exit,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Reply {
    /// Its words, for people.
    pub(super) fn words(&self) -> String {
        shown(&self.stdout, &self.stderr)
    }

    /// Why a command that failed did so, for people.
    fn failure(&self) -> String {
        match (self.exit.describe(), self.words()) {
            (how, words) if words.is_empty() => how,
            (how, words) => format!("{how}; it says: {words}"),
        }
    }
}

impl Wsl {
    pub(super) fn find(
        distribution: String,
        env: &[(String, String)],
    ) -> Result<Self, DriverError> {
        let program = programs::look_up(PROGRAM, env).ok_or_else(|| DriverError::Program {
            program: PROGRAM.to_owned(),
            why: "not found in PATH; install WSL (`wsl --install --no-distribution`)".to_owned(),
        })?;
        Ok(Self {
            program,
            distribution,
        })
    }

    pub(super) fn distribution(&self) -> &str {
        &self.distribution
    }

    /// Runs a management command, which prints in the user's language.
    pub(super) async fn manage<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        limit: Duration,
    ) -> Result<Reply, DriverError> {
        run(&self.program, words, limit).await
    }

    /// Runs a management command whose failure is an error.
    pub(super) async fn order<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        limit: Duration,
    ) -> Result<(), DriverError> {
        let reply = self.manage(words, limit).await?;
        self.require_success(words, &reply)
    }

    /// Runs a program of the distribution as root, without a shell; boots the distribution first if need be.
    pub(super) async fn exec(&self, words: &[&str], limit: Duration) -> Result<Reply, DriverError> {
        run(&self.program, &self.inside(words), limit).await
    }

    /// Runs a program of the distribution whose failure is an error, and gives what it has printed.
    pub(super) async fn ask(
        &self,
        words: &[&str],
        limit: Duration,
    ) -> Result<Vec<u8>, DriverError> {
        let reply = self.exec(words, limit).await?;
        self.require_success(&self.inside(words), &reply)?;
        Ok(reply.stdout)
    }

    /// Starts the process that keeps the distribution running: WSL ends one in which nothing runs that it has started, whatever
    /// services there are. Its end is the distribution's.
    pub(super) fn keep_alive(&self, stderr: PathBuf) -> Result<Child, DriverError> {
        spec(&self.program, &self.inside(&["sleep", FOR_EVER]))
            .new_session()
            .kill_on_drop()
            .stderr_capped_file(stderr, STDERR_MAX)
            .spawn()
            .map_err(|error| not_started(&self.program, error))
    }

    fn inside(&self, words: &[&str]) -> Vec<OsString> {
        let distribution = self.distribution.as_str();
        // A working directory of its own: the host's would be translated, and may not exist in the guest.
        let before = ["--distribution", distribution, "--user", "root"];
        let before = before.iter().chain(&["--cd", "/", "--exec"]);
        before.chain(words).map(OsString::from).collect()
    }

    fn require_success<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        reply: &Reply,
    ) -> Result<(), DriverError> {
        if reply.exit.success() {
            return Ok(());
        }
        Err(DriverError::Program {
            program: called(&self.program, words),
            why: reply.failure(),
        })
    }
}

/// A command line for people.
fn called<S: AsRef<OsStr>>(program: &Path, words: &[S]) -> String {
    let mut line = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for word in words {
        line.push(' ');
        line.push_str(&word.as_ref().to_string_lossy());
    }
    line
}

/// UTF-8 whatever the user has set (versions before 0.64 print UTF-16 all the same), and none of the host's variables in the
/// guest.
fn spec<S: AsRef<OsStr>>(program: &Path, words: &[S]) -> Spec {
    let words = words.iter().map(AsRef::as_ref);
    let spec = Spec::new(program).args(words);
    spec.env("WSL_UTF8", "1").env("WSLENV", "")
}

/// Runs a program to its end. It is killed when it prints without end, or when it takes too long, or when nobody waits any more.
pub(super) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    words: &[S],
    limit: Duration,
) -> Result<Reply, DriverError> {
    let name = called(program, words);
    let failed = |why: String| DriverError::Program {
        program: name.clone(),
        why,
    };
    let piped = spec(program, words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .new_group()
        .kill_on_drop();
    let mut child = piped.spawn().map_err(|error| not_started(program, error))?;
    let streams = child
        .take_stdout()
        .and_then(|stdout| Ok((stdout, child.take_stderr()?)));
    let (stdout, stderr) = streams.map_err(|error| failed(with_causes(&error)))?;
    let reading = async {
        let (stdout, stderr) = tokio::try_join!(capped(stdout), capped(stderr))?;
        Ok::<_, String>(Reply {
            exit: child.wait().await,
            stdout,
            stderr,
        })
    };
    match tokio::time::timeout(limit, reading).await {
        Ok(reply) => reply.map_err(failed),
        Err(_) => Err(DriverError::Timeout {
            what: format!("`{name}` to end"),
            seconds: limit.as_secs(),
        }),
    }
}

async fn capped(stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let Some(stream) = stream else {
        return Ok(bytes);
    };
    let read = stream.take(OUTPUT_MAX + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| format!("its output cannot be read: {error}"))?;
    if bytes.len() as u64 > OUTPUT_MAX {
        return Err(format!("it prints more than {} KiB", OUTPUT_MAX >> 10));
    }
    Ok(bytes)
}
