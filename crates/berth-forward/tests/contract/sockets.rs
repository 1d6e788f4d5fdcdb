//! Unix sockets of the guest and of the host.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use berth_forward::reconcile::ForwardState;
use tokio::net::UnixStream;

use crate::support::{Beginning, Forwards, ask, converse, fixed, one, start, to_socket};

const DOCKER: &str = "/run/user/1000/docker.sock";

async fn ask_socket(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).await.expect("connects");
    converse(&mut stream).await.expect("an answer")
}

async fn until_listening_on(f: &Forwards, path: &Path) {
    f.until_listening(&[path.to_str().unwrap()]).await;
}

#[tokio::test]
async fn a_socket_of_the_guest_is_a_socket_of_the_host() {
    let beginning = Beginning::new([]);
    let path = beginning.own_dir.path().join("sock/docker.sock");
    let f = Beginning {
        rules: vec![fixed(to_socket(DOCKER, &path))],
        ..beginning
    }
    .start();
    f.guest.serves(&[DOCKER]);
    assert!(f.handle.settled().await.is_empty());
    assert_eq!(ask_socket(&path).await, format!("{DOCKER}\nhello bye"));
    let directory = std::fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    assert_eq!(
        f.told(),
        [format!("forwarding unix {DOCKER} to {}", path.display())]
    );
    f.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_of_the_guest_is_a_port_of_the_host() {
    let mut rule = one(1, "127.77.3.1", 20080);
    rule.guest_socket = DOCKER.to_owned();
    rule.guest_port_range = [1, 65535];
    let f = start([rule]);
    f.guest.serves(&[DOCKER]);
    f.until_listening(&["127.77.3.1:20080"]).await;
    assert_eq!(
        ask("127.77.3.1:20080").await.unwrap(),
        format!("{DOCKER}\nhello bye")
    );
    f.stop().await;
}

#[tokio::test]
async fn a_port_of_the_guest_is_a_socket_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let mut rule = one(80, "127.0.0.1", 0);
    rule.host_socket = Some(path.clone());
    let f = start([rule]);
    f.reports(&["tcp 127.0.0.1:80"]);
    until_listening_on(&f, &path).await;
    assert_eq!(ask_socket(&path).await, "127.0.0.1:80\nhello bye");
    f.reports(&[]);
    f.until_listening(&[]).await;
    assert!(!path.exists());
    f.stop().await;
}

#[tokio::test]
async fn what_is_not_ours_stays_and_what_is_left_over_goes() {
    let dir = tempfile::tempdir().unwrap();
    let [stale, precious, busy] = ["stale", "precious", "busy"].map(|name| dir.path().join(name));
    drop(UnixListener::bind(&stale).unwrap());
    std::fs::write(&precious, "precious").unwrap();
    let listener = UnixListener::bind(&busy).unwrap();
    let rules = [&stale, &precious, &busy].map(|path| to_socket(DOCKER, path));
    let f = start(rules);
    f.guest.serves(&[DOCKER]);
    let missing = f.handle.settled().await;
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(ask_socket(&stale).await.ends_with("bye"));
    for forward in &missing {
        let path = forward.host.to_string();
        match &forward.state {
            ForwardState::Failed { why } => {
                assert_eq!(Path::new(&path), precious);
                assert_eq!(why, "there is something else than a socket in its place");
            }
            ForwardState::Waiting { why } => {
                assert_eq!(Path::new(&path), busy);
                assert_eq!(why, "another process listens there");
            }
            ForwardState::Listening => panic!("{forward:?}"),
        }
    }
    // Its owner goes, and leaves the file.
    drop(listener);
    f.handle.kick();
    f.until("two listen", |status| {
        let listening = status.forwards.iter();
        listening
            .filter(|f| f.state == ForwardState::Listening)
            .count()
            == 2
    })
    .await;
    assert!(ask_socket(&busy).await.ends_with("bye"));
    f.stop().await;
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!stale.exists() && !busy.exists());
}

#[tokio::test]
async fn a_socket_that_somebody_removed_is_made_again_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let f = start([to_socket(DOCKER, &path)]);
    f.guest.serves(&[DOCKER]);
    assert!(f.handle.settled().await.is_empty());
    std::fs::remove_file(&path).unwrap();
    f.handle.kick();
    let deadline = tokio::time::Instant::now() + crate::support::LONG;
    while !path.exists() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it is not made again"
        );
        tokio::task::yield_now().await;
    }
    assert!(ask_socket(&path).await.ends_with("bye"));
    f.stop().await;
    assert!(!path.exists());
}
