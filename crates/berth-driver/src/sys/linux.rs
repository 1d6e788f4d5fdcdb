//! Linux: KVM, and waiting for files by inotify.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::qemu::accel::Hardware;

/// Whether KVM works: its device opens, and on x86 the CPU has the extensions (a device alone is there in many containers).
pub(crate) fn acceleration() -> Hardware {
    const DEVICE: &str = "/dev/kvm";
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        return Hardware::Unusable(format!("cannot open {DEVICE}: {error}"));
    }
    if cfg!(any(target_arch = "x86", target_arch = "x86_64")) && !has_virtualization_flags() {
        return Hardware::Unusable("the CPU shows neither vmx nor svm".to_owned());
    }
    Hardware::Usable
}

fn has_virtualization_flags() -> bool {
    let Ok(file) = File::open("/proc/cpuinfo") else {
        return false;
    };
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| {
            flags
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

/// Hands a descriptor to the runtime.
#[allow(unsafe_code, reason = "the runtime asks for a promise")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is moved into the AsyncFd, which deregisters it before it closes it; an OwnedFd always gives the
    // same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Tells when files appear in a directory.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    inotify: AsyncFd<OwnedFd>,
}

impl DirectoryWatch {
    /// Files that appear from now on are noticed.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self {
            inotify: register(fd)?,
        })
    }

    /// Waits until one or more files have appeared.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable_mut().await?;
            let drained = ready.try_io(|fd| {
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
                reader.next()?;
                Ok(())
            });
            if let Ok(result) = drained {
                return result;
            }
        }
    }
}
