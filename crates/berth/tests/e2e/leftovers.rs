//! What a stopped instance must not leave behind.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Files of LIMA_HOME that belong to a life, or that somebody forgot half-written.
pub(crate) fn files(lima_home: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    search(lima_home, &mut found);
    found.sort();
    found
}

fn search(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_a_life = [".sock", ".pid", ".tmp", ".lock"]
            .iter()
            .any(|end| name.ends_with(end))
            || ["in_use_by", "vncdisplay", "vncpassword"].contains(&name.as_str());
        if of_a_life {
            found.push(path);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && !name.ends_with(".berth-guest")
        {
            // What the guest has on its disk is its own.
            search(&path, found);
        }
    }
}

/// Checks that nobody listens on a port.
#[track_caller]
pub(crate) fn assert_free(port: u16) {
    if let Err(why) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        panic!("port {port} is still in use: {why}");
    }
}
