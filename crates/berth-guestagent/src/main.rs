//! berth's guest agent: see the library.

use std::process::ExitCode;

/// Runs the command line.
#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    // Set by systemd for services that tell when they are ready.
    let notify_socket = std::env::var_os("NOTIFY_SOCKET");
    berth_guestagent::run(std::env::args().skip(1), notify_socket)
}

/// Fails: this is a program for Linux guests.
#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
