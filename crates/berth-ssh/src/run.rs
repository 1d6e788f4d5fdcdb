//! Running a program to its end: input written, output read up to a limit, all within a deadline.

use std::process::Stdio;
use std::time::Duration;

use berth_process::exit::Exit;
use berth_process::spawn::{Child, SpawnError, Spec};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// How much of each output stream is kept. What a guest writes beyond it is read and thrown away.
pub(crate) const KEPT: usize = 64 * 1024;

/// How much is taken from a pipe at once.
const PIECE: usize = 64 * 1024;

/// How long output may still come after the program has ended: a descendant of it may hold the pipes open for ever.
const AFTER_EXIT: Duration = Duration::from_secs(1);

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) exit: Exit,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cannot talk to the program")]
    Pipes(#[from] std::io::Error),
    /// The output could not be passed on.
    #[error("cannot write its output")]
    Sink(#[source] std::io::Error),
    /// It was killed.
    #[error("its output has more than {0} bytes")]
    TooMuch(u64),
    /// It was killed. The output until then may say why it hung.
    #[error("it was stopped after {} s", .limit.as_secs_f32())]
    TimedOut { limit: Duration, stderr: Vec<u8> },
}

/// Runs a program. Dropping the future kills it.
pub(crate) async fn run(spec: Spec, stdin: &[u8], limit: Duration) -> Result<Finished, RunError> {
    let spec = spec
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spec.kill_on_drop().spawn()?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended =
        tokio::time::timeout(limit, talk(&mut child, stdin, &mut stdout, &mut stderr)).await;
    match ended {
        Ok(exit) => Ok(Finished {
            exit: exit?,
            stdout,
            stderr,
        }),
        Err(_) => Err(RunError::TimedOut { limit, stderr }),
    }
}

/// Runs a program and passes its output on as it comes, at most `most` bytes. Dropping the future kills it.
pub(crate) async fn run_into(
    spec: Spec,
    stdin: &[u8],
    sink: &mut (impl AsyncWrite + Unpin),
    most: u64,
    limit: Duration,
) -> Result<Finished, RunError> {
    let spec = spec
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spec.kill_on_drop().spawn()?;
    let mut stderr = Vec::new();
    let pouring = pour(&mut child, stdin, sink, most, &mut stderr);
    match tokio::time::timeout(limit, pouring).await {
        Ok(exit) => Ok(Finished {
            exit: exit?,
            stdout: Vec::new(),
            stderr,
        }),
        Err(_) => Err(RunError::TimedOut { limit, stderr }),
    }
}

async fn pour(
    child: &mut Child,
    input: &[u8],
    sink: &mut (impl AsyncWrite + Unpin),
    most: u64,
    stderr: &mut Vec<u8>,
) -> Result<Exit, RunError> {
    let (stdin, out, err) = (
        child.take_stdin()?,
        child.take_stdout()?,
        child.take_stderr()?,
    );
    let write = async move {
        if let Some(mut stdin) = stdin {
            // A program may end without reading its input; how it ends says more than that.
            let _ = stdin.write_all(input).await;
        }
    };
    let talk = async {
        tokio::join!(write, keep(err, stderr));
        Ok(())
    };
    let pass_on = async {
        let Some(out) = out else { return Ok(()) };
        // One byte more tells what is too long from what just fits.
        let out = out.take(most.saturating_add(1));
        let mut out = BufReader::with_capacity(PIECE, out);
        let copied = tokio::io::copy_buf(&mut out, sink);
        let count = copied.await.map_err(RunError::Sink)?;
        sink.flush().await.map_err(RunError::Sink)?;
        if count > most {
            return Err(RunError::TooMuch(most));
        }
        Ok(())
    };
    tokio::try_join!(talk, pass_on)?;
    Ok(child.wait().await)
}

async fn talk(
    child: &mut Child,
    input: &[u8],
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> std::io::Result<Exit> {
    let (mut stdin, out, err) = (
        child.take_stdin()?,
        child.take_stdout()?,
        child.take_stderr()?,
    );
    let write = async move {
        if let Some(stdin) = &mut stdin {
            // A program may end without reading its input; how it ends says more than that.
            let _ = stdin.write_all(input).await;
        }
    };
    let read = async { tokio::join!(write, keep(out, stdout), keep(err, stderr)) };
    tokio::pin!(read);
    tokio::select! {
        _ = &mut read => Ok(child.wait().await),
        exit = child.wait() => {
            let _ = tokio::time::timeout(AFTER_EXIT, read).await;
            Ok(exit)
        }
    }
}

/// Reads to the end and keeps the beginning.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = KEPT.saturating_sub(kept.len());
        kept.extend(&buffer[..count.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    fn shell(script: &str) -> Spec {
        Spec::new("/bin/sh").args(["-c", script])
    }

    #[tokio::test]
    async fn input_goes_in_and_both_outputs_come_out() {
        let ran = run(shell("cat; echo err >&2; exit 3"), b"in", LIMIT)
            .await
            .unwrap();
        let expected = Finished {
            exit: Exit::Status(3),
            stdout: b"in".to_vec(),
            stderr: b"err\n".to_vec(),
        };
        assert_eq!(ran, expected);
    }

    #[tokio::test]
    async fn endless_output_is_read_and_cut() {
        let ran = run(shell("head -c 3000000 /dev/zero"), b"", LIMIT)
            .await
            .unwrap();
        assert_eq!((ran.exit, ran.stdout.len()), (Exit::Status(0), KEPT));
    }

    #[tokio::test]
    async fn output_is_passed_on_whole_and_no_further_than_allowed() {
        let (mut sink, most) = (Vec::new(), 3_000_000);
        let program = || shell("cat; head -c 2999998 /dev/zero; echo err >&2; exit 3");
        let ran = run_into(program(), b"in", &mut sink, most, LIMIT).await;
        let expected = Finished {
            exit: Exit::Status(3),
            stdout: Vec::new(),
            stderr: b"err\n".to_vec(),
        };
        assert_eq!(ran.unwrap(), expected);
        assert!(sink.starts_with(b"in\0") && sink.len() == 3_000_000);
        let ran = run_into(program(), b"in", &mut sink, most - 1, LIMIT).await;
        assert!(matches!(ran, Err(RunError::TooMuch(2_999_999))), "{ran:?}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_sink_that_takes_no_more_ends_the_program() {
        let mut full = tokio::fs::File::options()
            .write(true)
            .open("/dev/full")
            .await
            .unwrap();
        let endless = shell("exec cat /dev/zero");
        let ran = run_into(endless, b"", &mut full, u64::MAX, LIMIT).await;
        assert!(
            matches!(&ran, Err(RunError::Sink(why)) if why.kind() == std::io::ErrorKind::StorageFull),
            "{ran:?}"
        );
    }

    #[tokio::test]
    async fn a_program_that_reads_nothing_does_not_block() {
        let ran = run(shell("exit 4"), &vec![b'x'; 1 << 20], LIMIT)
            .await
            .unwrap();
        assert_eq!(ran.exit, Exit::Status(4));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_stopped_and_its_words_are_kept() {
        let slow = run(
            shell("echo hanging >&2; exec sleep 1000"),
            b"",
            Duration::from_secs(3),
        );
        match slow.await.unwrap_err() {
            RunError::TimedOut { stderr, .. } => assert_eq!(stderr, b"hanging\n"),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_descendant_that_keeps_the_pipes_does_not_hold_us_up() {
        let ran = run(shell("sleep 1000 & echo $!; exit 5"), b"", LIMIT)
            .await
            .unwrap();
        assert_eq!(ran.exit, Exit::Status(5));
        let pid = String::from_utf8(ran.stdout).unwrap();
        run(shell(&format!("kill {pid}")), b"", LIMIT)
            .await
            .unwrap();
    }
}
