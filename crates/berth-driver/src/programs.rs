//! Finding programs in the environment that was passed in.

use std::path::{Path, PathBuf};

use berth_image::qemu_img::QemuImg;

use crate::sys;

/// Finds a program: a path stays, a name is looked for in `PATH` of the environment that was passed in.
pub(crate) fn look_up(program: &str, env: &[(String, String)]) -> Option<PathBuf> {
    let as_path = Path::new(program);
    if as_path.components().count() > 1 {
        return sys::is_executable(as_path).then(|| as_path.to_owned());
    }
    std::env::split_paths(get(env, "PATH")?)
        .flat_map(|dir| sys::program_names(program).map(move |name| dir.join(name)))
        .find(|candidate| sys::is_executable(candidate))
}

/// A variable of the environment that was passed in.
pub(crate) fn get<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let (_, value) = env.iter().find(|(key, _)| key == name)?;
    Some(value)
}

/// `qemu-img`, or a name that fails with a hint when it is needed after all.
pub(crate) fn qemu_img(env: &[(String, String)]) -> QemuImg {
    look_up("qemu-img", env).map_or_else(QemuImg::default, QemuImg::new)
}
