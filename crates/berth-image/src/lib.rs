//! The warehouse: what images there are, how they are fetched and checked, and how one becomes the disk of an instance.
//!
//! [`fetch`] and [`select`] block (downloads belong on a thread of their own); [`qemu_img`] and [`disk`] run programs and are
//! asynchronous. Nothing appears under its final name before it is whole: see [`staged`].

pub mod check;
pub mod data_disk;
pub mod decompress;
pub mod digest;
pub mod disk;
pub mod error;
pub mod fetch;
pub mod format;
pub mod iso;
pub mod progress;
pub mod qemu_img;
pub mod select;
pub mod sparse;
pub mod staged;

mod sys;
