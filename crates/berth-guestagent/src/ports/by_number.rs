//! UDP sockets that asked for a port in the range that the system gives out, for an agent that takes over from this one: the kernel
//! would not tell it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::args::chain;
use crate::files::{Attributes, Loss, put, read_text};
use crate::guest::Guest;
use crate::progress::RUNTIME_DIRECTORY;

/// The record, in the runtime directory, which does not outlive the boot: the kernel's cookies of the sockets, one a line.
const RECORD: &str = "udp-sockets";

/// Most sockets that are recorded.
const MAX_RECORDED: usize = 4096;

/// The record.
#[derive(Debug)]
pub(super) struct ByNumber {
    file: PathBuf,
    cookies: BTreeSet<u64>,
}

impl ByNumber {
    /// Takes up the record of the agent before this one.
    pub(super) fn open(guest: &Guest) -> Self {
        let file = guest.path(RUNTIME_DIRECTORY).join(RECORD);
        let text = read_text(&file).ok().flatten().unwrap_or_default();
        let cookies = text.lines().flat_map(str::parse).take(MAX_RECORDED);
        Self {
            cookies: cookies.collect(),
            file,
        }
    }

    /// The sockets of the record.
    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.cookies.iter().copied()
    }

    /// Replaces the record. Without it, an agent that takes over does not know these ports: not worth ending this one.
    pub(super) fn keep(&mut self, cookies: BTreeSet<u64>) {
        if cookies == self.cookies {
            return;
        }
        self.cookies = cookies;
        let cookies = self.cookies.iter().take(MAX_RECORDED);
        let lines: Vec<_> = cookies.map(ToString::to_string).collect();
        let text = lines.join("\n");
        let kept = put(
            &self.file,
            text.as_bytes(),
            Attributes::root(0o600),
            Loss::Repaired,
        );
        if let Err(why) = kept {
            tracing::debug!("UDP ports are not recorded: {}", chain(&why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    #[test]
    fn the_next_agent_reads_what_this_one_wrote() {
        let scene = Scene::new();
        let path = format!("{RUNTIME_DIRECTORY}/{RECORD}");
        scene.write(&path, "7\n\nbroken\n-1\n18446744073709551615\n");
        let mut record = ByNumber::open(&scene.guest);
        assert_eq!(record.cookies().collect::<Vec<_>>(), [7, u64::MAX]);
        record.keep(BTreeSet::from([3, 5]));
        let next = ByNumber::open(&scene.guest);
        assert_eq!(next.cookies().collect::<Vec<_>>(), [3, 5]);
        record.keep((0..10_000).collect());
        assert_eq!(ByNumber::open(&scene.guest).cookies().count(), MAX_RECORDED);
    }
}
