//! The agent's own log: lines on standard error, with the priority prefix that the journal understands (sd-daemon(3)).

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes each event as one line.
///
/// Small on purpose: spans, filters and colours would be a fifth of the binary.
#[derive(Debug)]
struct Lines {
    level: Level,
}

/// Begins to log what is at least as important as `info`, or `debug`.
pub(crate) fn begin(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    // A second call, in tests, changes nothing.
    let _ = tracing::subscriber::set_global_default(Lines { level });
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let line = line(*event.metadata().level(), |fields| event.record(fields));
        // Nobody is left to tell when this fails.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

fn line(level: Level, record: impl FnOnce(&mut Fields)) -> String {
    let mut fields = Fields::default();
    record(&mut fields);
    // One line each, whatever a program printed.
    let text = format!("{}{}", fields.message, fields.others).replace('\n', " | ");
    format!("<{}>{text}\n", priority(level))
}

/// Syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}
