//! How an image becomes the root disk of an instance, and how that disk grows.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::check::{self, Disk};
use crate::data_disk::{self, DataFormat};
use crate::error::ImageError;
use crate::format::Format;
use crate::iso;
use crate::qemu_img::QemuImg;
use crate::staged::Staged;
use crate::sys;

/// The files of one instance that make its root disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFiles {
    /// Downloaded image; gone once it has become the disk.
    pub image: PathBuf,
    /// Root disk.
    pub disk: PathBuf,
    /// Installer image, when the image was one.
    pub iso: PathBuf,
    /// Image of an instance made by Lima before 2.1.
    pub base_disk: PathBuf,
    /// Disk of an instance made by Lima before 2.1, based on [`Self::base_disk`].
    pub diff_disk: PathBuf,
}

/// Which formats a driver takes for a disk that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Raw or qcow2, as the image is; qcow2 where it is neither.
    Any,
    /// Only raw. A disk that is there already stays what it is.
    Raw,
}

/// Makes sure that the disk is there, safe, and has `bytes` (rounded up to whole sectors). Does nothing, and runs nothing,
/// when that is so already.
///
/// The disk appears under its name when it is whole; until then the image stays, so that a failed attempt can be repeated.
pub async fn ensure(
    files: &DiskFiles,
    bytes: u64,
    wanted: Wanted,
    qemu_img: &QemuImg,
) -> Result<Disk, ImageError> {
    const SECTOR: u64 = 512;
    let bytes = bytes.next_multiple_of(SECTOR);
    link_legacy(files)?;
    if !files.disk.exists() {
        make(files, bytes, wanted, qemu_img).await?;
    }
    let disk = check::disk(&files.disk, Some(&files.base_disk))?;
    if disk.virtual_size > bytes {
        return Err(ImageError::Shrinking {
            disk: disk.path,
            configured: bytes,
            present: disk.virtual_size,
        });
    }
    grow(&disk, bytes, qemu_img).await?;
    Ok(Disk {
        virtual_size: bytes,
        ..disk
    })
}

/// Gives the files of an instance made by Lima before 2.1 their new names, as links, as Lima does.
pub fn link_legacy(files: &DiskFiles) -> Result<(), ImageError> {
    if files.disk.exists() || !files.diff_disk.exists() {
        return Ok(());
    }
    link(&files.diff_disk, &files.disk)?;
    if files.base_disk.exists() && !files.iso.exists() && is_iso(&files.base_disk)? {
        link(&files.base_disk, &files.iso)?;
    }
    Ok(())
}

/// Links `link` to its neighbour `target`, relatively, so that the directory can be moved.
fn link(target: &Path, link: &Path) -> Result<(), ImageError> {
    let name = target.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| ImageError::Refused {
        path: target.to_owned(),
        why: "it has no name".to_owned(),
    })?;
    sys::symlink(name, link).map_err(ImageError::io("make the symbolic link", link))
}

async fn make(
    files: &DiskFiles,
    bytes: u64,
    wanted: Wanted,
    qemu_img: &QemuImg,
) -> Result<(), ImageError> {
    if !files.image.exists() {
        // The name of an installer may have been given by an attempt that got no further.
        if files.iso.exists() {
            return make_empty(files, bytes, wanted, qemu_img).await;
        }
        return Err(ImageError::NothingToStartFrom {
            disk: files.disk.clone(),
            image: files.image.clone(),
        });
    }
    if is_iso(&files.image)? {
        rename(&files.image, &files.iso)?;
        return make_empty(files, bytes, wanted, qemu_img).await;
    }
    let image = check::image(&files.image, qemu_img).await?;
    if image.virtual_size > bytes {
        return Err(ImageError::DiskTooSmall {
            image: image.path,
            configured: bytes,
            needed: image.virtual_size,
        });
    }
    match (image.format, wanted) {
        (Format::Raw, _) | (Format::Qcow2, Wanted::Any) => {
            grow(&image, bytes, qemu_img).await?;
            rename(&files.image, &files.disk)
        }
        (_, Wanted::Any) => convert(&image, files, Format::Qcow2, bytes, qemu_img).await,
        (_, Wanted::Raw) => convert(&image, files, Format::Raw, bytes, qemu_img).await,
    }
}

/// An empty disk beside an installer.
async fn make_empty(
    files: &DiskFiles,
    bytes: u64,
    wanted: Wanted,
    qemu_img: &QemuImg,
) -> Result<(), ImageError> {
    let format = match wanted {
        Wanted::Any => DataFormat::Qcow2,
        Wanted::Raw => DataFormat::Raw,
    };
    data_disk::create(&files.disk, bytes, format, qemu_img).await
}

/// A disk of a format that cannot grow or hold snapshots, or that the driver cannot use, becomes one of `format`.
async fn convert(
    image: &Disk,
    files: &DiskFiles,
    format: Format,
    bytes: u64,
    qemu_img: &QemuImg,
) -> Result<(), ImageError> {
    let staged = Staged::new(&files.disk)?;
    let from = (image.path.as_path(), image.format);
    qemu_img.convert(from, (staged.path(), format)).await?;
    let converted = check::disk(staged.path(), None)?;
    grow(&converted, bytes, qemu_img).await?;
    staged.commit()?;
    std::fs::remove_file(&image.path).map_err(ImageError::io("remove", &image.path))
}

pub(crate) async fn grow(disk: &Disk, bytes: u64, qemu_img: &QemuImg) -> Result<(), ImageError> {
    if disk.virtual_size >= bytes {
        return Ok(());
    }
    match disk.format {
        Format::Raw => {
            let file = File::options().write(true).open(&disk.path);
            let file = file.map_err(ImageError::io("open", &disk.path))?;
            file.set_len(bytes)
                .map_err(ImageError::io("grow", &disk.path))
        }
        format => qemu_img.resize(&disk.path, format, bytes).await,
    }
}

fn is_iso(path: &Path) -> Result<bool, ImageError> {
    let mut file = File::open(path).map_err(ImageError::io("open", path))?;
    iso::is_iso(&mut file).map_err(ImageError::io("read", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), ImageError> {
    std::fs::rename(from, to).map_err(ImageError::io("rename", from))?;
    match to.parent() {
        Some(dir) => sys::sync_directory(dir).map_err(ImageError::io("write", dir)),
        None => Ok(()),
    }
}
