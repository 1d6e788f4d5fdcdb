//! `--inspect-status`: asking a driver's program for an instance's status, without a server.
//!
//! One JSON text each way, which holds the instance's JSON in base64 (Go writes bytes that way) and ends with a line feed.

use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_process::escape::escape_untrusted;
use serde_json::Value;

/// The option.
pub const OPTION: &str = "--inspect-status";

/// Largest document that is read, in bytes.
const MAX_DOCUMENT: u64 = 16 << 20;

/// Why a driver did not tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectStatusError {
    /// The program could not be run.
    #[error("cannot run {program} {OPTION}: {source}")]
    Run {
        /// Its path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{program} {OPTION} did not answer within {} s", .limit.as_secs())]
    TimedOut {
        /// Its path.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// It said nothing that can be used.
    #[error("{program} {OPTION} answered with {what}")]
    Unusable {
        /// Its path.
        program: String,
        /// What it was.
        what: String,
    },
}

/// Asks a driver for the status of an instance, in Lima's words; empty: the pid files tell. Blocks for `limit` at most.
pub fn ask(
    program: &Path,
    instance: &Value,
    limit: Duration,
) -> Result<String, InspectStatusError> {
    let name = program.display().to_string();
    let run = |source| InspectStatusError::Run {
        program: name.clone(),
        source,
    };
    let mut child = Command::new(program)
        .arg(OPTION)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(run)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let question = encode(&instance.to_string().into_bytes());
    let (tell, told) = mpsc::channel();
    // Both ends when the process does, or is killed below.
    thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A driver that does not read gives no answer, and that is told.
            let _ = stdin.write_all(&question);
        }
    });
    thread::spawn(move || {
        let mut answer = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| {
            stdout.take(MAX_DOCUMENT + 1).read_to_end(&mut answer)
        });
        let _ = tell.send(read.map(|_| answer));
    });
    let answer = told.recv_timeout(limit);
    // Whoever has closed its output has no more to say, and whoever has not in time is not waited for.
    let _ = child.kill();
    child.wait().map_err(run)?;
    let answer = answer.map_err(|_| InspectStatusError::TimedOut {
        program: name.clone(),
        limit,
    })?;
    let answer = answer.map_err(run)?;
    status_of(&answer).map_err(|what| InspectStatusError::Unusable {
        program: name.clone(),
        what,
    })
}

fn status_of(answer: &[u8]) -> Result<String, String> {
    let instance: Value = serde_json::from_slice(&decode(answer)?).map_err(|error| {
        format!(
            "no instance: {}",
            escape_untrusted(error.to_string().as_bytes())
        )
    })?;
    if !instance.is_object() {
        return Err("no instance: it is no JSON object".to_owned());
    }
    match instance.get("status") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(word)) => known(word).ok_or_else(|| {
            let word: String = word.chars().take(40).collect();
            format!("the unknown status {:?}", escape_untrusted(word.as_bytes()))
        }),
        Some(_) => Err("a status that is no text".to_owned()),
    }
}

/// Lima's words for the state of an instance.
fn known(word: &str) -> Option<String> {
    const WORDS: [&str; 6] = [
        "",
        "Uninitialized",
        "Installing",
        "Broken",
        "Stopped",
        "Running",
    ];
    WORDS.contains(&word).then(|| word.to_owned())
}

/// Answers such a question: reads an instance, and says what `status` it has.
pub fn answer(
    mut question: impl Read,
    mut out: impl io::Write,
    status: impl FnOnce(&Value) -> String,
) -> Result<(), String> {
    let mut bytes = Vec::new();
    question
        .by_ref()
        .take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read the instance: {error}"))?;
    let mut instance: Value = serde_json::from_slice(&decode(&bytes)?)
        .map_err(|error| format!("cannot read the instance: {error}"))?;
    if !instance.is_object() {
        return Err("cannot read the instance: it is no JSON object".to_owned());
    }
    instance["status"] = status(&instance).into();
    out.write_all(&encode(&instance.to_string().into_bytes()))
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write the instance: {error}"))
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    format!("\"{}\"\n", STANDARD.encode(bytes)).into_bytes()
}

/// The first JSON text of a document, out of base64.
fn decode(document: &[u8]) -> Result<Vec<u8>, String> {
    if document.len() as u64 > MAX_DOCUMENT {
        return Err("more than 16 MiB".to_owned());
    }
    // Go reads one value and does not look further.
    let first = serde_json::Deserializer::from_slice(document)
        .into_iter::<String>()
        .next();
    let text = match first {
        None => return Err("nothing".to_owned()),
        Some(Err(_)) => return Err("what is no JSON text".to_owned()),
        Some(Ok(text)) => text,
    };
    STANDARD
        .decode(text)
        .map_err(|_| "a text that is no base64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_what_go_writes() {
        let mut out = Vec::new();
        let question = &b"\"eyJuYW1lIjoieCJ9\"\n"[..];
        answer(question, &mut out, |instance| {
            assert_eq!(instance["name"], "x");
            "Stopped".to_owned()
        })
        .unwrap();
        // {"name":"x","status":"Stopped"}
        assert_eq!(out, b"\"eyJuYW1lIjoieCIsInN0YXR1cyI6IlN0b3BwZWQifQ==\"\n");
        assert_eq!(status_of(&out).unwrap(), "Stopped");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (bytes, what) in [
            (&b""[..], "nothing"),
            (b"{}", "no JSON text"),
            (b"\"%%%\"", "no base64"),
            (b"\"e30\"", "no base64"),
            (b"\"Ww==\"", "no instance"),
        ] {
            let error = status_of(bytes).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(status_of(&encode(b"{}")).unwrap(), "");
        assert!(
            status_of(&encode(br#"{"status":"\u001bx"}"#))
                .unwrap_err()
                .contains("unknown status")
        );
        assert!(
            status_of(&encode(br#"{"status":7}"#))
                .unwrap_err()
                .contains("no text")
        );
        assert!(answer(&b"\"Nw==\""[..], Vec::new(), |_| String::new()).is_err());
    }
}
