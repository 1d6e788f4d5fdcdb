//! The command line of rsync, so that it lays files out as scp does.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{bail, ensure};
use berth_ssh::tool::SshTool;

use super::guest::Guest;
use super::place::Place;
use super::{Job, Told};

/// Sources and target as rsync has to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    words: Vec<String>,
}

/// Whether this computer has rsync 3. Others with its name, as macOS has one, do not know what is needed.
pub(super) fn is_here() -> bool {
    let asked = Command::new("rsync")
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    asked.is_ok_and(|output| is_three(&output.stdout))
}

fn is_three(version: &[u8]) -> bool {
    let text = String::from_utf8_lossy(version);
    let mut words = text.split_whitespace();
    words.next() == Some("rsync")
        && words.next() == Some("version")
        && words
            .next()
            .is_some_and(|version| version.starts_with("3."))
}

/// Asks both ends what is needed to lay files out; `None` if the guest has no rsync.
pub(super) fn ask(job: &Job, ssh: &SshTool, guest: &Guest) -> anyhow::Result<Option<Layout>> {
    let in_guest = |place: &Place| match place {
        Place::Guest { path, .. } => Some(path.clone()),
        Place::Host(_) => None,
    };
    let paths: Vec<String> = job.places().filter_map(in_guest).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let answer = guest.ask(ssh, &paths)?;
    if !answer.has_rsync {
        return Ok(None);
    }
    let mut told = answer.are_directories.into_iter();
    let are_directories: Vec<bool> = job
        .places()
        .map(|place| match place {
            Place::Host(path) => Path::new(path).is_dir(),
            Place::Guest { .. } => told.next().unwrap_or(false),
        })
        .collect();
    lay_out(job, &are_directories).map(Some)
}

/// scp copies a directory into a target that is there, and as a target that is not. rsync decides by a slash after the source.
fn lay_out(job: &Job, are_directories: &[bool]) -> anyhow::Result<Layout> {
    let Some((target_is_directory, sources_are)) = are_directories.split_last() else {
        bail!("nothing to copy");
    };
    ensure!(
        job.sources.len() == 1 || *target_is_directory,
        "{} is no directory, and several sources cannot become one file",
        job.target
    );
    let mut words = Vec::new();
    for (source, is_directory) in job.sources.iter().zip(sources_are) {
        ensure!(
            job.recursive || !is_directory,
            "{source} is a directory: copy it with -r"
        );
        let becomes_target = *is_directory && !target_is_directory;
        let slash = if becomes_target { "/" } else { "" };
        words.push(source.trimmed().argument() + slash);
    }
    words.push(job.target.argument());
    Ok(Layout { words })
}

pub(super) fn command(
    job: &Job,
    layout: &Layout,
    ssh: &SshTool,
    guests: &[Guest],
) -> anyhow::Result<Command> {
    let [guest] = guests else {
        bail!("rsync does not copy between two instances");
    };
    let mut shell = vec![word_of_rsync(&ssh.program().to_string_lossy())];
    shell.extend(ssh.args().iter().map(|word| word_of_rsync(word)));
    shell.push("-F".to_owned());
    shell.push(word_of_rsync(&guest.dir.ssh_config().to_string_lossy()));
    let mut command = Command::new("rsync");
    // Paths are the other rsync's to read, not a shell's.
    command.args(["--archive", "--protect-args", "--rsh", &shell.join(" ")]);
    match job.told {
        Told::Errors => command.arg("--quiet"),
        Told::Progress => command.arg("--info=progress2"),
        Told::Files => command.args(["--verbose", "--progress"]),
    };
    command.arg("--").args(&layout.words);
    Ok(command)
}

/// A word of `--rsh`, which is split at blanks outside quotes; a quote within quotes is doubled.
fn word_of_rsync(word: &str) -> String {
    format!("'{}'", word.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(places: &[&str], recursive: bool) -> Job {
        let mut places: Vec<_> = places
            .iter()
            .map(|text| Place::parse(text).unwrap())
            .collect();
        Job {
            target: places.pop().unwrap(),
            sources: places,
            recursive,
            told: Told::Errors,
        }
    }

    fn words(places: &[&str], are_directories: &[bool]) -> String {
        let layout = lay_out(&job(places, true), are_directories).unwrap();
        layout.words.join(" ")
    }

    #[test]
    fn directories_go_into_what_is_there_and_become_what_is_not() {
        for source in ["d", "d/"] {
            assert_eq!(words(&[source, "x:/t"], &[true, true]), "d lima-x:/t");
            assert_eq!(words(&[source, "x:/t"], &[true, false]), "d/ lima-x:/t");
            let from = format!("x:{source}");
            assert_eq!(words(&[&from, "t/"], &[true, true]), "lima-x:d t/");
            assert_eq!(words(&[&from, "t/"], &[true, false]), "lima-x:d/ t/");
        }
        assert_eq!(words(&["f", "x:"], &[false, true]), "f lima-x:.");
        assert_eq!(
            words(&["a", "b", "x:t"], &[false, true, true]),
            "a b lima-x:t"
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |places: &[&str], recursive, are: &[bool]| {
            lay_out(&job(places, recursive), are)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&["x:d", "t"], false, &[true, false]),
            "x:d is a directory: copy it with -r"
        );
        assert_eq!(
            refused(&["a", "b", "x:t"], true, &[false, false, false]),
            "x:t is no directory, and several sources cannot become one file"
        );
    }

    #[test]
    fn only_rsync_three_will_do() {
        assert!(is_three(b"rsync  version 3.2.7  protocol version 31\n"));
        assert!(!is_three(b"rsync  version 2.6.9  protocol version 29\n"));
        assert!(!is_three(b"openrsync: protocol version 29\n"));
    }

    #[test]
    fn words_of_the_remote_shell_are_quoted_as_rsync_reads_them() {
        assert_eq!(word_of_rsync("/a b/it's"), "'/a b/it''s'");
    }
}
