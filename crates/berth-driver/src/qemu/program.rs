//! Which program is QEMU, and which options the user has given it already.

use std::collections::BTreeSet;
use std::path::PathBuf;

use berth_config::model::Arch;

use crate::error::DriverError;
use crate::programs::{get, look_up};
use crate::qemu::arch::binary_suffix;

/// QEMU for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments that come first, from `QEMU_SYSTEM_<ARCH>`.
    pub leading: Vec<String>,
}

impl Program {
    /// `QEMU_SYSTEM_<ARCH>` (split as a shell would), else `qemu-system-<arch>` of `PATH`.
    pub(super) fn find(arch: Arch, env: &[(String, String)]) -> Result<Self, DriverError> {
        let suffix = binary_suffix(arch);
        let default = format!("qemu-system-{suffix}");
        let variable = format!("QEMU_SYSTEM_{}", suffix.to_uppercase());
        let Some(value) = get(env, &variable).filter(|value| !value.is_empty()) else {
            let path = look_up(&default, env).ok_or_else(|| missing(&default, arch))?;
            return Ok(Self {
                path,
                leading: Vec::new(),
            });
        };
        let bad = |why: &str| DriverError::Program {
            program: format!("{variable}={value}"),
            why: why.to_owned(),
        };
        let mut words = shell_words::split(value)
            .map_err(|_| bad("its quotes do not match"))?
            .into_iter();
        let word = words.next().ok_or_else(|| bad("it names no program"))?;
        let path = look_up(&word, env).ok_or_else(|| bad("there is no such program"))?;
        Ok(Self {
            path,
            leading: words.collect(),
        })
    }

    /// Names of the options among the leading arguments, without dashes.
    pub(super) fn given(&self) -> BTreeSet<String> {
        self.leading
            .iter()
            .filter_map(|word| {
                let name = word.strip_prefix('-')?;
                Some(name.strip_prefix('-').unwrap_or(name).to_owned())
            })
            .collect()
    }
}

fn missing(program: &str, arch: Arch) -> DriverError {
    let package = match arch {
        Arch::X8664 => "qemu-system-x86",
        Arch::Aarch64 | Arch::Armv7l => "qemu-system-arm",
        Arch::Ppc64le => "qemu-system-ppc",
        Arch::Riscv64 => "qemu-system-misc",
        Arch::S390x => "qemu-system-s390x",
    };
    DriverError::Program {
        program: program.to_owned(),
        why: format!(
            "not found in PATH; install it (Debian, Ubuntu: `apt install {package}`; Fedora: `dnf install {program}-core`; \
             macOS: `brew install qemu`)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        let error = Program::find(Arch::Aarch64, &env(&[("PATH", "/no/such/dir")])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("qemu-system-aarch64: not found in PATH"),
            "{text}"
        );
        assert!(text.contains("apt install qemu-system-arm"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn the_override_is_split_like_a_shell_does() {
        let env = env(&[
            ("PATH", "/usr/bin:/bin"),
            ("QEMU_SYSTEM_ARM", "sh -m 512 --cpu 'a b' -display=none x"),
        ]);
        let program = Program::find(Arch::Armv7l, &env).unwrap();
        assert!(program.path.ends_with("sh"));
        assert_eq!(
            program.leading,
            ["-m", "512", "--cpu", "a b", "-display=none", "x"]
        );
        let given: Vec<_> = program.given().into_iter().collect();
        assert_eq!(given, ["cpu", "display=none", "m"]);
    }

    #[test]
    fn a_bad_override_names_itself() {
        for (value, why) in [
            ("'open", "quotes do not match"),
            ("   ", "names no program"),
            ("/no/such/qemu -m 1", "no such program"),
        ] {
            let error =
                Program::find(Arch::X8664, &env(&[("QEMU_SYSTEM_X86_64", value)])).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("QEMU_SYSTEM_X86_64=") && text.contains(why),
                "{text}"
            );
        }
    }
}
