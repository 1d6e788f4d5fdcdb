//! Snapshots of a VM: inside its qcow2 root disk, by the monitor while it runs, by `qemu-img` while it does not.
//!
//! A running VM is saved by a job that names the root disk alone: HMP's `savevm` wants every writable drive to hold snapshots,
//! and the flash with the UEFI variables cannot. Whatever the monitor says against it is the error.

use std::time::Duration;

use berth_image::check::{self, Disk};
use berth_image::format::Format;
use berth_image::qemu_img::{QemuImg, Snapshot};
use berth_instance::dir::InstanceDir;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::SnapshotAction;
use crate::error::DriverError;
use crate::qemu::argv::ROOT_DRIVE;
use crate::qemu::qmp::{COMMAND_LIMIT, JobChange, Qmp, words};
use crate::sys;

/// The guest's memory is written to the disk.
const JOB_LIMIT: Duration = Duration::from_secs(30 * 60);
const JOB: &str = "berth-snapshot";

/// Works on snapshots of a VM that may run in this process, in another one, or not at all.
pub(super) async fn act(
    dir: &InstanceDir,
    own_monitor: Option<Qmp>,
    qemu_img: &QemuImg,
    action: SnapshotAction,
) -> Result<String, DriverError> {
    check_tag(&action)?;
    let disk = check::disk(&dir.disk(), Some(&dir.base_disk()))?;
    require_snapshots(&disk)?;
    let Some(job) = Job::of(&action) else {
        let output = qemu_img.snapshot(&disk.path, Snapshot::List).await?;
        return Ok(table(&output));
    };
    if let Some(monitor) = own_monitor {
        return job.run(&monitor).await;
    }
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let result = match peoples_monitor(dir, &tasks, &cancel).await {
        Ok(Some(monitor)) => job.run(&monitor).await,
        Ok(None) => job.run_offline(&disk, qemu_img).await,
        Err(error) => Err(error),
    };
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

/// Tags go into command lines of QEMU, so they are plain words.
fn check_tag(action: &SnapshotAction) -> Result<(), DriverError> {
    let (SnapshotAction::Create(tag) | SnapshotAction::Apply(tag) | SnapshotAction::Delete(tag)) =
        action
    else {
        return Ok(());
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fine = tag.len() <= 128
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric())
        && tag.chars().all(plain);
    if fine {
        return Ok(());
    }
    Err(DriverError::Unsupported {
        key: "snapshot".to_owned(),
        why: format!(
            "the tag {tag:?} must be letters, digits, `.`, `_`, `-`, at most 128, and begin with a letter or digit"
        ),
    })
}

fn require_snapshots(disk: &Disk) -> Result<(), DriverError> {
    if disk.format == Format::Qcow2 {
        return Ok(());
    }
    let (path, format) = (disk.path.display(), disk.format);
    Err(DriverError::Unsupported {
        key: "snapshot".to_owned(),
        why: format!(
            "{path} is a {format} disk, which cannot hold snapshots: only qcow2 disks can"
        ),
    })
}

/// The monitor that is left to people and other programs; `None` when no VM runs.
async fn peoples_monitor(
    dir: &InstanceDir,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Option<Qmp>, DriverError> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let socket = dir.qmp_sock();
    let stream = match sys::connect(&socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(DriverError::io("connect to", &socket)(error)),
    };
    let opening = Qmp::open(stream, socket.clone(), tasks, cancel.clone());
    match tokio::time::timeout(COMMAND_LIMIT, opening).await {
        Ok(Ok((monitor, _))) => Ok(Some(monitor)),
        Ok(Err(why)) => Err(DriverError::Monitor {
            command: "qmp_capabilities".to_owned(),
            why,
        }),
        Err(_) => Err(DriverError::Timeout {
            what: format!(
                "a greeting on {} (another program holds this monitor)",
                socket.display()
            ),
            seconds: COMMAND_LIMIT.as_secs(),
        }),
    }
}

/// The table alone, without its title.
fn table(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with("Snapshot list:"))
        .fold(String::new(), |table, line| table + line + "\n")
}

/// A change of the snapshots.
#[derive(Debug, Clone, Copy)]
struct Job<'a> {
    command: &'static str,
    tag: &'a str,
    offline: Snapshot<'a>,
}

impl<'a> Job<'a> {
    /// `None`: nothing is changed by listing.
    fn of(action: &'a SnapshotAction) -> Option<Self> {
        let (command, tag, offline) = match action {
            SnapshotAction::Create(tag) => ("snapshot-save", tag, Snapshot::Create(tag)),
            SnapshotAction::Apply(tag) => ("snapshot-load", tag, Snapshot::Apply(tag)),
            SnapshotAction::Delete(tag) => ("snapshot-delete", tag, Snapshot::Delete(tag)),
            SnapshotAction::List => return None,
        };
        Some(Self {
            command,
            tag,
            offline,
        })
    }

    async fn run_offline(self, disk: &Disk, qemu_img: &QemuImg) -> Result<String, DriverError> {
        Ok(qemu_img.snapshot(&disk.path, self.offline).await?)
    }

    /// Runs the job in QEMU, to its end.
    async fn run(self, monitor: &Qmp) -> Result<String, DriverError> {
        let command = self.command;
        let node = root_node(monitor).await?;
        let mut arguments = json!({ "job-id": JOB, "tag": self.tag, "devices": [node] });
        if !matches!(self.offline, Snapshot::Delete(_)) {
            arguments["vmstate"] = json!(node);
        }
        // What a killed process may have left; a job that still runs is not dismissed, and refuses ours.
        let _ = monitor.execute("job-dismiss", json!({ "id": JOB })).await;
        let mut changes = monitor.jobs();
        monitor.execute(command, arguments).await?;
        let concluded =
            tokio::time::timeout(JOB_LIMIT, wait_concluded(monitor, &mut changes)).await;
        let refusal = concluded.map_err(|_| DriverError::Timeout {
            what: format!("QEMU's job {command}"),
            seconds: JOB_LIMIT.as_secs(),
        })??;
        monitor.execute("job-dismiss", json!({ "id": JOB })).await?;
        match refusal {
            None => Ok(String::new()),
            Some(why) => Err(DriverError::Monitor {
                command: command.to_owned(),
                why,
            }),
        }
    }
}

/// Name of the block node behind the root disk.
async fn root_node(monitor: &Qmp) -> Result<String, DriverError> {
    let blocks = monitor.execute("query-block", json!({})).await?;
    let disk = blocks.as_array().into_iter().flatten().find(|block| {
        // With an installer attached, the root disk is QEMU's first virtio drive.
        let name = block.get("device").and_then(Value::as_str);
        name == Some(ROOT_DRIVE) || name == Some("virtio0")
    });
    disk.and_then(|block| block.pointer("/inserted/node-name")?.as_str())
        .map(str::to_owned)
        .ok_or_else(|| DriverError::Monitor {
            command: "query-block".to_owned(),
            why: "QEMU does not list the root disk".to_owned(),
        })
}

/// Waits for the job's end. `Some`: it failed, in these words.
async fn wait_concluded(
    monitor: &Qmp,
    changes: &mut broadcast::Receiver<JobChange>,
) -> Result<Option<String>, DriverError> {
    loop {
        match changes.recv().await {
            Ok(change) if change.id == JOB && change.status == "concluded" => {
                return outcome(monitor).await;
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => {
                return Err(DriverError::Monitor {
                    command: "query-jobs".to_owned(),
                    why: "the monitor is closed".to_owned(),
                });
            }
        }
    }
}

async fn outcome(monitor: &Qmp) -> Result<Option<String>, DriverError> {
    let jobs = monitor.execute("query-jobs", json!({})).await?;
    let job = jobs
        .as_array()
        .into_iter()
        .flatten()
        .find(|job| job.get("id").and_then(Value::as_str) == Some(JOB));
    let error = job.and_then(|job| job.get("error")?.as_str());
    Ok(error.map(|text| words(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_plain_words() {
        for tag in ["a", "before-upgrade", "1.2_x"] {
            check_tag(&SnapshotAction::Create(tag.to_owned())).unwrap();
        }
        let long = "x".repeat(129);
        for tag in ["", "-c", "a b", "a\nquit", "a;b", "ä", &long] {
            let error = check_tag(&SnapshotAction::Delete(tag.to_owned())).unwrap_err();
            assert!(
                error.to_string().starts_with("snapshot: the tag"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_table_loses_its_title() {
        let printed = "Snapshot list:\nID  TAG\n1   one\n";
        assert_eq!(table(printed), "ID  TAG\n1   one\n");
        assert_eq!(table(""), "");
    }
}
