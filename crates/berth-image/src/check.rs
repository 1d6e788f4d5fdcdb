//! Refusing images and disks that would make QEMU open files of the host.
//!
//! An image comes from the network, a disk was in a guest's hands: both can carry headers that name other files (backing
//! files, external data files, extents), and QEMU follows such names with the user's rights. Headers are read here first;
//! `qemu-img` only sees what passed, with its format spelled out.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::format::{Format, Qcow2Header};
use crate::qemu_img::{Info, QemuImg};

/// A disk that may be given to QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Its format, to be spelled out to QEMU.
    pub format: Format,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
}

/// Checks a disk that is about to be given to a VM: raw or qcow2, self-contained. Reads its header; runs nothing.
///
/// `base`: the one other file that it may be based on (`basedisk` of instances made by Lima before 2.1).
pub fn disk(path: &Path, base: Option<&Path>) -> Result<Disk, ImageError> {
    let mut file = File::open(path).map_err(ImageError::io("open", path))?;
    let format = Format::sniff(&mut file).map_err(ImageError::io("read", path))?;
    let virtual_size = match format {
        Format::Raw => file
            .metadata()
            .map_err(ImageError::io("inspect", path))?
            .len(),
        Format::Qcow2 => {
            let header = Qcow2Header::read(&mut file, path)?;
            require_self_contained(&header, path, base)?;
            header.virtual_size
        }
        other => {
            return Err(ImageError::UnsupportedFormat {
                path: path.to_owned(),
                format: other,
                why: "cannot be the disk of a VM: convert it to qcow2 with `qemu-img convert -O qcow2`".to_owned(),
            });
        }
    };
    Ok(Disk {
        path: path.to_owned(),
        format,
        virtual_size,
    })
}

/// Checks a downloaded image, of any format that can become a disk.
pub async fn image(path: &Path, qemu_img: &QemuImg) -> Result<Disk, ImageError> {
    let mut file = File::open(path).map_err(ImageError::io("open", path))?;
    let format = Format::sniff(&mut file).map_err(ImageError::io("read", path))?;
    match format {
        Format::Raw => return disk(path, None),
        Format::Qcow2 => require_self_contained(&Qcow2Header::read(&mut file, path)?, path, None)?,
        Format::Vmdk => require_embedded_vmdk(&mut file, path)?,
        Format::Vhdx | Format::Vdi | Format::Vpc => {}
        Format::VmdkDescriptor => return Err(refused(path, "its data lies in other files")),
        Format::Qcow1 | Format::Qed | Format::Parallels | Format::Asif => {
            return Err(ImageError::UnsupportedFormat {
                path: path.to_owned(),
                format,
                why: "is not supported: use a qcow2 or raw image".to_owned(),
            });
        }
    }
    drop(file);
    let info = qemu_img.info(path, format).await?;
    require_one_file(&info, path)?;
    Ok(Disk {
        path: path.to_owned(),
        format,
        virtual_size: info.virtual_size,
    })
}

fn require_self_contained(
    header: &Qcow2Header,
    path: &Path,
    base: Option<&Path>,
) -> Result<(), ImageError> {
    if header.external_data {
        return Err(refused(path, "its data lies in another file"));
    }
    if header.encrypted {
        return Err(refused(path, "it is encrypted"));
    }
    let Some(backing) = &header.backing else {
        return Ok(());
    };
    if let (Some(base), Some(dir)) = (base, path.parent())
        && dir.join(backing) == base
    {
        // The base was never writable for a guest, but it may have come from anywhere.
        disk(base, None)?;
        return Ok(());
    }
    let name = berth_process::escape::escape_untrusted(backing.as_bytes());
    Err(refused(
        path,
        &format!("it is based on another file ({name})"),
    ))
}

/// A sparse VMDK whose capacity is zero is a descriptor in disguise, which may name other files.
fn require_embedded_vmdk(file: &mut File, path: &Path) -> Result<(), ImageError> {
    use std::io::{Read as _, Seek as _};
    let mut head = [0; 20];
    file.rewind()
        .and_then(|()| file.read_exact(&mut head))
        .map_err(ImageError::io("read", path))?;
    if head[12..20] == [0; 8] {
        return Err(refused(path, "its data lies in other files"));
    }
    Ok(())
}

/// What `qemu-img` saw must be one file.
fn require_one_file(info: &Info, path: &Path) -> Result<(), ImageError> {
    if let Some(name) = info
        .backing_filename
        .as_ref()
        .or(info.full_backing_filename.as_ref())
    {
        let name = berth_process::escape::escape_untrusted(name.as_bytes());
        return Err(refused(
            path,
            &format!("it is based on another file ({name})"),
        ));
    }
    let same = |name: &str| Path::new(name) == path;
    if let Some(specific) = &info.format_specific {
        if specific.data.data_file.is_some() {
            return Err(refused(path, "its data lies in another file"));
        }
        if !specific
            .data
            .extents
            .iter()
            .all(|extent| same(&extent.filename))
        {
            return Err(refused(path, "its data lies in other files"));
        }
    }
    let itself = |child: &crate::qemu_img::Child| {
        same(&child.info.filename) && child.info.children.is_empty()
    };
    if info.children.len() > 1 || !info.children.iter().all(itself) {
        return Err(refused(path, "it consists of several files"));
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> ImageError {
    ImageError::Refused {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}
