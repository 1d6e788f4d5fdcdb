//! What a machine's monitor is asked for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A QMP connection.
#[derive(Debug)]
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// Connects and greets.
    pub(super) fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.read()?;
        monitor.execute("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Sends a command and waits for its answer; events are passed over.
    pub(super) fn execute(&mut self, command: &str) -> Result<()> {
        self.ask(command, &json!({})).map(drop)
    }

    /// Has the human monitor carry out a line, and returns what it says.
    pub(super) fn human(&mut self, line: &str) -> Result<String> {
        let answer = self.ask("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let text = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        self.0
            .get_mut()
            .write_all(text.as_bytes())
            .with_context(|| format!("send {command}"))?;
        loop {
            let answer = self.read()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0
            .read_line(&mut line)
            .context("read from the monitor")?;
        serde_json::from_str(&line).with_context(|| format!("the monitor said {line:?}"))
    }
}
