//! A home of its own for each test.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A machine with nobody on it but the test.
pub(crate) struct Sandbox {
    root: TempDir,
    variables: Vec<(String, String)>,
}

/// What a run of the program left behind.
#[must_use]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("berth")
            .tempdir_in("/tmp")
            .expect("a directory");
        for dir in ["home", "work", "bin"] {
            fs::create_dir(root.path().join(dir)).expect("a directory");
        }
        Self {
            root,
            variables: Vec::new(),
        }
    }

    /// Sets a variable for every run.
    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<Path>) {
        let value = value.as_ref().to_str().expect("a text");
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn lima_home(&self) -> PathBuf {
        self.root.path().join("lima")
    }

    pub(crate) fn instance(&self, name: &str) -> PathBuf {
        self.lima_home().join(name)
    }

    /// Everything in LIMA_HOME, by name.
    pub(crate) fn instances(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.lima_home()) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        names
    }

    /// Writes a file into the working directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root.path().join("work").join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Writes a program that comes first in `PATH`.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.root.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    /// A raw image of `mebibytes`, without a byte of data.
    pub(crate) fn image(&self, name: &str, mebibytes: u64) -> PathBuf {
        let path = self.write(name, "");
        let file = fs::File::options()
            .write(true)
            .open(&path)
            .expect("the image");
        file.set_len(mebibytes << 20).expect("a sparse file");
        path
    }

    /// An instance that was made by somebody, sometime, and never started.
    pub(crate) fn existing(&self, name: &str, lima_yaml: &str) -> PathBuf {
        let dir = self.instance(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&dir)
            .expect("an instance");
        fs::write(dir.join("lima.yaml"), lima_yaml).expect("its configuration");
        fs::write(dir.join("lima-version"), "2.1.0").expect("its version");
        dir
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let path = format!(
            "{}:/usr/bin:/bin:/usr/sbin:/sbin",
            self.root.path().join("bin").display()
        );
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.root.path().join("home"))
            .env("LIMA_HOME", self.lima_home())
            .env("TZ", "UTC")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.root.path().join("work"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn berth(&self) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_berth")))
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.berth().args(arguments))
    }
}

impl Outcome {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("a program that runs");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Standard output of a run that worked.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self.stdout
    }

    /// The last word of a run that failed, in the form that scripts look for.
    #[track_caller]
    pub(crate) fn fatal(self) -> String {
        assert_eq!(
            self.code,
            Some(1),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert_eq!(self.stdout, "", "results of a failed run");
        let last = self.stderr.lines().last().unwrap_or_default();
        let (_, message) = last
            .split_once(" level=fatal msg=")
            .expect("a fatal line at the end");
        let message: Option<String> = serde_json::from_str(message).ok();
        message.unwrap_or_else(|| message_of(last))
    }
}

fn message_of(line: &str) -> String {
    line.split_once("msg=")
        .map_or(line, |(_, message)| message)
        .to_owned()
}

/// The configuration of an instance that needs nothing but a QEMU: no guest agent, no firmware, a disk of 64 MiB.
pub(crate) fn lima_yaml(image: &Path) -> String {
    format!(
        "arch: x86_64\nplain: true\ndisk: 64MiB\nfirmware: {{legacyBIOS: true}}\n\
         images:\n- location: {}\n  arch: x86_64\n",
        image.display()
    )
}

/// A QEMU that answers what it is asked and ends with `words` when it is to run.
pub(crate) fn dying_qemu(words: &str) -> String {
    format!(
        "case \"$*\" in\n\
         *--version*) echo 'QEMU emulator version 8.2.0' ;;\n\
         *help*) printf 'Available CPUs:\\n  max\\n' ;;\n\
         *) echo '{words}' >&2; exit 3 ;;\n\
         esac"
    )
}
