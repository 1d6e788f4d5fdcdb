//! sshd is ready when something listens on its port, and the guest lets people log in.

use std::io;
use std::time::Duration;

use crate::boot::running_sshd;
use crate::guest::{Guest, Init};
use crate::netlink::is_tcp_listening;
use crate::watch::{Wait, WaitError};

/// sshd's usual port.
const PORT: u16 = 22;

/// Neither a socket that begins to listen nor systemd's opening it in sshd's place (`ssh.socket`) touches a file, and the kernel
/// tells nobody without a BPF program. sshd's pid file does tell, right after it listens; this is for guests without one,
/// and ends with the wait.
const TICK: Duration = Duration::from_millis(100);

/// Long past any boot: a guest whose sshd does not come gets no more ticks.
const LIMIT: Duration = Duration::from_mins(15);

/// How long logind may take after people are let in, before a login without it is better than none.
const LOGIND_LIMIT: Duration = Duration::from_secs(10);

/// Waits until a login can succeed, on the port where the host expects sshd: the usual one, if it has not said.
pub(crate) async fn listening(guest: &Guest, port: Option<u16>) -> Result<(), WaitError> {
    wait(guest, port.unwrap_or(PORT), is_tcp_listening).await?;
    if expects_logind(guest) {
        logind(guest).await;
    }
    Ok(())
}

/// A login that comes before logind gets no session, and with it no `XDG_RUNTIME_DIR` and no service manager of the user: for
/// good, as all others share the connection. Both start at the same time.
fn expects_logind(guest: &Guest) -> bool {
    let wanted = "/usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service";
    let masked = "/etc/systemd/system/systemd-logind.service";
    guest.init == Init::Systemd
        && guest.has_user_sessions()
        && guest.path(wanted).symlink_metadata().is_ok()
        && guest.path(masked).symlink_metadata().is_err()
}

/// Waits for logind to start: from then on D-Bus keeps what PAM asks of it.
async fn logind(guest: &Guest) {
    let paths = [guest.path("/run/systemd/seats")];
    let started = Wait {
        what: "systemd-logind",
        paths: &paths,
        limit: LOGIND_LIMIT,
        tick: None,
    };
    if let Err(why) = started.until(|| paths[0].exists().then_some(())).await {
        tracing::warn!("a login may get no session: {why}");
    }
}

async fn wait(
    guest: &Guest,
    port: u16,
    is_tcp_listening: impl Fn(u16) -> io::Result<bool>,
) -> Result<(), WaitError> {
    let [pid_file, nologin] = ["/run/sshd.pid", "/run/nologin"].map(|path| guest.path(path));
    // The kernel is asked last: it may have to load a module to answer. One that cannot answer leaves it to the pid file.
    // Which port it is, the file does not say.
    let by_file = || running_sshd(guest).is_some();
    let is_listening =
        || (port == PORT && by_file()) || is_tcp_listening(port).unwrap_or_else(|_| by_file());
    let closed = Wait {
        what: "logins to be allowed (/run/nologin to go)",
        paths: std::slice::from_ref(&nologin),
        limit: LIMIT,
        tick: None,
    };
    let open = Wait {
        what: "sshd to listen",
        paths: &[pid_file, nologin.clone()],
        limit: LIMIT,
        tick: Some(TICK),
    };
    loop {
        // systemd takes nologin away when it lets people in: before that, PAM turns them away from a listening sshd.
        closed
            .clone()
            .until(|| (!nologin.exists()).then_some(()))
            .await?;
        // An agent that starts before systemd writes nologin sees it come.
        let may_log_in = open.clone().until(|| {
            if nologin.exists() {
                Some(false)
            } else {
                is_listening().then_some(true)
            }
        });
        if may_log_in.await? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::boot::testing::Scene;

    #[tokio::test(flavor = "current_thread")]
    async fn a_listening_sshd_waits_until_people_are_let_in() {
        let scene = Scene::new();
        scene.write("/run/nologin", "booting");
        let listens = Cell::new(false);
        let boot = async {
            listens.set(true);
            scene.write("/run/sshd.pid", "gone\n");
            tokio::task::yield_now().await;
            fs::remove_file(scene.path("/run/nologin")).unwrap();
        };
        let waits = wait(&scene.guest, PORT, |port| Ok(port == 22 && listens.get()));
        let (ready, ()) = tokio::join!(waits, boot);
        ready.unwrap();
        assert!(!scene.guest.has("/run/nologin"));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_socket_that_systemd_opened_is_found_without_any_file() {
        let scene = Scene::new();
        let asked = Cell::new(0);
        let after_a_while = |_| {
            asked.set(asked.get() + 1);
            Ok(asked.get() > 20)
        };
        wait(&scene.guest, PORT, after_a_while).await.unwrap();
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_sshd_on_the_usual_port_is_not_there_yet_where_another_one_is_expected() {
        let scene = Scene::new();
        scene.write("/proc/7/comm", "sshd\n");
        scene.write("/run/sshd.pid", "7\n");
        let usual = |port| Ok(port == PORT);
        wait(&scene.guest, 23022, usual).await.unwrap_err();
        let moved = |port| Ok(port == 23022);
        wait(&scene.guest, 23022, moved).await.unwrap();
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn while_nobody_is_let_in_nothing_is_asked() {
        let scene = Scene::new();
        scene.write("/run/nologin", "booting");
        let never = |_| panic!("asked");
        let why = wait(&scene.guest, PORT, never)
            .await
            .unwrap_err()
            .to_string();
        let expected = "waited 900 s for logins to be allowed (/run/nologin to go)";
        assert_eq!(why, expected);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_login_waits_for_logind_where_it_opens_sessions() {
        let scene = Scene::systemd();
        assert!(!expects_logind(&scene.guest));
        let wants = "/usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service";
        scene.link(wants, "../systemd-logind.service");
        assert!(!expects_logind(&scene.guest), "no PAM module");
        scene.write("/usr/lib/security/pam_systemd.so", "");
        assert!(expects_logind(&scene.guest));
        let boot = async { fs::create_dir_all(scene.path("/run/systemd/seats")).unwrap() };
        tokio::join!(logind(&scene.guest), boot);
        scene.link("/etc/systemd/system/systemd-logind.service", "/dev/null");
        assert!(!expects_logind(&scene.guest), "masked");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_kernel_that_does_not_tell_leaves_it_to_sshd() {
        let scene = Scene::new();
        let silent = |_| Err(io::ErrorKind::NotFound.into());
        let why = wait(&scene.guest, PORT, silent)
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(why, "waited 900 s for sshd to listen");
        scene.write("/proc/7/comm", "sshd\n");
        scene.write("/run/sshd.pid", "7\n");
        wait(&scene.guest, PORT, silent).await.unwrap();
    }
}
