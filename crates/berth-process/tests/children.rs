//! Real children: shell scripts that end in every way there is.
#![cfg(unix)]

use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use berth_process::adopt::Adopted;
use berth_process::exit::{Exit, Signal};
use berth_process::identity::ProcessIdentity;
use berth_process::spawn::{Child, SpawnError, Spec};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

fn shell(script: &str) -> Spec {
    Spec::new("/bin/sh").arg("-c").arg(script)
}

/// A script that says `ready` when it is, and ends with its standard input at the latest.
fn waiting(before: &str) -> Spec {
    shell(&format!("{before}\necho ready\nread line"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
}

/// Only a hang takes this long.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), what)
        .await
        .expect("a hang")
}

async fn until_ready(child: &mut Child) -> BufReader<tokio::process::ChildStdout> {
    let out = child.take_stdout().expect("usable").expect("piped");
    let mut out = BufReader::new(out);
    let mut line = String::new();
    soon(out.read_line(&mut line)).await.expect("readable");
    assert_eq!(line, "ready\n");
    out
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn ends_are_told_as_they_were() {
    for (script, end) in [
        ("exit 0", Exit::Status(0)),
        ("exit 3", Exit::Status(3)),
        (
            "kill -9 $$",
            Exit::Signal {
                number: 9,
                core_dumped: false,
            },
        ),
    ] {
        let mut child = shell(script).spawn().unwrap();
        assert_eq!(soon(child.wait()).await, end, "{script}");
        assert_eq!(soon(child.wait()).await, end, "asked again");
        assert!(is_gone(child.pid()), "not reaped");
        assert!(!child.identity().is_alive());
        child
            .signal(Signal::Kill)
            .expect("a signal to one that is gone is no error");
    }
}

#[tokio::test]
async fn every_signal_arrives() {
    for (signal, number) in [
        (Signal::Interrupt, 2),
        (Signal::Terminate, 15),
        (Signal::HangUp, 1),
        (Signal::Kill, 9),
    ] {
        let mut child = waiting("").spawn().unwrap();
        let _out = until_ready(&mut child).await;
        child.signal(signal).unwrap();
        assert_eq!(
            soon(child.wait()).await,
            Exit::Signal {
                number,
                core_dumped: false
            }
        );
    }
}

#[tokio::test]
async fn waiting_may_be_cancelled_and_watched_from_elsewhere() {
    let mut child = waiting("").spawn().unwrap();
    let _out = until_ready(&mut child).await;
    let mut exit = child.exit();
    assert!(
        tokio::time::timeout(Duration::ZERO, child.wait())
            .await
            .is_err()
    );
    drop(child.take_stdin().unwrap());
    assert_eq!(
        *soon(exit.wait_for(Option::is_some)).await.unwrap(),
        Some(Exit::Status(1))
    );
}

#[tokio::test]
async fn a_dropped_child_lives_on_and_is_still_reaped() {
    let mut child = waiting("").spawn().unwrap();
    let _out = until_ready(&mut child).await;
    let (mut exit, stdin, identity) = (
        child.exit(),
        child.take_stdin().unwrap(),
        child.identity().clone(),
    );
    drop(child);
    assert!(identity.is_alive());
    drop(stdin);
    soon(exit.wait_for(Option::is_some)).await.unwrap();
    assert!(is_gone(identity.pid));
}

#[tokio::test]
async fn kill_on_drop_kills() {
    let mut child = waiting("").kill_on_drop().spawn().unwrap();
    let _out = until_ready(&mut child).await;
    let (mut exit, _stdin) = (child.exit(), child.take_stdin());
    drop(child);
    let end = *soon(exit.wait_for(Option::is_some)).await.unwrap();
    assert_eq!(
        end,
        Some(Exit::Signal {
            number: 9,
            core_dumped: false
        })
    );
}

#[tokio::test]
async fn a_child_that_has_ended_but_was_not_waited_for_is_not_alive() {
    #[allow(
        clippy::zombie_processes,
        reason = "a zombie is what this is about; it is reaped below"
    )]
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let identity = ProcessIdentity::of(child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
    assert!(!identity.is_alive());
    assert_eq!(
        ProcessIdentity::of(child.id()).unwrap(),
        identity,
        "it can still be looked at"
    );
    child.wait().unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();

    let why = Spec::new("no-such-program-7")
        .env("PATH", "/bin")
        .spawn()
        .unwrap_err();
    assert_eq!(
        why.to_string(),
        r#"program "no-such-program-7" was not found in PATH; install it or correct its name"#
    );
    let why = Spec::new("/no/such/program").spawn().unwrap_err();
    assert_eq!(
        why.to_string(),
        r#"program "/no/such/program" was not found; install it or correct its name"#
    );
    let why = Spec::new(&script).spawn().unwrap_err();
    assert!(matches!(why, SpawnError::NotExecutable { .. }), "{why}");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let why = Spec::new(&script).spawn().unwrap_err();
    assert!(matches!(why, SpawnError::Start { .. }), "{why}");
    let why = shell("").cwd(dir.path().join("gone")).spawn().unwrap_err();
    assert!(
        matches!(why, SpawnError::Directory { .. }) && why.to_string().contains("/gone"),
        "{why}"
    );
    let why = shell("")
        .stderr_capped_file("/proc/no/log", 1)
        .spawn()
        .unwrap_err();
    assert!(
        matches!(why, SpawnError::StderrFile { .. }) && why.to_string().contains("/proc/no/log")
    );
}

#[tokio::test]
async fn streams_lead_nowhere_or_where_they_were_asked_to() {
    let mut child = shell("cat; echo \"$WORD\"; pwd; echo oops >&2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("WORD", "value")
        .cwd("/")
        .spawn()
        .unwrap();
    let mut stdin = child.take_stdin().unwrap().unwrap();
    stdin.write_all(b"through ").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    soon(
        child
            .take_stdout()
            .unwrap()
            .unwrap()
            .read_to_string(&mut out),
    )
    .await
    .unwrap();
    soon(
        child
            .take_stderr()
            .unwrap()
            .unwrap()
            .read_to_string(&mut err),
    )
    .await
    .unwrap();
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("through value\n/\n", "oops\n")
    );
    assert!(child.take_stdin().unwrap().is_none());

    let mut silent = shell("echo unheard; echo unheard >&2; cat")
        .spawn()
        .unwrap();
    assert_eq!(soon(silent.wait()).await, Exit::Status(0));
    assert!(silent.take_stdout().unwrap().is_none());
}

#[tokio::test]
async fn sessions_and_groups_are_as_asked() {
    // Fields 5 and 6 of stat: process group and session.
    let script = "set -- $(cat /proc/$$/stat); echo $$ $5 $6";
    let ours = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ours: Vec<&str> = ours
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    for (spec, own_group, own_session) in [
        (shell(script), false, false),
        (shell(script).new_group(), true, false),
        (shell(script).new_session(), true, true),
    ] {
        let mut child = spec.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = String::new();
        soon(
            child
                .take_stdout()
                .unwrap()
                .unwrap()
                .read_to_string(&mut out),
        )
        .await
        .unwrap();
        let [pid, group, session] = out.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{out:?}")
        };
        assert_eq!(group, if own_group { pid } else { ours[2] });
        assert_eq!(session, if own_session { pid } else { ours[3] });
    }
}

#[tokio::test]
async fn only_descriptors_that_were_given_are_inherited() {
    let (given, mut given_writer) = std::io::pipe().unwrap();
    let (kept, _kept_writer) = std::io::pipe().unwrap();
    let (given_fd, kept_fd) = (given.as_raw_fd(), kept.as_raw_fd());
    std::io::Write::write_all(&mut given_writer, b"secret").unwrap();
    drop(given_writer);
    let script =
        format!("cat /proc/self/fd/{given_fd}; test -e /proc/self/fd/{kept_fd} || echo ' only'");
    let mut child = shell(&script)
        .stdout(Stdio::piped())
        .inherit_fd(given.into())
        .spawn()
        .unwrap();
    let mut out = String::new();
    soon(
        child
            .take_stdout()
            .unwrap()
            .unwrap()
            .read_to_string(&mut out),
    )
    .await
    .unwrap();
    assert_eq!(out, "secret only\n");
}

#[tokio::test]
async fn the_last_words_of_a_child_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("vm.stderr.log");
    std::fs::write(&log, "of an earlier life\n").unwrap();
    let mut child = shell("printf 'qemu: \\033[1mno disk\\n' >&2; exit 1")
        .stderr_capped_file(&log, 1 << 16)
        .spawn()
        .unwrap();
    assert_eq!(soon(child.wait()).await, Exit::Status(1));
    assert_eq!(child.stderr_tail(), "qemu: \\u{1b}[1mno disk");
    assert_eq!(child.stderr_log().unwrap().path(), log);
}

#[tokio::test]
async fn a_talkative_child_does_not_fill_the_disk() {
    const LIMIT: u64 = 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("vm.stderr.log");
    let script = "i=0; while [ $i -lt 20000 ]; do echo \"line $i\" >&2; i=$((i+1)); done";
    let mut child = waiting(script)
        .stderr_capped_file(&log, LIMIT)
        .spawn()
        .unwrap();
    let _out = until_ready(&mut child).await;
    // While it lives: the first line is gone, with or without a gap in its place.
    soon(async {
        while std::fs::read(&log).unwrap().starts_with(b"line 0\n") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(child.take_stdin());
    soon(child.wait()).await;
    assert!(
        child.stderr_tail().ends_with("line 19999"),
        "{}",
        child.stderr_tail()
    );
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.starts_with("[older lines dropped]\nline "),
        "{:?}",
        &text[..80]
    );
    assert!(text.len() as u64 <= LIMIT, "{}", text.len());
}

#[tokio::test]
async fn only_the_very_process_is_adopted() {
    let mut child = waiting("").spawn().unwrap();
    let _out = until_ready(&mut child).await;
    let identity = child.identity().clone();
    let earlier = ProcessIdentity {
        start_time: identity.start_time - 1,
        ..identity.clone()
    };
    assert!(
        Adopted::open(earlier).unwrap().is_none(),
        "its pid was given to another"
    );
    let adopted = Adopted::open(identity.clone()).unwrap().unwrap();
    assert_eq!(
        (adopted.pid(), adopted.identity()),
        (identity.pid, &identity)
    );
    drop(adopted);
    assert!(identity.is_alive(), "dropping does nothing");
    child.signal(Signal::Kill).unwrap();
    soon(child.wait()).await;
    assert!(Adopted::open(identity).unwrap().is_none(), "it is gone");
}

/// The agent of the next test, in a process of its own: starts a VM, says who it is, and waits to be killed.
#[tokio::test]
#[ignore = "not a test: the next one runs it"]
async fn agent_that_is_killed() {
    let log = std::env::var_os("BERTH_TEST_AGENT_LOG").unwrap();
    let child = shell("read line; echo alive after the agent >&2; read line")
        .stdin(std::fs::File::open(std::env::var_os("BERTH_TEST_AGENT_FIFO").unwrap()).unwrap())
        .stderr_capped_file(log, 1 << 16)
        .new_session()
        .spawn()
        .unwrap();
    println!("\nVM {}", serde_json::to_string(child.identity()).unwrap());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_vm_outlives_its_agent_and_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fifo) = (dir.path().join("vm.stderr.log"), dir.path().join("fifo"));
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    // Read and write, so that neither end waits for the other.
    let mut to_vm = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    let mut agent = Spec::new(std::env::current_exe().unwrap())
        .args([
            "agent_that_is_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("BERTH_TEST_AGENT_LOG", &log)
        .env("BERTH_TEST_AGENT_FIFO", &fifo)
        .stdout(Stdio::piped())
        .kill_on_drop()
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.take_stdout().unwrap().unwrap()).lines();
    let identity: ProcessIdentity = loop {
        let line = soon(lines.next_line())
            .await
            .unwrap()
            .expect("the agent ended early");
        if let Some(json) = line.strip_prefix("VM ") {
            break serde_json::from_str(json).unwrap();
        }
    };

    agent.signal(Signal::Kill).unwrap();
    soon(agent.wait()).await;
    let mut vm = Adopted::open(identity.clone())
        .unwrap()
        .expect("the VM died with its agent");
    std::io::Write::write_all(&mut to_vm, b"go on\nend\n").unwrap();
    assert_eq!(
        soon(vm.wait()).await,
        Exit::Unknown,
        "only a parent is told"
    );
    assert!(!identity.is_alive());
    let mut said = String::new();
    std::fs::File::open(&log)
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "alive after the agent\n");
    vm.signal(Signal::Kill)
        .expect("a signal to one that is gone is no error");
}
