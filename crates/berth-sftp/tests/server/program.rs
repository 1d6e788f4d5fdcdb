//! The server as a program, under OpenSSH's own client.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use crate::client::Place;

/// The program.
pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_berth-sftp-server");

/// Runs lines of `sftp` on a share; returns what it printed.
fn sftp(place: &Place, options: &str, lines: &[&str]) -> (bool, String) {
    // `sftp` wants one word for the program.
    let start = place.outside("start");
    let script = format!(
        "#!/bin/sh\nexec '{SERVER}' {options} '{}'\n",
        place.share("").display()
    );
    fs::write(&start, script).unwrap();
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).unwrap();
    let mut sftp = Command::new("sftp")
        .args(["-q", "-b", "-", "-D"])
        .arg(&start)
        .current_dir(place.outside(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sftp (OpenSSH's client) is installed");
    let input = lines.join("\n") + "\n";
    sftp.stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = sftp.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn openssh_s_client_does_all_that_it_can() {
    for options in ["", "-N", "-L", "-N -L"] {
        let place = Place::new();
        let big: Vec<u8> = (0..3_000_000_u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        fs::write(place.outside("big"), &big).unwrap();
        fs::create_dir_all(place.outside("tree/a/b")).unwrap();
        fs::write(place.outside("tree/a/b/deep"), "deep").unwrap();
        let (ok, said) = sftp(
            &place,
            options,
            &[
                "pwd",
                "mkdir dir",
                "put -p big dir/big",
                "get -p dir/big back",
                "reget dir/big back",
                "put -fR tree",
                "get -R tree copy",
                "rename dir/big dir/other",
                "ln -s other dir/link",
                "ln dir/other dir/hard",
                "chmod 600 dir/hard",
                "df -i dir",
                "ls -1 dir",
                "rm dir/link",
                "rm dir/hard",
                "cd dir",
                "pwd",
                "cd ..",
                "rmdir tree/none/../a/b/none/..",
            ],
        );
        // The last one fails, and only that.
        assert!(!ok && said.contains("remote rmdir"), "{options}: {said}");
        assert!(said.contains("working directory: /\n"), "{said}");
        assert!(said.contains("working directory: /dir\n"), "{said}");
        for name in ["dir/hard", "dir/link", "dir/other"] {
            assert!(said.contains(name), "{name}: {said}");
        }
        assert!(fs::read(place.outside("back")).unwrap() == big, "{options}");
        assert!(
            fs::read(place.share("dir/other")).unwrap() == big,
            "{options}"
        );
        assert_eq!(fs::read(place.share("tree/a/b/deep")).unwrap(), b"deep");
        assert_eq!(fs::read(place.outside("copy/a/b/deep")).unwrap(), b"deep");
        let mode = fs::metadata(place.share("dir/other"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
}

#[test]
fn openssh_s_client_gets_no_further_than_anybody() {
    let place = Place::new();
    fs::write(place.outside("secret"), "SECRET").unwrap();
    fs::write(place.share("f"), "f").unwrap();
    symlink(place.outside("secret"), place.share("link")).unwrap();
    symlink("../outside", place.share("dir")).unwrap();
    for options in ["", "-L", "-R", "-R -L"] {
        let secret = place.outside("secret");
        for line in [
            "get link got".to_owned(),
            "get dir/secret got".to_owned(),
            "get ../outside/secret got".to_owned(),
            format!("get {} got", secret.display()),
            "put start dir/secret".to_owned(),
            "rm dir/secret".to_owned(),
            "ls dir/".to_owned(),
        ] {
            let (ok, said) = sftp(&place, options, &[&line]);
            let got = fs::read(place.outside("got")).unwrap_or_default();
            assert!(!got.starts_with(b"SECRET"), "{options} {line}");
            // A link is shown as a link, and passed over as one.
            let shown = line.starts_with("get link") || line == "ls dir/";
            assert!(!ok || shown, "{options} {line}: {said}");
            assert!(
                !said.contains("secret\n") || line.contains("secret"),
                "{line}: {said}"
            );
        }
        assert_eq!(fs::read(&secret).unwrap(), b"SECRET");
    }
    let (ok, said) = sftp(&place, "-R", &["put start new"]);
    assert!(!ok && said.contains("Permission denied"), "{said}");
    assert!(!place.share("new").exists());
}

#[test]
fn wrong_arguments_are_explained() {
    for arguments in [&[][..], &["-x", "/"], &["a", "b"]] {
        let output = Command::new(SERVER).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("usage:"),
            "{said}"
        );
    }
}
