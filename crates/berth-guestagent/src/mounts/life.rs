//! One mount, from the host's order to its end.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use berth_link::mount::{Ask, GuestEnd, MountOrder, TalkError, Told};
use berth_link::mux::LinkStream;
use berth_relay::{Tally, join};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::MountError;
use super::place::{self, aside};
use super::sshfs::{self, Sshfs};
use super::table::TableWatch;
use super::{House, Session};
use crate::accounts::{Owner, find_account};
use crate::args::chain;
use crate::boot::{BOOT_DONE, FUSE_READY};
use crate::watch::Wait;

const TABLE: &str = "/proc/self/mountinfo";

/// The host's order comes with the stream.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// Packages may have to be installed first.
const BOOT_LIMIT: Duration = Duration::from_mins(10);
/// The mount point may lie in another share.
const PLACE_LIMIT: Duration = Duration::from_secs(10);
/// The host opens it as soon as it hears that we are ready.
const DATA_LIMIT: Duration = Duration::from_secs(10);
/// From the start of sshfs to its first answer; an emulated guest takes seconds.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// From the end of sshfs's connection to its own; nobody who waits for a dead mount waits longer.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// The host has to hear the last word.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(5);
/// Writing out what is left.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(6);

/// Why a mount that was established is held no more.
enum End {
    /// The link, or the host's end of one of its streams, is gone.
    HostGone,
    /// It failed here.
    Failed(MountError),
    /// The host, or the agent's end, wants it unmounted.
    Asked,
}

/// Serves one order. Dropping the future kills sshfs, and leaves the dead mount.
pub(super) async fn live(house: &House, session: &Session, id: u32, stream: LinkStream) {
    let mut talk = GuestEnd::new(stream);
    let Ok(Ok(Ask::Order(order))) = timeout(ORDER_LIMIT, talk.asked()).await else {
        tracing::debug!("a mount was opened and not ordered");
        return;
    };
    let ending = house.closing.is_cancelled();
    let claimed = !ending && session.claims().points.insert(order.point.clone());
    let ended = if ending {
        Err(MountError::Ending)
    } else if claimed {
        serve(house, session, id, &order, &mut talk).await
    } else {
        Err(MountError::Twice)
    };
    if let Err(why) = ended {
        tracing::warn!(point = order.point, "not mounted: {}", chain(&why));
        // A host that is gone hears nothing.
        let _ = talk.tell(Told::Failed(chain(&why))).await;
    }
    if claimed {
        session.claims().points.remove(&order.point);
    }
    let _ = timeout(LAST_WORD_LIMIT, talk.finish()).await;
}

async fn serve(
    house: &House,
    session: &Session,
    id: u32,
    order: &MountOrder,
    talk: &mut GuestEnd,
) -> Result<(), MountError> {
    let preparing = async {
        session.before.wait().await;
        prepare(house, order).await
    };
    let ready = tokio::select! {
        ready = preparing => ready?,
        () = given_up(talk) => return Ok(()),
    };
    let data = data_stream(session, id, talk).await?;
    let (sshfs, ours) = Sshfs::start(&ready.program, order, &ready.place, ready.owner)
        .map_err(MountError::Start)?;
    // Kept open until sshfs is dead: it takes an end of its connection for a reason to unmount.
    let (ours, _kept) = twice(ours).map_err(MountError::Start)?;
    let mut mounted = Mounted {
        ready: &ready,
        sshfs,
        table: TableWatch::new(&ready.table).map_err(MountError::Start)?,
    };
    let tally = Tally::default();
    let mut relay = pin!(join(ours, data, &tally));
    let establishing = async {
        mounted.established().await?;
        View::open(house, order, &ready).await
    };
    let established = tokio::select! {
        established = timeout(MOUNT_LIMIT, establishing) => match established {
            Ok(established) => established,
            Err(_) => Err(MountError::TimedOut { what: "see it mounted", limit: MOUNT_LIMIT }),
        },
        _ = &mut relay => Err(mounted.sshfs_or(MountError::Lost).await),
        () = given_up(talk) => Err(MountError::Lost),
    };
    let view = match established {
        Ok(view) => view,
        Err(why) => {
            mounted.sshfs.kill().await;
            // Nobody has anything open there yet.
            forget(&ready).await;
            return Err(why);
        }
    };
    tracing::info!(point = order.point, "mounted");
    if talk.tell(Told::Mounted).await.is_err() {
        mounted.sshfs.kill().await;
        return Ok(());
    }
    let end = tokio::select! {
        biased;
        end = mounted.hold(house, talk) => end,
        _ = &mut relay => mounted.why_the_data_ended().await,
    };
    drop(view);
    match end {
        End::Failed(why) => {
            mounted.sshfs.kill().await;
            Err(why)
        }
        End::HostGone => {
            tracing::warn!(point = order.point, "the host's files are out of reach");
            mounted.sshfs.kill().await;
            Ok(())
        }
        End::Asked => unmount(mounted, talk, order, relay).await,
    }
}

/// Writes out and unmounts, as the host or the agent's end asked. The data flows meanwhile, and goes on flowing to programs that
/// have files open.
async fn unmount(
    mut mounted: Mounted<'_>,
    talk: &mut GuestEnd,
    order: &MountOrder,
    mut relay: impl Future + Unpin,
) -> Result<(), MountError> {
    let mut flows = true;
    let unmounted = {
        let mut unmounting = pin!(mounted.unmount());
        loop {
            tokio::select! {
                biased;
                unmounted = &mut unmounting => break unmounted,
                _ = &mut relay, if flows => flows = false,
            }
        }
    };
    let busy = match unmounted {
        Ok(busy) => busy,
        Err(why) => {
            mounted.sshfs.kill().await;
            return Err(why);
        }
    };
    tracing::info!(point = order.point, busy, "unmounted");
    let _ = talk.tell(Told::Unmounted { busy }).await;
    if busy {
        tokio::select! {
            _ = mounted.sshfs.ended() => {}
            _ = &mut relay, if flows => {}
            () = given_up(talk) => {}
        }
    }
    mounted.sshfs.kill().await;
    Ok(())
}

/// The socket, and another descriptor that keeps it open.
fn twice(socket: UnixStream) -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let socket = socket.into_std()?;
    let kept = socket.try_clone()?;
    Ok((UnixStream::from_std(socket)?, kept))
}

/// Waits until the host gives the mount up.
async fn given_up(talk: &mut GuestEnd) {
    // It has nothing to say before the mount is there, but that it no longer wants it.
    let asked: Result<Ask, TalkError> = talk.asked().await;
    tracing::debug!(?asked, "the host gave a mount up");
}

/// Everything is in place for sshfs.
#[derive(Debug)]
struct Ready {
    program: PathBuf,
    owner: Owner,
    place: PathBuf,
    table: PathBuf,
}

async fn prepare(house: &House, order: &MountOrder) -> Result<Ready, MountError> {
    sshfs_allowed(house).await?;
    let program = sshfs::find(|path| house.path(path)).ok_or(MountError::NoSshfs)?;
    let name = house.user.get().ok_or(MountError::NoUser)?;
    let account = find_account(&house.path("/etc/passwd"), name)?;
    let account = account.ok_or_else(|| MountError::NoAccount(name.clone()))?;
    let (owner, table) = (account.owner, house.path(TABLE));
    let (point, read) = (house.path(&order.point), table.clone());
    let prepare = move || place::prepare(&point, &read, owner);
    let place = aside("prepare the mount point", PLACE_LIMIT, prepare).await??;
    Ok(Ready {
        program,
        owner,
        place,
        table,
    })
}

/// Waits for the boot step that installs sshfs and lets users share their mounts.
async fn sshfs_allowed(house: &House) -> Result<(), MountError> {
    let (fuse, done) = (house.path(FUSE_READY), house.path(BOOT_DONE));
    let paths = [fuse.clone(), done.clone()];
    let wait = Wait {
        what: "the guest to get ready for sshfs",
        paths: &paths,
        limit: BOOT_LIMIT,
        tick: None,
    };
    let allowed = wait.until(|| {
        if fuse.exists() {
            Some(true)
        } else {
            done.exists().then_some(false)
        }
    });
    if allowed.await? {
        Ok(())
    } else {
        Err(MountError::NotPrepared)
    }
}

/// Says that we are ready, and waits for the stream with the data.
async fn data_stream(
    session: &Session,
    id: u32,
    talk: &mut GuestEnd,
) -> Result<LinkStream, MountError> {
    let (came, coming) = oneshot::channel();
    session.claims().awaited.insert(id, came);
    let stream = match talk.tell(Told::Ready).await {
        Ok(()) => tokio::select! {
            stream = timeout(DATA_LIMIT, coming) => stream.ok().and_then(Result::ok),
            () = given_up(talk) => None,
        },
        Err(_) => None,
    };
    session.claims().awaited.remove(&id);
    stream.ok_or(MountError::Lost)
}

/// Takes away what sshfs may have mounted.
async fn forget(ready: &Ready) {
    let (place, table) = (ready.place.clone(), ready.table.clone());
    let forgetting = move || {
        if matches!(place::is_mounted(&place, &table), Ok(true)) {
            let _ = place::detach(&place);
        }
    };
    let _ = aside("unmount", UNMOUNT_LIMIT, forgetting).await;
}

/// The agent's own way into a mount in which it is to raise file events. Dropping it closes it.
struct View<'a> {
    house: &'a House,
    point: &'a str,
}

impl<'a> View<'a> {
    /// Opens it, and lets programs only read where that is so; nothing for mounts without file events.
    async fn open(
        house: &'a House,
        order: &'a MountOrder,
        ready: &Ready,
    ) -> Result<Option<Self>, MountError> {
        if !order.file_events {
            return Ok(None);
        }
        let (place, writable) = (ready.place.clone(), order.writable);
        let opening = move || {
            let view = place::private_view(&place);
            if !writable {
                place::make_read_only(&place)?;
            }
            Ok::<_, MountError>(view)
        };
        let point = order.point.as_str();
        match aside("look into it", MOUNT_LIMIT, opening).await?? {
            Ok(view) => drop(house.views().insert(point.to_owned(), Arc::new(view))),
            // A kernel before 5.2. Where programs may write, files can be touched as they would.
            Err(why) => tracing::warn!(point, why = %chain(&why), "file events may not be raised"),
        }
        Ok(Some(Self { house, point }))
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        self.house.views().remove(self.point);
    }
}

/// A running sshfs, and what tells whether it is still mounted.
struct Mounted<'a> {
    ready: &'a Ready,
    sshfs: Sshfs,
    table: TableWatch,
}

impl Mounted<'_> {
    /// Waits until the table has it, and it answers.
    async fn established(&mut self) -> Result<(), MountError> {
        while !self.is_mounted()? {
            tokio::select! {
                ended = self.sshfs.ended() => return Err(ended),
                changed = self.table.changed() => changed.map_err(MountError::Start)?,
            }
        }
        let place = self.ready.place.clone();
        tokio::select! {
            ended = self.sshfs.ended() => Err(ended),
            answers = aside("hear from it", MOUNT_LIMIT, move || place::answers(&place)) => answers?,
        }
    }

    fn is_mounted(&self) -> Result<bool, MountError> {
        place::is_mounted(&self.ready.place, &self.ready.table)
    }

    /// Watches it until its end.
    async fn hold(&mut self, house: &House, talk: &mut GuestEnd) -> End {
        loop {
            tokio::select! {
                ended = self.sshfs.ended() => return End::Failed(ended),
                changed = self.table.changed() => match changed.map(|()| self.is_mounted()) {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) => return End::Failed(self.gone().await),
                    Ok(Err(why)) => return End::Failed(why),
                    Err(why) => return End::Failed(MountError::Start(why)),
                },
                asked = talk.asked() => return match asked {
                    Ok(Ask::Unmount) => End::Asked,
                    Ok(Ask::Order(_)) | Err(_) => End::HostGone,
                },
                () = house.closing.cancelled() => return End::Asked,
            }
        }
    }

    /// Why the table has it no more: sshfs unmounts when it ends, which says more.
    async fn gone(&mut self) -> MountError {
        self.sshfs_or(MountError::Unmounted).await
    }

    /// The end of sshfs, if it has ended; else another reason.
    async fn sshfs_or(&mut self, other: MountError) -> MountError {
        match timeout(LAST_WORDS, self.sshfs.ended()).await {
            Ok(ended) => ended,
            Err(_) => other,
        }
    }

    /// sshfs that ends closes its connection, so the host ends it, too; a host that is gone leaves sshfs alive.
    async fn why_the_data_ended(&mut self) -> End {
        match timeout(LAST_WORDS, self.sshfs.ended()).await {
            Ok(ended) => End::Failed(ended),
            Err(_) => End::HostGone,
        }
    }

    /// Tells whether programs have files open there.
    async fn unmount(&mut self) -> Result<bool, MountError> {
        let place = self.ready.place.clone();
        let unmount = move || place::write_out_and_unmount(&place);
        aside("unmount", UNMOUNT_LIMIT, unmount).await?
    }
}
