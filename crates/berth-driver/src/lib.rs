//! The engine room: the [`driver::Driver`] trait and the drivers, one folder each.

mod create;
pub mod driver;
pub mod error;
pub mod qemu;
mod sys;

pub use create::create_driver;
