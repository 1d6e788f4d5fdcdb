//! Doing something with the rights of the instance's user.
//!
//! Rights belong to a thread: Linux knows no others, it is the C library that changes all threads of a process at once. So a thread
//! is started, takes on the user's groups, group and user by system calls of its own, does one thing, and ends. It keeps root as
//! its *real* user: signals are checked against that, and the user must not be able to kill the agent through it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::sync::{Semaphore, oneshot};

use super::error::TunnelError;
use crate::accounts::{Owner, find_account, groups_of};
use crate::guest::Guest;

/// Threads at a time. One that hangs, in a file system that does not answer, keeps its place.
const MOST_THREADS: usize = 16;

/// Bytes of stack: reading two files of accounts, and one system call.
const STACK: usize = 64 * 1024;

/// Whose rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// The agent's own: root's.
    Agent,
    /// Those of the instance's user.
    User,
}

/// The instance's user, once the host has told who that is.
#[derive(Debug)]
pub(super) struct LoginUser {
    name: OnceLock<String>,
    passwd: PathBuf,
    group: PathBuf,
}

impl LoginUser {
    pub(super) fn of(guest: &Guest) -> Self {
        Self {
            name: OnceLock::new(),
            passwd: guest.path("/etc/passwd"),
            group: guest.path("/etc/group"),
        }
    }

    pub(super) fn set(&self, name: &str) {
        self.name.get_or_init(|| name.to_owned());
    }

    /// The user and its groups as they are now: a script of this boot may have put it into the group of a socket.
    fn look_up(&self) -> Result<(Owner, Vec<u32>), TunnelError> {
        let name = self.name.get().ok_or(TunnelError::NoUser)?;
        let account = find_account(&self.passwd, name)?;
        // To the kernel, the last number means that nothing is to change.
        let account =
            account.filter(|account| ![account.owner.uid, account.owner.gid].contains(&u32::MAX));
        let account = account.ok_or_else(|| TunnelError::NoAccount(name.clone()))?;
        let mut groups = groups_of(&self.group, name)?;
        groups.retain(|group| *group != u32::MAX);
        Ok((account.owner, groups))
    }
}

/// Starts a thread for each piece of work.
#[derive(Debug)]
pub(super) struct Workers(Arc<Semaphore>);

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_THREADS)))
    }
}

impl Workers {
    /// Does `work` with somebody's rights. When the future is dropped, the result is dropped with those rights.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        user: Arc<LoginUser>,
        rights: Rights,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TunnelError> {
        // Never closed.
        let place = self.0.clone().acquire_owned().await.ok();
        let (answer, answered) = oneshot::channel();
        let thread = move || {
            let _place = place;
            let done = take_on(&user, rights).map(|()| work());
            let _ = answer.send(done);
        };
        let started = thread::Builder::new()
            .name("rights".to_owned())
            .stack_size(STACK)
            .spawn(thread);
        started.map_err(TunnelError::Thread)?;
        let died = |_| TunnelError::Thread(io::Error::other("it died"));
        answered.await.map_err(died)?
    }
}

/// Gives this thread somebody's rights, for good.
fn take_on(user: &LoginUser, rights: Rights) -> Result<(), TunnelError> {
    if rights == Rights::Agent {
        return Ok(());
    }
    let (Owner { uid, gid }, groups) = user.look_up()?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if (uid, gid) == (geteuid(), getegid()) {
        // An agent that is not root, in tests.
        return Ok(());
    }
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    become_user(uid, gid, &groups).map_err(TunnelError::Rights)
}

fn become_user(uid: Uid, gid: Gid, groups: &[Gid]) -> io::Result<()> {
    // In this order: whoever is no longer root may change nothing more.
    set_thread_groups(groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(None, uid, None)?;
    Ok(())
}
