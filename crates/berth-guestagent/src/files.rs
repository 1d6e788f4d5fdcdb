//! Writing the guest's files: whole, only when they differ, with their mode and owner from the first moment.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::fs::{PermissionsExt as _, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use crate::accounts::Owner;

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {}", path.display())]
pub(crate) struct FileError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Makes the error of one action on one file.
pub(crate) fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError { verb, path, source }
}

/// Mode and owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits.
    pub(crate) mode: u32,
    /// `None`: whoever the agent is.
    pub(crate) owner: Option<Owner>,
}

impl Attributes {
    /// A file of root.
    pub(crate) const fn root(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// A file of somebody.
    pub(crate) const fn of(owner: Owner, mode: u32) -> Self {
        Self {
            mode,
            owner: Some(owner),
        }
    }
}

/// Whether a power cut may leave a file empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It holds what others wrote: synced before it takes the old one's place.
    Matters,
    /// All of it comes from `boot.json`, and the next boot writes it again.
    Repaired,
}

/// Reads a text file; `None` when there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(failed("read", path)(why)),
    }
}

/// Gives the file these bytes and attributes, and tells whether anything had to change. A symbolic link is replaced, not followed.
pub(crate) fn put(
    path: &Path,
    bytes: &[u8],
    attributes: Attributes,
    loss: Loss,
) -> Result<bool, FileError> {
    if is_already(path, bytes, attributes) {
        return Ok(false);
    }
    let new = beside(path);
    remove(&new)?;
    write_new(&new, bytes, attributes, loss).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })?;
    keep_label(path, &new);
    fs::rename(&new, path).map_err(failed("replace", path))?;
    Ok(true)
}

/// Gives the new file the `SELinux` label of the one whose place it takes. A file without a label needs none.
fn keep_label(old: &Path, new: &Path) {
    const LABEL: &str = "security.selinux";
    let mut label = [0_u8; 256];
    if let Ok(length) = lgetxattr(old, LABEL, &mut label) {
        // Where SELinux refuses it, the directory's label stays, which is mostly the same.
        let _ = lsetxattr(new, LABEL, &label[..length], XattrFlags::empty());
    }
}

/// Rewrites a text file of the system as `change` says, following links, and keeps its attributes. A missing file counts as
/// empty, and is made with `mode` unless it stays empty.
pub(crate) fn edit(
    path: &Path,
    mode: u32,
    change: impl FnOnce(&str) -> String,
) -> Result<bool, FileError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let Some(old) = read_text(&path)? else {
        let text = change("");
        return if text.is_empty() {
            Ok(false)
        } else {
            put(
                &path,
                text.as_bytes(),
                Attributes::root(mode),
                Loss::Matters,
            )
        };
    };
    let text = change(&old);
    if text == old {
        return Ok(false);
    }
    let metadata = fs::metadata(&path).map_err(failed("look at", &path))?;
    let attributes = Attributes {
        mode: metadata.mode() & 0o7777,
        owner: Some(Owner {
            uid: metadata.uid(),
            gid: metadata.gid(),
        }),
    };
    put(&path, text.as_bytes(), attributes, Loss::Matters)
}

/// Makes a directory, and the missing ones above it as root's with 0755, or corrects its attributes. A symbolic link in its
/// place is refused: it may be the user's, pointing anywhere.
pub(crate) fn ensure_directory(path: &Path, attributes: Attributes) -> Result<bool, FileError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
    }
    let made = match DirBuilder::new().mode(attributes.mode).create(path) {
        Ok(()) => true,
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => false,
        Err(why) => return Err(failed("create", path)(why)),
    };
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(nofollow_directory())
        .open(path)
        .map_err(failed("open as a directory", path))?;
    Ok(apply(&directory, path, attributes)? || made)
}

/// Makes `path` a symbolic link to `target`, and tells whether it was not.
pub(crate) fn link(path: &Path, target: &Path) -> Result<bool, FileError> {
    if fs::read_link(path).is_ok_and(|old| old == target) {
        return Ok(false);
    }
    let new = beside(path);
    remove(&new)?;
    symlink(target, &new).map_err(failed("link", path))?;
    fs::rename(&new, path).map_err(failed("replace", path))?;
    Ok(true)
}

/// Removes a file; tells whether there was one.
pub(crate) fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(failed("remove", path)(why)),
    }
}

/// Gives a path to somebody. A symbolic link itself is given, not what it points to.
pub(crate) fn give(path: &Path, owner: Owner) -> Result<(), FileError> {
    lchown(path, Some(owner.uid), Some(owner.gid)).map_err(failed("change the owner of", path))
}

fn is_already(path: &Path, bytes: &[u8], attributes: Attributes) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return false;
    };
    metadata.is_file()
        && metadata.len() == bytes.len() as u64
        && metadata.mode() & 0o7777 == attributes.mode
        && attributes.owner.is_none_or(|owner| owns(&metadata, owner))
        && fs::read(path).is_ok_and(|old| old == bytes)
}

fn write_new(
    path: &Path,
    bytes: &[u8],
    attributes: Attributes,
    loss: Loss,
) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(attributes.mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    apply(&file, path, attributes)?;
    if loss == Loss::Matters {
        file.sync_data().map_err(failed("sync", path))?;
    }
    Ok(())
}

/// Corrects mode and owner of an open file or directory; tells whether they differed.
fn apply(file: &File, path: &Path, attributes: Attributes) -> Result<bool, FileError> {
    let metadata = file.metadata().map_err(failed("look at", path))?;
    let mut changed = false;
    if let Some(owner) = attributes.owner.filter(|owner| !owns(&metadata, *owner)) {
        fchown(file, Some(owner.uid), Some(owner.gid))
            .map_err(failed("change the owner of", path))?;
        changed = true;
    }
    if metadata.mode() & 0o7777 != attributes.mode {
        file.set_permissions(Permissions::from_mode(attributes.mode))
            .map_err(failed("change the mode of", path))?;
        changed = true;
    }
    Ok(changed)
}

fn owns(metadata: &fs::Metadata, owner: Owner) -> bool {
    (metadata.uid(), metadata.gid()) == (owner.uid, owner.gid)
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.berth-new"))
}

fn nofollow_directory() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY;
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = Attributes::root(0o600);
        assert!(put(&path, b"secret", key, Loss::Matters).unwrap());
        assert!(!put(&path, b"secret", key, Loss::Matters).unwrap());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(put(&path, b"secret", key, Loss::Repaired).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_link_planted_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("shadow");
        fs::write(&victim, "root").unwrap();
        let path = dir.path().join("authorized_keys");
        symlink(&victim, &path).unwrap();
        symlink(&victim, dir.path().join(".authorized_keys.berth-new")).unwrap();
        put(&path, b"key", Attributes::root(0o600), Loss::Matters).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "root");
        assert_eq!(fs::read_to_string(&path).unwrap(), "key");

        symlink(dir.path(), dir.path().join("ssh")).unwrap();
        let error = ensure_directory(&dir.path().join("ssh"), Attributes::root(0o700)).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("could not open as a directory "),
            "{error}"
        );
    }

    #[test]
    fn an_edit_follows_links_and_keeps_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::write(&real, "a\n").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        let path = dir.path().join("link");
        symlink(&real, &path).unwrap();
        assert!(edit(&path, 0o644, |text| format!("{text}b\n")).unwrap());
        assert!(!edit(&path, 0o644, str::to_owned).unwrap());
        assert_eq!(fs::read_to_string(&real).unwrap(), "a\nb\n");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert!(!edit(&dir.path().join("none"), 0o644, str::to_owned).unwrap());
    }

    #[test]
    fn an_error_says_what_and_where() {
        let error = put(
            Path::new("/proc/none/x"),
            b"",
            Attributes::root(0o644),
            Loss::Matters,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not create /proc/none/.x.berth-new"
        );
    }
}
