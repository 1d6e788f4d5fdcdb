//! Real directories, real events.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;

/// Finds tests that hang.
const HANG: Duration = Duration::from_secs(600);

struct Scene {
    root: TempDir,
    pending: Arc<Pending>,
    _watch: TreeWatch,
}

impl Scene {
    /// A directory that is watched already.
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("share")).unwrap();
        fs::create_dir(root.path().join("outside")).unwrap();
        let pending = Arc::new(Pending::default());
        let (tell, mut sight) = watch::channel(Sight::Dark);
        let watch = TreeWatch::start(&root.path().join("share"), &pending, tell).unwrap();
        let clear = sight.wait_for(|sight| *sight == Sight::Clear);
        drop(tokio::time::timeout(HANG, clear).await.unwrap().unwrap());
        Self {
            root,
            pending,
            _watch: watch,
        }
    }

    fn share(&self, path: &str) -> PathBuf {
        self.root.path().join("share").join(path)
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.root.path().join("outside").join(path)
    }

    /// What is told until all of this was told.
    async fn until(&self, wanted: &[&str]) -> BTreeSet<String> {
        until(&self.pending, wanted.iter().map(|path| (*path).to_owned())).await
    }
}

async fn until(pending: &Pending, wanted: impl Iterator<Item = String>) -> BTreeSet<String> {
    let mut missing: BTreeSet<String> = wanted.collect();
    let mut told = BTreeSet::new();
    let telling = async {
        while !missing.is_empty() {
            for (path, _) in pending.next(4096, <[u8]>::len).await {
                let path = String::from_utf8(path).unwrap();
                missing.remove(&path);
                told.insert(path);
            }
        }
    };
    let ended = tokio::time::timeout(HANG, telling).await;
    let some: Vec<_> = missing.iter().take(5).collect();
    assert!(ended.is_ok(), "{} are not told: {some:?}", missing.len());
    told
}

#[tokio::test]
async fn what_is_made_written_and_changed_is_told_with_its_directory() {
    let scene = Scene::new().await;
    fs::write(scene.share("a"), "1").unwrap();
    assert_eq!(
        scene.until(&["", "a"]).await,
        BTreeSet::from([String::new(), "a".to_owned()])
    );
    fs::write(scene.share("a"), "2").unwrap();
    assert_eq!(scene.until(&["a"]).await.len(), 1);
    fs::set_permissions(scene.share("a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(scene.until(&["a"]).await.len(), 1);
    fs::remove_file(scene.share("a")).unwrap();
    assert_eq!(scene.until(&[""]).await.len(), 1);
}

#[tokio::test]
async fn new_directories_are_looked_into_however_fast_they_fill() {
    let scene = Scene::new().await;
    for number in 0..50 {
        let deep = scene.share(&format!("{number}/a/b/c"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "").unwrap();
    }
    let files: Vec<String> = (0..50).map(|n| format!("{n}/a/b/c/f")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    scene.until(&files).await;
    fs::write(scene.share("7/a/b/c/f"), "again").unwrap();
    scene.until(&["7/a/b/c/f"]).await;
}

#[tokio::test]
async fn nothing_outside_is_told_of() {
    let scene = Scene::new().await;
    symlink(scene.outside(""), scene.share("link")).unwrap();
    symlink("../outside", scene.share("other")).unwrap();
    fs::create_dir(scene.outside("d")).unwrap();
    scene.until(&["link", "other"]).await;
    fs::write(scene.outside("f"), "").unwrap();
    fs::write(scene.outside("d/f"), "").unwrap();
    fs::write(scene.share("end"), "").unwrap();
    let told = scene.until(&["end"]).await;
    assert!(
        told.iter().all(|path| ["", "end"].contains(&path.as_str())),
        "{told:?}"
    );
}

#[tokio::test]
async fn directories_that_move_are_told_of_by_their_new_name_and_only_inside() {
    let scene = Scene::new().await;
    for directory in ["a/b", "gone/b"] {
        fs::create_dir_all(scene.share(directory)).unwrap();
        fs::write(scene.share(directory).join("f"), "").unwrap();
    }
    scene.until(&["a/b/f", "gone/b/f"]).await;
    fs::rename(scene.share("a"), scene.share("z")).unwrap();
    fs::rename(scene.share("gone"), scene.outside("gone")).unwrap();
    scene.until(&["z/b/f", "z"]).await;
    fs::write(scene.share("z/b/f"), "2").unwrap();
    fs::write(scene.outside("gone/b/f"), "2").unwrap();
    fs::write(scene.share("z/end"), "").unwrap();
    let told = scene.until(&["z/b/f", "z/end"]).await;
    let inside = |path: &String| path.is_empty() || path.starts_with('z');
    assert!(told.iter().all(inside), "{told:?}");
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_again() {
    let scene = Scene::new().await;
    fs::rename(scene.share(""), scene.root.path().join("old")).unwrap();
    fs::create_dir_all(scene.share("d")).unwrap();
    fs::write(scene.share("d/f"), "").unwrap();
    scene.until(&["d/f"]).await;
    fs::write(scene.root.path().join("old/f"), "").unwrap();
    fs::write(scene.share("d/end"), "").unwrap();
    let told = scene.until(&["d/end"]).await;
    assert!(!told.contains("f"), "{told:?}");
}

#[tokio::test]
async fn of_a_burst_of_100_000_files_none_is_lost() {
    let scene = Scene::new().await;
    let path = |number: usize| format!("{}/{number}", number % 10);
    for number in 0..10 {
        fs::create_dir(scene.share(&number.to_string())).unwrap();
    }
    for number in 0..100_000 {
        fs::File::create(scene.share(&path(number))).unwrap();
    }
    // More than is held; nobody took any until now.
    until(&scene.pending, (0..100_000).map(path)).await;
}

#[tokio::test]
async fn what_the_kernel_could_not_keep_is_looked_for() {
    let root = tempfile::tempdir().unwrap();
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let count = limit.trim().parse::<usize>().unwrap() + 1000;
    for name in ["old", "new"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    fs::write(root.path().join("old/f"), "").unwrap();
    let pending = Arc::new(Pending::default());
    let mut watcher = Watcher {
        directory: root.path().to_path_buf(),
        pending: Arc::clone(&pending),
        wake: Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
        sight: watch::channel(Sight::Dark).0,
        tree: Tree::new().unwrap(),
        quiet_since: SystemTime::now(),
        most: MOST_DIRECTORIES,
    };
    watcher.rebuild(Tell::Nothing);
    watcher.quiet_since = SystemTime::now();
    for number in 0..count {
        fs::File::create(root.path().join(format!("new/{number}"))).unwrap();
    }
    let following = thread::spawn(move || watcher.follow());
    until(&pending, (0..count).map(|number| format!("new/{number}"))).await;
    pending.close();
    fs::write(root.path().join("wake"), "").unwrap();
    following.join().unwrap();
}

#[test]
fn only_what_changed_since_then_is_news() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let found = statat(CWD, dir.path().join("f"), AtFlags::empty()).unwrap();
    let written = time(found.st_ctime, found.st_ctime_nsec);
    assert!(changed(&found, written));
    assert!(changed(&found, written + COARSE));
    assert!(!changed(&found, written + COARSE * 2));
}

#[tokio::test]
async fn directories_without_end_are_an_end_of_watching_and_said() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    let pending = Arc::new(Pending::default());
    let (tell, mut sight) = watch::channel(Sight::Dark);
    // The shared one, `a` and `b`.
    let _watch = TreeWatch::start_with(root.path(), &pending, tell, 3).unwrap();
    let mut see = async |is_it: fn(&Sight) -> bool| {
        let seen = tokio::time::timeout(HANG, sight.wait_for(is_it)).await;
        drop(seen.unwrap().unwrap());
    };
    see(|sight| *sight == Sight::Clear).await;
    fs::create_dir(root.path().join("a/b/c")).unwrap();
    see(|sight| matches!(sight, Sight::Partly(why) if why.contains("more than 3 directories")))
        .await;
    fs::write(root.path().join("a/b/file"), "").unwrap();
    until(&pending, ["a/b/file".to_owned()].into_iter()).await;
}
