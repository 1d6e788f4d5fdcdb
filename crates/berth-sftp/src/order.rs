//! Which requests may be carried out at once.
//!
//! The protocol wants what concerns the same file to look as if it were done in the order of the requests, and `sshfs` counts on it: it
//! sends the creation of a file and the look at it together, and does not wait for writes. Everything else may overtake.

use crate::handles::FileId;

/// What a request looks at and what it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing that another request could change.
    Free,
    /// Looks at names and attributes.
    Look,
    /// Changes names.
    Names,
    /// Changes attributes or contents of a file that it names.
    Contents,
    /// Reads an open file.
    Read(FileId),
    /// Changes an open file, or closes it.
    Write(FileId),
    /// Waits until what was written to a file is safe.
    Sync(FileId),
    /// Goes on in an open directory.
    List(FileId),
}

impl Access {
    /// Whether `self` has to wait for an earlier request.
    pub(crate) fn waits_for(self, earlier: Self) -> bool {
        use Access::{Contents, Free, List, Look, Names, Read, Sync, Write};
        match (earlier, self) {
            (Write(one), Read(other) | Write(other) | Sync(other))
            | (Read(one), Write(other))
            | (List(one), List(other)) => one == other,
            (Free | Sync(_), _) | (_, Free) => false,
            either => matches!(
                either,
                (Contents, _)
                    | (_, Contents)
                    | (Names, Look | Names | List(_))
                    | (Look | List(_), Names)
                    // What is looked at may be what is being written.
                    | (Write(_), Look | List(_))
                    | (Look, Write(_))
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{Contents, Free, List, Look, Names, Read, Sync, Write};
    use super::*;

    const ONE: FileId = (1, 1);
    const OTHER: FileId = (1, 2);

    #[test]
    fn what_concerns_one_file_is_in_order() {
        for (earlier, later) in [
            (Names, Look),
            (Names, Names),
            (Write(ONE), Write(ONE)),
            (Write(ONE), Read(ONE)),
            (Read(ONE), Write(ONE)),
            (Write(ONE), Look),
            (Look, Write(ONE)),
            (Write(ONE), Sync(ONE)),
            (Write(ONE), Contents),
            (Contents, Read(ONE)),
            (Contents, Look),
            (List(ONE), List(ONE)),
            (Names, List(ONE)),
            (Look, Names),
        ] {
            assert!(later.waits_for(earlier), "{later:?} overtakes {earlier:?}");
        }
    }

    #[test]
    fn what_does_not_may_overtake() {
        for (earlier, later) in [
            (Look, Look),
            (Read(ONE), Read(ONE)),
            (Read(ONE), Look),
            (Write(ONE), Write(OTHER)),
            (Write(ONE), Read(OTHER)),
            (Sync(ONE), Look),
            (Sync(ONE), Contents),
            (Sync(ONE), Write(ONE)),
            (Read(ONE), Names),
            (Names, Read(ONE)),
            (List(ONE), List(OTHER)),
            (Contents, Free),
        ] {
            assert!(!later.waits_for(earlier), "{later:?} waits for {earlier:?}");
        }
    }
}
