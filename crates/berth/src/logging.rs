//! Log lines on stderr, in the shapes that scripts around Lima expect, and plainer ones for people at a terminal.
//!
//! | shape | for | looks like |
//! |---|---|---|
//! | [`Shape::Plain`] | a terminal | `warning: the disk is nearly full free=2GiB` |
//! | [`Shape::Text`] | anything else | `time="…" level=warning msg="the disk is nearly full" free=2GiB` |
//! | [`Shape::Json`] | `--log-format json`, the host agent | `{"level":"warning","msg":"…","time":"…","free":"2GiB"}` |

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use indicatif::MultiProgress;
use jiff::ZonedDateTime;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::log_queue::{LogQueue, QueueHandle};

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// For people.
    Plain,
    /// `key=value` pairs.
    Text,
    /// One JSON object.
    Json,
}

/// How bad a line is: the level of a log line, or the reason why the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// From the log.
    Level(Level),
    /// The error that ends the program.
    Fatal,
}

impl Severity {
    /// The word that logrus, Lima's logger, writes.
    fn word(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Level(Level::ERROR) => "error",
            Self::Level(Level::WARN) => "warning",
            Self::Level(Level::INFO) => "info",
            Self::Level(Level::DEBUG) => "debug",
            Self::Level(_) => "trace",
        }
    }

    /// What a terminal shows before the message.
    fn heading(self) -> &'static str {
        match self {
            Self::Fatal | Self::Level(Level::ERROR) => "error: ",
            Self::Level(Level::WARN) => "warning: ",
            Self::Level(Level::INFO) => "",
            Self::Level(Level::DEBUG) => "debug: ",
            Self::Level(_) => "trace: ",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Fatal | Self::Level(Level::ERROR) => "\x1b[31m",
            Self::Level(Level::WARN) => "\x1b[33m",
            Self::Level(_) => "\x1b[2m",
        }
    }
}

/// Shows log lines of the command line on stderr, above the progress display if there is one.
pub(crate) fn init(
    shape: Shape,
    level: LevelFilter,
    display: &MultiProgress,
) -> Result<(), TryInitError> {
    let layer = tracing_subscriber::fmt::layer()
        .event_format(LineFormat::new(shape))
        .with_writer(AboveDisplay(display.clone()));
    tracing_subscriber::registry()
        .with(own_targets(level))
        .with(layer)
        .try_init()
}

/// Writes log lines as JSON through a bounded queue, so that a slow disk or a full pipe never holds the agent up.
///
/// The queue is emptied when the returned value is dropped.
pub(crate) fn init_agent(level: LevelFilter) -> Result<LogQueue, AgentLogError> {
    let queue = LogQueue::start(io::stderr())?;
    let layer = tracing_subscriber::fmt::layer()
        .event_format(LineFormat::new(Shape::Json))
        .with_writer(queue.handle());
    tracing_subscriber::registry()
        .with(own_targets(level))
        .with(layer)
        .try_init()?;
    Ok(queue)
}

/// The agent's log could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentLogError {
    /// No thread for it.
    #[error("cannot start the thread that writes the log")]
    Thread(#[from] io::Error),
    /// Somebody else logs already.
    #[error("cannot install the log")]
    Install(#[from] TryInitError),
}

/// Our own crates at `level`; what we depend on only where it warns.
fn own_targets(level: LevelFilter) -> Targets {
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("berth", level)
}

/// Formats one message in one shape, with its line feed.
pub(crate) fn line(
    shape: Shape,
    severity: Severity,
    message: &str,
    fields: &Map<String, Value>,
) -> String {
    let mut out = String::with_capacity(message.len() + 80);
    match shape {
        Shape::Plain => plain_line(&mut out, severity, message, fields),
        Shape::Text => text_line(&mut out, severity, message, fields),
        Shape::Json => json_line(&mut out, severity, message, fields),
    }
    out.push('\n');
    out
}

fn plain_line(out: &mut String, severity: Severity, message: &str, fields: &Map<String, Value>) {
    out.push_str(severity.heading());
    out.push_str(message);
    for (key, value) in fields {
        let _ = write!(out, " {key}={}", quoted_if_needed(value));
    }
}

fn text_line(out: &mut String, severity: Severity, message: &str, fields: &Map<String, Value>) {
    let message = quoted_if_needed(&Value::from(message));
    let _ = write!(
        out,
        "time=\"{}\" level={} msg={message}",
        seconds(),
        severity.word()
    );
    for (key, value) in fields {
        let _ = write!(out, " {key}={}", quoted_if_needed(value));
    }
}

fn json_line(out: &mut String, severity: Severity, message: &str, fields: &Map<String, Value>) {
    let mut object = Map::new();
    object.insert("level".to_owned(), severity.word().into());
    object.insert("msg".to_owned(), message.into());
    object.insert("time".to_owned(), seconds().into());
    for (key, value) in fields {
        object.entry(key.clone()).or_insert_with(|| value.clone());
    }
    out.push_str(&Value::Object(object).to_string());
}

/// RFC 3339 with the local offset and whole seconds, as logrus writes it.
fn seconds() -> String {
    ZonedDateTime::now()
        .strftime("%Y-%m-%dT%H:%M:%S%:z")
        .to_string()
}

/// A word stays bare; everything else is quoted, with escapes.
fn quoted_if_needed(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let bare = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !text.is_empty() && text.chars().all(bare) {
        text
    } else {
        format!("{text:?}")
    }
}

struct LineFormat {
    shape: Shape,
    colours: bool,
}

impl LineFormat {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            colours: shape == Shape::Plain && io::stderr().is_terminal(),
        }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut parts = EventParts::default();
        event.record(&mut parts);
        let severity = Severity::Level(*event.metadata().level());
        let line = line(self.shape, severity, &parts.message, &parts.fields);
        match line.strip_prefix(severity.heading()) {
            Some(rest) if self.colours && !severity.heading().is_empty() => {
                let (colour, heading) = (severity.colour(), severity.heading());
                write!(writer, "{colour}{heading}\x1b[0m{rest}")
            }
            _ => writer.write_str(&line),
        }
    }
}

#[derive(Default)]
struct EventParts {
    message: String,
    fields: Map<String, Value>,
}

impl EventParts {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let value = value.into();
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            (name, value) => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for EventParts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, crate::failure::chain_in_one_line(value));
    }
}

/// Writes each line while the progress display is out of the way.
#[derive(Clone)]
struct AboveDisplay(MultiProgress);

impl io::Write for AboveDisplay {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AboveDisplay {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl<'a> MakeWriter<'a> for QueueHandle {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, Value)]) -> Map<String, Value> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect()
    }

    /// Everything after the time, which moves.
    fn after_time(line: &str) -> &str {
        line.split_once("\" ").expect("a quoted time").1
    }

    #[test]
    fn text_quotes_what_is_more_than_a_word() {
        let fields = fields(&[
            ("path", "/a/b".into()),
            ("why", "no \"such\"\nfile".into()),
            ("n", 3.into()),
        ]);
        let line = line(Shape::Text, Severity::Fatal, "cannot start", &fields);
        assert!(line.starts_with("time=\"20"), "{line}");
        assert_eq!(
            after_time(&line),
            "level=fatal msg=\"cannot start\" path=/a/b why=\"no \\\"such\\\"\\nfile\" n=3\n"
        );
    }

    #[test]
    fn a_message_of_one_word_is_bare() {
        let line = line(
            Shape::Text,
            Severity::Level(Level::INFO),
            "done",
            &Map::new(),
        );
        assert_eq!(after_time(&line), "level=info msg=done\n");
    }

    #[test]
    fn json_has_limas_keys_and_no_field_replaces_them() {
        let fields = fields(&[("error", "refused".into()), ("level", "panic".into())]);
        let line = line(Shape::Json, Severity::Level(Level::WARN), "a\nb", &fields);
        let object: Map<String, Value> = serde_json::from_str(&line).unwrap();
        let keys: Vec<_> = object.keys().map(String::as_str).collect();
        assert_eq!(keys, ["level", "msg", "time", "error"]);
        assert_eq!(object["level"], "warning");
        assert_eq!(object["msg"], "a\nb");
        assert!(
            line.ends_with("}\n") && line.matches('\n').count() == 1,
            "{line}"
        );
    }

    #[test]
    fn a_terminal_gets_plain_words() {
        let fields = fields(&[("port", 60022.into())]);
        let line = |severity| line(Shape::Plain, severity, "SSH is ready", &fields);
        assert_eq!(
            line(Severity::Level(Level::INFO)),
            "SSH is ready port=60022\n"
        );
        assert_eq!(
            line(Severity::Level(Level::WARN)),
            "warning: SSH is ready port=60022\n"
        );
    }
}
