//! The sockets of an instance, spoken to as a person with `nc` would: QEMU's monitor and the agent's HTTP API.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take that is expected within milliseconds.
const HANG: Duration = Duration::from_secs(30);

/// QEMU's monitor.
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    #[track_caller]
    pub(crate) fn connect(socket: &Path) -> Self {
        let mut monitor = Self {
            reader: BufReader::new(connect(socket)),
        };
        monitor.execute("qmp_capabilities");
        monitor
    }

    /// Runs a command.
    #[track_caller]
    pub(crate) fn execute(&mut self, command: &str) {
        let stream = self.reader.get_mut();
        writeln!(stream, "{}", json!({ "execute": command })).expect("the monitor listens");
        self.next(|message| {
            assert!(message.get("error").is_none(), "refused: {message}");
            message.get("return").is_some()
        });
    }

    /// Waits for an event.
    #[track_caller]
    pub(crate) fn await_event(&mut self, name: &str) {
        self.next(|message| message["event"] == name);
    }

    #[track_caller]
    fn next(&mut self, wanted: impl Fn(&Value) -> bool) {
        loop {
            let mut line = String::new();
            let length = self
                .reader
                .read_line(&mut line)
                .expect("the monitor answers");
            assert!(length > 0, "it hung up");
            if wanted(&serde_json::from_str(&line).expect("JSON")) {
                return;
            }
        }
    }
}

/// Asks the agent, and returns the status and, if it is JSON, the body.
#[track_caller]
pub(crate) fn http_get(socket: &Path, path: &str) -> (u16, Value) {
    let mut stream = connect(socket);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: lima-hostagent\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the agent listens");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .expect("the agent answers");
    let (head, body) = response.split_once("\r\n\r\n").expect("a response");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.expect("a status"),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

fn connect(socket: &Path) -> UnixStream {
    let stream =
        UnixStream::connect(socket).unwrap_or_else(|why| panic!("{}: {why}", socket.display()));
    stream.set_read_timeout(Some(HANG)).expect("a limit");
    stream
}
