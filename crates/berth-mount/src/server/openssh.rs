//! OpenSSH's `sftp-server`, as a child. It is not confined: it serves every path that its user may use.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use berth_process::escape::escape_untrusted_lines;
use berth_process::spawn::Spec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, copy_buf};

use crate::share::Share;

/// Where it is not in PATH: nobody calls it by hand.
const PLACES: &[&str] = &[
    "/usr/libexec/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/sftp-server",
    "/usr/lib/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/opt/homebrew/opt/openssh/libexec/sftp-server",
    "/usr/local/opt/openssh/libexec/sftp-server",
];

/// Bytes of each direction's buffer: the longest packet of sshfs, and more.
const BUFFER: usize = 128 * 1024;

/// Most that is kept of its messages.
const MOST_WORDS: u64 = 2048;

/// Finds the program.
pub(super) fn find(path: &OsStr) -> Option<PathBuf> {
    let name = if cfg!(windows) {
        "sftp-server.exe"
    } else {
        "sftp-server"
    };
    let in_path = std::env::split_paths(path).map(|directory| directory.join(name));
    let elsewhere = PLACES.iter().map(PathBuf::from);
    in_path
        .chain(elsewhere)
        .find(|program| program.is_absolute() && program.is_file())
}

/// Serves until either end is over.
pub(super) async fn serve<R, W>(program: &Path, share: &Share, reader: R, mut writer: W) -> String
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let spec = Spec::new(program)
        .args(arguments(share))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .new_group()
        .kill_on_drop();
    let mut child = match spec.spawn() {
        Ok(child) => child,
        Err(why) => return why.to_string(),
    };
    let pipes = (child.take_stdin(), child.take_stdout(), child.take_stderr());
    let (Ok(Some(mut stdin)), Ok(Some(stdout)), Ok(Some(stderr))) = pipes else {
        return "its pipes cannot be used".to_owned();
    };
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    let mut stdout = BufReader::with_capacity(BUFFER, stdout);
    let mut words = Vec::new();
    let ended = tokio::select! {
        exit = child.wait() => exit.describe(),
        // Its own end tells more than that of its output.
        ended = copy_buf(&mut stdout, &mut writer) => match ended {
            Ok(_) => child.wait().await.describe(),
            Err(why) => format!("the client is gone ({why})"),
        },
        ended = copy_buf(&mut reader, &mut stdin) => match ended {
            Ok(_) => "the client has ended".to_owned(),
            Err(why) => format!("the client is gone ({why})"),
        },
    };
    // Not waited for: a child of its own may hold the other end.
    let _ = tokio::time::timeout(
        std::time::Duration::from_millis(100),
        stderr.take(MOST_WORDS).read_to_end(&mut words),
    )
    .await;
    match escape_untrusted_lines(words.trim_ascii()).as_str() {
        "" => ended,
        words => format!("{ended}: {words}"),
    }
}

/// As Lima calls it: messages to stderr, the directory to start in, read-only where the share is.
fn arguments(share: &Share) -> Vec<OsString> {
    // `%` begins a variable there.
    let directory = share.directory.to_string_lossy().replace('%', "%%");
    let mut arguments: Vec<OsString> = vec!["-e".into(), "-d".into(), directory.into()];
    if !share.writable {
        arguments.push("-R".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::share;

    #[test]
    fn the_program_is_told_where_and_whether_to_write() {
        let mut share = share("/mnt");
        share.directory = "/srv/100%".into();
        assert_eq!(arguments(&share), ["-e", "-d", "/srv/100%%"]);
        share.writable = false;
        assert_eq!(arguments(&share), ["-e", "-d", "/srv/100%%", "-R"]);
    }

    #[test]
    fn a_program_in_path_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let name = if cfg!(windows) {
            "sftp-server.exe"
        } else {
            "sftp-server"
        };
        std::fs::write(dir.path().join(name), "").unwrap();
        assert_eq!(find(dir.path().as_os_str()), Some(dir.path().join(name)));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_server_that_dies_is_named_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sftp-server");
        std::fs::write(&program, "#!/bin/sh\necho broken >&2\nexit 3\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let (_client, server) = tokio::io::duplex(64);
        let (reader, writer) = tokio::io::split(server);
        let why = serve(&program, &share("/mnt"), reader, writer).await;
        assert!(why.contains('3') && why.contains("broken"), "{why}");
    }
}
