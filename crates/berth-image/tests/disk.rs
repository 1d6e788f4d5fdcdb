//! Images become disks; hostile ones do not. `qemu-img` makes the images and judges the results.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_image::check;
use berth_image::disk::{self, DiskFiles, Wanted};
use berth_image::error::ImageError;
use berth_image::format::Format;
use berth_image::qemu_img::{QemuImg, Snapshot};

const MIB: u64 = 1 << 20;

struct Instance {
    dir: tempfile::TempDir,
    files: DiskFiles,
}

impl Instance {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("in, stance ")
            .tempdir()
            .unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = DiskFiles {
            image: at("image"),
            disk: at("disk"),
            iso: at("iso"),
            base_disk: at("basedisk"),
            diff_disk: at("diffdisk"),
        };
        Self { dir, files }
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("qemu-img is installed (`cargo xtask test` does it)");
    assert!(
        output.status.success(),
        "qemu-img {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn create(path: &Path, format: &str, options: &[&str], mib: u64) {
    let path = path.to_str().unwrap();
    let size = format!("{mib}M");
    qemu_img(
        &[
            &["create", "-q", "-f", format],
            options,
            &["--", path, &size],
        ]
        .concat(),
    );
}

/// What real `qemu-img` says of a file: (format, virtual size).
fn judged(path: &Path) -> (String, u64) {
    let info: serde_json::Value = serde_json::from_str(&qemu_img(&[
        "info",
        "--output=json",
        path.to_str().unwrap(),
    ]))
    .unwrap();
    (
        info["format"].as_str().unwrap().to_owned(),
        info["virtual-size"].as_u64().unwrap(),
    )
}

async fn ensure(instance: &Instance, bytes: u64) -> Result<check::Disk, ImageError> {
    disk::ensure(&instance.files, bytes, Wanted::Any, &QemuImg::default()).await
}

#[tokio::test]
async fn every_usable_format_becomes_a_disk_of_the_asked_size() {
    for (format, options, becomes) in [
        ("raw", &[][..], "raw"),
        ("qcow2", &[], "qcow2"),
        ("vmdk", &[], "qcow2"),
        ("vmdk", &["-o", "subformat=streamOptimized"], "qcow2"),
        ("vhdx", &[], "qcow2"),
        ("vdi", &[], "qcow2"),
        ("vpc", &[], "qcow2"),
    ] {
        let instance = Instance::new();
        create(&instance.files.image, format, options, 8);
        let disk = ensure(&instance, 20 * MIB)
            .await
            .unwrap_or_else(|error| panic!("{format} {options:?}: {error:?}"));
        assert_eq!(disk.virtual_size, 20 * MIB);
        assert_eq!(disk.format.as_str(), becomes);
        assert_eq!(
            judged(&instance.files.disk),
            (becomes.to_owned(), 20 * MIB),
            "{format}"
        );
        assert_eq!(instance.names(), ["disk"], "{format}");
    }
}

#[tokio::test]
async fn a_disk_that_is_right_needs_no_program() {
    let instance = Instance::new();
    create(&instance.files.disk, "qcow2", &[], 8);
    let nothing = QemuImg::new("/no/such/qemu-img");
    let disk = disk::ensure(&instance.files, 8 * MIB, Wanted::Any, &nothing)
        .await
        .unwrap();
    assert_eq!((disk.format, disk.virtual_size), (Format::Qcow2, 8 * MIB));
    let error = disk::ensure(&instance.files, 9 * MIB, Wanted::Any, &nothing)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NoQemuImg), "{error:?}");
    assert!(error.to_string().contains("apt install qemu-utils"));
}

#[tokio::test]
async fn disks_grow_and_never_shrink() {
    for format in ["raw", "qcow2"] {
        let instance = Instance::new();
        create(&instance.files.disk, format, &[], 8);
        ensure(&instance, 16 * MIB).await.unwrap();
        assert_eq!(judged(&instance.files.disk).1, 16 * MIB);
        let error = ensure(&instance, 8 * MIB).await.unwrap_err().to_string();
        assert!(
            error.contains("`disk` is 8MiB") && error.contains("already has 16MiB"),
            "{error}"
        );
        assert_eq!(judged(&instance.files.disk).1, 16 * MIB);
    }
}

#[tokio::test]
async fn a_size_between_sectors_is_rounded_up() {
    let instance = Instance::new();
    create(&instance.files.image, "raw", &[], 1);
    assert_eq!(
        ensure(&instance, MIB + 1).await.unwrap().virtual_size,
        MIB + 512
    );
    assert_eq!(
        ensure(&instance, MIB + 1).await.unwrap().virtual_size,
        MIB + 512
    );
}

#[tokio::test]
async fn an_image_larger_than_the_disk_is_an_error_that_can_be_mended() {
    for format in ["raw", "qcow2", "vmdk"] {
        let instance = Instance::new();
        create(&instance.files.image, format, &[], 20);
        let error = ensure(&instance, 10 * MIB).await.unwrap_err();
        assert!(
            matches!(error, ImageError::DiskTooSmall { .. }),
            "{format}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("`disk` is 10MiB") && text.contains("needs 20MiB"),
            "{text}"
        );
        assert_eq!(instance.names(), ["image"], "{format}");
        ensure(&instance, 20 * MIB).await.unwrap();
    }
}

#[tokio::test]
async fn an_installer_gets_an_empty_disk() {
    let instance = Instance::new();
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("file"), "content").unwrap();
    let made = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-R", "-o"])
        .arg(&instance.files.image)
        .arg(tree.path())
        .output()
        .expect("xorriso is installed (`cargo xtask test` does it)");
    assert!(made.status.success(), "{made:?}");
    ensure(&instance, 20 * MIB).await.unwrap();
    assert_eq!(instance.names(), ["disk", "iso"]);
    assert_eq!(judged(&instance.files.disk), ("qcow2".to_owned(), 20 * MIB));

    // Killed after the installer got its name, before the disk was there.
    std::fs::remove_file(&instance.files.disk).unwrap();
    std::fs::write(instance.dir.path().join("disk.tmp"), "half").unwrap();
    ensure(&instance, 20 * MIB).await.unwrap();
    assert_eq!(instance.names(), ["disk", "iso"]);
}

#[tokio::test]
async fn nothing_to_start_from() {
    let instance = Instance::new();
    let error = ensure(&instance, MIB).await.unwrap_err();
    assert!(
        matches!(error, ImageError::NothingToStartFrom { .. }),
        "{error:?}"
    );
    assert!(instance.names().is_empty());
}

#[tokio::test]
async fn disks_of_older_lima_get_links_and_may_have_their_base() {
    let instance = Instance::new();
    create(&instance.files.base_disk, "qcow2", &[], 8);
    let base = instance.files.base_disk.to_str().unwrap();
    create(
        &instance.files.diff_disk,
        "qcow2",
        &["-F", "qcow2", "-b", base],
        8,
    );
    ensure(&instance, 16 * MIB).await.unwrap();
    assert_eq!(instance.names(), ["basedisk", "diffdisk", "disk"]);
    assert_eq!(
        std::fs::read_link(&instance.files.disk).unwrap(),
        Path::new("diffdisk")
    );
    assert_eq!(judged(&instance.files.diff_disk).1, 16 * MIB);

    // The base itself may not lead further.
    create(
        &instance.files.base_disk,
        "qcow2",
        &["-u", "-F", "raw", "-b", "/etc/passwd"],
        8,
    );
    let error = ensure(&instance, 16 * MIB).await.unwrap_err().to_string();
    assert!(
        error.contains("basedisk is refused: it is based on another file (/etc/passwd)"),
        "{error}"
    );
}

/// Overwrites bytes of a file.
fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Images that would make QEMU read or write other files, each with a part of the refusal.
fn hostile(dir: &Path) -> Vec<(PathBuf, &'static str)> {
    let at = |name: &str| dir.join(name);
    let (backing, json, data, flat, split, disguised, secret) = (
        at("backing"),
        at("json"),
        at("data"),
        at("flat"),
        at("split"),
        at("disguised"),
        at("secret"),
    );
    create(
        &backing,
        "qcow2",
        &["-u", "-F", "raw", "-b", "/etc/passwd"],
        1,
    );
    let pseudo =
        "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}";
    create(&json, "qcow2", &["-u", "-F", "raw", "-b", pseudo], 1);
    let outside = format!(
        "data_file={}",
        at("outside.raw").display().to_string().replace(',', ",,")
    );
    create(&data, "qcow2", &["-o", &outside], 1);
    create(&flat, "vmdk", &["-o", "subformat=monolithicFlat"], 1);
    create(&split, "vmdk", &["-o", "subformat=twoGbMaxExtentSparse"], 1);
    create(&disguised, "vmdk", &[], 1);
    patch(&disguised, 12, &[0; 8]);
    create(&secret, "qcow2", &[], 1);
    patch(&secret, 32, &2_u32.to_be_bytes());
    vec![
        (backing, "based on another file (/etc/passwd)"),
        (json, "based on another file (json:{"),
        (data, "its data lies in another file"),
        (flat, "its data lies in other files"),
        (split, "its data lies in other files"),
        (disguised, "its data lies in other files"),
        (secret, "it is encrypted"),
    ]
}

#[tokio::test]
async fn hostile_images_are_refused_before_any_program_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = QemuImg::new("/no/such/qemu-img");
    for (path, why) in hostile(dir.path()) {
        let instance = Instance::new();
        std::fs::copy(&path, &instance.files.image).unwrap();
        let error = disk::ensure(&instance.files, 10 * MIB, Wanted::Any, &nothing)
            .await
            .unwrap_err();
        assert!(
            matches!(error, ImageError::Refused { .. }),
            "{path:?}: {error:?}"
        );
        assert!(error.to_string().contains(why), "{path:?}: {error}");
        assert_eq!(instance.names(), ["image"]);
    }
}

/// A guest can write such a header into its own raw disk.
#[tokio::test]
async fn hostile_disks_are_refused_at_every_start() {
    let dir = tempfile::tempdir().unwrap();
    for (path, _) in hostile(dir.path()) {
        let error = check::disk(&path, Some(&dir.path().join("basedisk"))).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::Refused { .. } | ImageError::UnsupportedFormat { .. }
            ),
            "{path:?}: {error:?}"
        );
    }
    let mixed = dir.path().join("mixed");
    create(&mixed, "vdi", &[], 1);
    let error = check::disk(&mixed, None).unwrap_err().to_string();
    assert!(
        error.contains("is a vdi image") && error.contains("qemu-img convert"),
        "{error}"
    );
}

#[tokio::test]
async fn formats_that_are_no_use_are_named() {
    let instance = Instance::new();
    for format in ["qcow", "qed", "parallels"] {
        create(&instance.files.image, format, &[], 1);
        let error = ensure(&instance, 10 * MIB).await.unwrap_err().to_string();
        assert!(error.contains(&format!("is a {format} image")), "{error}");
    }
}

#[tokio::test]
async fn damage_is_reported_in_the_words_of_qemu_img() {
    let instance = Instance::new();
    create(&instance.files.image, "qcow2", &[], 1);
    // A cluster size that cannot be.
    patch(&instance.files.image, 20, &60_u32.to_be_bytes());
    let error = ensure(&instance, 10 * MIB).await.unwrap_err();
    assert!(matches!(error, ImageError::QemuImg { .. }), "{error:?}");
    assert!(error.to_string().contains("luster size"), "{error}");
    assert_eq!(instance.names(), ["image"]);
}

#[tokio::test]
async fn snapshots_of_a_stopped_disk() {
    let instance = Instance::new();
    create(&instance.files.disk, "qcow2", &[], 1);
    let (tool, disk) = (QemuImg::default(), &instance.files.disk);
    tool.snapshot(disk, Snapshot::Create("one")).await.unwrap();
    assert!(
        tool.snapshot(disk, Snapshot::List)
            .await
            .unwrap()
            .contains("one")
    );
    tool.snapshot(disk, Snapshot::Apply("one")).await.unwrap();
    tool.snapshot(disk, Snapshot::Delete("one")).await.unwrap();
    let error = tool
        .snapshot(disk, Snapshot::Apply("one"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("qemu-img cannot go back to a snapshot of"),
        "{error}"
    );
}

mod full_disk {
    //! On a file system of a few mebibytes. The test runs itself again inside a mount namespace that has one.

    use super::*;

    const DIR: &str = "BERTH_TEST_FULL_DISK";

    #[tokio::test]
    async fn a_full_disk_leaves_the_image_and_no_disk() {
        if std::env::var_os(DIR).is_some() {
            return on_full_disk().await;
        }
        let dir = tempfile::tempdir().unwrap();
        let script =
            "mount -t tmpfs -o size=3m none \"$BERTH_TEST_FULL_DISK\" && exec \"$0\" \"$@\"";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "full_disk::a_full_disk_leaves_the_image_and_no_disk",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .env("TMPDIR", dir.path())
            .output()
            .expect("unshare (util-linux) is installed");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    }

    async fn on_full_disk() {
        // The temporary directory of this process is on the small file system.
        let instance = Instance::new();
        let plain = instance.dir.path().join("plain");
        std::fs::write(&plain, vec![1; 2 << 20]).unwrap();
        qemu_img(&[
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
            plain.to_str().unwrap(),
            instance.files.image.to_str().unwrap(),
        ]);
        let error = ensure(&instance, 4 * MIB).await.unwrap_err();
        assert!(matches!(error, ImageError::QemuImg { .. }), "{error:?}");
        assert!(
            error.to_string().contains("No space left on device"),
            "{error}"
        );
        assert_eq!(instance.names(), ["image", "plain"]);

        std::fs::remove_file(&plain).unwrap();
        ensure(&instance, 4 * MIB).await.unwrap();
        assert_eq!(instance.names(), ["disk"]);
    }
}
