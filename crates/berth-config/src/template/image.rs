//! Bare disk images: told from templates by their names, and turned into the smallest template that boots them.

use crate::model::{Arch, GuestOs};

const IMAGE_SUFFIXES: [&str; 5] = [".img", ".qcow2", ".raw", ".iso", ".ipsw"];
const COMPRESSION_SUFFIXES: [&str; 4] = [".gz", ".xz", ".bz2", ".zstd"];

/// Words in the names of images that say nothing about what is in them.
const FILLER: [&str; 23] = [
    "base",
    "basic",
    "cloud",
    "cloudimg",
    "cloudinit",
    "current",
    "daily",
    "default",
    "generic",
    "genericcloud",
    "kvm",
    "latest",
    "linux",
    "minimal",
    "openstack",
    "release",
    "restore",
    "server",
    "std",
    "stream",
    "uefi",
    "vm",
    "nocloud",
];

/// Words for architectures in the names of images.
const ARCHITECTURES: [(Arch, &[&str]); 6] = [
    (Arch::Aarch64, &["aarch64", "arm64"]),
    (Arch::X8664, &["amd64", "x86_64"]),
    (Arch::Armv7l, &["armhf", "armv7l"]),
    (Arch::Ppc64le, &["ppc64el", "ppc64le"]),
    (Arch::Riscv64, &["riscv64"]),
    (Arch::S390x, &["s390x"]),
];

/// Whether a path or address ends like a disk image.
pub(super) fn is_image(location: &str) -> bool {
    strip_image_suffix(&location.to_ascii_lowercase()).is_some()
}

/// Writes the template that boots an image. Guesses system and architecture from the name, else takes the host's.
pub(super) fn synthesise(location: &str, host: Arch) -> String {
    let name = basename(location).to_ascii_lowercase();
    let os = guess_os(&name);
    let arch = guess_arch(&name).unwrap_or(if os == GuestOs::Darwin {
        Arch::Aarch64
    } else {
        host
    });
    let arch = serde_json::json!(arch);
    let arch = arch.as_str().unwrap_or_default();
    let location = serde_json::Value::from(location);
    format!("os: {os:?}\narch: {arch}\nimages:\n- location: {location}\n  arch: {arch}\n")
}

/// Makes an instance's name of an image's name. The host's own architecture is left out of it.
pub(super) fn clean_name(location: &str, host: Arch) -> String {
    let lower = basename(location).to_ascii_lowercase();
    let stem = strip_image_suffix(&lower).unwrap_or(&lower);
    let stem = stem.strip_prefix("nocloud_").unwrap_or(stem);
    let mut name = stem
        .replace("universalmac_", "macos-")
        .replace("arm64-aarch64", "arm64");
    while let Some(shorter) = without_filler(&name) {
        name = shorter;
    }
    name = without_arch(&without_date(&name), host);
    match name.strip_prefix("arch-") {
        Some(rest) => format!("archlinux-{rest}"),
        None if name == "arch" => "archlinux".to_owned(),
        None => name,
    }
}

fn basename(location: &str) -> &str {
    location.rsplit(['/', '\\']).next().unwrap_or(location)
}

fn strip_image_suffix(lower: &str) -> Option<&str> {
    let bare = COMPRESSION_SUFFIXES
        .iter()
        .find_map(|suffix| lower.strip_suffix(suffix))
        .unwrap_or(lower);
    IMAGE_SUFFIXES
        .iter()
        .find_map(|suffix| bare.strip_suffix(suffix))
}

fn guess_os(lower: &str) -> GuestOs {
    if lower.contains("freebsd") {
        GuestOs::FreeBSD
    } else if lower.contains("macos") || lower.contains(".ipsw") {
        GuestOs::Darwin
    } else {
        GuestOs::Linux
    }
}

fn guess_arch(lower: &str) -> Option<Arch> {
    ARCHITECTURES
        .iter()
        .find(|(_, words)| words.iter().any(|word| lower.contains(word)))
        .map(|(arch, _)| *arch)
}

/// Takes one filler word out, with the separator before it.
fn without_filler(name: &str) -> Option<String> {
    name.match_indices(['-', '_', '.']).find_map(|(start, _)| {
        let rest = &name[start + 1..];
        let end = rest.find(['-', '_', '.']).unwrap_or(rest.len());
        FILLER
            .contains(&&rest[..end])
            .then(|| format!("{}{}", &name[..start], &rest[end..]))
    })
}

fn without_arch(name: &str, arch: Arch) -> String {
    let words = ARCHITECTURES
        .iter()
        .filter(|(known, _)| *known == arch)
        .flat_map(|(_, words)| *words);
    let mut name = name.to_owned();
    for word in words {
        for separator in ['-', '_', '.'] {
            name = name.replace(&format!("{separator}{word}"), "");
        }
    }
    name
}

/// Takes a date stamp `-20YYMMDD`, with a counter after a dot, off the end or the middle.
fn without_date(name: &str) -> String {
    let stamp = name.match_indices("-20").find_map(|(start, _)| {
        let rest = &name[start + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits != 8 {
            return None;
        }
        let mut end = start + 1 + digits;
        if let Some(counter) = name[end..].strip_prefix('.') {
            let length = counter.bytes().take_while(u8::is_ascii_digit).count();
            end += if length > 0 { 1 + length } else { 0 };
        }
        Some((start, end))
    });
    match stamp {
        Some((start, end)) => format!("{}{}", &name[..start], &name[end..]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_look_like_images() {
        for location in [
            "a.yaml",
            "a",
            "a.img.yaml",
            "img",
            "a.xz",
            "a.qcow2.zip",
            "https://x/img/",
        ] {
            assert!(!is_image(location), "{location:?}");
        }
        for location in [
            "a.img",
            "A.QCOW2",
            "a.raw.xz",
            "a.iso",
            "a.ipsw",
            "https://x/a.img.bz2",
        ] {
            assert!(is_image(location), "{location:?}");
        }
    }

    #[test]
    fn names_of_images_become_names_of_instances() {
        for (image, name) in [
            ("debian-12-genericcloud-arm64.qcow2", "debian-12-arm64"),
            ("debian-12-genericcloud-amd64.qcow2", "debian-12"),
            (
                "https://x/y/noble-server-cloudimg-riscv64.img",
                "noble-riscv64",
            ),
            (
                "Fedora-Cloud-Base-Generic-41-1.4.x86_64.img",
                "fedora-41-1.4",
            ),
            ("nocloud_alpine-3.20.0.qcow2", "alpine-3.20.0"),
            (
                "AlmaLinux-9-GenericCloud-9.4-20240805.0.raw",
                "almalinux-9-9.4",
            ),
            ("Arch-Linux-basic-20241001.qcow2.xz", "archlinux"),
        ] {
            assert_eq!(clean_name(image, Arch::X8664), name);
        }
    }

    #[test]
    fn templates_of_images_say_what_the_name_says() {
        let freebsd = synthesise("/x/FreeBSD-14-arm64.raw", Arch::X8664);
        assert_eq!(
            freebsd,
            "os: FreeBSD\narch: aarch64\nimages:\n- location: \"/x/FreeBSD-14-arm64.raw\"\n  arch: aarch64\n"
        );
        let unknown = synthesise("/x/a\"b.img", Arch::Riscv64);
        assert!(unknown.contains("arch: riscv64"), "{unknown}");
        assert!(unknown.contains(r#""/x/a\"b.img""#), "{unknown}");
    }
}
