//! `berth.json`: what berth remembers of an instance between starts.

use std::io;
use std::path::PathBuf;

use berth_process::identity::ProcessIdentity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dir::InstanceDir;
use crate::files::write_atomic;

/// Larger than any record.
const MAX_BYTES: u64 = 1 << 20;

/// The record of one instance. Keys that this build does not know are kept as they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// What cloud-init knows the guest by: made once, then never changed ([`Record::instance_id_or_new`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Host port of the guest's sshd at the last start: tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_local_port: Option<u16>,
    /// Host resolver's UDP port at the last start: tried again, because cidata names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_udp_port: Option<u16>,
    /// Host resolver's TCP port, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_tcp_port: Option<u16>,
    /// The agent that wrote this last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<ProcessIdentity>,
    /// The VM, from its start until it is known to be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmRecord>,
    /// How often the VM was started.
    #[serde(skip_serializing_if = "is_zero")]
    pub boots: u64,
    /// What another version of berth has written.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The VM of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The driver that runs it.
    pub driver: String,
    /// How to recognise its process.
    pub identity: ProcessIdentity,
}

/// The record cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is no record.
    #[error("{} is damaged; move it away to start with a new one (the guest then repeats its first-boot work)", .path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is far larger than a record can be.
    #[error("{} is larger than {MAX_BYTES} bytes, which no record is; move it away", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl Record {
    /// Reads the record of an instance; an instance without one gets an empty record.
    pub fn load(dir: &InstanceDir) -> Result<Self, RecordError> {
        let path = dir.record();
        let read = std::fs::File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, MAX_BYTES + 1), &mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) if bytes.len() as u64 > MAX_BYTES => Err(RecordError::TooLarge { path }),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| RecordError::Garbage { path, source }),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(RecordError::Io {
                verb: "read",
                path,
                source,
            }),
        }
    }

    /// Writes the record (0600). Only the agent that holds the lock of the instance may.
    pub fn save(&self, dir: &InstanceDir) -> Result<(), RecordError> {
        let path = dir.record();
        let error = |source| RecordError::Io {
            verb: "write",
            path: path.clone(),
            source,
        };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|why| error(why.into()))?;
        bytes.push(b'\n');
        write_atomic(&path, &bytes, 0o600).map_err(error)
    }

    /// The instance id: the one it has, or `iid-` and the time given (seconds since 1970).
    pub fn instance_id_or_new(&mut self, unix_seconds: i64) -> &str {
        self.instance_id
            .get_or_insert_with(|| format!("iid-{unix_seconds}"))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, InstanceDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = InstanceDir::new(temp.path().to_owned());
        (temp, dir)
    }

    #[test]
    fn the_instance_id_is_made_once() {
        let (_temp, dir) = dir();
        let mut record = Record::load(&dir).unwrap();
        assert_eq!(record.instance_id_or_new(1_700_000_000), "iid-1700000000");
        record.save(&dir).unwrap();
        let mut later = Record::load(&dir).unwrap();
        assert_eq!(later.instance_id_or_new(1_800_000_000), "iid-1700000000");
    }

    #[test]
    fn keys_of_a_later_version_survive() {
        let (_temp, dir) = dir();
        std::fs::write(
            dir.record(),
            r#"{"boots":2,"new":{"a":[1]},"sshLocalPort":60022}"#,
        )
        .unwrap();
        let mut record = Record::load(&dir).unwrap();
        assert_eq!((record.boots, record.ssh_local_port), (2, Some(60022)));
        record.boots += 1;
        record.save(&dir).unwrap();
        let text = std::fs::read_to_string(dir.record()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"sshLocalPort":60022,"boots":3,"new":{"a":[1]}})
        );
    }

    #[test]
    fn garbage_is_refused_with_the_file_and_the_way_out() {
        let (_temp, dir) = dir();
        let huge = vec![b' '; 2 << 20];
        for garbage in [
            &b""[..],
            b"{",
            b"[]x",
            b"7",
            br#"{"boots":"many"}"#,
            b"\xff",
            &huge,
        ] {
            std::fs::write(dir.record(), garbage).unwrap();
            let why = Record::load(&dir).unwrap_err().to_string();
            assert!(
                why.contains("berth.json") && why.contains("move it away"),
                "{why}"
            );
        }
    }

    #[test]
    fn an_empty_record_is_small() {
        let (_temp, dir) = dir();
        Record::default().save(&dir).unwrap();
        assert_eq!(std::fs::read_to_string(dir.record()).unwrap(), "{}\n");
    }
}
