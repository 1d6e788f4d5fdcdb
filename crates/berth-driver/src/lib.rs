//! The engine room: the [`driver::Driver`] trait and the drivers, one folder each.

mod create;
mod device_names;
pub mod driver;
pub mod error;
pub mod external;
mod files;
pub mod kit;
pub mod krunkit;
mod life;
mod process;
mod programs;
pub mod qemu;
mod sys;
mod tasks;
#[cfg(test)]
mod testing;
pub mod vz;
pub mod wsl2;

pub use create::{create_driver, end_killed, forget, stop_orphan};
pub use device_names::{disk_serial, mount_tag};
pub use files::{disk_files, image_files};
