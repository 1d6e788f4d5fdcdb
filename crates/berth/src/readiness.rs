//! Following an agent until its instance is ready, or will not be.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use berth_events::event::{CloudInitProgress, Event};
use berth_events::follow::{FollowError, Follower, Line};
use berth_events::logline::{Level, LogLine};
use berth_instance::dir::InstanceDir;
use berth_process::escape::{escape_untrusted, escape_untrusted_lines};
use berth_process::exit::{Exit, gone};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::chain_in_one_line;
use crate::progress::{Display, PhaseLines};

/// Lines of the agent's log that an error shows.
const LAST_LINES: usize = 10;
/// How long an agent that has said that it ends may take to be gone.
const LAST_STEPS: Duration = Duration::from_secs(200);

/// The instance can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Without reservation.
    Ready,
    /// Something that was asked for does not work.
    Degraded(Vec<String>),
}

/// The instance cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// The agent is gone.
    #[error("the instance did not start: {why}{evidence}")]
    Ended {
        /// The reason in the agent's words, or how its process ended.
        why: String,
        evidence: Evidence,
    },
    /// It takes too long; the agent goes on.
    #[error(
        "the instance was not ready within {seconds} s{}{evidence}",
        .phase.as_ref().map_or_else(String::new, |phase| format!(" (it is at {phase:?})"))
    )]
    Timeout {
        seconds: u64,
        phase: Option<String>,
        evidence: Evidence,
    },
    /// Its events or its log cannot be read; the agent goes on.
    #[error("cannot follow the host agent")]
    Follow(#[from] FollowError),
}

impl NotReady {
    /// Whether the instance may become ready yet.
    pub(crate) fn goes_on(&self) -> bool {
        !matches!(self, Self::Ended { .. })
    }
}

/// What the agent has logged, for people who look for the cause.
#[derive(Debug)]
pub(crate) struct Evidence {
    last_lines: Vec<String>,
    log: PathBuf,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.last_lines.is_empty() {
            write!(
                f,
                "\nthe last lines of its log:\n  {}",
                self.last_lines.join("\n  ")
            )?;
        }
        write!(f, "\nthe whole log is in {}", self.log.display())
    }
}

/// What a wait is about.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) timeout: Duration,
    /// Wait for cloud-init as well, and show what it prints.
    pub(crate) progress: bool,
}

/// Follows the event and log files of an agent. Made before the agent is started, so that nothing is missed.
#[derive(Debug)]
pub(crate) struct AgentFollower {
    dir: InstanceDir,
    events: Follower,
    log: Follower,
    seen: Seen,
}

/// What the agent has said so far.
#[derive(Debug, Default)]
struct Seen {
    ssh_port: Option<u16>,
    errors: Vec<String>,
    exiting: bool,
    cloud_init_runs: bool,
    last_lines: VecDeque<String>,
    /// Errors of the log. They are shown if the instance gets ready all the same; else they are part of its story.
    logged_errors: Vec<String>,
    fatal: Option<String>,
}

/// What there is to read, or to act on.
enum News {
    Event(Line),
    Log(Line),
    Gone(Exit),
    Late,
}

impl AgentFollower {
    /// Follows the files of an instance from their beginning.
    pub(crate) fn new(dir: &InstanceDir) -> Result<Self, FollowError> {
        Ok(Self {
            dir: dir.clone(),
            events: Follower::from_start(dir.ha_stdout_log())?,
            log: Follower::from_start(dir.ha_stderr_log())?,
            seen: Seen::default(),
        })
    }

    /// Waits until the instance is ready, the agent is gone, or the time is up: whichever is first. `exit` tells of the end of
    /// the agent's process.
    pub(crate) async fn wait(
        mut self,
        mut exit: watch::Receiver<Option<Exit>>,
        wish: &Wish,
        display: &Display,
    ) -> Result<Readiness, NotReady> {
        let mut phases = display.phases();
        let mut deadline = Instant::now() + wish.timeout;
        loop {
            let was_exiting = self.seen.exiting;
            match self.news(&mut exit, deadline).await? {
                News::Event(line) => {
                    if let Some(readiness) = self.hear(&line, wish, &mut phases) {
                        self.show_errors();
                        return Ok(readiness);
                    }
                }
                News::Log(line) => self.note(&line),
                News::Gone(how) => return self.ended(how, wish, &mut phases),
                News::Late if self.seen.exiting => {
                    return self.ended(Exit::Unknown, wish, &mut phases);
                }
                News::Late => return Err(self.timeout(wish, &phases)),
            }
            if self.seen.exiting && !was_exiting {
                deadline = Instant::now() + LAST_STEPS;
            }
        }
    }

    async fn news(
        &mut self,
        exit: &mut watch::Receiver<Option<Exit>>,
        deadline: Instant,
    ) -> Result<News, FollowError> {
        tokio::select! {
            biased;
            line = self.events.next() => Ok(News::Event(line?)),
            line = self.log.next() => Ok(News::Log(line?)),
            how = gone(exit) => Ok(News::Gone(how)),
            () = tokio::time::sleep_until(deadline) => Ok(News::Late),
        }
    }

    /// Takes in an event; `Some` ends the wait.
    fn hear(&mut self, line: &Line, wish: &Wish, phases: &mut PhaseLines) -> Option<Readiness> {
        let event = Event::parse(&line.bytes).unwrap_or_else(|why| {
            // A stray line of somebody else is no reason to give up on the instance.
            tracing::warn!("[hostagent] {}", chain_in_one_line(&why));
            None
        })?;
        let status = event.status;
        if status.ssh_local_port != 0 && self.seen.ssh_port.is_none() {
            self.seen.ssh_port = Some(status.ssh_local_port);
            tracing::info!("SSH Local Port: {}", status.ssh_local_port);
        }
        if let Some(phase) = &event.phase {
            phases.show(phase);
        }
        if let Some(progress) = status
            .cloud_init_progress
            .as_ref()
            .filter(|_| wish.progress)
        {
            self.show_cloud_init(progress);
        }
        self.seen.exiting |= status.exiting;
        if !status.errors.is_empty() {
            self.seen.errors.clone_from(&status.errors);
        }
        if status.exiting || !status.running {
            return None;
        }
        if status.degraded {
            return Some(Readiness::Degraded(status.errors));
        }
        (!self.seen.cloud_init_runs).then_some(Readiness::Ready)
    }

    fn show_cloud_init(&mut self, progress: &CloudInitProgress) {
        self.seen.cloud_init_runs = !progress.completed;
        if !progress.log_line.is_empty() {
            tracing::info!(
                "[cloud-init] {}",
                escape_untrusted(progress.log_line.as_bytes())
            );
        }
    }

    /// Keeps a line of the log for later, and shows it now if it is a warning.
    fn note(&mut self, line: &Line) {
        let Some(line) = LogLine::parse(&line.bytes) else {
            return;
        };
        let mut message = escape_untrusted_lines(line.msg.as_bytes());
        if let Some(error) = &line.error {
            message = format!("{message}: {}", escape_untrusted(error.as_bytes()));
        }
        match line.level {
            Level::Fatal | Level::Panic => {
                self.seen.fatal = Some(message);
                return;
            }
            Level::Error => self.seen.logged_errors.push(message.clone()),
            Level::Warning => tracing::warn!("[hostagent] {message}"),
            Level::Info => tracing::debug!("[hostagent] {message}"),
            Level::Debug | Level::Trace => return,
        }
        if self.seen.last_lines.len() == LAST_LINES {
            self.seen.last_lines.pop_front();
        }
        let level = line.level.as_str();
        self.seen
            .last_lines
            .push_back(format!("{level}: {message}"));
    }

    fn show_errors(&mut self) {
        for error in self.seen.logged_errors.drain(..) {
            tracing::error!("[hostagent] {error}");
        }
    }

    /// Reads what the agent has left, which may even be that the instance was ready, and says why it is gone.
    fn ended(
        mut self,
        how: Exit,
        wish: &Wish,
        phases: &mut PhaseLines,
    ) -> Result<Readiness, NotReady> {
        while let Some(line) = self.log.try_next()? {
            self.note(&line);
        }
        while let Some(line) = self.events.try_next()? {
            // Ready and gone is gone.
            self.hear(&line, wish, phases);
        }
        let errors = self.seen.errors.iter();
        let errors: Vec<_> = errors
            .map(|error| escape_untrusted_lines(error.as_bytes()))
            .collect();
        let why = match (errors.is_empty(), self.seen.fatal) {
            (false, _) => errors.join("\n"),
            (true, Some(fatal)) => fatal,
            (true, None) => format!("the host agent ended ({how})"),
        };
        let gist = why.lines().next().unwrap_or_default();
        self.seen.last_lines.retain(|line| !line.contains(gist));
        Err(NotReady::Ended {
            why,
            evidence: Evidence {
                last_lines: self.seen.last_lines.into(),
                log: self.dir.ha_stderr_log(),
            },
        })
    }

    fn timeout(self, wish: &Wish, phases: &PhaseLines) -> NotReady {
        NotReady::Timeout {
            seconds: wish.timeout.as_secs(),
            phase: phases.current().map(str::to_owned),
            evidence: Evidence {
                last_lines: self.seen.last_lines.into(),
                log: self.dir.ha_stderr_log(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use berth_process::spawn::{Child, Spec};
    use indicatif::MultiProgress;

    use super::*;

    const HANG: Duration = Duration::from_secs(60);

    /// An agent that is a shell script, with its log files in place.
    struct Agent {
        _temp: tempfile::TempDir,
        follower: AgentFollower,
        child: Child,
    }

    impl Agent {
        /// In the script, `event JSON` and `log JSON` write a line each; `stay` keeps it alive until the test ends.
        fn running(script: &str) -> Self {
            let temp = tempfile::tempdir().unwrap();
            let dir = InstanceDir::new(temp.path().to_owned());
            let log = fs::File::create(dir.ha_stderr_log()).unwrap();
            let events = fs::File::create(dir.ha_stdout_log()).unwrap();
            let prelude = "event() { printf '{\"time\":\"2026-11-23T18:00:00Z\",%s}\\n' \"$1\"; }\n\
                           log() { printf '%s\\n' \"$1\" >&2; }\n\
                           stay() { while read line; do :; done; }\n";
            let child = Spec::new("/bin/sh")
                .args(["-c", &format!("{prelude}{script}")])
                .stdin(std::process::Stdio::piped())
                .stdout(events)
                .stderr(log)
                .kill_on_drop()
                .spawn()
                .unwrap();
            Self {
                follower: AgentFollower::new(&dir).unwrap(),
                child,
                _temp: temp,
            }
        }

        async fn wait(self, timeout: Duration, progress: bool) -> Result<Readiness, NotReady> {
            let wish = Wish { timeout, progress };
            let display = Display::new(&MultiProgress::new(), false);
            self.follower.wait(self.child.exit(), &wish, &display).await
        }
    }

    #[tokio::test]
    async fn ready_is_ready_however_much_is_said_before() {
        let agent = Agent::running(
            r#"event '"status":{"sshLocalPort":60022}'
               event '"status":{},"phase":{"name":"essential","outcome":"started"}'
               log 'no JSON at all'
               event '"status":{},"phase":{"name":"essential","outcome":"ok","elapsedMs":12}'
               event '"status":{"running":true,"sshLocalPort":60022}'
               stay"#,
        );
        assert_eq!(agent.wait(HANG, false).await.unwrap(), Readiness::Ready);
    }

    #[tokio::test]
    async fn degraded_names_its_causes() {
        let agent = Agent::running(
            r#"event '"status":{"running":true,"degraded":true,"errors":["provision 0 failed"]}'
               stay"#,
        );
        let causes = vec!["provision 0 failed".to_owned()];
        assert_eq!(
            agent.wait(HANG, false).await.unwrap(),
            Readiness::Degraded(causes)
        );
    }

    #[tokio::test]
    async fn the_reason_of_an_exiting_agent_is_told_once() {
        let agent = Agent::running(
            r#"log '{"level":"info","msg":"QEMU is gone"}'
               log '{"level":"error","msg":"stopping","error":"no memory"}'
               event '"status":{"exiting":true,"errors":["no memory"]}'
               log '{"level":"fatal","msg":"no memory"}'
               exit 1"#,
        );
        let text = agent.wait(HANG, false).await.unwrap_err().to_string();
        assert!(
            text.starts_with("the instance did not start: no memory\n"),
            "{text}"
        );
        assert!(text.contains("\n  info: QEMU is gone\n"), "{text}");
        assert_eq!(text.matches("no memory").count(), 1, "{text}");
        assert!(text.ends_with("/ha.stderr.log"), "{text}");
    }

    #[tokio::test]
    async fn an_agent_that_says_nothing_more_is_judged_by_its_end() {
        let agent = Agent::running("kill -KILL $$");
        let text = agent.wait(HANG, false).await.unwrap_err().to_string();
        assert!(
            text.contains("the host agent ended (killed by signal 9"),
            "{text}"
        );
        let agent = Agent::running(r#"log '{"level":"fatal","msg":"port 22 is taken"}'; exit 1"#);
        let text = agent.wait(HANG, false).await.unwrap_err().to_string();
        assert!(text.contains("did not start: port 22 is taken\n"), "{text}");
    }

    #[tokio::test]
    async fn what_strangers_write_reaches_no_terminal_as_it_is() {
        let agent = Agent::running(
            r#"event '"status":{"exiting":true,"errors":["\u001b[2Jgone"]}'
               exit 1"#,
        );
        let text = agent.wait(HANG, false).await.unwrap_err().to_string();
        assert!(text.contains("\\u{1b}[2Jgone"), "{text}");
    }

    #[tokio::test]
    async fn a_line_that_is_no_event_changes_nothing() {
        let agent = Agent::running(r#"echo hello; echo; event '"status":{"running":true}'; stay"#);
        assert_eq!(agent.wait(HANG, false).await.unwrap(), Readiness::Ready);
    }

    #[tokio::test]
    async fn being_late_names_the_phase() {
        let agent = Agent::running(
            r#"event '"status":{},"phase":{"name":"essential","outcome":"started"}'
               stay"#,
        );
        // The script is given the time to speak, and then none.
        let mut events = Follower::from_start(agent.follower.dir.ha_stdout_log()).unwrap();
        events.next().await.unwrap();
        let error = agent.wait(Duration::ZERO, false).await.unwrap_err();
        assert!(error.goes_on());
        let text = error.to_string();
        assert!(
            text.contains("was not ready within 0 s (it is at \"essential\")"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn with_progress_cloud_init_is_waited_for() {
        let script = |end: &str| {
            format!(
                r#"event '"status":{{"cloudInitProgress":{{"active":true}}}}'
                   event '"status":{{"running":true,"cloudInitProgress":{{"active":true,"logLine":"x"}}}}'
                   {end}"#
            )
        };
        let agent = Agent::running(&script(
            r#"event '"status":{"running":true,"cloudInitProgress":{"completed":true}}'; stay"#,
        ));
        assert_eq!(agent.wait(HANG, true).await.unwrap(), Readiness::Ready);
        // Ready, and then gone before cloud-init has finished.
        let agent = Agent::running(&script("exit 0"));
        assert!(agent.wait(HANG, true).await.is_err());
        // Where nobody watches cloud-init there is nothing to wait for.
        let agent = Agent::running(r#"event '"status":{"running":true}'; stay"#);
        assert_eq!(agent.wait(HANG, true).await.unwrap(), Readiness::Ready);
    }
}
