//! How the program tells why it failed: the whole chain, once.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::Map;

use crate::interrupt::Interrupted;
use crate::logging::{self, Severity, Shape};

/// Prints an error and its causes to stderr, as the last line of the log that scripts look for.
pub(crate) fn report(error: &anyhow::Error, shape: Shape) {
    let text = match shape {
        Shape::Plain => chain_in_lines(error.as_ref()),
        Shape::Text | Shape::Json => chain_in_one_line(error.as_ref()),
    };
    let line = logging::line(shape, Severity::Fatal, &text, &Map::new());
    // With stderr gone there is nobody left to tell; the exit code still says it.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The exit code for an error: Lima's 1, and the shells' 130 for what a person broke off.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Interrupted>() {
        ExitCode::from(130)
    } else {
        ExitCode::FAILURE
    }
}

/// `what failed: why: why that`.
pub(crate) fn chain_in_one_line(error: &(dyn Error + 'static)) -> String {
    messages(error).join(": ")
}

fn chain_in_lines(error: &(dyn Error + 'static)) -> String {
    messages(error).join("\n  because: ")
}

fn messages(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        // A transparent error says what its source says.
        if messages.last() != Some(&message) {
            messages.push(message);
        }
        next = error.source();
    }
    messages
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = Err::<(), _>(missing)
            .context("cannot read /x/lima.yaml")
            .context("cannot start instance \"a\"")
            .unwrap_err();
        assert_eq!(
            chain_in_one_line(error.as_ref()),
            "cannot start instance \"a\": cannot read /x/lima.yaml: no such file"
        );
        assert_eq!(
            chain_in_lines(error.as_ref()),
            "cannot start instance \"a\"\n  because: cannot read /x/lima.yaml\n  because: no such file"
        );
    }
}
