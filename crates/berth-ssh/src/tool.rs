//! Which OpenSSH is used, and what it can do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use berth_instance::files::write_atomic;
use berth_process::spawn::Spec;
use serde::{Deserialize, Serialize};

use crate::run::{Finished, run};
use crate::sys;

/// How long `ssh -V` may take before its features count as unknown.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// A program that is needed is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{program} was not found in PATH: install the OpenSSH client (Debian: apt-get install openssh-client)"
)]
pub struct ToolError {
    /// Its name.
    pub program: String,
}

/// The `ssh` that everything of ours uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTool {
    program: PathBuf,
    args: Vec<String>,
}

/// Version of OpenSSH: major, minor, portable level. Zeros when unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

/// What an `ssh` can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Its version.
    pub version: Version,
    /// It knows the option `GSSAPIAuthentication`.
    pub gssapi: bool,
}

impl SshTool {
    /// Finds the program. `ssh_variable` is `$SSH`: a program and its arguments, as a shell splits them. One that cannot be split is
    /// ignored with a warning. `path_variable` is `$PATH`.
    pub fn find(ssh_variable: Option<&str>, path_variable: &OsStr) -> Result<Self, ToolError> {
        let mut words = ssh_variable.map_or_else(Vec::new, |text| {
            shell_words::split(text).unwrap_or_else(|error| {
                tracing::warn!(text, %error, "$SSH is no command line; using ssh");
                Vec::new()
            })
        });
        if words.is_empty() {
            words.push("ssh".to_owned());
        }
        let name = words.remove(0);
        let program = in_path(&name, path_variable)?;
        Ok(Self {
            program,
            args: words,
        })
    }

    /// Path of the program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Arguments that go before all others.
    #[must_use]
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// A command line with the configuration of an instance, for whoever is replaced by it or waits for it without a runtime.
    #[must_use]
    pub fn with_config(&self, config: &Path) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).arg("-F").arg(config);
        command
    }

    /// A command line to add arguments to.
    #[must_use]
    pub fn command(&self) -> Spec {
        Spec::new(&self.program).args(&self.args)
    }

    /// Says what the program can do, from `cache_file` when the program is the one that was asked then, else by asking it.
    ///
    /// An `ssh` that does not answer has no features.
    pub async fn features(&self, cache_file: &Path) -> Features {
        let asked = Asked::of(self);
        if let Some(asked) = &asked
            && let Some(answer) = Answer::read(cache_file)
            && answer.asked == *asked
        {
            return answer.features;
        }
        let features = self.ask().await;
        if let Some(asked) = asked {
            Answer { asked, features }.write(cache_file);
        }
        features
    }

    async fn ask(&self) -> Features {
        let command = self.command().args(["-o", "GSSAPIAuthentication=no", "-V"]);
        match run(command, b"", ASK_LIMIT).await {
            Ok(Finished { exit, stderr, .. }) if exit.success() => {
                Features::parse(&String::from_utf8_lossy(&stderr))
            }
            other => {
                tracing::warn!(program = %self.program.display(), ?other, "`ssh -V` failed");
                Features {
                    version: Version::default(),
                    gssapi: false,
                }
            }
        }
    }
}

/// Finds another program of OpenSSH, `ssh-keygen` or `scp`: beside `ssh`, else in `PATH`.
pub fn find_sibling(
    ssh: &SshTool,
    name: &str,
    path_variable: &OsStr,
) -> Result<PathBuf, ToolError> {
    beside(ssh, name).map_or_else(|| in_path(name, path_variable), Ok)
}

/// A program of the same installation of OpenSSH.
pub(crate) fn beside(ssh: &SshTool, name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let program = ssh.program.with_file_name(name);
    sys::is_executable(&program).then_some(program)
}

/// A name with a directory is taken as it is; its absence is found when it is started.
fn in_path(name: &str, path_variable: &OsStr) -> Result<PathBuf, ToolError> {
    if Path::new(name).components().count() > 1 {
        return Ok(PathBuf::from(name));
    }
    let file = if name.ends_with(std::env::consts::EXE_SUFFIX) {
        name.to_owned()
    } else {
        format!("{name}{}", std::env::consts::EXE_SUFFIX)
    };
    std::env::split_paths(path_variable)
        .map(|directory| directory.join(&file))
        .find(|candidate| sys::is_executable(candidate))
        .ok_or_else(|| ToolError {
            program: name.to_owned(),
        })
}

impl Features {
    /// Reads what `ssh -o GSSAPIAuthentication=no -V` wrote to stderr.
    fn parse(text: &str) -> Self {
        let unsupported = "unsupported option \"gssapiauthentication\"";
        Self {
            version: text.lines().find_map(Version::parse).unwrap_or_default(),
            gssapi: !text.to_ascii_lowercase().contains(unsupported),
        }
    }
}

impl Version {
    /// Reads `OpenSSH_9.2p1 Debian-2, OpenSSL 3…` or `OpenSSH_for_Windows_9.5p2, …`.
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("OpenSSH_")?;
        let rest = rest
            .strip_prefix("for_Windows")
            .map_or(rest, |rest| rest.trim_start_matches(['_', ' ']));
        let (major, rest) = rest.split_once('.')?;
        let (minor, rest) = leading_number(rest)?;
        let level = rest.strip_prefix('p').and_then(leading_number);
        Some(Self(
            major.parse().ok()?,
            minor,
            level.map_or(0, |(level, _)| level),
        ))
    }
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Which program was asked: another size or time is another program.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    program: PathBuf,
    args: Vec<String>,
    size: u64,
    modified_ns: u64,
}

impl Asked {
    fn of(tool: &SshTool) -> Option<Self> {
        let metadata = std::fs::metadata(&tool.program).ok()?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            program: tool.program.clone(),
            args: tool.args.clone(),
            size: metadata.len(),
            modified_ns: u64::try_from(modified.as_nanos()).ok()?,
        })
    }
}

/// What the cache file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    #[serde(flatten)]
    asked: Asked,
    #[serde(flatten)]
    features: Features,
}

impl Answer {
    /// A file that is missing or not understood is as good as none.
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Without the cache the next start asks again, and that is all.
    fn write(&self, path: &Path) {
        let written = serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .and_then(|json| write_atomic(path, &json, 0o600));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "cannot keep what ssh can do");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = |text: &str| Features::parse(text).version;
        assert_eq!(read("OpenSSH_8.1p1, LibreSSL 2.7.3\n"), Version(8, 1, 1));
        assert_eq!(
            read("warning: x\nOpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL\n"),
            Version(9, 2, 1)
        );
        assert_eq!(read("OpenSSH_7.0, LibreSSL"), Version(7, 0, 0));
        assert_eq!(
            read("OpenSSH_for_Windows_9.5p2, LibreSSL 3.8.2"),
            Version(9, 5, 2)
        );
        assert_eq!(read("OpenSSH_for_Windows 8.6p1"), Version(8, 6, 1));
        assert_eq!(read("Dropbear v2022.83"), Version(0, 0, 0));
        assert_eq!(read("OpenSSH_x.y"), Version(0, 0, 0));
        assert!(Version(8, 10, 0) > Version(8, 9, 9));
    }

    #[test]
    fn gssapi_is_missing_when_ssh_says_so() {
        assert!(Features::parse("OpenSSH_9.2p1").gssapi);
        assert!(
            !Features::parse("command-line line 0: Unsupported option \"gssapiauthentication\"\n")
                .gssapi
        );
    }

    /// An `ssh` that counts how often it is asked.
    #[cfg(unix)]
    fn counting_ssh(dir: &Path) -> SshTool {
        use std::os::unix::fs::PermissionsExt;
        let program = dir.join("my ssh");
        let log = dir.join("asked");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>'{}'\necho OpenSSH_9.9p2, x >&2\n",
            log.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let variable = format!("'{}' -4", program.display());
        SshTool::find(Some(&variable), OsStr::new("")).unwrap()
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_same_program_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let (tool, cache) = (counting_ssh(dir.path()), dir.path().join("features.json"));
        let asked = || std::fs::read_to_string(dir.path().join("asked")).unwrap();
        let expected = Features {
            version: Version(9, 9, 2),
            gssapi: true,
        };
        assert_eq!(tool.features(&cache).await, expected);
        assert_eq!(tool.features(&cache).await, expected);
        assert_eq!(asked(), "-4 -o GSSAPIAuthentication=no -V\n");

        std::fs::write(&cache, "{\"program\": 7").unwrap();
        assert_eq!(tool.features(&cache).await, expected);
        assert_eq!(asked().lines().count(), 2, "a broken cache counts as none");

        let text = std::fs::read_to_string(tool.program()).unwrap();
        std::fs::write(tool.program(), text.replace("9.9p2", "10.0p1")).unwrap();
        assert_eq!(tool.features(&cache).await.version, Version(10, 0, 1));
    }

    #[test]
    fn a_broken_variable_falls_back_and_a_missing_program_is_named() {
        let error = SshTool::find(Some("'unclosed"), OsStr::new("/nonexistent")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ssh was not found in PATH: install the OpenSSH client (Debian: apt-get install openssh-client)"
        );
    }
}
