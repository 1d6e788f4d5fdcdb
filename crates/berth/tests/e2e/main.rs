//! Whole lives of instances: the built program, a guest that boots, and what is left afterwards.
//!
//! `cargo xtask test` builds what these tests need, says where it is, and runs them one after the other. A plain `cargo test`
//! does not build them, as it cannot know these things.

mod checks;
mod cloud_init;
mod events;
mod external_driver;
mod instance;
mod leftovers;
mod monitor;
mod network;
mod outcome;
mod processes;
mod setting;
mod variant;

mod copy;
mod copy_to_host;
mod death_of_qemu;
mod death_of_the_agent;
mod forwarding;
mod full_disk;
mod guest_power;
mod guest_trouble;
mod mounts;
mod names;
mod ordinary_life;
mod ports;
mod signals;
mod vm;
