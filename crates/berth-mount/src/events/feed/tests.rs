//! Batches as a guest would get them, from a real directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::fs;
use std::sync::Mutex;

use super::*;

const HANG: Duration = Duration::from_secs(60);

/// Notes what it is told; fails as often as it is to.
#[derive(Clone)]
struct Guest {
    sessions: watch::Receiver<Option<u64>>,
    told: Arc<Mutex<VecDeque<Change>>>,
    failures: Arc<Mutex<usize>>,
    /// What it touches, as a guest does where nobody prevents it.
    touches: Option<PathBuf>,
}

#[async_trait]
impl Raiser for Guest {
    fn sessions(&self) -> watch::Receiver<Option<u64>> {
        self.sessions.clone()
    }

    async fn raise(&mut self, batch: &Batch) -> Result<(), String> {
        assert_eq!(batch.point, "/mnt/x");
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err("the link is cut".to_owned());
        }
        for change in &batch.changes {
            if let Some(share) = &self.touches {
                let path = share.join(String::from_utf8(change.path.clone()).unwrap());
                let file = fs::File::open(path).unwrap();
                let times = fs::FileTimes::new().set_accessed(change.time);
                file.set_times(times.set_modified(change.time)).unwrap();
            }
        }
        self.told.lock().unwrap().extend(batch.changes.clone());
        Ok(())
    }
}

struct Scene {
    share: tempfile::TempDir,
    guest: Guest,
    session: watch::Sender<Option<u64>>,
    _events: FileEvents,
}

impl Scene {
    async fn start(stamp: Stamp, failures: usize) -> Self {
        let share = tempfile::tempdir().unwrap();
        let (session, sessions) = watch::channel(Some(1));
        let guest = Guest {
            sessions,
            told: Arc::default(),
            failures: Arc::new(Mutex::new(failures)),
            touches: (stamp == Stamp::Own).then(|| share.path().to_path_buf()),
        };
        let raiser = Box::new(guest.clone());
        let tasks = Tasks::default();
        let events = FileEvents::start(share.path(), "/mnt/x", stamp, raiser, &tasks).unwrap();
        let mut sight = events.sight();
        let clear = sight.wait_for(|sight| *sight == Sight::Clear);
        drop(tokio::time::timeout(HANG, clear).await.unwrap().unwrap());
        Self {
            share,
            guest,
            session,
            _events: events,
        }
    }

    fn write(&self, name: &str) {
        fs::write(self.share.path().join(name), name).unwrap();
    }

    /// What the guest is told, up to this name.
    async fn until(&self, name: &str) -> Vec<Change> {
        let mut told = Vec::new();
        let telling = async {
            loop {
                let next = self.guest.told.lock().unwrap().pop_front();
                let Some(change) = next else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let is_last = change.path == name.as_bytes();
                told.push(change);
                if is_last {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(HANG, telling).await;
        assert!(ended.is_ok(), "{name:?} is not told, but {told:?}");
        told
    }
}

#[tokio::test]
async fn every_change_has_the_time_that_is_agreed_upon() {
    let scene = Scene::start(Stamp::Secret(77), 0).await;
    scene.write("f");
    let agreed = UNIX_EPOCH + Duration::from_secs(77);
    let told = scene.until("f").await;
    assert!(told.iter().all(|change| change.time == agreed), "{told:?}");
}

#[tokio::test]
async fn what_was_not_taken_is_told_again_at_once_in_a_new_session() {
    let scene = Scene::start(Stamp::Secret(77), 3).await;
    scene.write("f");
    let (_, ()) = tokio::join!(scene.until("f"), async {
        for session in 2.. {
            if *scene.guest.failures.lock().unwrap() == 0 {
                return;
            }
            scene.session.send_replace(None);
            scene.session.send_replace(Some(session));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[tokio::test]
async fn a_touch_that_changes_the_host_is_not_told_again_and_again() {
    let scene = Scene::start(Stamp::Own, 0).await;
    scene.write("f");
    let mut told = scene.until("f").await;
    for end in ["1", "2", "3"] {
        // By then, an echo would have come.
        scene.write(end);
        told.extend(scene.until(end).await);
    }
    let count = |name: &[u8]| told.iter().filter(|change| change.path == name).count();
    // Made, and written after that was told.
    assert!(count(b"f") <= 2, "{told:?}");
    let written = fs::metadata(scene.share.path().join("f")).unwrap();
    let last = told.iter().rfind(|change| change.path == b"f").unwrap();
    assert_eq!(last.time, written.modified().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(scene.share.path().join("f"), mode).unwrap();
    scene.until("f").await;
}
