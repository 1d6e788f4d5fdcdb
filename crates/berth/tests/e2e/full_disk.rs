//! LIMA_HOME lies on a file system that is full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::instance::Home;
use crate::outcome::assert_says;

/// A small file system, for as long as this lives.
pub(crate) struct TinyDisk(PathBuf);

impl TinyDisk {
    #[track_caller]
    pub(crate) fn mount(at: &Path, kibibytes: u32) -> Self {
        let size = std::ffi::CString::new(format!("size={kibibytes}k")).expect("no NUL");
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), size.as_c_str())
            .expect("root may mount: run `cargo xtask test` as root");
        Self(at.to_owned())
    }

    /// Writes until nothing fits any more, then makes room for `kibibytes`.
    #[track_caller]
    fn fill_up_to(&self, kibibytes: u64) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("a file");
        while file.write_all(&[1; 1024]).is_ok() {}
        let length = file.metadata().expect("its size").len();
        file.set_len(length - (kibibytes << 10))
            .expect("a shorter file");
        path
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).expect("it is mounted");
    }
}

#[test]
fn while_an_instance_is_created() {
    let home = Home::native();
    // Not sparse, so that the copy takes as much room.
    fs::write(home.path("disk.raw"), vec![1; 4 << 20]).expect("an image");
    let disk = TinyDisk::mount(&home.lima_home(), 2048);
    let instance = home.instance("x", "");
    let fatal = instance.try_create().fatal();
    assert_says(
        &fatal,
        &["cannot create instance \"x\": ", "No space left on device"],
    );
    let fatal = instance.start(&[]).fatal();
    assert_says(
        &fatal,
        &["cannot create instance \"x\": ", "No space left on device"],
    );
    assert!(!instance.path("").exists(), "a half-made instance");
    home.assert_nothing_left();
    drop(disk);
}

#[test]
fn while_an_instance_starts() {
    let home = Home::native();
    let disk = TinyDisk::mount(&home.lima_home(), 8192);
    let instance = home.instance("x", "").create();
    let filler = disk.fill_up_to(512);
    let fatal = instance.start(&[]).fatal();
    assert_says(
        &fatal,
        &[
            "the instance did not start: ",
            "cidata.iso",
            "No space left on device",
        ],
    );
    let errors = instance.events().exit_errors();
    assert_eq!(errors.len(), 1, "one reason: {errors:?}");
    assert_says(&errors[0], &["cidata.iso", "No space left on device"]);
    assert!(!instance.path("cidata.iso").exists(), "half a volume");
    home.assert_nothing_left();
    assert_eq!(instance.status(), "Stopped");

    fs::remove_file(filler).expect("the filler");
    drop(instance);
    drop(disk);
}
