//! Additional disks: found by serial number, formatted once, mounted at `/mnt/lima-NAME`, grown when the host made them larger.
//!
//! The layout is Lima's: a GPT with one partition, whose file system is labelled `lima-NAME`. A disk that holds anything else is
//! never formatted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use berth_link::boot::GuestDisk;

use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{failed, read_text};
use crate::guest::Guest;
use crate::mount_table::is_mounted;
use crate::programs::Command;
use crate::watch::{ANY, Wait};

/// How long the kernel may take to find the disk.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

/// Formatting a large disk on an emulated machine takes its time.
const FORMAT_LIMIT: Duration = Duration::from_mins(10);

/// A virtio disk has room for so many bytes of serial number.
const SERIAL_ROOM: usize = 20;

/// blkid's exit code for a device that holds nothing it knows.
const NOTHING_FOUND: i32 = 2;

/// What a partition may lack of its disk's size, in sectors of 512 bytes: tables and alignment at both ends.
const USUAL_SLACK: u64 = 3 * 2048;

/// Makes one disk usable.
pub(crate) async fn run(work: &Work<'_>, disk: &GuestDisk) -> Result<Done, StepError> {
    let device = wait_for_device(work, disk).await?;
    let mut changed = false;
    let partition = match find_file_system(work, disk, &device).await? {
        Some(found) => found,
        None if !disk.format => return Err(not_found(disk)),
        None => {
            changed = true;
            format(work, disk, &device).await?
        }
    };
    if disk.fs_type == "swap" {
        return Ok(Done::changed(swap_on(work, &partition).await? || changed));
    }
    changed |= mount(work, disk, &partition).await?;
    changed |= grow(work, disk, &device, &partition).await?;
    Ok(Done::changed(changed))
}

fn not_found(disk: &GuestDisk) -> StepError {
    let label = label(disk);
    impossible(format!(
        "additionalDisks: disk {:?} holds no file system labelled {label:?}, and format is false: format it, or label what it holds",
        disk.name
    ))
}

/// Labels are short: xfs takes 12 bytes, swap and ext 16.
fn label(disk: &GuestDisk) -> String {
    let room = match disk.fs_type.as_str() {
        "xfs" => 12,
        "btrfs" => 255,
        "swap" => 15,
        _ => 16,
    };
    format!("lima-{}", disk.name).chars().take(room).collect()
}

async fn wait_for_device(work: &Work<'_>, disk: &GuestDisk) -> Result<String, StepError> {
    let paths = [
        work.guest.path("/dev").join(ANY),
        work.guest.path("/dev/disk/by-id").join(ANY),
    ];
    let wait = Wait {
        what: &format!(
            "the disk {:?} with serial number {:?}",
            disk.name, disk.serial
        ),
        paths: &paths,
        limit: DEVICE_LIMIT,
        tick: None,
    };
    Ok(wait.until(|| find_device(work.guest, &disk.serial)).await?)
}

/// Name of the block device (`vdb`) with this serial number.
fn find_device(guest: &Guest, serial: &str) -> Option<String> {
    let wanted = serial.get(..SERIAL_ROOM).unwrap_or(serial);
    let matches = |found: &str| !found.is_empty() && (found == serial || found == wanted);
    let devices = fs::read_dir(guest.path("/sys/block"))
        .into_iter()
        .flatten()
        .flatten();
    let names = devices.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let by_serial = |name: &String| {
        let read = |file: &str| {
            read_text(&guest.path(&format!("/sys/block/{name}/{file}")))
                .ok()
                .flatten()
        };
        // virtio has it beside the device, NVMe and some SCSI drivers below it.
        let serial = read("serial").or_else(|| read("device/serial"));
        serial.is_some_and(|found| matches(found.trim()))
    };
    names
        .into_iter()
        .find(by_serial)
        .or_else(|| by_udev_link(guest, wanted))
}

/// udev's link: `virtio-SERIAL`, `scsi-…_SERIAL`, `ata-…_SERIAL`.
fn by_udev_link(guest: &Guest, serial: &str) -> Option<String> {
    let links = fs::read_dir(guest.path("/dev/disk/by-id")).ok()?.flatten();
    let ends = [format!("-{serial}"), format!("_{serial}")];
    let mut found = links.filter(|link| {
        let name = link.file_name().to_string_lossy().into_owned();
        ends.iter().any(|end| name.ends_with(end))
    });
    let target = fs::read_link(found.next()?.path()).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Finds the file system by its label, on the disk itself or on a partition. Anything else with a signature is somebody's data.
async fn find_file_system(
    work: &Work<'_>,
    disk: &GuestDisk,
    device: &str,
) -> Result<Option<String>, StepError> {
    let label = label(disk);
    let mut others = Vec::new();
    for name in [device.to_owned()]
        .into_iter()
        .chain(partitions(work.guest, device))
    {
        let path = format!("/dev/{name}");
        let Some(signature) = signature(work, &path).await? else {
            continue;
        };
        if signature.label == label {
            return Ok(Some(name));
        }
        if !signature.fs_type.is_empty() {
            others.push(format!(
                "{path}: {} labelled {:?}",
                signature.fs_type, signature.label
            ));
        }
    }
    if others.is_empty() || !disk.format {
        return Ok(None);
    }
    Err(impossible(format!(
        "additionalDisks: disk {:?} is not formatted, because it holds data ({}): label that file system {label:?}, or wipe it",
        disk.name,
        others.join(", ")
    )))
}

/// What a device's first blocks say it holds.
#[derive(Debug, PartialEq, Eq)]
struct Signature {
    fs_type: String,
    label: String,
}

async fn signature(work: &Work<'_>, path: &str) -> Result<Option<Signature>, StepError> {
    let probe = work
        .ask(Command::new("blkid").args(["-p", "-o", "export", path]))
        .await?;
    // Taking any other answer for "nothing there" would format a disk whose content was not understood.
    let unclear = || {
        impossible(format!(
            "blkid (of util-linux) did not say what {path} holds: the disk is left alone"
        ))
    };
    match probe.code {
        0 => parse_signature(&probe.answer).map(Some).ok_or_else(unclear),
        NOTHING_FOUND => Ok(None),
        _ => Err(unclear()),
    }
}

/// `KEY=value` lines; `None` when it is something else, as of `BusyBox`'s blkid.
fn parse_signature(answer: &str) -> Option<Signature> {
    let value = |key: &str| {
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        // It escapes what a shell would take apart.
        line.map(|value| value.replace('\\', ""))
    };
    value("DEVNAME")?;
    Some(Signature {
        fs_type: value("TYPE").unwrap_or_default(),
        label: value("LABEL").unwrap_or_default(),
    })
}

fn partitions(guest: &Guest, device: &str) -> Vec<String> {
    let entries = fs::read_dir(guest.path(&format!("/sys/block/{device}")))
        .into_iter()
        .flatten()
        .flatten();
    let is_partition = |entry: &fs::DirEntry| entry.path().join("partition").exists();
    let mut names: Vec<String> = entries
        .filter(is_partition)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

async fn format(work: &Work<'_>, disk: &GuestDisk, device: &str) -> Result<String, StepError> {
    let path = format!("/dev/{device}");
    if partitions(work.guest, device).is_empty() {
        work.run(
            Command::new("sfdisk")
                .args(["--quiet", &path])
                .input("label: gpt\n,,L\n"),
        )
        .await?;
    }
    let partition = wait_for_partition(work, device).await?;
    let node = format!("/dev/{partition}");
    let make = match disk.fs_type.as_str() {
        "swap" => Command::new("mkswap"),
        "" => Command::new("mkfs.ext4").arg("-q"),
        // Their progress is drawn for a terminal.
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => {
            Command::new(format!("mkfs.{}", disk.fs_type)).arg("-q")
        }
        fs_type => Command::new(format!("mkfs.{fs_type}")),
    };
    work.run(
        make.args(&disk.fs_args)
            .args(["-L", &label(disk), &node])
            .limit(FORMAT_LIMIT),
    )
    .await?;
    Ok(partition)
}

async fn wait_for_partition(work: &Work<'_>, device: &str) -> Result<String, StepError> {
    let paths = [work.guest.path("/dev").join(ANY)];
    let wait = Wait {
        what: &format!("the partition of /dev/{device}"),
        paths: &paths,
        limit: DEVICE_LIMIT,
        tick: None,
    };
    let node_of = |name: &String| work.guest.has(&format!("/dev/{name}"));
    Ok(wait
        .until(|| partitions(work.guest, device).into_iter().find(node_of))
        .await?)
}

async fn swap_on(work: &Work<'_>, partition: &str) -> Result<bool, StepError> {
    let node = format!("/dev/{partition}");
    let swaps = read_text(&work.guest.path("/proc/swaps"))?.unwrap_or_default();
    if swaps
        .lines()
        .any(|line| line.split_whitespace().next() == Some(&node))
    {
        return Ok(false);
    }
    work.run(Command::new("swapon").arg(node)).await?;
    Ok(true)
}

async fn mount(work: &Work<'_>, disk: &GuestDisk, partition: &str) -> Result<bool, StepError> {
    let point = mount_point(disk);
    if is_mounted(work.guest, &point)? {
        return Ok(false);
    }
    let path: PathBuf = work.guest.path(&point);
    fs::create_dir_all(&path).map_err(failed("create", &path))?;
    work.run(Command::new("mount").args([&format!("/dev/{partition}"), &point]))
        .await?;
    Ok(true)
}

fn mount_point(disk: &GuestDisk) -> String {
    format!("/mnt/lima-{}", disk.name)
}

/// Grows partition and file system into what the host has added to the disk.
async fn grow(
    work: &Work<'_>,
    disk: &GuestDisk,
    device: &str,
    partition: &str,
) -> Result<bool, StepError> {
    if !has_room(work.guest, device, partition) {
        return Ok(false);
    }
    let number = partition.trim_start_matches(device).trim_start_matches('p');
    work.run(Command::new("growpart").args([&format!("/dev/{device}"), number]))
        .await?;
    let node = format!("/dev/{partition}");
    let point = mount_point(disk);
    let resize = match disk.fs_type.as_str() {
        "xfs" => Command::new("xfs_growfs").arg(point),
        "btrfs" => Command::new("btrfs").args(["filesystem", "resize", "max", &point]),
        "" | "ext2" | "ext3" | "ext4" => Command::new("resize2fs").arg(node),
        _ => return Ok(true),
    };
    work.run(resize.limit(FORMAT_LIMIT)).await?;
    Ok(true)
}

fn has_room(guest: &Guest, device: &str, partition: &str) -> bool {
    if device == partition {
        return false;
    }
    let number =
        |path: String| -> Option<u64> { read_text(&guest.path(&path)).ok()??.trim().parse().ok() };
    let disk = number(format!("/sys/block/{device}/size"));
    let start = number(format!("/sys/block/{device}/{partition}/start"));
    let size = number(format!("/sys/block/{device}/{partition}/size"));
    match (disk, start, size) {
        (Some(disk), Some(start), Some(size)) => start + size + USUAL_SLACK < disk,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn disk(fs_type: &str) -> GuestDisk {
        GuestDisk {
            name: "data".to_owned(),
            serial: "data".to_owned(),
            format: true,
            fs_type: fs_type.to_owned(),
            fs_args: vec!["-m".to_owned(), "0".to_owned()],
        }
    }

    fn scene() -> Scene {
        let scene = Scene::new();
        scene.write("/sys/block/vda/serial", "root");
        scene.write("/sys/block/vdb/serial", "data");
        scene.write("/sys/block/vdb/size", "20971520\n");
        scene.write("/dev/vdb", "");
        scene
    }

    fn partition(scene: &Scene, sectors: u64) {
        scene.write("/sys/block/vdb/vdb1/partition", "1\n");
        scene.write("/sys/block/vdb/vdb1/start", "2048\n");
        scene.write("/sys/block/vdb/vdb1/size", &format!("{sectors}\n"));
        scene.write("/dev/vdb1", "");
    }

    const FULL: u64 = 20_971_520 - 4096;

    async fn run_on(scene: &Scene, disk: &GuestDisk) -> Result<Done, StepError> {
        scene
            .run(async |work: &Work<'_>| run(work, disk).await)
            .await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_empty_disk_is_partitioned_formatted_and_mounted() {
        let scene = scene();
        scene.answer("blkid", 2, "");
        let ext4 = disk("ext4");
        let kernel = async { partition(&scene, FULL) };
        let (done, ()) = tokio::join!(run_on(&scene, &ext4), kernel);
        assert_eq!(done.unwrap(), Done::Changed);
        let ran = scene.ran();
        assert_eq!(ran[0], "blkid -p -o export /dev/vdb");
        assert_eq!(
            ran[ran.len() - 2..],
            [
                "mkfs.ext4 -q -m 0 -L lima-data /dev/vdb1",
                "mount /dev/vdb1 /mnt/lima-data"
            ]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_disk_of_ours_is_mounted_and_not_formatted() {
        let scene = scene();
        partition(&scene, FULL);
        scene.answer(
            "blkid -p -o export /dev/vdb1",
            0,
            "DEVNAME=/dev/vdb1\nLABEL=lima-data\nTYPE=ext4\n",
        );
        scene.answer("blkid", 0, "DEVNAME=/dev/vdb\nPTTYPE=gpt\n");
        run_on(&scene, &disk("ext4")).await.unwrap();
        let mount = "mount /dev/vdb1 /mnt/lima-data";
        assert_eq!(
            scene.ran(),
            [
                "blkid -p -o export /dev/vdb",
                "blkid -p -o export /dev/vdb1",
                mount
            ]
        );
        scene.write(
            "/proc/self/mountinfo",
            "36 35 0:40 / /mnt/lima-data rw - ext4 /dev/vdb1 rw\n",
        );
        assert_eq!(run_on(&scene, &disk("ext4")).await.unwrap(), Done::Already);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn somebodys_data_is_never_formatted() {
        let scene = scene();
        scene.answer("blkid", 0, "DEVNAME=/dev/vdb\nLABEL=photos\nTYPE=xfs\n");
        let why = run_on(&scene, &disk("ext4")).await.unwrap_err().to_string();
        assert!(
            why.contains("holds data (/dev/vdb: xfs labelled \"photos\")"),
            "{why}"
        );
        assert_eq!(scene.ran().len(), 1, "only looked");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn formatting_goes_on_where_it_was_interrupted() {
        let scene = scene();
        partition(&scene, FULL);
        scene.answer("blkid -p -o export /dev/vdb1", 2, "");
        scene.answer("blkid", 0, "DEVNAME=/dev/vdb\nPTTYPE=gpt\n");
        run_on(&scene, &disk("ext4")).await.unwrap();
        let ran = scene.ran();
        assert!(
            !ran.iter().any(|line| line.starts_with("sfdisk")),
            "{ran:?}"
        );
        assert!(ran.contains(&"mkfs.ext4 -q -m 0 -L lima-data /dev/vdb1".to_owned()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_larger_disk_is_grown_into() {
        let scene = scene();
        partition(&scene, FULL / 2);
        scene.answer(
            "blkid -p -o export /dev/vdb1",
            0,
            "DEVNAME=/dev/vdb1\nLABEL=lima-data\nTYPE=xfs\n",
        );
        scene.answer("blkid", 0, "DEVNAME=/dev/vdb\nPTTYPE=gpt\n");
        run_on(&scene, &disk("xfs")).await.unwrap();
        let ran = scene.ran();
        assert_eq!(
            ran[ran.len() - 2..],
            ["growpart /dev/vdb 1", "xfs_growfs /mnt/lima-data"]
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn swap_is_switched_on_once() {
        let scene = scene();
        partition(&scene, FULL);
        scene.answer(
            "blkid -p -o export /dev/vdb1",
            0,
            "DEVNAME=/dev/vdb1\nLABEL=lima-data\nTYPE=swap\n",
        );
        scene.answer("blkid", 0, "DEVNAME=/dev/vdb\nPTTYPE=gpt\n");
        assert_eq!(run_on(&scene, &disk("swap")).await.unwrap(), Done::Changed);
        assert_eq!(scene.ran().last().unwrap(), "swapon /dev/vdb1");
        scene.write("/proc/swaps", "Filename Type\n/dev/vdb1 partition 1 0 -2\n");
        assert_eq!(run_on(&scene, &disk("swap")).await.unwrap(), Done::Already);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_leave_to_format_it_says_what_is_missing() {
        let scene = scene();
        scene.answer("blkid", 2, "");
        let kept = GuestDisk {
            format: false,
            ..disk("ext4")
        };
        let why = run_on(&scene, &kept).await.unwrap_err().to_string();
        assert!(
            why.contains("no file system labelled \"lima-data\", and format is false"),
            "{why}"
        );
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_disk_that_does_not_come_is_named() {
        let scene = Scene::new();
        let why = run_on(&scene, &disk("ext4")).await.unwrap_err().to_string();
        assert_eq!(
            why,
            "waited 30 s for the disk \"data\" with serial number \"data\""
        );
    }

    #[test]
    fn devices_are_found_by_cut_serials_and_by_udevs_links() {
        let scene = scene();
        scene.write("/sys/block/vdc/serial", "a-disk-with-a-long-n");
        assert_eq!(
            find_device(&scene.guest, "a-disk-with-a-long-name").unwrap(),
            "vdc"
        );
        scene.link("/dev/disk/by-id/scsi-0QEMU_HARDDISK_scratch", "../../sda");
        assert_eq!(find_device(&scene.guest, "scratch").unwrap(), "sda");
        assert_eq!(find_device(&scene.guest, "none"), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_not_understood_is_not_formatted() {
        for (code, answer) in [
            (0, "/dev/vdb: LABEL=\"photos\" TYPE=\"ext4\"\n"),
            (1, "usage"),
            (8, ""),
        ] {
            let scene = scene();
            scene.answer("blkid", code, answer);
            let why = run_on(&scene, &disk("ext4")).await.unwrap_err().to_string();
            assert!(why.contains("the disk is left alone"), "{why}");
            assert_eq!(scene.ran().len(), 1, "only looked");
        }
    }

    #[test]
    fn labels_fit_their_file_system() {
        let mut long = disk("ext4");
        long.name = "a-long-name-for-a-disk".to_owned();
        assert_eq!(label(&long), "lima-a-long-name");
        long.fs_type = "xfs".to_owned();
        assert_eq!(label(&long), "lima-a-long-");
    }
}
