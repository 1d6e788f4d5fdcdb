//! The line that the guest's login shell runs: change directory, then become the wanted shell.

use std::path::{Path, PathBuf};

use shell_words::quote;

use super::preserved_env::is_variable_name;

/// Where to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WorkDir {
    /// Here, or not at all.
    Exactly(String),
    /// At the first of these that the guest has; otherwise where the login ends up.
    FirstOf(Vec<String>),
}

/// A host directory that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
}

impl WorkDir {
    /// The guest's view of the current directory, then of the home directory, as far as they are shared.
    pub(crate) fn shared(shares: &[Share], current: Option<&Path>, home: &Path) -> Self {
        let in_guest = |host: &Path| {
            // The innermost share wins, as a mount does.
            let shares = shares.iter().filter(|share| host.starts_with(&share.host));
            let share = shares.max_by_key(|share| share.host.components().count())?;
            let below = host.strip_prefix(&share.host).ok()?.to_str()?;
            Some(match below {
                "" => share.guest.clone(),
                below => format!("{}/{below}", share.guest.trim_end_matches('/')),
            })
        };
        let here = current.and_then(in_guest);
        Self::FirstOf(here.into_iter().chain(in_guest(home)).collect())
    }

    fn to_shell(&self) -> String {
        match self {
            Self::Exactly(dir) => format!("cd {} || exit 1", quote(dir)),
            Self::FirstOf(dirs) if dirs.is_empty() => "false".to_owned(),
            Self::FirstOf(dirs) => {
                let changes: Vec<_> = dirs
                    .iter()
                    .map(|dir| format!("cd {}", quote(dir)))
                    .collect();
                changes.join(" || ")
            }
        }
    }
}

/// Builds the line. Without `words` it is an interactive login shell.
pub(crate) fn line(
    workdir: &WorkDir,
    env: &[(&str, &str)],
    shell: &str,
    words: &[String],
) -> String {
    let mut parts = vec![workdir.to_shell(), "; exec".to_owned()];
    if !env.is_empty() {
        parts.push("env".to_owned());
    }
    let assignments = env
        .iter()
        .map(|(name, value)| format!("{name}={}", quote(value)));
    parts.extend(assignments);
    parts.push(format!("{} -l", quote(shell)));
    if !words.is_empty() {
        parts.push(format!("-c {}", quote(&command(words))));
    }
    parts.join(" ")
}

/// Quotes a command word by word; `NAME=VALUE` before the command stays an assignment.
fn command(words: &[String]) -> String {
    let mut assignments = true;
    let words: Vec<_> = words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if assignments && !name.is_empty() && is_variable_name(name) => {
                format!("{name}={}", quote(value))
            }
            _ => {
                assignments = false;
                quote(word).into_owned()
            }
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// What a real shell makes of the line, with `/bin/sh` as the login shell.
    fn run(workdir: &WorkDir, env: &[(&str, &str)], command: &[&str]) -> (String, Option<i32>) {
        let line = line(workdir, env, "/bin/sh", &words(command));
        let output = Command::new("/bin/sh")
            .args(["-c", &line])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .output()
            .unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            output.status.code(),
        )
    }

    #[test]
    fn words_arrive_as_they_were_written() {
        let here = WorkDir::FirstOf(Vec::new());
        let odd = [
            "printf", "%s|", "a b", "$HOME", "it's", "", "*", "x=1", "\n", "--", "\\",
        ];
        assert_eq!(run(&here, &[], &odd).0, "a b|$HOME|it's||*|x=1|\n|--|\\|");
    }

    #[test]
    fn assignments_before_the_command_are_assignments() {
        let here = WorkDir::FirstOf(Vec::new());
        let (out, _) = run(
            &here,
            &[],
            &["A=1 2", "B=", "sh", "-c", "echo \"$A|$B|$1\"", "sh", "C=3"],
        );
        assert_eq!(out, "1 2||C=3\n");
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        assert_eq!(
            run(&WorkDir::FirstOf(Vec::new()), &[], &["sh", "-c", "exit 42"]).1,
            Some(42)
        );
    }

    #[test]
    fn a_demanded_directory_must_be_there() {
        let exactly = |dir: &str| WorkDir::Exactly(dir.to_owned());
        assert_eq!(
            run(&exactly("/no such dir"), &[], &["pwd"]),
            (String::new(), Some(1))
        );
        assert_eq!(
            run(&exactly("/usr"), &[], &["pwd"]),
            ("/usr\n".to_owned(), Some(0))
        );
    }

    #[test]
    fn a_wished_directory_gives_way_to_the_next() {
        let dirs = WorkDir::FirstOf(words(&["/no such dir", "/usr"]));
        assert_eq!(run(&dirs, &[], &["pwd"]).0, "/usr\n");
        let none = WorkDir::FirstOf(words(&["/no such dir"]));
        assert_eq!(run(&none, &[], &["pwd"]).0, "/\n");
    }

    #[test]
    fn variables_are_handed_on_whole() {
        let here = WorkDir::FirstOf(Vec::new());
        let env = [("A", "x y 'z'"), ("B", "$A")];
        assert_eq!(
            run(&here, &env, &["sh", "-c", "echo \"$A|$B\""]).0,
            "x y 'z'|$A\n"
        );
    }

    #[test]
    fn without_a_command_the_shell_is_a_login_shell() {
        let line = line(&WorkDir::FirstOf(Vec::new()), &[], "/bin/bash", &[]);
        assert_eq!(line, "false ; exec /bin/bash -l");
    }

    #[test]
    fn the_current_directory_is_found_in_the_innermost_share() {
        let share = |host: &str, guest: &str| Share {
            host: PathBuf::from(host),
            guest: guest.to_owned(),
        };
        let shares = [share("/home/u", "/home/u"), share("/home/u/src", "/src/")];
        let of = |current: &str| {
            WorkDir::shared(&shares, Some(Path::new(current)), Path::new("/home/u"))
        };
        let dirs = |list: &[&str]| WorkDir::FirstOf(words(list));
        assert_eq!(of("/home/u/src/a b"), dirs(&["/src/a b", "/home/u"]));
        assert_eq!(of("/home/u/src"), dirs(&["/src/", "/home/u"]));
        assert_eq!(of("/home/user"), dirs(&["/home/u"]));
        assert_eq!(WorkDir::shared(&[], None, Path::new("/home/u")), dirs(&[]));
    }
}
