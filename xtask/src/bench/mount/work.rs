//! What is done on a mount, and what it is done to.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use super::Part;
use crate::program::Program;

/// Bytes of a random access.
const BLOCK: usize = 4096;

/// Random accesses of one measurement.
const ACCESSES: u64 = 4000;

/// Files of one directory.
const PER_DIRECTORY: usize = 500;

/// How much there is of everything.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Sizes {
    /// Files that git looks at.
    #[arg(long)]
    work_tree: usize,
    /// Files of the archive.
    #[arg(long)]
    packed: usize,
    /// Files that are looked at one by one.
    #[arg(long)]
    looked_at: usize,
    /// Size of the large file.
    #[arg(long)]
    megabytes: u64,
}

impl Sizes {
    /// As the goals have it: an archive of 20,000 files to a work tree of 50,000.
    pub(super) fn of(files: usize, megabytes: u64) -> Self {
        Self {
            work_tree: files,
            packed: files * 2 / 5,
            looked_at: files / 5,
            megabytes,
        }
    }
}

/// A directory with all that is needed; it vanishes in the end.
#[derive(Debug)]
pub(super) struct Ground {
    directory: PathBuf,
    work: Work,
}

impl Ground {
    /// Makes the shared directory, with a tree, a repository and a large file, and an archive beside it.
    pub(super) fn make(directory: PathBuf, sizes: Sizes) -> Result<Self> {
        let archive = directory.join("archive.tar");
        let work = Work { sizes, archive };
        let ground = Self { directory, work };
        let make = |dir: PathBuf| {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))
        };
        make(ground.share())?;
        make(ground.mount_point())?;
        let sizes = ground.work.sizes;
        fill(&ground.share().join("tree"), sizes.looked_at)?;
        ground.make_repository()?;
        ground.make_archive()?;
        ground.make_large_file()?;
        Ok(ground)
    }

    pub(super) fn share(&self) -> PathBuf {
        self.directory.join("share")
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.directory.join("mnt")
    }

    /// A place for more shares, on the same file system.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What is done.
    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    fn make_repository(&self) -> Result<()> {
        let repository = self.share().join("repository");
        fill(&repository, self.work.sizes.work_tree)?;
        let git = || Program::new("git").arg("-C").arg(&repository);
        git().args(["init", "-q"]).run()?;
        git().args(["add", "."]).run()?;
        git()
            .args([
                "-c",
                "user.name=bench",
                "-c",
                "user.email=bench@example.com",
            ])
            .args(["commit", "-q", "-m", "all"])
            .run()
    }

    fn make_archive(&self) -> Result<()> {
        let packed = self.directory.join("packed");
        fill(&packed, self.work.sizes.packed)?;
        let tar = Program::new("tar").arg("-cf").arg(&self.work.archive);
        tar.arg("-C").arg(&packed).arg(".").run()?;
        fs::remove_dir_all(&packed).context("remove what was packed")
    }

    fn make_large_file(&self) -> Result<()> {
        let mut file = File::create(self.share().join("large")).context("create a large file")?;
        let block: Vec<u8> = (0..1_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
        for _ in 0..self.work.sizes.megabytes {
            file.write_all(&block).context("fill a large file")?;
        }
        file.sync_all().context("flush a large file")
    }

    /// What has to be so before a measurement, done beside the mount.
    pub(super) fn prepare(&self, part: Part) -> Result<()> {
        let unpacked = self.share().join("unpacked");
        if matches!(part, Part::Untar | Part::Remove) {
            if unpacked.exists() {
                fs::remove_dir_all(&unpacked).context("remove what was unpacked")?;
            }
            fs::create_dir(&unpacked).context("create a directory to unpack into")?;
        }
        if part == Part::Remove {
            self.work.unpack(&unpacked)?;
        }
        // What earlier measurements left to write must not be written during this one.
        rustix::fs::sync();
        Ok(())
    }

    /// The same in a new directory, with names that no cache knows: what is only read is linked.
    pub(super) fn prepare_in(&self, part: Part, place: &Path) -> Result<()> {
        fs::create_dir_all(place).with_context(|| format!("create {}", place.display()))?;
        let needed = match part {
            Part::Stat | Part::Find | Part::SmallFiles => Some("tree"),
            Part::GitStatus => Some("repository"),
            Part::Read | Part::RandomRead | Part::RandomWrite => Some("large"),
            Part::Untar | Part::Remove | Part::Write => None,
        };
        if let Some(name) = needed {
            let copy = Program::within(5, "cp").arg("-al");
            copy.arg(self.share().join(name)).arg(place).run()?;
        }
        if matches!(part, Part::Untar | Part::Remove) {
            let unpacked = place.join("unpacked");
            fs::create_dir(&unpacked).context("create a directory to unpack into")?;
            if part == Part::Remove {
                self.work.unpack(&unpacked)?;
            }
        }
        rustix::fs::sync();
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What is done on a mount.
#[derive(Debug, Clone, Args)]
pub(crate) struct Work {
    #[command(flatten)]
    sizes: Sizes,
    /// What is unpacked; not on the mount.
    #[arg(long)]
    archive: PathBuf,
}

impl Work {
    /// The archive.
    pub(super) fn archive(&self) -> &Path {
        &self.archive
    }

    /// As words of a command line, with the archive elsewhere.
    pub(super) fn words(&self, archive: &str) -> String {
        let Sizes {
            work_tree,
            packed,
            looked_at,
            megabytes,
        } = self.sizes;
        format!(
            "--work-tree {work_tree} --packed {packed} --looked-at {looked_at} --megabytes {megabytes} --archive {archive}"
        )
    }

    fn unpack(&self, into: &Path) -> Result<()> {
        let tar = Program::new("tar").arg("-xf").arg(self.archive());
        tar.arg("-C").arg(into).run()
    }

    /// Does it on a mount; returns how long it took.
    pub(crate) fn run(&self, part: Part, mount: &Path) -> Result<Duration> {
        let begin = Instant::now();
        match part {
            Part::Stat => each_file(mount, self.sizes.looked_at, |path| {
                path.symlink_metadata().map(drop)
            })?,
            Part::SmallFiles => each_file(mount, self.sizes.looked_at / 2, |path| {
                fs::read(path).map(drop)
            })?,
            Part::Find => {
                let find = Program::new("find").arg(mount.join("tree"));
                find.args(["-size", "+1000"]).read()?;
            }
            Part::GitStatus => {
                let git = Program::new("git").arg("-C").arg(mount.join("repository"));
                // The mount's own numbers of files are not those of the host, where the index was made.
                let git = git.args(["-c", "core.checkStat=minimal"]);
                git.args(["status", "--porcelain"]).read()?;
            }
            Part::Untar => self.unpack(&mount.join("unpacked"))?,
            Part::Remove => {
                fs::remove_dir_all(mount.join("unpacked")).context("remove what was unpacked")?;
            }
            Part::Read => copy(&mount.join("large"), Path::new("/dev/null"), None)?,
            Part::Write => {
                let blocks = Some(self.sizes.megabytes);
                copy(Path::new("/dev/zero"), &mount.join("written"), blocks)?;
            }
            Part::RandomRead => {
                let file = File::open(mount.join("large")).context("open the large file")?;
                let mut block = [0; BLOCK];
                self.anywhere(|at| file.read_exact_at(&mut block, at))?;
            }
            Part::RandomWrite => {
                let file = File::options().write(true).open(mount.join("large"));
                let file = file.context("open the large file")?;
                self.anywhere(|at| file.write_all_at(&[7; BLOCK], at))?;
            }
        }
        Ok(begin.elapsed())
    }

    /// The same places each time.
    fn anywhere(&self, mut access: impl FnMut(u64) -> std::io::Result<()>) -> Result<()> {
        let blocks = (self.sizes.megabytes << 20) / BLOCK as u64;
        let mut place: u64 = 0x2545_f491_4f6c_dd1d;
        for _ in 0..ACCESSES {
            place = place
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            access(((place >> 20) % blocks) * BLOCK as u64).context("access the large file")?;
        }
        Ok(())
    }
}

/// Does something with the first files of the tree, one after the other.
fn each_file(
    mount: &Path,
    count: usize,
    look: impl Fn(&Path) -> std::io::Result<()>,
) -> Result<()> {
    for at in 0..count {
        let path = name(&mount.join("tree"), at);
        look(&path).with_context(|| format!("look at {}", path.display()))?;
    }
    Ok(())
}

fn name(top: &Path, at: usize) -> PathBuf {
    top.join(format!("dir-{}/file-{at}.txt", at / PER_DIRECTORY))
}

/// Makes small files.
fn fill(top: &Path, count: usize) -> Result<()> {
    for at in 0..count {
        let path = name(top, at);
        if at % PER_DIRECTORY == 0 {
            let directory = path.parent().unwrap_or(top);
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        let content = format!("This is file number {at}.\n").repeat(at % 40 + 1);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, megabytes: Option<u64>) -> Result<()> {
    let dd = Program::new("dd")
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .args(["bs=1M", "status=none"]);
    match megabytes {
        Some(count) => dd.arg(format!("count={count}")).run(),
        None => dd.run(),
    }
}
