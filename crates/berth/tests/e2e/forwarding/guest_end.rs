//! The guest's end of a test: a program in the guest that listens and answers as it is told.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::instance::{Home, Instance};

const PROGRAM: &str = include_str!("guest_end.py");

/// A running program. It ends, and what it holds is closed, when this is dropped.
pub(crate) struct GuestEnd<'home> {
    home: &'home Home,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _login: Child,
}

/// What the guest's end does with those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Waits for the end of what is sent, and sends its label and the same back. Datagrams are answered one by one.
    Label,
    /// Sends everything back at once.
    Echo,
    /// Sends its label and ends its direction at once, then takes what is sent.
    Greet,
    /// Waits for the end of what is sent, and resets the connection.
    Reset,
}

/// How a connection ended, as the guest saw it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// What had arrived.
    pub(crate) received: String,
    /// `eof` or `reset`.
    pub(crate) how: String,
}

/// Something that listens in the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listener(u64);

impl<'home> GuestEnd<'home> {
    /// Starts the program in the guest as root, over a login of its own: the guest agent has no part in it.
    #[track_caller]
    pub(crate) fn start(instance: &Instance<'home>) -> Self {
        let home = instance.home;
        let command = format!("sudo python3 -c {}", shell_words::quote(PROGRAM));
        let (mut login, output) = home.within("a login", async {
            let mut login = home
                .command("ssh".as_ref())
                .arg("-F")
                .arg(instance.path("ssh.config"))
                .args(["-o", "ControlPath=none", "-o", "LogLevel=ERROR"])
                .args([&format!("lima-{}", instance.name), &command])
                .stdin(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .expect("ssh");
            let output = login.stdout.take().expect("a pipe");
            (login, BufReader::new(output).lines())
        });
        let mut end = Self {
            home,
            input: login.stdin.take().expect("a pipe"),
            output,
            _login: login,
        };
        let said = end.answer("the guest's end to start");
        assert!(said["ready"].is_u64(), "{said}");
        end
    }

    #[track_caller]
    fn answer(&mut self, what: &str) -> Value {
        let line = self.home.within(what, self.output.next_line());
        let line = line.expect("text").unwrap_or_else(|| {
            panic!("the guest's end has ended, before: {what}");
        });
        serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"))
    }

    #[track_caller]
    fn ask(&mut self, request: &Value) -> Value {
        let line = format!("{request}\n");
        let Self { home, input, .. } = self;
        home.within("the guest's end to read", input.write_all(line.as_bytes()))
            .expect("it reads");
        let answer = self.answer(&line);
        let error = &answer["error"];
        assert!(error.is_null(), "the guest cannot do {request}: {error}");
        answer
    }

    /// Listens. The label is the address.
    #[track_caller]
    pub(crate) fn listen(&mut self, protocol: &str, address: &str, answer: Answer) -> Listener {
        let answer = format!("{answer:?}").to_lowercase();
        let said = self.ask(&json!({
            "do": "listen", "protocol": protocol, "address": address, "answer": answer, "label": address,
        }));
        Listener(said["id"].as_u64().expect("a number"))
    }

    /// Stops listening, and closes what was accepted.
    #[track_caller]
    pub(crate) fn close(&mut self, listener: Listener) {
        let _ = self.ask(&json!({ "do": "close", "id": listener.0 }));
    }

    /// How many connections are open.
    #[track_caller]
    pub(crate) fn connections(&mut self, listener: Listener) -> u64 {
        let said = self.ask(&json!({ "do": "connections", "id": listener.0 }));
        said["count"].as_u64().expect("a number")
    }

    /// Waits for the end of a connection; each is told once.
    #[track_caller]
    pub(crate) fn ended(&mut self, listener: Listener) -> Ended {
        let said = self.ask(&json!({ "do": "ended", "id": listener.0 }));
        let text = |key: &str| said[key].as_str().expect("a text").to_owned();
        Ended {
            received: text("received"),
            how: text("how"),
        }
    }
}
