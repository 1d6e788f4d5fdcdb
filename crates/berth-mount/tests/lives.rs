//! Shares that come up, go and come back, on a way that does what the test says.

#![allow(clippy::unwrap_used, reason = "tests only")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use berth_mount::server::Server;
use berth_mount::way::{Live, Tasks, Way};
use berth_mount::{MountError, MountState, Mounts, MountsHandle, Share};
use tokio::sync::{mpsc, oneshot, watch};

/// Ends the mount when it is told why.
type Held = oneshot::Receiver<MountError>;

/// What a way was asked for.
#[derive(Debug)]
enum Asked {
    /// To mount this; the answer says how it went.
    Mount(String, oneshot::Sender<Result<Held, MountError>>),
    /// To unmount this.
    Unmount(String),
}

#[derive(Debug)]
struct ToldWay {
    sessions: watch::Receiver<Option<u64>>,
    asked: mpsc::UnboundedSender<Asked>,
}

#[async_trait]
impl Way for ToldWay {
    fn sessions(&self) -> watch::Receiver<Option<u64>> {
        self.sessions.clone()
    }

    async fn mount(&self, share: &Share, _server: &Server) -> Result<Box<dyn Live>, MountError> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked::Mount(share.point.clone(), answer);
        self.asked.send(asked).map_err(|_| MountError::NoGuest)?;
        let held = answered.await.map_err(|_| MountError::NoGuest)??;
        Ok(Box::new(ToldMount {
            point: share.point.clone(),
            held,
            asked: self.asked.clone(),
        }))
    }
}

struct ToldMount {
    point: String,
    held: Held,
    asked: mpsc::UnboundedSender<Asked>,
}

#[async_trait]
impl Live for ToldMount {
    async fn ended(&mut self) -> MountError {
        (&mut self.held).await.unwrap_or(MountError::NoGuest)
    }

    async fn unmount(self: Box<Self>) -> Result<(), MountError> {
        let _ = self.asked.send(Asked::Unmount(self.point));
        Ok(())
    }
}

struct Scene {
    sessions: watch::Sender<Option<u64>>,
    asked: mpsc::UnboundedReceiver<Asked>,
    mounts: MountsHandle,
    /// What ends each mount.
    ends: Mutex<Vec<(String, oneshot::Sender<MountError>)>>,
}

impl Scene {
    fn start(directory: &Path, points: &[&str]) -> Self {
        let (sessions, watched) = watch::channel(None);
        let (out, asked) = mpsc::unbounded_channel();
        let way: Arc<dyn Way> = Arc::new(ToldWay {
            sessions: watched,
            asked: out,
        });
        let shares = points.iter().map(|point| {
            let share = Share {
                directory: directory.to_path_buf(),
                point: (*point).to_owned(),
                writable: true,
                cache: true,
                follow_symlinks: false,
                map_owner: false,
                touch: None,
            };
            (share, Server::Builtin)
        });
        Self {
            sessions,
            asked,
            mounts: Mounts::start(shares.collect(), &way, &Tasks::default()),
            ends: Mutex::default(),
        }
    }

    /// Waits for an attempt, and lets it succeed or fail.
    async fn attempt(&mut self, result: Result<(), MountError>) -> String {
        match self.asked.recv().await.unwrap() {
            Asked::Mount(point, answer) => {
                let (end, held) = oneshot::channel();
                self.ends.lock().unwrap().push((point.clone(), end));
                answer.send(result.map(|()| held)).unwrap();
                point
            }
            Asked::Unmount(point) => panic!("{point} is unmounted"),
        }
    }

    fn end(&self, point: &str, why: MountError) {
        let mut ends = self.ends.lock().unwrap();
        let at = ends.iter().rposition(|(known, _)| known == point).unwrap();
        ends.remove(at).1.send(why).unwrap();
    }

    async fn until(&self, point: &str, wanted: impl Fn(&MountState) -> bool) -> MountState {
        let mut states = self.mounts.states();
        let (_, mut state) = states.find(|(known, _)| *known == point).unwrap();
        state.wait_for(|state| wanted(state)).await.unwrap().clone()
    }

    async fn until_mounted(&self, point: &str) {
        self.until(point, |state| *state == MountState::Mounted)
            .await;
    }

    async fn until_failed(&self, point: &str) -> String {
        let failed = self.until(point, |state| matches!(state, MountState::Failed(_)));
        match failed.await {
            MountState::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_guest_that_refuses_is_named_and_asked_again() {
    let shared = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(shared.path(), &["/mnt/x"]);
    assert!(scene.asked.try_recv().is_err(), "there is no session yet");
    scene.sessions.send_replace(Some(1));
    let refused = MountError::Guest("no sshfs".to_owned());
    scene.attempt(Err(refused)).await;
    let why = scene.until_failed("/mnt/x").await;
    assert_eq!(scene.mounts.settled().await, std::slice::from_ref(&why));
    assert!(why.starts_with(&berth_mount::failure_of("/mnt/x")), "{why}");
    assert!(why.ends_with("the guest says: no sshfs"), "{why}");
    scene.attempt(Ok(())).await;
    scene.until_mounted("/mnt/x").await;
    assert!(scene.mounts.settled().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_short_loss_is_not_told_and_a_long_one_is() {
    let shared = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(shared.path(), &["/mnt/x"]);
    scene.sessions.send_replace(Some(1));
    scene.attempt(Ok(())).await;
    scene.until_mounted("/mnt/x").await;

    scene.end("/mnt/x", MountError::NoGuest);
    scene
        .until("/mnt/x", |state| *state == MountState::Pending)
        .await;
    scene.attempt(Ok(())).await;
    scene.until_mounted("/mnt/x").await;

    scene.sessions.send_replace(None);
    scene.end("/mnt/x", MountError::NoGuest);
    let why = scene.until_failed("/mnt/x").await;
    assert!(why.ends_with("the guest is not connected"), "{why}");
    scene.sessions.send_replace(Some(2));
    scene.attempt(Ok(())).await;
    scene.until_mounted("/mnt/x").await;
}

#[tokio::test]
async fn what_lies_within_another_mount_comes_after_it_and_goes_before_it() {
    let shared = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(shared.path(), &["/a/b", "/a"]);
    scene.sessions.send_replace(Some(1));
    assert_eq!(scene.attempt(Ok(())).await, "/a");
    assert_eq!(scene.attempt(Ok(())).await, "/a/b");
    scene.until_mounted("/a/b").await;
    assert!(scene.mounts.stop().await.is_empty());
    let mut unmounted = Vec::new();
    while let Ok(Asked::Unmount(point)) = scene.asked.try_recv() {
        unmounted.push(point);
    }
    assert_eq!(unmounted, ["/a/b", "/a"]);
}

#[tokio::test]
async fn a_stop_without_a_guest_waits_for_nobody() {
    let shared = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(shared.path(), &["/mnt/x"]);
    assert!(scene.mounts.stop().await.is_empty());
    assert!(scene.asked.try_recv().is_err());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_directory_that_is_deleted_is_told_until_there_is_one_again() {
    let root = tempfile::tempdir().unwrap();
    let shared = root.path().join("shared");
    let mut scene = Scene::start(&shared, &["/mnt/x"]);
    scene.sessions.send_replace(Some(1));
    scene.attempt(Ok(())).await;
    scene.until_mounted("/mnt/x").await;
    assert!(shared.is_dir(), "it is made at a start");
    std::fs::remove_dir(&shared).unwrap();
    let why = scene.until_failed("/mnt/x").await;
    assert!(why.contains("does not exist"), "{why}");
    std::fs::create_dir(&shared).unwrap();
    scene.until_mounted("/mnt/x").await;
    assert!(
        scene.asked.try_recv().is_err(),
        "the mount itself was there all the time"
    );
}
