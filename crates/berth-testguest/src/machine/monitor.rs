//! QMP on a listening socket: one client at a time, others wait for their greeting, as with QEMU.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::PollFlags;
use serde_json::{Map, Value, json};

use crate::answers::{PACKAGE, VERSION};

/// A client that sends more than this without a whole command, or reads so much less than it is told, is dropped.
const LIMIT: usize = 1 << 20;

/// How long a client may take to read the last words.
const FAREWELL: Duration = Duration::from_secs(1);

/// A QMP error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) class: &'static str,
    pub(super) text: String,
}

impl Refusal {
    /// The class that nearly all errors have.
    pub(super) fn generic(text: impl Into<String>) -> Self {
        Self {
            class: "GenericError",
            text: text.into(),
        }
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self {
            class: "CommandNotFound",
            text: text.into(),
        }
    }
}

/// A command that a client sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) arguments: Map<String, Value>,
    id: Option<Value>,
}

/// One monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    listener: UnixListener,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    negotiated: bool,
    commands: VecDeque<Command>,
}

impl Monitor {
    /// A monitor on a non-blocking listening socket.
    pub(super) fn new(listener: OwnedFd) -> Self {
        Self {
            listener: listener.into(),
            session: None,
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> (rustix::fd::BorrowedFd<'_>, PollFlags) {
        match &self.session {
            None => (self.listener.as_fd(), PollFlags::IN),
            Some(session) if session.output.is_empty() => (session.stream.as_fd(), PollFlags::IN),
            Some(session) => (session.stream.as_fd(), PollFlags::IN | PollFlags::OUT),
        }
    }

    /// Takes in a client, or what it sent.
    pub(super) fn attend(&mut self) {
        let Some(session) = &mut self.session else {
            self.session = self.accept().ok();
            return;
        };
        if session.read().and_then(|()| session.flush()).is_err() {
            self.session = None;
        }
    }

    fn accept(&self) -> io::Result<Session> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let mut session = Session {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            negotiated: false,
            commands: VecDeque::new(),
        };
        let version = json!({ "version": version(), "capabilities": ["oob"] });
        session.say(&json!({ "QMP": version }));
        session.flush()?;
        Ok(session)
    }

    /// The next command that is to be answered.
    pub(super) fn next_command(&mut self) -> Option<Command> {
        self.session.as_mut()?.commands.pop_front()
    }

    /// Answers a command.
    pub(super) fn answer(&mut self, command: Command, result: Result<Value, Refusal>) {
        if let Some(session) = &mut self.session {
            session.answer(command.id, result);
            if session.flush().is_err() {
                self.session = None;
            }
        }
    }

    /// Tells the client of an event, if it is past the negotiation.
    pub(super) fn tell(&mut self, name: &str, data: Option<&Value>) {
        let Some(session) = self.session.as_mut().filter(|session| session.negotiated) else {
            return;
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut event = json!({
            "timestamp": { "seconds": now.as_secs(), "microseconds": now.subsec_micros() },
            "event": name,
        });
        if let Some(data) = data {
            event["data"] = data.clone();
        }
        session.say(&event);
        if session.flush().is_err() {
            self.session = None;
        }
    }

    /// Sends what is left to say, and hangs up.
    pub(super) fn close(self) {
        if let Some(mut session) = self.session {
            // A client that does not read loses the rest.
            let _ = session.stream.set_nonblocking(false);
            let _ = session.stream.set_write_timeout(Some(FAREWELL));
            let _ = session.stream.write_all(&session.output);
        }
    }
}

impl Session {
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.input.len() > LIMIT {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        self.split();
        Ok(())
    }

    /// Takes whole JSON values off the input. After garbage the rest of what came is dropped, as a lexer that lost its
    /// place has to.
    fn split(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut values = serde_json::Deserializer::from_slice(&input).into_iter::<Value>();
        let mut used = 0;
        loop {
            match values.next() {
                None => return,
                Some(Ok(value)) => {
                    used = values.byte_offset();
                    self.take(value);
                }
                Some(Err(error)) if error.is_eof() => {
                    self.input = input[used..].to_vec();
                    return;
                }
                Some(Err(_)) => {
                    let refusal = Refusal::generic("JSON parse error, expecting value");
                    return self.answer(None, Err(refusal));
                }
            }
        }
    }

    fn take(&mut self, value: Value) {
        let Value::Object(mut object) = value else {
            let refusal = Refusal::generic("QMP input must be a JSON object");
            return self.answer(None, Err(refusal));
        };
        let id = object.remove("id");
        let name = object
            .remove("execute")
            .or_else(|| object.remove("exec-oob"));
        let arguments = object.remove("arguments");
        let refusal = match (&name, object.keys().next()) {
            (_, Some(key)) => Some(format!("QMP input member '{key}' is unexpected")),
            (None, None) => Some("QMP input lacks member 'execute'".to_owned()),
            (Some(name), None) if !name.is_string() => {
                Some("QMP input member 'execute' must be a string".to_owned())
            }
            _ => None,
        };
        if let Some(text) = refusal {
            return self.answer(id, Err(Refusal::generic(text)));
        }
        let command = Command {
            name: name
                .as_ref()
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned(),
            arguments: arguments
                .and_then(|value| value.as_object().cloned())
                .unwrap_or_default(),
            id,
        };
        self.dispatch(command);
    }

    /// The negotiation is the session's own; all else is the machine's.
    fn dispatch(&mut self, command: Command) {
        match (command.name.as_str(), self.negotiated) {
            ("qmp_capabilities", false) => {
                self.negotiated = true;
                self.answer(command.id, Ok(json!({})));
            }
            ("qmp_capabilities", true) => {
                let text = "Capabilities negotiation is already complete, command ignored";
                self.answer(command.id, Err(Refusal::not_found(text)));
            }
            (_, false) => {
                let text = "Expecting capabilities negotiation with 'qmp_capabilities'";
                self.answer(command.id, Err(Refusal::not_found(text)));
            }
            (_, true) => self.commands.push_back(command),
        }
    }

    fn answer(&mut self, id: Option<Value>, result: Result<Value, Refusal>) {
        let mut answer = match result {
            Ok(value) => json!({ "return": value }),
            Err(refusal) => {
                json!({ "error": { "class": refusal.class, "desc": refusal.text } })
            }
        };
        if let Some(id) = id {
            answer["id"] = id;
        }
        self.say(&answer);
    }

    fn say(&mut self, value: &Value) {
        self.output.extend_from_slice(value.to_string().as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.output.len() > LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }
}

/// The error for a command that does not exist.
pub(super) fn unknown(name: &str) -> Refusal {
    Refusal::not_found(format!("The command {name} has not been found"))
}

/// The version, as the greeting and `query-version` carry it.
pub(super) fn version() -> Value {
    let (major, minor, micro) = VERSION;
    json!({ "qemu": { "major": major, "minor": minor, "micro": micro }, "package": PACKAGE })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    struct Client {
        monitor: Monitor,
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
        stream: BufReader<UnixStream>,
    }

    impl Client {
        fn connect() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("qmp.sock");
            let listener = UnixListener::bind(&path).unwrap();
            listener.set_nonblocking(true).unwrap();
            let mut monitor = Monitor::new(listener.into());
            let stream = BufReader::new(UnixStream::connect(&path).unwrap());
            monitor.attend();
            Self {
                monitor,
                _dir: dir,
                path,
                stream,
            }
        }

        fn send(&mut self, text: &str) {
            self.stream.get_mut().write_all(text.as_bytes()).unwrap();
            self.monitor.attend();
        }

        fn line(&mut self) -> Value {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            serde_json::from_str(&line).unwrap()
        }

        fn error_of(&mut self, text: &str) -> String {
            self.send(text);
            self.line()["error"]["desc"].as_str().unwrap().to_owned()
        }
    }

    #[test]
    fn nothing_before_the_negotiation() {
        let mut client = Client::connect();
        assert_eq!(client.line()["QMP"]["version"]["qemu"]["major"], 7);
        assert_eq!(
            client.error_of(r#"{"execute":"query-status"}"#),
            "Expecting capabilities negotiation with 'qmp_capabilities'"
        );
        client.monitor.tell("STOP", None);
        client.send(r#"{"execute":"qmp_capabilities","id":0}"#);
        assert_eq!(client.line(), json!({ "return": {}, "id": 0 }));
        client.monitor.tell("STOP", None);
        assert_eq!(client.line()["event"], "STOP");
    }

    #[test]
    fn commands_arrive_in_pieces_and_in_heaps() {
        let mut client = Client::connect();
        client.line();
        client.send(r#"{"execute":"qmp_capabilities"}{"execute":"a"} {"exec"#);
        client.send("ute\":\"b\",\"id\":[1],\"arguments\":{\"x\":2}}\n");
        client.line();
        assert_eq!(client.monitor.next_command().unwrap().name, "a");
        let second = client.monitor.next_command().unwrap();
        assert_eq!(
            (second.name.as_str(), &second.arguments["x"]),
            ("b", &json!(2))
        );
        assert_eq!(client.monitor.next_command(), None);
        client.monitor.answer(second, Err(unknown("b")));
        assert_eq!(
            client.line(),
            json!({ "error": { "class": "CommandNotFound", "desc": "The command b has not been found" }, "id": [1] })
        );
    }

    #[test]
    fn garbage_is_refused_in_qemus_words() {
        let mut client = Client::connect();
        client.line();
        assert_eq!(
            client.error_of("{\"execute\": }\n"),
            "JSON parse error, expecting value"
        );
        assert_eq!(client.error_of("[1]\n"), "QMP input must be a JSON object");
        assert_eq!(
            client.error_of(r#"{"foo":1}"#),
            "QMP input member 'foo' is unexpected"
        );
        assert_eq!(client.error_of("{}"), "QMP input lacks member 'execute'");
    }

    #[test]
    fn a_second_client_is_greeted_when_the_first_has_left() {
        let mut client = Client::connect();
        client.line();
        let second = UnixStream::connect(&client.path).unwrap();
        second.set_nonblocking(true).unwrap();
        client.monitor.attend();
        let silence = (&second).read(&mut [0; 16]).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
        client
            .stream
            .get_ref()
            .shutdown(std::net::Shutdown::Both)
            .unwrap();
        client.monitor.attend();
        client.monitor.attend();
        assert!((&second).read(&mut [0; 16]).unwrap() > 0);
    }

    #[test]
    fn a_flood_without_an_end_is_cut_off() {
        let mut client = Client::connect();
        client.line();
        client.stream.get_ref().set_nonblocking(true).unwrap();
        client.stream.get_mut().write_all(b"\"").unwrap();
        let flood = vec![b'a'; 65536];
        for _ in 0..64 {
            // What the socket does not take is not needed either.
            let _ = client.stream.get_mut().write(&flood);
            client.monitor.attend();
        }
        assert!(client.monitor.session.is_none());
    }
}
