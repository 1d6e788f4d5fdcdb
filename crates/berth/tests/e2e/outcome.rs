//! A run of the program, and what it said.

use std::process::Output;

/// What a run of the program came to.
#[must_use]
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Standard output of a run that worked.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// The last word of a run that failed.
    #[track_caller]
    pub(crate) fn fatal(&self) -> String {
        assert_eq!(self.code, Some(1), "{self:#?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        let Some((_, message)) = last.split_once(" level=fatal msg=") else {
            panic!("no fatal line at the end: {self:#?}");
        };
        // Quoted as Go quotes, where that is needed.
        serde_json::from_str(message).unwrap_or_else(|_| message.to_owned())
    }
}

/// Checks that a text holds each of `parts`, in this order.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("{part:?} is missing, or not in its place, in:\n{text}");
        };
        rest = after;
    }
}
