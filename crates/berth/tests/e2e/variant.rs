//! The guest's system with other content, for as long as a test lives.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::instance::Home;
use crate::setting;

/// A directory with the system of the image, and what is laid over it.
pub(crate) struct Variant(PathBuf);

impl Variant {
    /// The system with other content in some files.
    #[track_caller]
    pub(crate) fn with_files(home: &Home, files: &[(&str, &str)]) -> Self {
        Self::mount(home, "variant", &[setting::rootfs()], files)
    }

    /// The system with the programs that only tests need.
    #[track_caller]
    pub(crate) fn with_programs(home: &Home, name: &str) -> Self {
        let layers = [setting::programs(), setting::rootfs()];
        Self::mount(home, name, &layers, &[])
    }

    #[track_caller]
    fn mount(home: &Home, name: &str, layers: &[PathBuf], files: &[(&str, &str)]) -> Self {
        let [root, upper, work] =
            ["root", "upper", "work"].map(|part| home.path(&format!("{name}/{part}")));
        for dir in [&root, &upper, &work] {
            fs::create_dir_all(dir).expect("a directory");
        }
        for (path, text) in files {
            let path = upper.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| layer.display().to_string())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).expect("no NUL");
        rustix::mount::mount(
            "overlay",
            &root,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .expect("root may mount: run `cargo xtask test` as root");
        Self(root)
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.0
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).expect("it is mounted");
    }
}
