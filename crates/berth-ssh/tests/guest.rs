//! Sessions, the master and forwards against a real sshd, and against an `ssh` that misbehaves.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use berth_process::exit::Exit;
use berth_ssh::exec::{ExecError, Script};
use berth_ssh::forward::{Direction, Endpoint, Forward, ForwardError};
use berth_ssh::host_key::pin;
use berth_ssh::login::Stage;
use berth_ssh::master::{Master, MasterError};
use berth_ssh::session::{Session, Via};
use berth_ssh::tool::SshTool;
use socket2::{Domain, Socket, Type};
use tokio::sync::Notify;
use tokio::time::timeout;

mod support;
use support::{ALIAS, Guest, LIMIT, Sshd, keygen, path_variable, script};

/// Long enough for a login on a busy machine, short enough for a test that waits for it to pass.
const SHORT: Duration = Duration::from_millis(1500);

/// A port that is taken, so that nobody else gets it, and on which nobody listens yet.
fn nobody_listens() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[tokio::test]
async fn scripts_run_with_their_interpreter_and_variables() {
    let guest = Guest::start().await;
    let params = BTreeMap::from([("TEXT".to_owned(), "it's \"$HOME\" `x` \\ %s !".to_owned())]);
    let script =
        Script::new("#!/usr/bin/env sh\nprintf '%s' \"$PARAM_TEXT\"; echo oops >&2; exit 7\n");
    for via in [Via::Own, Via::Master] {
        let ran = guest
            .session()
            .run_via(via, &script.clone().with_params(&params), LIMIT)
            .await;
        let ran = ran.unwrap();
        assert_eq!(ran.exit, Exit::Status(7));
        assert_eq!(
            String::from_utf8(ran.stdout.clone()).unwrap(),
            params["TEXT"]
        );
        assert_eq!(ran.stderr, b"oops\n");
        assert!(
            ran.describe().starts_with("exit status 7: oops: it's"),
            "{}",
            ran.describe()
        );
    }
}

#[tokio::test]
async fn a_script_that_hangs_ends_at_its_deadline() {
    let guest = Guest::start().await;
    // It ends by itself when nobody reads any more.
    let hanging = Script::new("#!/bin/sh\nwhile sleep 1 && echo .; do :; done\n");
    let error = guest.session().run(&hanging, SHORT).await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("no answer from the guest within 1 s"),
        "{text}"
    );
}

#[tokio::test]
async fn lines_come_as_they_are_written_and_escaped() {
    let guest = Guest::start().await;
    let text = "#!/bin/sh\necho one\nprintf 'tw\\033o\\r\\n'\nhead -c 9000 /dev/zero | tr '\\0' x\necho\nprintf end\n";
    let mut lines = guest.session().follow(&Script::new(text)).await.unwrap();
    assert_eq!(lines.next().await.unwrap(), "one");
    assert_eq!(lines.next().await.unwrap(), "tw\\u{1b}o");
    assert_eq!(lines.next().await.unwrap(), "x".repeat(4096));
    assert_eq!(lines.next().await.unwrap(), "end");
    assert_eq!(lines.next().await, None);
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn the_master_is_shared_and_stops_in_order() {
    let guest = Guest::start().await;
    let session = guest.session();
    let socket = guest.instance.ssh_sock();
    let master = Master::start(&session, LIMIT).await.unwrap();
    assert!(
        UnixStream::connect(&socket).is_ok(),
        "the socket takes commands at once"
    );
    // Without sshd's help only the master's connection is left to answer.
    let (_taken, nobody) = nobody_listens();
    let elsewhere = guest.session_at(nobody);
    let ran = elsewhere
        .run(&Script::new("#!/bin/sh\necho hi\n"), LIMIT)
        .await
        .unwrap();
    assert_eq!(ran.stdout, b"hi\n", "{}", ran.describe());

    let exit = master.exit();
    master.stop().await.unwrap();
    assert!(exit.borrow().is_some());
    assert!(!socket.exists());
}

#[tokio::test]
async fn an_early_login_ends_when_people_are_let_in() {
    let guest = Guest::start().await;
    let session = guest.session();
    let key = guest.user_key.private.clone();
    let let_in = Notify::new();
    let mut early = Box::pin(Master::start_early(
        &session,
        &key,
        LIMIT,
        let_in.notified(),
    ));
    assert!(timeout(SHORT, &mut early).await.is_err(), "it did not wait");
    let_in.notify_one();
    let master = early.await.unwrap();
    let ran = session
        .run(&Script::new("#!/bin/sh\necho hi\n"), LIMIT)
        .await
        .unwrap();
    assert_eq!(ran.stdout, b"hi\n", "{}", ran.describe());
    for left in ["ssh-key.sock", "ssh-agent.sock"] {
        assert!(!guest.instance.path().join(left).exists(), "{left}");
    }
    master.stop().await.unwrap();
}

#[tokio::test]
async fn an_early_login_that_is_given_up_leaves_nothing() {
    let guest = Guest::start().await;
    let session = guest.session();
    let key = guest.user_key.private.clone();
    let never = Master::start_early(&session, &key, SHORT, std::future::pending());
    let error = never.await.unwrap_err();
    assert!(matches!(error, MasterError::TimedOut { .. }), "{error}");
    let missing = guest.dir.path().join("missing");
    let error = Master::start_early(&session, &missing, LIMIT, std::future::ready(()))
        .await
        .unwrap_err();
    assert!(matches!(error, MasterError::HeldKey(_)), "{error}");
    for left in ["ssh-key.sock", "ssh-agent.sock", "ssh.sock"] {
        assert!(!guest.instance.path().join(left).exists(), "{left}");
    }
}

#[tokio::test]
async fn the_end_of_the_master_is_told_with_its_words() {
    let guest = Guest::start().await;
    let mut master = Master::start(&guest.session(), LIMIT).await.unwrap();
    guest.sshd.kill_connections();
    let why = timeout(LIMIT, master.ended()).await.unwrap();
    assert!(why.starts_with("exit status 255: "), "{why}");
    // A new one takes the place of the dead one.
    let master = Master::start(&guest.session(), LIMIT).await.unwrap();
    master.stop().await.unwrap();
}

#[tokio::test]
async fn a_master_that_was_killed_leaves_a_socket_that_the_next_removes() {
    let guest = Guest::start().await;
    let session = guest.session();
    let mut master = Master::start(&session, LIMIT).await.unwrap();
    script_kill(master.pid());
    let why = timeout(LIMIT, master.ended()).await.unwrap();
    assert_eq!(why, "killed by signal 9 (SIGKILL)");
    assert!(
        guest.instance.ssh_sock().exists(),
        "the test needs the stale socket"
    );
    Master::start(&session, LIMIT)
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
    assert!(!guest.instance.ssh_sock().exists());
}

fn script_kill(pid: u32) {
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

#[tokio::test]
async fn a_living_master_of_somebody_else_gives_up_its_socket() {
    let guest = Guest::start().await;
    let session = guest.session();
    let theirs = Master::start(&session, LIMIT).await.unwrap();
    let ours = Master::start(&session, LIMIT).await.unwrap();
    assert_ne!(theirs.pid(), ours.pid());
    let ran = session
        .run(&Script::new("#!/bin/sh\nexit 0\n"), LIMIT)
        .await
        .unwrap();
    assert!(ran.success());
    ours.stop().await.unwrap();
    assert!(!guest.instance.ssh_sock().exists());
}

#[tokio::test]
async fn a_socket_that_is_kept_and_a_path_that_is_none_are_named() {
    let guest = Guest::start().await;
    let socket = guest.instance.ssh_sock();
    let listener = UnixListener::bind(&socket).unwrap();
    let error = Master::start(&guest.session(), LIMIT).await.unwrap_err();
    assert!(matches!(error, MasterError::SocketTaken { .. }), "{error}");
    drop(listener);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    let error = Master::start(&guest.session(), LIMIT).await.unwrap_err();
    assert!(matches!(error, MasterError::Socket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test]
async fn a_wrong_host_key_and_a_refused_key_are_told_apart() {
    let guest = Guest::start().await;
    let known_hosts = guest.instance.known_hosts();
    let right = fs::read(&known_hosts).unwrap();
    pin(&known_hosts, ALIAS, &guest.user_key.public).unwrap();
    let error = Master::start(&guest.session(), LIMIT).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    assert!(
        matches!(
            error,
            MasterError::Ended {
                stage: Stage::WrongHostKey(_),
                ..
            }
        ),
        "{error}"
    );

    fs::write(&known_hosts, right).unwrap();
    fs::write(guest.dir.path().join("authorized_keys"), "").unwrap();
    let error = Master::start(&guest.session(), LIMIT).await.unwrap_err();
    assert!(
        matches!(
            error,
            MasterError::Ended {
                stage: Stage::KeyRefused(_),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("sshd refuses the user's key"),
        "{error}"
    );
}

#[tokio::test]
async fn an_ssh_that_misbehaves_cannot_hold_us_up() {
    let guest = Guest::start().await;
    let fake = |text: &str| {
        let program = script(
            &guest.dir.path().join("fake-ssh"),
            &format!("#!/bin/sh\n{text}\n"),
        );
        let tool = SshTool::find(program.to_str(), &path_variable()).unwrap();
        guest.session_with(tool, guest.sshd.address)
    };
    let silent = fake("echo waiting >&2; exec sleep 1000");
    let error = Master::start(&silent, SHORT).await.unwrap_err();
    assert!(
        matches!(&error, MasterError::TimedOut { stderr, .. } if stderr == "waiting"),
        "{error}"
    );

    let babbling = fake("exec yes");
    let error = Master::start(&babbling, LIMIT).await.unwrap_err();
    assert!(
        matches!(
            error,
            MasterError::TimedOut { .. } | MasterError::Ended { .. }
        ),
        "{error}"
    );

    let without_socket = fake(
        "echo 'ControlSocket x already exists, disabling multiplexing' >&2; echo berth-master-ready; exec sleep 1000",
    );
    let error = Master::start(&without_socket, LIMIT).await.unwrap_err();
    assert!(matches!(error, MasterError::SocketTaken { .. }), "{error}");

    let missing = SshTool::find(Some("/nonexistent/ssh"), &path_variable()).unwrap();
    let missing = guest.session_with(missing, guest.sshd.address);
    let error = Master::start(&missing, LIMIT).await.unwrap_err();
    assert!(matches!(error, MasterError::Spawn(_)), "{error}");
}

#[tokio::test]
async fn a_master_that_ignores_requests_is_ended_by_signal() {
    let guest = Guest::start().await;
    let text = "#!/bin/sh\ncase \"$*\" in *' -O '* | '-O '*) exit 1 ;; esac\ntrap '' TERM\necho berth-master-ready\nwhile :; do sleep 1; done\n";
    let program = script(&guest.dir.path().join("fake-ssh"), text);
    let tool = SshTool::find(program.to_str(), &path_variable()).unwrap();
    let master = Master::start(&guest.session_with(tool, guest.sshd.address), LIMIT)
        .await
        .unwrap();
    let exit = master.exit();
    master.stop().await.unwrap();
    let ended = *exit.borrow();
    assert!(
        matches!(ended, Some(Exit::Signal { number: 9, .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn sockets_are_forwarded_both_ways() {
    let guest = Guest::start().await;
    let session = guest.session();
    let master = Master::start(&session, LIMIT).await.unwrap();
    for (name, direction) in [
        ("from-host", Direction::FromHost),
        ("from-guest", Direction::FromGuest),
    ] {
        // Both ends are on this machine, so the test can be host and guest.
        let (listen, connect) = (guest.dir.path().join(name), guest.dir.path().join("server"));
        let server = UnixListener::bind(&connect).unwrap();
        drop(UnixListener::bind(&listen).unwrap());
        let forward = Forward {
            direction,
            listen: Endpoint::Socket(listen.clone()),
            connect: Endpoint::Socket(connect.clone()),
        };
        session.forward(&forward, LIMIT).await.unwrap();
        let mut client = UnixStream::connect(&listen).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"ping").unwrap();
        let mut seen = [0; 4];
        accepted.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"ping");
        session.cancel(&forward, LIMIT).await.unwrap();
        assert!(!listen.exists(), "{name}");
        fs::remove_file(&connect).unwrap();
    }
    master.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_user_of_the_guest_has_there_stays() {
    let guest = Guest::start().await;
    let session = guest.session();
    let master = Master::start(&session, LIMIT).await.unwrap();
    let [busy, file, link] = ["a user's", "file", "link"].map(|name| guest.dir.path().join(name));
    let _user = UnixListener::bind(&busy).unwrap();
    fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&busy, &link).unwrap();
    for (listen, expected) in [
        (&busy, "a program listens there"),
        (&file, "something else than a socket"),
        (&link, "something else than a socket"),
    ] {
        let forward = Forward {
            direction: Direction::FromGuest,
            listen: Endpoint::Socket(listen.clone()),
            connect: Endpoint::Socket(guest.dir.path().join("server")),
        };
        let error = session.forward(&forward, LIMIT).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        // Also when it is ended: it never was ours.
        assert!(session.cancel(&forward, LIMIT).await.is_err());
        assert!(listen.symlink_metadata().is_ok(), "{}", listen.display());
    }
    UnixStream::connect(&busy).unwrap();
    master.stop().await.unwrap();
}

#[tokio::test]
async fn forwards_that_cannot_be_made_say_why() {
    let guest = Guest::start().await;
    let session = guest.session();
    let busy = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let forward = Forward {
        direction: Direction::FromHost,
        listen: Endpoint::Tcp(busy.local_addr().unwrap()),
        connect: Endpoint::Tcp("[::1]:80".parse().unwrap()),
    };
    let error = session
        .forward(&forward, LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Control socket connect"),
        "without a master: {error}"
    );
    let master = Master::start(&session, LIMIT).await.unwrap();
    let error = session.forward(&forward, LIMIT).await.unwrap_err();
    assert!(
        matches!(
            error,
            ForwardError::Refused {
                verb: "forward",
                ..
            }
        ),
        "{error}"
    );

    let odd = Forward {
        listen: Endpoint::Socket("relative".into()),
        ..forward.clone()
    };
    assert!(matches!(
        session.forward(&odd, LIMIT).await,
        Err(ForwardError::Path { .. })
    ));
    let path = guest.dir.path().join("listening");
    let _listener = UnixListener::bind(&path).unwrap();
    let taken = Forward {
        listen: Endpoint::Socket(path.clone()),
        ..forward
    };
    let error = session.forward(&taken, LIMIT).await.unwrap_err();
    assert!(matches!(error, ForwardError::Socket { .. }), "{error}");
    assert!(path.exists());
    master.stop().await.unwrap();
}

#[tokio::test]
async fn the_first_login_waits_for_sshd() {
    let guest = Guest::start().await;
    let (socket, address) = nobody_listens();
    let session = guest.session_at(address);
    let (failed, mut failures) = tokio::sync::watch::channel(0);
    let login = session.first_login_telling(LIMIT, |_| failed.send_modify(|count| *count += 1));
    let late_sshd = async {
        failures.wait_for(|count| *count >= 3).await.unwrap();
        socket.listen(16).unwrap();
        Sshd::serve(guest.dir.path(), socket.into())
    };
    let (login, _sshd) = tokio::join!(login, late_sshd);
    login.unwrap();
}

/// Tries to log in until an attempt comes to a stage that `wanted` accepts.
async fn stage_reached(session: &Session, wanted: impl Fn(&Stage) -> bool) -> Stage {
    let (found, mut reached) = tokio::sync::watch::channel(None);
    let tell = |stage: &Stage| {
        if wanted(stage) {
            found.send_replace(Some(stage.clone()));
        }
    };
    tokio::select! {
        ended = session.first_login_telling(LIMIT, tell) => panic!("{ended:?}"),
        stage = reached.wait_for(Option::is_some) => stage.unwrap().clone().unwrap(),
    }
}

#[tokio::test]
async fn every_attempt_says_how_far_it_came() {
    let guest = Guest::start().await;
    let (_taken, nobody) = nobody_listens();
    let nobody = guest.session_at(nobody);
    stage_reached(&nobody, |stage| matches!(stage, Stage::Refused(_))).await;

    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = other.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400\x1b[2J\r\n\r\n");
        }
    });
    let no_banner = |stage: &Stage| matches!(stage, Stage::NoBanner(_));
    let shown = stage_reached(&guest.session_at(address), no_banner)
        .await
        .to_string();
    assert!(
        shown.contains("no sshd, but \"HTTP/1.1 400\\u{1b}[2J"),
        "{shown}"
    );

    fs::write(guest.dir.path().join("authorized_keys"), "").unwrap();
    let refused = |stage: &Stage| matches!(stage, Stage::KeyRefused(_));
    stage_reached(&guest.session(), refused).await;
}

#[tokio::test]
async fn no_login_in_time_is_an_error_with_the_stage() {
    let guest = Guest::start().await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let session = guest.session_at(silent.local_addr().unwrap());
    let error = session
        .first_login(Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no login within 1 s: connected, but no sshd answers (no attempt has ended yet)"
    );
}

#[tokio::test]
async fn dropping_the_wait_ends_its_attempts() {
    let guest = Guest::start().await;
    // The fake holds the pipe open for as long as it lives.
    let pipe = guest.dir.path().join("alive");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let text = format!(
        "#!/bin/sh\nexec >'{}'\necho started\nexec sleep 1000\n",
        pipe.display()
    );
    let program = script(&guest.dir.path().join("fake-ssh"), &text);
    let tool = SshTool::find(program.to_str(), &path_variable()).unwrap();
    let session = guest.session_with(tool, guest.sshd.address);

    let (tell_started, started) = tokio::sync::oneshot::channel();
    let (tell_gone, gone) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(fs::File::open(&pipe).unwrap());
        reader.read_line(&mut String::new()).unwrap();
        tell_started.send(()).unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap();
        tell_gone.send(()).unwrap();
    });
    tokio::select! {
        ended = session.first_login(LIMIT) => panic!("{ended:?}"),
        begun = started => begun.unwrap(),
    }
    let ended = timeout(LIMIT, gone).await;
    ended.expect("the attempt's ssh is gone").unwrap();
}

#[test]
fn keygen_is_found_beside_ssh() {
    assert!(keygen().ends_with("ssh-keygen"));
}
