//! Whose rights unix sockets are dialled with.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use berth_link::flow::FlowKind;
use rustix::process::{getegid, geteuid};
use tokio::net::{UnixListener, UnixStream};

use super::setting::{Setting, hear, say, user, within};
use crate::accounts::Owner;

/// A group of neither root nor the user.
const DOCKER: u32 = 54_399;

fn listen(path: &str, group: u32, mode: u32) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    chown(path, None, Some(group)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    listener
}

async fn reached(
    setting: &Setting,
    kind: FlowKind,
    path: &str,
    listener: &UnixListener,
) -> UnixStream {
    let mut stream = setting.open(kind, path);
    say(&mut stream, "hello").await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    hear(&mut server, "hello").await;
    server
}

#[tokio::test]
async fn until_the_user_exists_nothing_is_done_in_its_name() {
    let setting = Setting::without_user().await;
    let path = setting.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(
        setting.refused(FlowKind::Unix, &path).await,
        ErrorKind::NetworkDown
    );
    setting.tunnels.set_user("emil");
    assert_eq!(
        setting.refused(FlowKind::Unix, &path).await,
        ErrorKind::NetworkDown
    );
    // Root's are not the user's.
    reached(&setting, FlowKind::UnixAsRoot, &path, &listener).await;
}

#[tokio::test]
#[ignore = "needs root, to become somebody else"]
async fn the_kernel_judges_by_the_user() {
    let setting = Setting::new().await;
    let path = setting.path("socket");
    let listener = listen(&path, 0, 0o600);
    assert_eq!(
        setting.refused(FlowKind::Unix, &path).await,
        ErrorKind::PermissionDenied
    );
    reached(&setting, FlowKind::UnixAsRoot, &path, &listener).await;
    let Owner { uid, gid } = user();
    chown(&path, Some(uid), Some(gid)).unwrap();
    reached(&setting, FlowKind::Unix, &path, &listener).await;
}

#[tokio::test]
#[ignore = "needs root, to become somebody else"]
async fn groups_that_the_user_has_joined_count_from_then_on() {
    let setting = Setting::new().await;
    let path = setting.path("docker.sock");
    let listener = listen(&path, DOCKER, 0o660);
    setting.set_groups(&format!("docker:x:{DOCKER}:\n"));
    assert_eq!(
        setting.refused(FlowKind::Unix, &path).await,
        ErrorKind::PermissionDenied
    );
    setting.set_groups(&format!("docker:x:{DOCKER}:root,lima\n"));
    reached(&setting, FlowKind::Unix, &path, &listener).await;
}

#[tokio::test]
#[ignore = "needs root, to become somebody else"]
async fn servers_see_the_user_and_the_agent_stays_root() {
    let setting = Setting::new().await;
    let path = setting.path("socket");
    let listener = listen(&path, 0, 0o666);
    let Owner { uid, gid } = user();
    for (kind, seen) in [(FlowKind::Unix, (uid, gid)), (FlowKind::UnixAsRoot, (0, 0))] {
        let server = reached(&setting, kind, &path, &listener).await;
        let peer = server.peer_cred().unwrap();
        assert_eq!((peer.uid(), peer.gid()), seen);
        assert_eq!(peer.pid(), Some(std::process::id().try_into().unwrap()));
    }
    assert!(geteuid().is_root() && getegid().is_root());
    for task in fs::read_dir("/proc/self/task").unwrap() {
        // A thread that has ended meanwhile is nobody's.
        if let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) {
            let uids = status
                .lines()
                .find(|line| line.starts_with("Uid:"))
                .unwrap();
            // Real and saved: what a signal is checked against.
            let uids: Vec<&str> = uids.split_whitespace().collect();
            assert_eq!((uids[1], uids[3]), ("0", "0"), "{uids:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs root, to become somebody else"]
async fn the_user_owns_what_it_listens_on() {
    let setting = Setting::new().await;
    let mut taken = setting.link.take_reverse().unwrap();
    let path = setting.path("deep/socket");
    super::reversed::listen(&setting, taken.id(), &path)
        .await
        .unwrap();
    let Owner { uid, gid } = user();
    let directory = path.strip_suffix("/socket").unwrap();
    for (path, mode) in [(path.as_str(), 0o600), (directory, 0o755)] {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{path}");
        assert_eq!(metadata.mode() & 0o777, mode, "{path}");
    }
    let client = UnixStream::connect(&path).await.unwrap();
    assert_eq!(client.peer_cred().unwrap().uid(), uid);
    within(taken.next()).await.unwrap();

    // Where the user may not write, neither may the agent in its name.
    let roots = format!("{}/socket", setting.path("../etc"));
    let why = super::reversed::listen(&setting, taken.id() + 1, &roots)
        .await
        .unwrap_err();
    assert!(why.0.ends_with("Permission denied (os error 13)"), "{why}");
}
