//! Images, kernels, archives, and their digests.

use crate::model::{Config, FileSource};

use super::Findings;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    if config.images.is_empty() {
        findings.add(
            "images",
            "must have at least one entry: name a disk image to boot",
        );
    }
    for (index, image) in config.images.iter().enumerate() {
        let key = format!("images[{index}]");
        check_file(&key, &image.file, findings);
        let kernel = image.kernel.as_ref().map(|kernel| &kernel.file);
        for (name, part) in [("kernel", kernel), ("initrd", image.initrd.as_ref())] {
            let Some(part) = part else { continue };
            let key = format!("{key}.{name}");
            check_file(&key, part, findings);
            if part.arch != image.file.arch {
                findings.add(
                    format!("{key}.arch"),
                    "must be the architecture of the image it boots",
                );
            }
        }
    }
    for (index, image) in config.firmware.images.iter().enumerate() {
        check_file(&format!("firmware.images[{index}]"), &image.file, findings);
    }
    if config.containerd.system || config.containerd.user {
        for (index, archive) in config.containerd.archives.iter().enumerate() {
            check_file(&format!("containerd.archives[{index}]"), archive, findings);
        }
    }
}

fn check_file(key: &str, file: &FileSource, findings: &mut Findings) {
    if let Some(Err(why)) = file.digest.as_deref().map(check_digest) {
        findings.add(format!("{key}.digest"), why);
    }
}

/// Checks `algorithm:hex` as OCI defines it.
fn check_digest(digest: &str) -> Result<(), String> {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return Err(format!(
            "{digest:?} is no digest: write `sha256:` and 64 hexadecimal digits"
        ));
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => {
            return Err(format!(
                "algorithm {algorithm:?} is not supported: use sha256, sha384 or sha512"
            ));
        }
    };
    let is_hex = hex
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if hex.len() == length && is_hex {
        return Ok(());
    }
    Err(format!(
        "a {algorithm} digest has {length} hexadecimal digits in lower case, this has {} characters",
        hex.chars().count()
    ))
}
