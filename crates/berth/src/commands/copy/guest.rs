//! An instance that takes part.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use berth_config::name::InstanceName;
use berth_instance::dir::InstanceDir;
use berth_ssh::tool::SshTool;
use shell_words::quote;

/// A running instance.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) name: InstanceName,
    pub(super) dir: InstanceDir,
}

/// What the guest was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) has_rsync: bool,
    /// Which of the paths are directories.
    pub(super) are_directories: Vec<bool>,
}

impl Guest {
    /// Asks, by one command over the login that is open, whether there is rsync and which of the paths are directories.
    pub(super) fn ask(&self, ssh: &SshTool, paths: &[&str]) -> anyhow::Result<Answer> {
        let mut command = ssh.with_config(&self.dir.ssh_config());
        command
            .args([&self.name.hostname(), "--", &question(paths)])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let output = command.output().context("cannot run ssh")?;
        ensure!(
            output.status.success(),
            "ssh to instance {:?} ended with {}",
            self.name.as_str(),
            output.status
        );
        Ok(Answer::read(&output.stdout, paths.len()))
    }
}

/// One line for each question, so that whatever a login script prints before it does no harm.
fn question(paths: &[&str]) -> String {
    let mut script = "command -v rsync >/dev/null && echo berth:rsync".to_owned();
    for (number, path) in paths.iter().enumerate() {
        script.push_str("; [ -d ");
        script.push_str(&quote(path));
        script.push_str(" ] && echo berth:");
        script.push_str(&number.to_string());
    }
    format!("sh -c {}", quote(&format!("{script}; true")))
}

impl Answer {
    fn read(output: &[u8], paths: usize) -> Self {
        let output = String::from_utf8_lossy(output);
        let has = |word: &str| {
            let mut answers = output
                .lines()
                .filter_map(|line| line.strip_prefix("berth:"));
            answers.any(|answer| answer == word)
        };
        Self {
            has_rsync: has("rsync"),
            are_directories: (0..paths).map(|number| has(&number.to_string())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_real_shell_answers() {
        let paths = ["/usr", "/no such/it's", "/", "a;b"];
        let output = Command::new("sh").args(["-c", &question(&paths)]).output();
        let answer = Answer::read(&output.unwrap().stdout, paths.len());
        assert_eq!(answer.are_directories, [true, false, true, false]);
    }

    #[test]
    fn what_others_print_is_no_answer() {
        let answer = Answer::read(b"welcome\nrsync\nberth:1\r\nberth:0\n", 2);
        assert_eq!(
            answer,
            Answer {
                has_rsync: false,
                // Lines of a guest with another idea of lines count as well.
                are_directories: vec![true, true],
            }
        );
    }
}
