//! What a QEMU binary can do: asked once, then remembered for as long as the file stays the same.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use berth_config::model::Arch;
use berth_config::platform::{HostOs, HostPlatform};
use berth_image::digest::sha256_hex;
use berth_image::error::with_causes;
use berth_image::staged::write_small;
use berth_process::escape::escape_untrusted;
use berth_process::spawn::Spec;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::DriverError;
use crate::qemu::arch;
use crate::qemu::program::Program;

/// Changes when [`Capabilities`] gets new fields: what an older build remembered is asked again.
const FORMAT: u32 = 1;
/// Longest output that is read.
const OUTPUT_MAX: u64 = 1 << 20;
/// One question to a healthy QEMU takes some 50 ms.
const PATIENCE: Duration = Duration::from_secs(30);

/// A QEMU version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Reads the first three numbers of `7.2.22 (Debian …)`, `8.1.0-rc1`, `9.0`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('v');
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse::<u32>);
        let first = numbers.next()?.ok()?;
        let mut next = || numbers.next().map_or(Some(0), Result::ok);
        Some(Self(first, next()?, next()?))
    }
}

/// What a QEMU binary said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Its version; `None` when it did not say one that is understood.
    pub version: Option<Version>,
    /// `-accel help`.
    pub accels: BTreeSet<String>,
    /// `-netdev help`.
    pub netdevs: BTreeSet<String>,
    /// `-cpu help`; empty when it did not answer.
    pub cpus: BTreeSet<String>,
    /// Facts of the machine that are as lasting as the binary: whether its CPU may be passed through (Apple).
    pub host_cpu_allowed: bool,
}

impl Capabilities {
    /// The version, or the oldest one where it is unknown.
    #[must_use]
    pub fn version_or_oldest(&self) -> Version {
        self.version.unwrap_or(Version(0, 0, 0))
    }
}

/// A remembered answer and what it belongs to.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    format: u32,
    program: PathBuf,
    leading: Vec<String>,
    size: u64,
    modified_ns: u128,
    capabilities: Capabilities,
}

/// The capabilities if they are remembered. Reads two files' metadata and one small file; runs nothing.
#[must_use]
pub(super) fn remembered(program: &Program, cache_dir: &Path) -> Option<Capabilities> {
    let text = std::fs::read(cache_file(program, cache_dir)).ok()?;
    let known: Remembered = serde_json::from_slice(&text).ok()?;
    let (size, modified_ns) = fingerprint(&std::fs::metadata(&program.path).ok()?)?;
    let same = known.format == FORMAT
        && known.program == program.path
        && known.leading == program.leading
        && (known.size, known.modified_ns) == (size, modified_ns);
    same.then_some(known.capabilities)
}

/// The capabilities, asked if they are not remembered, and remembered then.
pub(super) async fn capabilities(
    program: &Program,
    guest: Arch,
    host: &HostPlatform,
    cache_dir: &Path,
) -> Result<Capabilities, DriverError> {
    if let Some(capabilities) = remembered(program, cache_dir) {
        return Ok(capabilities);
    }
    // Before asking: a binary replaced in the meantime is asked again next time.
    let metadata = std::fs::metadata(&program.path).ok();
    let capabilities = ask(program, guest, host).await?;
    if let Some((size, modified_ns)) = metadata.as_ref().and_then(fingerprint) {
        let known = Remembered {
            format: FORMAT,
            program: program.path.clone(),
            leading: program.leading.clone(),
            size,
            modified_ns,
            capabilities: capabilities.clone(),
        };
        if let Err(error) = remember(&known, &cache_file(program, cache_dir)) {
            tracing::warn!(%error, "What QEMU can do is not remembered; the next start asks again.");
        }
    }
    Ok(capabilities)
}

fn cache_file(program: &Program, cache_dir: &Path) -> PathBuf {
    let key = format!("{}\0{}", program.path.display(), program.leading.join("\0"));
    let name = format!("{}.json", sha256_hex(key.as_bytes()));
    cache_dir.join("qemu-capabilities").join(name)
}

fn fingerprint(metadata: &Metadata) -> Option<(u64, u128)> {
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((metadata.len(), modified.as_nanos()))
}

fn remember(known: &Remembered, path: &Path) -> Result<(), DriverError> {
    let directory = path.parent().unwrap_or(path);
    std::fs::create_dir_all(directory).map_err(|source| DriverError::Io {
        verb: "create",
        path: directory.to_owned(),
        source,
    })?;
    let text = serde_json::to_vec_pretty(known).unwrap_or_default();
    Ok(write_small(path, &text)?)
}

/// Asks all questions at once: each is a process of its own.
async fn ask(
    program: &Program,
    guest: Arch,
    host: &HostPlatform,
) -> Result<Capabilities, DriverError> {
    let cpu_help = ["-machine", arch::machine(guest), "-cpu", "help"];
    let (version, accels, netdevs, cpus, host_cpu_allowed) = tokio::join!(
        question(program, &["--version"]),
        question(program, &["-M", "none", "-accel", "help"]),
        question(program, &["-M", "none", "-netdev", "help"]),
        question(program, &cpu_help),
        host_cpu_allowed(host),
    );
    let optional = |answer: Result<String, DriverError>| match answer {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(%error, "QEMU did not answer a question about itself.");
            String::new()
        }
    };
    Ok(Capabilities {
        version: parse_version(&version?),
        accels: lines(&accels?),
        netdevs: lines(&optional(netdevs)),
        cpus: cpu_names(&optional(cpus)),
        host_cpu_allowed,
    })
}

async fn question(program: &Program, args: &[&str]) -> Result<String, DriverError> {
    let failed = |why: String| DriverError::Program {
        program: program.path.display().to_string(),
        why: format!("cannot be asked `{}`: {why}", args.join(" ")),
    };
    let mut child = Spec::new(&program.path)
        .args(&program.leading)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop()
        .spawn()
        .map_err(|error| failed(with_causes(&error)))?;
    let stdout = child
        .take_stdout()
        .map_err(|error| failed(error.to_string()))?;
    let stderr = child
        .take_stderr()
        .map_err(|error| failed(error.to_string()))?;
    let answer = async { tokio::join!(collect(stdout), collect(stderr), child.wait()) };
    let (out, err, exit) = tokio::time::timeout(PATIENCE, answer)
        .await
        .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?;
    if !exit.success() {
        let words = escape_untrusted(err.trim_ascii());
        return Err(failed(format!("{}: {words}", exit.describe())));
    }
    // Some versions print help to stderr.
    let text = if out.trim_ascii().is_empty() {
        err
    } else {
        out
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads a stream to its end, and keeps the beginning of it.
async fn collect(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(OUTPUT_MAX).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}

/// On Apple chips with SME, QEMU cannot pass the CPU through.
async fn host_cpu_allowed(host: &HostPlatform) -> bool {
    if host.os != HostOs::Darwin {
        return true;
    }
    let sysctl = Program {
        path: PathBuf::from("/usr/sbin/sysctl"),
        leading: Vec::new(),
    };
    let answer = question(&sysctl, &["-n", "hw.optional.arm.FEAT_SME"]).await;
    answer.map_or(true, |text| text.trim() != "1")
}

fn parse_version(text: &str) -> Option<Version> {
    let rest = text
        .lines()
        .next()?
        .strip_prefix("QEMU emulator version ")?;
    Version::parse(rest)
}

/// Lines that are one word: the items of `-accel help` and `-netdev help`.
fn lines(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains(char::is_whitespace))
        .map(str::to_owned)
        .collect()
}

/// Names of `-cpu help`: the first word of a line, or the second where an architecture's name (`x86`, `PowerPC`, `s390`) comes
/// first. Compared as whole words, never searched for.
fn cpu_names(text: &str) -> BTreeSet<String> {
    text.lines()
        .take_while(|line| !line.starts_with("Recognized"))
        .flat_map(|line| line.split_whitespace().take(2))
        .map(str::to_owned)
        .collect()
}

/// Checks the version against what this host needs and what lima.yaml demands; a warning when it is merely old.
pub(super) fn check_version(
    version: Option<Version>,
    host: &HostPlatform,
    minimum: Option<&str>,
    program: &Path,
) -> Result<Option<String>, DriverError> {
    let Some(version) = version else {
        let name = program.display();
        return Ok(Some(format!(
            "the version of {name} is not understood; it is taken for an old one"
        )));
    };
    let (hard, soft) = match (host.os, host.arch) {
        (HostOs::Darwin, Arch::Aarch64) => (Version(8, 2, 1), Version(8, 2, 1)),
        (HostOs::Darwin, _) => (Version(7, 0, 0), Version(8, 2, 1)),
        (HostOs::Windows, _) => (Version(11, 0, 0), Version(11, 0, 0)),
        (HostOs::Linux | HostOs::Other, _) => (Version(4, 0, 0), Version(6, 2, 0)),
    };
    let too_old = |needed: Version, whose: &str| DriverError::Program {
        program: program.display().to_string(),
        why: format!("is QEMU {version}, but {whose} {needed} or later: install a newer QEMU"),
    };
    if version < hard {
        return Err(too_old(hard, "berth needs"));
    }
    if let Some(minimum) = minimum.and_then(Version::parse)
        && version < minimum
    {
        return Err(too_old(minimum, "`vmOpts.qemu.minimumVersion` demands"));
    }
    Ok((version < soft).then(|| format!("QEMU {version} is old; {soft} or later is recommended")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::platform;

    #[test]
    fn versions() {
        for (text, want) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright",
                Some(Version(7, 2, 22)),
            ),
            ("QEMU emulator version 8.1.0-rc1", Some(Version(8, 1, 0))),
            ("QEMU emulator version 9.0", Some(Version(9, 0, 0))),
            ("QEMU emulator version x", None),
            ("something else 7.2.0", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), want, "{text}");
        }
        assert!(Version(10, 0, 0) > Version(9, 2, 4));
    }

    #[test]
    fn a_name_inside_another_word_does_not_count() {
        let cpus = cpu_names(
            "Available CPUs:\nx86 486                   (alias configured by machine type)\n\
             x86 max                   (Enables all features supported by the accelerator in the current host)\n\
             x86 vhost-user\n\nRecognized CPUID flags:\n  3dnow host\n",
        );
        assert!(cpus.contains("486") && cpus.contains("max"));
        assert!(!cpus.contains("host") && !cpus.contains("user"));
        let arm = cpu_names("Available CPUs:\n  cortex-a57\n  host\n  max\n");
        assert!(arm.contains("host") && arm.contains("cortex-a57"));
        let accels = lines("Accelerators supported in QEMU binary:\ntcg\nkvm\n");
        assert_eq!(accels.into_iter().collect::<Vec<_>>(), ["kvm", "tcg"]);
    }

    #[test]
    fn minimum_versions() {
        use Arch::{Aarch64, X8664};
        use HostOs::{Darwin, Linux, Windows};
        let path = Path::new("/usr/bin/qemu-system-x86_64");
        let check = |version, os, arch, minimum| {
            check_version(Some(version), &platform(os, arch), minimum, path)
        };
        assert_eq!(check(Version(7, 2, 22), Linux, X8664, None).unwrap(), None);
        assert!(
            check(Version(6, 1, 0), Linux, X8664, None)
                .unwrap()
                .unwrap()
                .contains("6.2.0 or later")
        );
        for (version, os, arch, minimum, words) in [
            (
                Version(3, 1, 0),
                Linux,
                X8664,
                None,
                "is QEMU 3.1.0, but berth needs 4.0.0 or later",
            ),
            (Version(8, 2, 0), Darwin, Aarch64, None, "needs 8.2.1"),
            (Version(6, 0, 0), Darwin, X8664, None, "needs 7.0.0"),
            (Version(10, 0, 0), Windows, X8664, None, "needs 11.0.0"),
            (
                Version(7, 2, 22),
                Linux,
                X8664,
                Some("8.0.0"),
                "`vmOpts.qemu.minimumVersion` demands 8.0.0",
            ),
        ] {
            let text = check(version, os, arch, minimum).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(
            check(Version(7, 2, 22), Linux, X8664, Some("7.2.0")).unwrap(),
            None
        );
        let unknown = check_version(None, &platform(Linux, X8664), None, path).unwrap();
        assert!(unknown.unwrap().contains("not understood"));
    }
}
