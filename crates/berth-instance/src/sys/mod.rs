//! What differs by operating system: modes, identities of files, locks on directories, and unix sockets.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{
    Stream, connect, create_private_dir, lock_directory, open_mode, same_file, symlink,
    sync_directory,
};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{
    Stream, connect, create_private_dir, lock_directory, open_mode, same_file, symlink,
    sync_directory,
};
