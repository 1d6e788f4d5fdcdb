//! The host as it is: read once, handed down as a value.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use berth_config::model::Arch;
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::size::Size;

use crate::environment::Environment;
use crate::sys;

/// The host cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlatformError {
    /// A CPU that no guest architecture corresponds to.
    #[error("berth does not know the CPU architecture {0:?} of this computer")]
    Architecture(&'static str),
    /// Nobody says where the user's files are.
    #[error("cannot find the home directory: set HOME")]
    NoHome,
}

/// Looks at the machine, the account and the environment.
pub(crate) fn detect(env: &Environment) -> Result<HostPlatform, PlatformError> {
    let account = sys::account();
    let home = home_directory(env).ok_or(PlatformError::NoHome)?;
    let from_env = || ["LOGNAME", "USER"].iter().find_map(|name| env.get(name));
    let (user, user_comment) = match account {
        Some(account) => (account.name, account.comment),
        None => (from_env().unwrap_or_default().to_owned(), String::new()),
    };
    Ok(HostPlatform {
        os: host_os(),
        arch: architecture(std::env::consts::ARCH)?,
        os_version: sys::os_version(),
        cpus: cpus(),
        memory: Size::from_bytes(sys::physical_memory()),
        home,
        user,
        user_comment,
        uid: sys::user_id(),
        machine_id: sys::machine_id().unwrap_or_else(sys::host_name),
        timezone: timezone(Path::new("/etc")),
        temp_dir: temporary_directory(),
    })
}

/// `HOME`, or what the system knows of this account.
pub(crate) fn home_directory(env: &Environment) -> Option<PathBuf> {
    match env.get("HOME") {
        Some(home) if !home.is_empty() => Some(PathBuf::from(home)),
        _ => sys::account().map(|account| account.home),
    }
}

/// The user's directory for caches, where Lima keeps its downloads in `lima`.
pub(crate) fn cache_directory(env: &Environment, platform: &HostPlatform) -> PathBuf {
    let absolute = |name| {
        env.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let user_cache = match platform.os {
        HostOs::Darwin => platform.home.join("Library/Caches"),
        HostOs::Windows => {
            absolute("LocalAppData").unwrap_or_else(|| platform.home.join("AppData").join("Local"))
        }
        HostOs::Linux | HostOs::Other => {
            absolute("XDG_CACHE_HOME").unwrap_or_else(|| platform.home.join(".cache"))
        }
    };
    user_cache.join("lima")
}

fn host_os() -> HostOs {
    match std::env::consts::OS {
        "linux" => HostOs::Linux,
        "macos" => HostOs::Darwin,
        "windows" => HostOs::Windows,
        _ => HostOs::Other,
    }
}

fn architecture(name: &'static str) -> Result<Arch, PlatformError> {
    match name {
        "x86_64" => Ok(Arch::X8664),
        "aarch64" => Ok(Arch::Aarch64),
        "arm" => Ok(Arch::Armv7l),
        "powerpc64" => Ok(Arch::Ppc64le),
        "riscv64" => Ok(Arch::Riscv64),
        "s390x" => Ok(Arch::S390x),
        other => Err(PlatformError::Architecture(other)),
    }
}

/// Lima's word for an architecture, as file names and tables have it.
pub(crate) fn arch_word(arch: Arch) -> &'static str {
    match arch {
        Arch::X8664 => "x86_64",
        Arch::Aarch64 => "aarch64",
        Arch::Armv7l => "armv7l",
        Arch::Ppc64le => "ppc64le",
        Arch::Riscv64 => "riscv64",
        Arch::S390x => "s390x",
    }
}

fn cpus() -> u32 {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cpus).unwrap_or(u32::MAX)
}

/// The IANA name: from the link `localtime`, which systemd and macOS keep, else from Debian's file `timezone`.
fn timezone(etc: &Path) -> String {
    let link = fs::canonicalize(etc.join("localtime")).unwrap_or_default();
    let link = link.to_string_lossy();
    // macOS has `zoneinfo.default` behind some links.
    let from_link = link
        .split_once("/zoneinfo/")
        .or_else(|| link.split_once("/zoneinfo.default/"))
        .map(|(_, name)| name.to_owned());
    from_link.unwrap_or_else(|| {
        let file = fs::read_to_string(etc.join("timezone")).unwrap_or_default();
        file.trim().to_owned()
    })
}

/// `/tmp` wherever there is one: paths below it must stay short enough for a socket.
fn temporary_directory() -> PathBuf {
    if host_os() == HostOs::Windows {
        std::env::temp_dir()
    } else {
        PathBuf::from("/tmp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_the_words_of_lima_yaml() {
        use Arch::{Aarch64, Armv7l, Ppc64le, Riscv64, S390x, X8664};
        for arch in [Aarch64, Armv7l, Ppc64le, Riscv64, S390x, X8664] {
            assert_eq!(serde_json::to_value(arch).unwrap(), arch_word(arch));
        }
    }

    #[test]
    #[cfg(unix)]
    fn the_time_zone_is_the_target_of_localtime() {
        let root = tempfile::tempdir().unwrap();
        let zone = root
            .path()
            .join("usr/share/zoneinfo/America/Argentina/Salta");
        fs::create_dir_all(zone.parent().unwrap()).unwrap();
        fs::write(&zone, "TZif").unwrap();
        std::os::unix::fs::symlink(&zone, root.path().join("localtime")).unwrap();
        fs::write(root.path().join("timezone"), "Europe/Rome\n").unwrap();
        assert_eq!(timezone(root.path()), "America/Argentina/Salta");
    }

    #[test]
    fn without_a_link_the_file_timezone_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(timezone(root.path()), "");
        fs::write(root.path().join("localtime"), "TZif").unwrap();
        fs::write(root.path().join("timezone"), "Europe/Rome\n").unwrap();
        assert_eq!(timezone(root.path()), "Europe/Rome");
    }

    /// `id` and `nproc` are not ours.
    #[test]
    fn agrees_with_the_tools_of_the_system() {
        let env = Environment::from_pairs([("HOME".to_owned(), "/somewhere".to_owned())]);
        let platform = detect(&env).unwrap();
        let said = |program: &str, argument: &[&str]| {
            let output = std::process::Command::new(program)
                .args(argument)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(platform.home, Path::new("/somewhere"));
        assert_eq!(platform.user, said("id", &["-un"]));
        assert_eq!(platform.uid.to_string(), said("id", &["-u"]));
        assert_eq!(platform.cpus.to_string(), said("nproc", &[]));
        assert!(platform.memory.bytes() > 64 << 20, "{:?}", platform.memory);
    }
}
