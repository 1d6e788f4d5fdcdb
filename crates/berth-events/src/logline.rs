//! The agent's log lines, read back from its stderr: JSON objects with `level`, `msg`, `time`, perhaps `error`, and any
//! other fields. Lines of another shape come from children that write to the same file.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// How grave a line is, in logrus's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "logrus's own words")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
    Panic,
}

impl Level {
    /// Reads logrus's word, in any case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" | "warning" => Self::Warning,
            "error" => Self::Error,
            "fatal" => Self::Fatal,
            "panic" => Self::Panic,
            _ => return None,
        })
    }

    /// logrus's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
            Self::Panic => "panic",
        }
    }
}

/// One log line.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// How grave.
    pub level: Level,
    /// The message; of a line that is no JSON object, the whole line.
    pub msg: String,
    /// When; unknown for a line that is no JSON object.
    pub time: Option<Timestamp>,
    /// The error that it tells of.
    pub error: Option<String>,
    /// Every other field, in order.
    pub extra: Map<String, Value>,
}

impl LogLine {
    /// Reads a line; `None` when it is empty. What cannot be understood is one message at level info.
    ///
    /// Texts are not escaped: children and guests may have a hand in them.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        Some(Self::structured(line).unwrap_or_else(|| Self {
            level: Level::Info,
            msg: String::from_utf8_lossy(line).into_owned(),
            time: None,
            error: None,
            extra: Map::new(),
        }))
    }

    fn structured(line: &[u8]) -> Option<Self> {
        let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
        let level = Level::from_word(fields.get("level")?.as_str()?)?;
        let mut text = |key| {
            fields.shift_remove(key).map(|value| match value {
                Value::String(text) => text,
                other => other.to_string(),
            })
        };
        text("level");
        let msg = text("msg").unwrap_or_default();
        let time = text("time").and_then(|time| time.parse().ok());
        let error = text("error");
        Some(Self {
            level,
            msg,
            time,
            error,
            extra: fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_agent_is_taken_apart() {
        let line = br#"{"error":"no such file","level":"warning","msg":"mount","port":22,"time":"2026-11-23T19:57:30+01:00"}"#;
        let read = LogLine::parse(line).unwrap();
        assert_eq!((read.level, read.msg.as_str()), (Level::Warning, "mount"));
        assert_eq!(read.error.as_deref(), Some("no such file"));
        assert_eq!(read.time.unwrap().to_string(), "2026-11-23T18:57:30Z");
        assert_eq!(
            serde_json::to_string(&read.extra).unwrap(),
            r#"{"port":22}"#
        );
    }

    #[test]
    fn what_is_no_log_line_is_a_message() {
        for line in [
            "sftp-server: x",
            "{\"msg\":\"no level\"}",
            "{\"level\":\"loud\"}",
            "[1]",
            "{\"level\":7}",
        ] {
            let read = LogLine::parse(line.as_bytes()).unwrap();
            assert_eq!(
                (read.level, read.msg.as_str(), read.time),
                (Level::Info, line, None)
            );
        }
        assert_eq!(LogLine::parse(b"\xff\xfe").unwrap().msg, "\u{fffd}\u{fffd}");
        assert_eq!(LogLine::parse(b" \r\n"), None);
    }

    #[test]
    fn odd_values_do_not_lose_the_line() {
        let read = LogLine::parse(br#"{"level":"ERROR","msg":{"a":1},"time":"noon","error":null}"#);
        let read = read.unwrap();
        assert_eq!((read.level, read.msg.as_str()), (Level::Error, "{\"a\":1}"));
        assert_eq!((read.time, read.error.as_deref()), (None, Some("null")));
    }

    #[test]
    fn every_level_has_its_word() {
        use Level::{Debug, Error, Fatal, Info, Panic, Trace, Warning};
        for level in [Trace, Debug, Info, Warning, Error, Fatal, Panic] {
            assert_eq!(Level::from_word(level.as_str()), Some(level));
        }
    }
}
