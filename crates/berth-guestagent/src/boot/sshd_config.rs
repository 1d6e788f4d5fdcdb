//! What sshd must allow: the terminal's colours, and on Alpine the forwarding that everything else travels over.

use std::path::Path;

use berth_link::boot::BootSpec;
use rustix::process::{Pid, Signal, kill_process};

use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, Loss, edit, put, read_text};
use crate::guest::Guest;

pub(crate) const DROP_IN_DIRECTORY: &str = "/etc/ssh/sshd_config.d";
/// Lima's name for it.
const DROP_IN: &str = "10-acceptenv-colorterm.conf";
pub(crate) const CONFIG: &str = "/etc/ssh/sshd_config";

/// Plain guests are left as they are, but for Alpine's, which would forward nothing.
pub(crate) fn applies(spec: &BootSpec, guest: &Guest) -> bool {
    !spec.plain || guest.is_alpine()
}

/// Writes it, and has a running sshd read it.
pub(crate) fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let mut changed = false;
    if !work.spec.plain && work.guest.has(DROP_IN_DIRECTORY) {
        let path = work.guest.path(DROP_IN_DIRECTORY).join(DROP_IN);
        changed |= put(
            &path,
            b"AcceptEnv COLORTERM\n",
            Attributes::root(0o644),
            Loss::Repaired,
        )?;
    }
    if work.guest.is_alpine() {
        changed |= edit(&work.guest.path(CONFIG), 0o600, allow_tcp_forwarding)?;
    }
    if changed {
        reload_sshd(work.guest);
    }
    Ok(Done::changed(changed))
}

/// Has sshd, if it runs already, read its keys and configuration again. Connections stay.
pub(crate) fn reload_sshd(guest: &Guest) {
    if let Some(pid) = running_sshd(guest) {
        // It ended meanwhile: whoever starts it again reads the new files.
        let _ = kill_process(pid, Signal::HUP);
    }
}

/// The sshd that has written its pid file, which it does when it listens.
pub(crate) fn running_sshd(guest: &Guest) -> Option<Pid> {
    let read = |path: &Path| read_text(path).ok().flatten();
    let number = read(&guest.path("/run/sshd.pid"))?.trim().parse().ok()?;
    let name = read(&guest.path(&format!("/proc/{number}/comm")))?;
    // A pid file may be left of an sshd that is no more.
    (name.trim() == "sshd").then(|| Pid::from_raw(number))?
}

fn allow_tcp_forwarding(config: &str) -> String {
    config
        .split_inclusive('\n')
        .map(|line| {
            let mut words = line.split_whitespace();
            let forbids = words
                .next()
                .is_some_and(|key| key.eq_ignore_ascii_case("AllowTcpForwarding"))
                && words.next() == Some("no");
            if forbids {
                "AllowTcpForwarding yes\n"
            } else {
                line
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot::testing::Scene;

    #[test]
    fn colours_are_accepted_where_drop_ins_are_read() {
        let scene = Scene::new();
        assert_eq!(scene.now(run).unwrap(), Done::Already);
        fs::create_dir_all(scene.path(DROP_IN_DIRECTORY)).unwrap();
        scene.now_twice(run);
        assert_eq!(
            scene.read("/etc/ssh/sshd_config.d/10-acceptenv-colorterm.conf"),
            "AcceptEnv COLORTERM\n"
        );
    }

    #[test]
    fn alpine_forwards() {
        let scene = Scene::new();
        scene.write("/etc/alpine-release", "3.22.0\n");
        scene.write(
            CONFIG,
            "#AllowTcpForwarding no\nAllowTcpForwarding no\nPort 22\n",
        );
        scene.now_twice(run);
        assert_eq!(
            scene.read(CONFIG),
            "#AllowTcpForwarding no\nAllowTcpForwarding yes\nPort 22\n"
        );
    }

    #[test]
    fn only_a_living_sshd_is_signalled() {
        let scene = Scene::new();
        assert_eq!(running_sshd(&scene.guest), None);
        scene.write("/run/sshd.pid", "4711\n");
        assert_eq!(running_sshd(&scene.guest), None);
        scene.write("/proc/4711/comm", "bash\n");
        assert_eq!(running_sshd(&scene.guest), None);
        scene.write("/proc/4711/comm", "sshd\n");
        assert_eq!(running_sshd(&scene.guest), Pid::from_raw(4711));
        scene.write("/run/sshd.pid", "-1\n");
        assert_eq!(running_sshd(&scene.guest), None, "every process");
    }
}
