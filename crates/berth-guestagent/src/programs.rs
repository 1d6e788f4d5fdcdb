//! Running the guest's own programs: a clean environment, output to a file, a deadline.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command as Spawn};
use tokio::time::timeout;

/// Where programs are looked for.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a program of the system may take, where nothing else is said.
const USUAL_LIMIT: Duration = Duration::from_mins(1);

/// Most output that is kept of a program that is asked something, in bytes.
const MAX_ANSWER: u64 = 256 * 1024;

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    input: String,
    limit: Duration,
}

impl Command {
    /// A program by name or path.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            input: String::new(),
            limit: USUAL_LIMIT,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<T: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Gives it something to read.
    pub(crate) fn input(mut self, text: impl Into<String>) -> Self {
        self.input = text.into();
        self
    }

    /// Kills it after so long.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Its name without directories, for messages.
    pub(crate) fn name(&self) -> String {
        let name = Path::new(&self.program)
            .file_name()
            .unwrap_or(&self.program);
        name.to_string_lossy().into_owned()
    }

    /// The words of its command line.
    #[cfg(test)]
    pub(crate) fn words(&self) -> String {
        let words = [&self.program].into_iter().chain(&self.args);
        words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The variables set for it.
    #[cfg(test)]
    pub(crate) fn variables(&self) -> &[(String, String)] {
        &self.env
    }

    /// What it is given to read.
    #[cfg(test)]
    pub(crate) fn given(&self) -> &str {
        &self.input
    }
}

/// Where a program's output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// Both streams to the end of a file. Not through a pipe: what a script leaves running keeps its output, and waiting for
    /// the script does not mean waiting for that.
    Log(File),
    /// Standard output is the answer, the other stream goes to the log.
    Answer(File),
}

/// A program that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    /// Exit code; 128 + signal when it was killed.
    pub(crate) code: i32,
    /// Its standard output, for [`Output::Answer`].
    pub(crate) answer: String,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// It could not be started.
    #[error("could not start {program}")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} did not end within {} s and was killed", limit.as_secs())]
    TimedOut {
        /// Its name.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// Talking to it failed.
    #[error("could not {verb} {program}")]
    Pipe {
        /// What was tried.
        verb: &'static str,
        /// Its name.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended, and said that it failed.
    #[error("{program} {}", how_it_ended(*code))]
    Failed {
        /// Its name.
        program: String,
        /// Exit code; 128 + signal when it was killed.
        code: i32,
    },
}

fn how_it_ended(code: i32) -> String {
    if code > 128 {
        format!("was killed by signal {}", code - 128)
    } else {
        format!("exited with code {code}")
    }
}

/// What [`Programs::run`] gives.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<Finished, ProgramError>> + 'a>>;

/// Runs programs.
pub(crate) trait Programs {
    /// Runs one and waits for its end. A failing exit code is no error here.
    fn run<'a>(&'a self, command: &'a Command, output: Output) -> Running<'a>;
}

/// The programs of the system the agent runs in.
#[derive(Debug)]
pub(crate) struct SystemPrograms;

impl Programs for SystemPrograms {
    fn run<'a>(&'a self, command: &'a Command, output: Output) -> Running<'a> {
        Box::pin(run(command, output))
    }
}

async fn run(command: &Command, output: Output) -> Result<Finished, ProgramError> {
    let program = command.name();
    let mut child = spawn(command, output).map_err(|source| ProgramError::Start {
        program: program.clone(),
        source,
    })?;
    let ended = timeout(command.limit, converse(&mut child, command)).await;
    let Ok(ended) = ended else {
        kill_with_children(&mut child).await;
        return Err(ProgramError::TimedOut {
            program,
            limit: command.limit,
        });
    };
    let (status, answer) = ended.map_err(|(verb, source)| ProgramError::Pipe {
        verb,
        program,
        source,
    })?;
    Ok(Finished {
        code: exit_code(status),
        answer,
    })
}

/// Starts a program; its end is the caller's business.
pub(crate) fn spawn(command: &Command, output: Output) -> io::Result<Child> {
    let mut spawn = Spawn::new(&command.program);
    spawn
        .args(&command.args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        // A group of its own, so that a program that takes too long is killed with its children.
        .process_group(0)
        .stdin(if command.input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        });
    match output {
        Output::Log(log) => spawn.stdout(log.try_clone()?).stderr(log),
        Output::Answer(log) => spawn.stdout(Stdio::piped()).stderr(log),
    };
    let child = spawn.spawn()?;
    if let Some(id) = child.id() {
        // The agent's protection from the OOM killer is not for what it starts. Nothing depends on this.
        let _ = fs::write(format!("/proc/{id}/oom_score_adj"), "0");
    }
    Ok(child)
}

type Conversation = Result<(ExitStatus, String), (&'static str, io::Error)>;

async fn converse(child: &mut Child, command: &Command) -> Conversation {
    let stdin = child.stdin.take();
    let give = async {
        match stdin {
            // Whoever does not read its input to the end is judged by its exit code.
            Some(mut stdin) => stdin
                .write_all(command.input.as_bytes())
                .await
                .or_else(closed_early),
            None => Ok(()),
        }
    };
    let stdout = child.stdout.take();
    let take = async {
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        }
        Ok(answer)
    };
    let (given, answer) = tokio::join!(give, take);
    given.map_err(|why| ("write to", why))?;
    let answer = answer.map_err(|why| ("read from", why))?;
    let status = child.wait().await.map_err(|why| ("wait for", why))?;
    Ok((status, String::from_utf8_lossy(&answer).into_owned()))
}

fn closed_early(why: io::Error) -> io::Result<()> {
    if why.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(why)
    }
}

async fn kill_with_children(child: &mut Child) {
    if let Some(group) = child.id().and_then(pid) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait().await;
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = File::options().append(true).open(file.path()).unwrap();
        (file, log)
    }

    fn shell(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[tokio::test(flavor = "current_thread")]
    async fn output_goes_to_the_log_and_the_code_comes_back() {
        let (file, log) = log();
        let ended = SystemPrograms
            .run(&shell("echo out; echo err >&2; exit 7"), Output::Log(log))
            .await;
        assert_eq!(ended.unwrap().code, 7);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "out\nerr\n");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_is_read_and_input_is_given() {
        let (_file, log) = log();
        let cat = Command::new("cat").input("hello");
        assert_eq!(
            SystemPrograms
                .run(&cat, Output::Answer(log))
                .await
                .unwrap()
                .answer,
            "hello"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_the_named_variables_are_handed_on() {
        let (_file, log) = log();
        let env = Command::new("env").env("PARAM_A", "b c");
        let ended = SystemPrograms.run(&env, Output::Answer(log)).await.unwrap();
        let mut lines: Vec<_> = ended.answer.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            ["HOME=/root", "PARAM_A=b c", &format!("PATH={PATH}")]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_program_left_running_is_not_waited_for() {
        let (file, log) = log();
        // The sleeper holds the output open; only the shell's own end counts.
        SystemPrograms
            .run(&shell("sleep 1000 & echo $!"), Output::Log(log))
            .await
            .unwrap();
        let sleeper: i32 = fs::read_to_string(file.path())
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        rustix::process::kill_process(Pid::from_raw(sleeper).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let (_file, log) = log();
        let hang = shell("sleep 1000 & wait").limit(Duration::from_millis(50));
        let error = SystemPrograms
            .run(&hang, Output::Log(log))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh did not end within 0 s and was killed"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_program_and_a_signal_are_named() {
        let (_file, log) = log();
        let copy = log.try_clone().unwrap();
        let missing = Command::new("/none/such-program");
        let error = SystemPrograms
            .run(&missing, Output::Log(log))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "could not start such-program");
        let killed = SystemPrograms
            .run(&shell("kill -TERM $$"), Output::Log(copy))
            .await
            .unwrap();
        assert_eq!(killed.code, 128 + 15);
        assert_eq!(how_it_ended(killed.code), "was killed by signal 15");
    }
}
