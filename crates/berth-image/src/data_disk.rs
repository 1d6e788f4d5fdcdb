//! Additional disks: made, imported, grown. Their names and locks are `berth-instance`'s.

use std::fs::File;
use std::io;
use std::path::Path;

use berth_config::size::format_binary;

use crate::check::{self, Disk};
use crate::disk::grow;
use crate::error::ImageError;
use crate::format::Format;
use crate::qemu_img::QemuImg;
use crate::sparse::SparseWriter;
use crate::staged::Staged;

/// What an additional disk can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFormat {
    /// Bytes as the guest sees them, with holes.
    Raw,
    /// QEMU's own, which can hold snapshots.
    Qcow2,
}

/// Makes an empty disk of `bytes`. The file appears when it is whole.
pub async fn create(
    path: &Path,
    bytes: u64,
    format: DataFormat,
    qemu_img: &QemuImg,
) -> Result<(), ImageError> {
    let staged = Staged::new(path)?;
    match format {
        DataFormat::Raw => {
            let file = staged.create()?;
            file.set_len(bytes)
                .map_err(ImageError::io("grow", staged.path()))?;
        }
        DataFormat::Qcow2 => qemu_img.create_qcow2(staged.path(), bytes).await?,
    }
    staged.commit()
}

/// Makes a disk with the content of an image: a copy of a raw or qcow2 one, holes kept, and any other as qcow2. Images that refer to
/// other files are refused.
pub async fn import(from: &Path, path: &Path, qemu_img: &QemuImg) -> Result<(), ImageError> {
    let image = check::image(from, qemu_img).await?;
    let staged = Staged::new(path)?;
    match image.format {
        Format::Raw | Format::Qcow2 => {
            let target = staged.create()?;
            let (from, to) = (from.to_owned(), staged.path().to_owned());
            let copied = tokio::task::spawn_blocking(move || copy(&from, target, &to)).await;
            copied.map_err(|why| ImageError::io("copy", path)(io::Error::other(why)))??;
        }
        format => {
            let source = (image.path.as_path(), format);
            let target = (staged.path(), Format::Qcow2);
            qemu_img.convert(source, target).await?;
        }
    }
    staged.commit()
}

fn copy(from: &Path, target: File, to: &Path) -> Result<(), ImageError> {
    let mut source = File::open(from).map_err(ImageError::io("open", from))?;
    let mut writer = SparseWriter::new(target);
    io::copy(&mut source, &mut writer).map_err(ImageError::io("copy", from))?;
    writer.finish().map_err(ImageError::io("write", to))
}

/// Grows a disk that nobody uses to `bytes`.
pub async fn resize(path: &Path, bytes: u64, qemu_img: &QemuImg) -> Result<(), ImageError> {
    let disk = look(path)?;
    if disk.virtual_size > bytes {
        let present = format_binary(disk.virtual_size);
        return Err(ImageError::Refused {
            path: disk.path,
            why: format!("it has {present} already, and disks cannot shrink"),
        });
    }
    grow(&disk, bytes, qemu_img).await
}

/// Format and size of a disk. One that refers to other files is refused.
pub fn look(path: &Path) -> Result<Disk, ImageError> {
    check::disk(path, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> QemuImg {
        QemuImg::new("qemu-img")
    }

    #[tokio::test]
    async fn raw_disks_are_made_and_grown_without_any_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("datadisk");
        let nowhere = QemuImg::new("/no such program");
        create(&path, 1 << 20, DataFormat::Raw, &nowhere)
            .await
            .unwrap();
        resize(&path, 2 << 20, &nowhere).await.unwrap();
        assert_eq!(look(&path).unwrap().virtual_size, 2 << 20);
        let error = resize(&path, 1 << 20, &nowhere).await.unwrap_err();
        let told = "it has 2MiB already, and disks cannot shrink";
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn qcow2_disks_are_made_imported_and_grown() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        create(&first, 64 << 20, DataFormat::Qcow2, &program())
            .await
            .unwrap();
        import(&first, &second, &program()).await.unwrap();
        resize(&second, 128 << 20, &program()).await.unwrap();
        let disk = look(&second).unwrap();
        assert_eq!((disk.format, disk.virtual_size), (Format::Qcow2, 128 << 20));
    }

    #[tokio::test]
    async fn an_image_that_is_based_on_another_file_is_not_imported() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("hostile");
        let made = std::process::Command::new("qemu-img")
            .args([
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                "/etc/hostname",
            ])
            .arg(&image)
            .arg("1M")
            .status();
        assert!(made.unwrap().success());
        let target = dir.path().join("datadisk");
        let error = import(&image, &target, &program()).await.unwrap_err();
        assert!(
            error.to_string().contains("based on another file"),
            "{error}"
        );
        assert!(!target.exists());
    }
}
