//! The programs and files that the project runs, and the Debian packages that have them.

use std::path::Path;

use crate::image::Arch;
use crate::program;

/// What one wants to do with the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Boot one VM.
    Demo,
    /// The same, and all tests.
    Tests,
}

/// What shows that a package is there.
#[derive(Debug, Clone, Copy)]
enum Sign {
    Program(&'static str),
    File(&'static str),
}

impl Sign {
    fn is_there(self) -> bool {
        match self {
            Self::Program(name) => program::find(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
        }
    }
}

/// One thing that has to be installed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tool {
    sign: Sign,
    /// The Debian package that has it.
    pub(super) package: &'static str,
    /// What it is for, in a few words.
    pub(super) use_for: &'static str,
    first_purpose: Purpose,
    /// Root does without.
    only_users: bool,
}

const fn demo(sign: Sign, package: &'static str, use_for: &'static str) -> Tool {
    Tool {
        sign,
        package,
        use_for,
        first_purpose: Purpose::Demo,
        only_users: false,
    }
}

const fn test(sign: Sign, package: &'static str, use_for: &'static str) -> Tool {
    Tool {
        first_purpose: Purpose::Tests,
        ..demo(sign, package, use_for)
    }
}

const fn users(tool: Tool) -> Tool {
    Tool {
        only_users: true,
        ..tool
    }
}

#[rustfmt::skip]
const TOOLS: &[Tool] = {
    use Sign::{File, Program};
    &[
        demo(Program("qemu-img"), "qemu-utils", "makes the VM's disk"),
        demo(Program("ssh"), "openssh-client", "reaches the guest"),
        demo(Program("mmdebstrap"), "mmdebstrap", "builds the guest image from packages"),
        demo(Program("mke2fs"), "e2fsprogs", "makes the guest's file system"),
        demo(File("/usr/share/keyrings/debian-archive-keyring.gpg"), "debian-archive-keyring", "checks the guest's packages"),
        users(demo(Program("fakeroot"), "fakeroot", "builds the guest image without root")),
        users(demo(Program("newuidmap"), "uidmap", "builds the guest image without root")),
        test(Program("g++"), "g++", "compiles the runtime of the fuzzer"),
        test(Program("swtpm"), "swtpm", "is the TPM of a VM"),
        test(Program("sshd"), "openssh-server", "is logged in to by tests, on ports of their own"),
        test(Program("xorriso"), "xorriso", "reads what our ISO writer wrote"),
        test(Program("isoinfo"), "genisoimage", "reads what our ISO writer wrote"),
        test(Program("bsdtar"), "libarchive-tools", "unpacks cidata for the native-speed guest"),
        test(Program("ip"), "iproute2", "sets up networks of tests"),
        test(Program("systemd-nspawn"), "systemd-container", "runs the native-speed guest"),
        test(Program("nsd"), "nsd", "is a name server that is asked"),
        test(Program("dig"), "bind9-dnsutils", "asks name servers"),
        test(Program("nft"), "nftables", "flushes a guest's firewall"),
        test(Program("musl-gcc"), "musl-tools", "compiles a program with another resolver"),
        test(File("/usr/include/seccomp.h"), "libseccomp-dev", "is linked to virtiofsd"),
        test(File("/usr/include/cap-ng.h"), "libcap-ng-dev", "is linked to virtiofsd"),
        test(Program("python3"), "python3", "is a fake QEMU"),
        test(File("/usr/lib/python3/dist-packages/grpc/__init__.py"), "python3-grpcio", "speaks gRPC with external drivers"),
    ]
};

/// QEMU and the firmware for guests of this machine's own processor.
fn emulator(arch: Arch) -> [Tool; 2] {
    match arch {
        Arch::X86_64 => [
            demo(
                Sign::Program("qemu-system-x86_64"),
                "qemu-system-x86",
                "is the VM",
            ),
            demo(
                Sign::File("/usr/share/OVMF/OVMF_CODE_4M.fd"),
                "ovmf",
                "is the VM's firmware",
            ),
        ],
        Arch::Aarch64 => [
            demo(
                Sign::Program("qemu-system-aarch64"),
                "qemu-system-arm",
                "is the VM",
            ),
            demo(
                Sign::File("/usr/share/AAVMF/AAVMF_CODE.fd"),
                "qemu-efi-aarch64",
                "is the VM's firmware",
            ),
        ],
    }
}

/// What is not there.
pub(super) fn missing(purpose: Purpose, arch: Arch, root: bool) -> Vec<Tool> {
    needed(purpose, arch, root)
        .filter(|tool| !tool.sign.is_there())
        .collect()
}

fn needed(purpose: Purpose, arch: Arch, root: bool) -> impl Iterator<Item = Tool> {
    emulator(arch)
        .into_iter()
        .chain(TOOLS.iter().copied())
        .filter(move |tool| tool.first_purpose <= purpose && !(root && tool.only_users))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(purpose: Purpose, arch: Arch, root: bool) -> Vec<&'static str> {
        needed(purpose, arch, root)
            .map(|tool| tool.package)
            .collect()
    }

    #[test]
    fn a_demo_needs_no_server_and_root_no_fakeroot() {
        let demo = packages(Purpose::Demo, Arch::X86_64, true);
        assert!(demo.contains(&"qemu-system-x86") && demo.contains(&"ovmf"));
        assert!(!demo.contains(&"openssh-server") && !demo.contains(&"fakeroot"));
        let tests = packages(Purpose::Tests, Arch::Aarch64, false);
        assert!(tests.contains(&"qemu-system-arm") && !tests.contains(&"qemu-system-x86"));
        assert!(tests.contains(&"openssh-server") && tests.contains(&"fakeroot"));
    }

    #[test]
    fn a_sign_is_a_program_or_a_file() {
        assert!(Sign::Program("sh").is_there() && Sign::File("/dev/null").is_there());
        assert!(!Sign::Program("no-such-program-here").is_there());
        assert!(!Sign::File("/no/such/file").is_there());
    }
}
