//! Which image of lima.yaml an instance starts from.

use std::path::{Path, PathBuf};

use berth_config::model::{Arch, FileSource, Image};

use crate::digest::Digest;
use crate::error::ImageError;
use crate::fetch::{Fetcher, Packing, Source};
use crate::progress::Watch;
use crate::staged::write_small;

/// Where the parts of an image go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFiles {
    /// The image; there when everything is.
    pub image: PathBuf,
    /// Kernel to boot directly.
    pub kernel: PathBuf,
    /// Its command line.
    pub kernel_cmdline: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
}

/// The images that may be used, in order: those of the guest's architecture, and of the variant that the first of them has.
pub fn candidates(images: &[Image], arch: Arch) -> impl Iterator<Item = &Image> {
    let mut fitting = images.iter().filter(move |image| image.file.arch == arch);
    let first = fitting.next();
    first.into_iter().chain(fitting.filter(move |image| {
        first.is_some_and(|first| {
            (&first.variant, &first.arch_variant) == (&image.variant, &image.arch_variant)
        })
    }))
}

/// Fetches the first candidate that can be had completely (kernel and initrd included) into `files`. Blocks.
///
/// For an instance that has neither image nor disk. What a failed candidate brought is removed.
pub fn fetch_first(
    fetcher: &Fetcher,
    images: &[Image],
    arch: Arch,
    files: &ImageFiles,
    watch: &mut Watch<'_>,
) -> Result<(), ImageError> {
    let mut errors = Vec::new();
    for image in candidates(images, arch) {
        match fetch_all(fetcher, image, files, watch) {
            Ok(()) => return Ok(()),
            Err(error) => {
                remove_all(files)?;
                // Neither a person who changed their mind nor a full disk is helped by trying on.
                if matches!(error, ImageError::Cancelled { .. } | ImageError::Io { .. })
                    && !is_missing(&error)
                {
                    return Err(error);
                }
                tracing::warn!(location = image.file.location, %error, "An image cannot be had; the next one is tried.");
                errors.push(error);
            }
        }
    }
    match errors.len() {
        0 => Err(ImageError::NoImageFor { arch }),
        1 => Err(errors.remove(0)),
        _ => Err(ImageError::AllFailed(errors)),
    }
}

/// A local image that is not there is no reason to give up on the others.
fn is_missing(error: &ImageError) -> bool {
    matches!(error, ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// The image comes last: when it is there, its kernel is too.
fn fetch_all(
    fetcher: &Fetcher,
    image: &Image,
    files: &ImageFiles,
    watch: &mut Watch<'_>,
) -> Result<(), ImageError> {
    let mut fetch = |file: &FileSource, destination: &Path, packing| {
        let digest = file
            .digest
            .as_deref()
            .map(str::parse::<Digest>)
            .transpose()?;
        let source = Source {
            location: &file.location,
            digest: digest.as_ref(),
        };
        fetcher.fetch_to(source, destination, packing, watch)
    };
    if let Some(kernel) = &image.kernel {
        fetch(&kernel.file, &files.kernel, Packing::Unpack)?;
        if !kernel.cmdline.is_empty() {
            write_small(&files.kernel_cmdline, kernel.cmdline.as_bytes())?;
        }
    }
    if let Some(initrd) = &image.initrd {
        fetch(initrd, &files.initrd, Packing::Keep)?;
    }
    fetch(&image.file, &files.image, Packing::Unpack)
}

fn remove_all(files: &ImageFiles) -> Result<(), ImageError> {
    for path in [
        &files.image,
        &files.kernel,
        &files.kernel_cmdline,
        &files.initrd,
    ] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ImageError::io("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(location: &str, arch: Arch, variant: &str) -> Image {
        Image {
            file: FileSource {
                location: location.to_owned(),
                arch,
                digest: None,
            },
            variant: variant.to_owned(),
            arch_variant: String::new(),
            kernel: None,
            initrd: None,
        }
    }

    #[test]
    fn the_first_image_of_the_architecture_sets_the_variant() {
        let images = [
            image("arm", Arch::Aarch64, ""),
            image("small", Arch::X8664, "minimal"),
            image("big", Arch::X8664, ""),
            image("small, mirror", Arch::X8664, "minimal"),
        ];
        let chosen: Vec<_> = candidates(&images, Arch::X8664)
            .map(|image| image.file.location.as_str())
            .collect();
        assert_eq!(chosen, ["small", "small, mirror"]);
        assert_eq!(candidates(&images, Arch::S390x).count(), 0);
    }
}
