//! The native-speed guest: booted, used, killed. Needs root, and `BERTH_TESTGUEST_ROOTFS`; `cargo xtask test` sees to both.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what clippy does not take for a test here serves tests only"
)]

mod machine;

mod life;
mod network;
mod refusals;
