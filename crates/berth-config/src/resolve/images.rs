//! Files to fetch: images, kernels, archives.

use crate::model::{Arch, Containerd, FileSource, GuestOs, Image, Kernel};
use crate::platform::{HostOs, HostPlatform};

use super::Resolver;

/// The archives that Lima 2.2 installs containerd from.
const NERDCTL_ARCHIVES: [(Arch, &str, &str); 2] = [
    (
        Arch::X8664,
        "https://github.com/containerd/nerdctl/releases/download/v2.3.5/nerdctl-full-2.3.5-linux-amd64.tar.gz",
        "sha256:b697295c623639734aaab737523c808fd3cc8d3046039fd94fff1744e4c317aa",
    ),
    (
        Arch::Aarch64,
        "https://github.com/containerd/nerdctl/releases/download/v2.3.5/nerdctl-full-2.3.5-linux-arm64.tar.gz",
        "sha256:6e4b687f1d138e750a3c8372abc0f81d3d7490b6359c48c0562fc7dfe98859b2",
    ),
];

impl Resolver<'_> {
    pub(super) fn images(&mut self, arch: Arch) -> Vec<Image> {
        let entries = self.report.concatenate("images", |yaml| &yaml.images);
        let mut images = Vec::new();
        for (index, image) in entries.into_iter().enumerate() {
            let key = format!("images[{index}]");
            let file = self.file(
                &key,
                image.location.as_deref(),
                image.arch.as_deref(),
                image.digest.as_deref(),
                arch,
            );
            let kernel = image.kernel.as_ref().map(|kernel| Kernel {
                file: self.file(
                    &format!("{key}.kernel"),
                    kernel.location.as_deref(),
                    kernel.arch.as_deref(),
                    kernel.digest.as_deref(),
                    file.arch,
                ),
                cmdline: kernel.cmdline.clone().unwrap_or_default(),
            });
            let initrd = image.initrd.as_ref().map(|initrd| {
                self.file(
                    &format!("{key}.initrd"),
                    initrd.location.as_deref(),
                    initrd.arch.as_deref(),
                    initrd.digest.as_deref(),
                    file.arch,
                )
            });
            images.push(Image {
                file,
                variant: image.variant.clone().unwrap_or_default(),
                arch_variant: image.arch_variant.clone().unwrap_or_default(),
                kernel,
                initrd,
            });
        }
        images
    }

    pub(super) fn containerd(&mut self, os: GuestOs, arch: Arch) -> Containerd {
        let entries = self
            .report
            .concatenate("containerd.archives", |yaml| &yaml.containerd.archives);
        let mut archives = Vec::new();
        for (index, archive) in entries.into_iter().enumerate() {
            archives.push(self.file(
                &format!("containerd.archives[{index}]"),
                archive.location.as_deref(),
                archive.arch.as_deref(),
                archive.digest.as_deref(),
                arch,
            ));
        }
        if archives.is_empty() {
            archives = NERDCTL_ARCHIVES.map(built_in).into();
        }
        let has_archive = os == GuestOs::Linux && matches!(arch, Arch::X8664 | Arch::Aarch64);
        Containerd {
            system: self.flag(|yaml| yaml.containerd.system, false),
            user: self.flag(|yaml| yaml.containerd.user, has_archive),
            archives,
        }
    }

    /// Reads the keys of a file to fetch.
    pub(super) fn file(
        &mut self,
        key: &str,
        location: Option<&str>,
        arch: Option<&str>,
        digest: Option<&str>,
        default_arch: Arch,
    ) -> FileSource {
        FileSource {
            location: self.location(&format!("{key}.location"), location.unwrap_or_default()),
            arch: match arch {
                None | Some("" | "default") => default_arch,
                Some(word) => self
                    .word(&format!("{key}.arch"), word)
                    .unwrap_or(default_arch),
            },
            digest: digest
                .filter(|digest| !digest.is_empty())
                .map(ToOwned::to_owned),
        }
    }

    fn location(&mut self, key: &str, location: &str) -> String {
        if location.is_empty() {
            self.report.refuse(key, "missing: write a URL or a path");
        }
        if location.contains("://") {
            return location.to_owned();
        }
        self.expand_home(key, location)
    }

    /// Puts the user's home directory in the place of a leading `~`.
    pub(super) fn expand_home(&mut self, key: &str, path: &str) -> String {
        let Some(rest) = path.strip_prefix('~') else {
            return path.to_owned();
        };
        if !(rest.is_empty() || rest.starts_with(['/', '\\'])) {
            self.report.refuse(
                key,
                format!("{path:?} names the home directory of another user: write the full path"),
            );
        }
        format!("{}{rest}", self.ctx.platform.home.to_string_lossy())
    }
}

fn built_in((arch, location, digest): (Arch, &str, &str)) -> FileSource {
    FileSource {
        location: location.to_owned(),
        arch,
        digest: Some(digest.to_owned()),
    }
}

/// Whether a host path is absolute on that host, whatever this machine is.
pub(crate) fn is_absolute(platform: &HostPlatform, path: &str) -> bool {
    match platform.os {
        HostOs::Windows => {
            let bytes = path.as_bytes();
            let drive = bytes.len() > 2
                && bytes[0].is_ascii_alphabetic()
                && bytes[1] == b':'
                && matches!(bytes[2], b'\\' | b'/');
            drive || path.starts_with(r"\\")
        }
        _ => path.starts_with('/'),
    }
}
