//! What differs between operating systems and processors.

pub(crate) mod cpu;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{
    Listener, connect, is_executable, lock_directory, make_private_dir, others_may_read,
    remove_stale_socket,
};

#[cfg(not(unix))]
mod windows;
#[cfg(not(unix))]
pub(crate) use windows::{
    Listener, connect, is_executable, lock_directory, make_private_dir, others_may_read,
    remove_stale_socket,
};
