use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Creates or empties a file. Its directory decides who may read it.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create(true)
        .truncate(true)
        .open(path)
}

/// Makes a directory. Its parent decides who may enter.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

/// Only the read-only bit exists here.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    permissions.set_readonly(mode & 0o200 == 0);
    std::fs::set_permissions(path, permissions)
}

/// Size and time must do: the stable library has no file number here.
pub(crate) fn file_id(_: &Metadata) -> (u64, u64) {
    (0, 0)
}
