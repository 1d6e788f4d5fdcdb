//! Trying one image after the other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ops::ControlFlow;
use std::path::Path;

use berth_config::model::{Arch, FileSource, Image, Kernel};
use berth_image::error::ImageError;
use berth_image::fetch::{FetchSettings, Fetcher, Proxies};
use berth_image::progress::Progress;
use berth_image::select::{ImageFiles, fetch_first};

fn file(location: &Path) -> FileSource {
    FileSource {
        location: location.to_str().unwrap().to_owned(),
        arch: Arch::X8664,
        digest: None,
    }
}

fn image(location: &Path) -> Image {
    Image {
        file: file(location),
        variant: String::new(),
        arch_variant: String::new(),
        kernel: None,
        initrd: None,
    }
}

struct Bench {
    dir: tempfile::TempDir,
    files: ImageFiles,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let instance = dir.path().join("instance");
        std::fs::create_dir(&instance).unwrap();
        let files = ImageFiles {
            image: instance.join("image"),
            kernel: instance.join("kernel"),
            kernel_cmdline: instance.join("kernel.cmdline"),
            initrd: instance.join("initrd"),
        };
        Self { dir, files }
    }

    fn write(&self, name: &str, content: &str) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn fetch(&self, images: &[Image]) -> Result<(), ImageError> {
        let settings = FetchSettings::new(self.dir.path().join("cache"), Proxies::default());
        let watch = &mut |_: &Progress<'_>| ControlFlow::Continue(());
        fetch_first(
            &Fetcher::new(settings),
            images,
            Arch::X8664,
            &self.files,
            watch,
        )
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("instance")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn all_parts_arrive() {
    let bench = Bench::new();
    let mut whole = image(&bench.write("disk.img", "image"));
    whole.kernel = Some(Kernel {
        file: file(&bench.write("vmlinuz", "kernel")),
        cmdline: "root=/dev/vda quiet".to_owned(),
    });
    whole.initrd = Some(file(&bench.write("initrd.gz", "kept packed")));
    bench.fetch(&[whole]).unwrap();
    assert_eq!(
        bench.names(),
        ["image", "initrd", "kernel", "kernel.cmdline"]
    );
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&bench.files.kernel_cmdline), "root=/dev/vda quiet");
    assert_eq!(read(&bench.files.initrd), "kept packed");
}

#[test]
fn a_candidate_that_fails_leaves_no_trace_in_the_next_one() {
    let bench = Bench::new();
    let mut broken = image(&bench.write("first.img", "first"));
    broken.kernel = Some(Kernel {
        file: file(&bench.write("vmlinuz", "kernel")),
        cmdline: "quiet".to_owned(),
    });
    broken.initrd = Some(file(Path::new("/no/such/initrd")));
    let good = image(&bench.write("second.img", "second"));
    bench.fetch(&[broken, good]).unwrap();
    assert_eq!(bench.names(), ["image"]);
    assert_eq!(
        std::fs::read_to_string(&bench.files.image).unwrap(),
        "second"
    );
}

#[test]
fn every_reason_is_told_when_all_fail() {
    let bench = Bench::new();
    let mut wrong = image(&bench.write("wrong.img", "wrong"));
    wrong.file.digest = Some(format!("sha256:{}", "0".repeat(64)));
    let error = bench.fetch(&[image(Path::new("/no/such/image")), wrong.clone()]);
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("- cannot open /no/such/image: No such file"),
        "{text}"
    );
    assert!(
        text.contains("wrong.img has the wrong digest: expected sha256:000"),
        "{text}"
    );
    assert!(bench.names().is_empty());

    let error = bench.fetch(&[wrong]).unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "one is reported as itself: {error:?}"
    );
    let error = bench.fetch(&[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "no image for x86_64: add one to `images` of lima.yaml"
    );
}
