//! The command line that `vfkit` and `krunkit` share: `--option value`, and `--device kind,key=value,flag`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::kit::{AGENT_PORT, BELL_PORT, Plan, SSH_PORT, files};

/// A command line in the making. Neither program can quote: what it cannot say is refused before (`checks`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words(Vec<OsString>);

impl Words {
    /// The words, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[OsString] {
        &self.0
    }

    /// CPUs and memory, which come first.
    #[must_use]
    pub(crate) fn of_size(plan: &Plan) -> Self {
        let mut words = Self::default();
        words.option("--cpus", plan.cpus.to_string());
        words.option("--memory", plan.memory.to_string());
        words
    }

    /// An option without a value.
    pub(crate) fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    /// An option with a value.
    pub(crate) fn option(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.flag(name);
        self.0.push(value.as_ref().to_owned());
    }

    /// `--device` with these parts, joined by commas.
    pub(crate) fn device(&mut self, parts: &[&OsStr]) {
        self.option("--device", parts.join(OsStr::new(",")));
    }

    /// A device whose parts are no paths.
    pub(crate) fn plain_device(&mut self, words: &str) {
        self.option("--device", words);
    }

    /// The console, written to a file.
    pub(crate) fn console(&mut self, log: &Path) {
        self.device(&["virtio-serial".as_ref(), &pair("logFilePath=", log)]);
    }

    /// The vsock ports: two that lead into the guest, and the bell that leads out.
    pub(crate) fn vsock(&mut self, plan: &Plan) {
        let dir = &plan.dir;
        for (port, socket, way) in [
            (AGENT_PORT, dir.ga_sock(), "connect"),
            (SSH_PORT, files::ssh_sock(dir), "connect"),
            (BELL_PORT, files::bell_sock(dir), "listen"),
        ] {
            let port = format!("port={port}");
            let socket = pair("socketURL=", &socket);
            self.device(&[
                "virtio-vsock".as_ref(),
                port.as_ref(),
                &socket,
                way.as_ref(),
            ]);
        }
    }

    /// Directories, by virtiofs.
    pub(crate) fn shares(&mut self, plan: &Plan) {
        for share in &plan.shares {
            let tag = format!("mountTag={}", share.tag);
            let path = pair("sharedDir=", &share.path);
            self.device(&["virtio-fs".as_ref(), &path, tag.as_ref()]);
        }
    }

    /// Where the HTTP service listens, which comes last.
    pub(crate) fn service(&mut self, plan: &Plan) {
        let uri = pair("unix://", &files::rest_sock(&plan.dir));
        self.option("--restful-uri", uri);
    }
}

/// `key=` and a path.
pub(crate) fn pair(key: &str, path: &Path) -> OsString {
    let mut word = OsString::from(key);
    word.push(path);
    word
}
