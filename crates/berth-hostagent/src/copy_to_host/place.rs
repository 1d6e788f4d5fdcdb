//! Where a file goes on the host: written beside its name, and given that name only when it is whole.

use std::ffi::OsString;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::File;
use tokio::io::AsyncSeekExt as _;
use tokio::task::{JoinError, spawn_blocking};

use crate::sys::{Entry, Folder, FolderError};

/// Mode of a new file (Lima's); one that is replaced leaves its own.
const MODE: u32 = 0o600;

/// Why a file of the host cannot be written or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("{} names no file", .0.display())]
    NoName(PathBuf),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{} is there, and is no regular file: move it away", .0.display())]
    Occupied(PathBuf),
    #[error("cannot {verb} {}", .path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the work on the host's file was interrupted")]
    Interrupted(#[from] JoinError),
}

impl PlaceError {
    /// Whether the directory of the file does not exist.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Folder(why) if why.is_missing())
    }
}

/// A name in a directory that is held open.
#[derive(Debug)]
pub(super) struct Place {
    folder: Folder,
    name: OsString,
    /// For people.
    path: PathBuf,
}

impl Place {
    /// Goes to the directory of a file, and makes it if `make`. `guests`: where the guest may write.
    pub(super) async fn find(
        path: &Path,
        make: bool,
        guests: &[PathBuf],
    ) -> Result<Self, PlaceError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(PlaceError::NoName(path.to_owned()));
        };
        let (parent, guests) = (parent.to_owned(), guests.to_vec());
        let folder = aside(move || Folder::open(&parent, make, &guests)).await?;
        Ok(Self {
            folder,
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Removes the file, if there is one. What is a directory stays.
    pub(super) async fn remove(self) -> Result<(), PlaceError> {
        aside(move || match self.folder.remove(&self.name) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(why)),
            _ => Ok(()),
        })
        .await
    }

    /// The mode that a new file here gets.
    fn mode(&self) -> Result<u32, PlaceError> {
        match self.folder.look(&self.name) {
            Ok(Entry::Nothing) => Ok(MODE),
            Ok(Entry::File { mode }) => Ok(mode),
            Ok(Entry::Other) => Err(PlaceError::Occupied(self.path.clone())),
            Err(why) => Err(self.failed("look at")(why)),
        }
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> PlaceError {
        let path = self.path.clone();
        move |source| PlaceError::Io { verb, path, source }
    }
}

/// A file that has no name of its own yet. Dropped without [`Staged::commit`], it is gone.
#[derive(Debug)]
pub(super) struct Staged {
    place: Arc<Place>,
    temporary: OsString,
    committed: bool,
    /// What is to be written to.
    pub(super) file: File,
    /// How many bytes it may get: half of what is free, so that no guest can fill the host's disk.
    pub(super) most: u64,
}

impl Staged {
    /// Creates the file. What a killed agent has left under the temporary name, which must be nobody else's, is removed.
    pub(super) async fn begin(place: Place, temporary: &str) -> Result<Self, PlaceError> {
        let temporary = OsString::from(temporary);
        aside(move || {
            let mode = place.mode()?;
            match place.folder.remove(&temporary) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => {
                    return Err(place.failed("clean up beside")(why));
                }
                _ => {}
            }
            let created = place.folder.create(&temporary, mode);
            let file = created.map_err(place.failed("create a file beside"))?;
            let room = place
                .folder
                .room()
                .map_err(place.failed("ask for the space for"))?;
            Ok(Self {
                place: Arc::new(place),
                temporary,
                committed: false,
                file: File::from_std(file),
                most: room / 2,
            })
        })
        .await
    }

    /// Forgets what was written.
    pub(super) async fn start_over(&mut self) -> Result<(), PlaceError> {
        let emptied = async {
            self.file.set_len(0).await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        emptied.await.map_err(self.place.failed("write"))?;
        Ok(())
    }

    /// Writes everything to the medium, and gives the file its name.
    pub(super) async fn commit(mut self) -> Result<(), PlaceError> {
        let synced = self.file.sync_all().await;
        synced.map_err(self.place.failed("write"))?;
        let (place, temporary) = (Arc::clone(&self.place), self.temporary.clone());
        aside(move || {
            let renamed = place.folder.rename(&temporary, &place.name);
            renamed.map_err(place.failed("rename a new file to"))
        })
        .await?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: what made the writing fail may also forbid this.
            let _ = self.place.folder.remove(&self.temporary);
        }
    }
}

/// Does what may wait for a disk on another thread.
async fn aside<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, PlaceError>
where
    T: Send + 'static,
    E: Send + 'static,
    PlaceError: From<E>,
{
    Ok(spawn_blocking(work).await??)
}
