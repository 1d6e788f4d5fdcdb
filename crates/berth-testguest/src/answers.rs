//! What QEMU says about itself, as far as host agents ask.

/// First line of `--version`; the rest of what this machine says follows QEMU 7.2 too.
pub(crate) const VERSION: (u32, u32, u32) = (7, 2, 22);

/// The package part of the version, which says who answers.
pub(crate) const PACKAGE: &str = "berth-testguest";

/// The answer to `--version`.
pub(crate) fn version() -> String {
    let (major, minor, micro) = VERSION;
    format!("QEMU emulator version {major}.{minor}.{micro} ({PACKAGE})\n")
}

/// The answer to `-OPTION help`.
pub(crate) fn help(option: &str) -> &'static str {
    match option {
        "accel" => "Accelerators supported in QEMU binary:\ntcg\nkvm\n",
        "netdev" => "Available netdev backend types:\nsocket\nstream\nuser\n",
        "machine" | "M" => {
            "Supported machines are:\n\
             none                 empty machine\n\
             q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)\n\
             virt                 QEMU 7.2 ARM Virtual Machine (alias of virt-7.2)\n"
        }
        "cpu" => {
            "Available CPUs:\n\
             x86 host                  processor with all supported host features\n\
             x86 max                   Enables all features supported by the accelerator in the current host\n\
             x86 qemu64                QEMU Virtual CPU version 2.5+\n\
             \nRecognized CPUID flags:\n  none\n"
        }
        _ => {
            "berth-testguest: a stand-in for qemu-system-*: it runs a Debian system in namespaces instead of a virtual \
             machine.\nBERTH_TESTGUEST_ROOTFS names the system's root; the rest is QEMU's command line. Needs root.\n"
        }
    }
}
