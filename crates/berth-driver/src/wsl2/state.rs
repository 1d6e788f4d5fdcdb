//! How a distribution is, by means that do not depend on a language.
//!
//! The column of states in `--list --verbose` is in the user's language in some versions. So the lists of names are asked for,
//! which differ in whom they contain: `--all` everybody, without it nobody who is being installed, removed, converted or
//! exported, `--running` who runs.

use crate::error::DriverError;
use crate::wsl2::text::decode;
use crate::wsl2::wsl::{QUICK, Wsl};

/// Said, in every language, when there are no distributions at all and somebody minds.
const NONE: &str = "WSL_E_DEFAULT_DISTRO_NOT_FOUND";

/// The state of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is none of that name.
    Absent,
    /// It is being installed, removed, converted or exported.
    Busy,
    /// It does not run.
    Stopped,
    /// It runs.
    Running,
}

impl Wsl {
    /// Asks for the state.
    pub(super) async fn state(&self) -> Result<State, DriverError> {
        if !self.is_in(&["--list", "--all", "--quiet"]).await? {
            return Ok(State::Absent);
        }
        if !self.is_in(&["--list", "--quiet"]).await? {
            return Ok(State::Busy);
        }
        Ok(if self.is_running().await? {
            State::Running
        } else {
            State::Stopped
        })
    }

    /// Whether it runs.
    pub(super) async fn is_running(&self) -> Result<bool, DriverError> {
        let reply = self
            .manage(&["--list", "--running", "--quiet"], QUICK)
            .await?;
        // A failure is how some versions say that nobody runs.
        Ok(reply.exit.success() && self.is_named(&reply.stdout))
    }

    async fn is_in(&self, list: &[&str]) -> Result<bool, DriverError> {
        let reply = self.manage(list, QUICK).await?;
        if reply.exit.success() {
            return Ok(self.is_named(&reply.stdout));
        }
        let words = reply.words();
        if words.contains(NONE) {
            return Ok(false);
        }
        Err(DriverError::Program {
            program: format!("wsl.exe {}", list.join(" ")),
            why: format!("{}; it says: {words}", reply.exit.describe()),
        })
    }

    /// A name on a line of its own, as WSL compares them: without regard to case.
    fn is_named(&self, list: &[u8]) -> bool {
        let list = decode(list);
        let mut names = list.lines().map(str::trim);
        names.any(|name| name.eq_ignore_ascii_case(self.distribution()))
    }
}
