//! A marked block of lines inside a file that belongs to others.

use std::ops::Range;

/// The lines that mark a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Markers {
    /// First line.
    pub(crate) begin: &'static str,
    /// Last line.
    pub(crate) end: &'static str,
}

/// The agent's own block.
pub(crate) const BERTH: Markers = Markers {
    begin: "# BEGIN berth (replaced at each boot)",
    end: "# END berth",
};

/// Lima's block in `/etc/environment`, kept so that a guest has only one whoever started it.
pub(crate) const LIMA: Markers = Markers {
    begin: "#LIMA-START",
    end: "#LIMA-END",
};

/// Where a block goes that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before all else.
    Top,
    /// After all else.
    Bottom,
}

impl Markers {
    /// Gives `text` exactly one block with these lines, where the old one was; none when there are no lines.
    pub(crate) fn set(self, text: &str, place: Place, lines: &[String]) -> String {
        let (before, after) = match (self.split(text), place) {
            (Some((before, after)), _) => (before, after),
            (None, Place::Top) => (String::new(), text.to_owned()),
            (None, Place::Bottom) => (text.to_owned(), String::new()),
        };
        let mut new = before;
        if !lines.is_empty() {
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            let block = [self.begin]
                .into_iter()
                .chain(lines.iter().map(String::as_str));
            for line in block.chain([self.end]) {
                new.push_str(line);
                new.push('\n');
            }
        }
        new + &after
    }

    /// What stands before the first block and after it, without any further block. A first marker without a last one is
    /// taken out alone: what follows it may not be ours.
    fn split(self, text: &str) -> Option<(String, String)> {
        let begin = Self::find(text, self.begin)?;
        let before = text[..begin.start].to_owned();
        let rest = &text[begin.end..];
        let after = Self::find(rest, self.end).map_or(rest, |end| &rest[end.end..]);
        match self.split(after) {
            Some((between, after)) => Some((before, between + &after)),
            None => Some((before, after.to_owned())),
        }
    }

    /// Where the line `marker` stands, its line end included.
    fn find(text: &str, marker: &str) -> Option<Range<usize>> {
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            if line.trim_end() == marker {
                return Some(start..start + line.len());
            }
            start += line.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_block_is_added_replaced_in_place_and_removed() {
        let added = LIMA.set("PATH=/bin", Place::Bottom, &lines(&["A=1", "B=2"]));
        assert_eq!(added, "PATH=/bin\n#LIMA-START\nA=1\nB=2\n#LIMA-END\n");
        let replaced = LIMA.set(&(added + "Z=9\n"), Place::Top, &lines(&["A=3"]));
        assert_eq!(replaced, "PATH=/bin\n#LIMA-START\nA=3\n#LIMA-END\nZ=9\n");
        assert_eq!(LIMA.set(&replaced, Place::Bottom, &[]), "PATH=/bin\nZ=9\n");
        assert_eq!(
            LIMA.set("x\n", Place::Top, &lines(&["a"])),
            "#LIMA-START\na\n#LIMA-END\nx\n"
        );
    }

    #[test]
    fn setting_twice_changes_nothing_more() {
        for text in [
            "",
            "a",
            "a\n",
            "#LIMA-START\nold\n#LIMA-END\n",
            "#LIMA-END\n",
        ] {
            let once = LIMA.set(text, Place::Bottom, &lines(&["n"]));
            assert_eq!(
                LIMA.set(&once, Place::Bottom, &lines(&["n"])),
                once,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_block_without_end_keeps_what_follows() {
        let text = "a\n#LIMA-START\nmine?\n";
        assert_eq!(
            LIMA.set(text, Place::Bottom, &lines(&["n"])),
            "a\n#LIMA-START\nn\n#LIMA-END\nmine?\n"
        );
    }

    #[test]
    fn several_blocks_become_one() {
        let block = "#LIMA-START\nold\n#LIMA-END\n";
        let text = format!("a\n{block}b\n{block}c\n");
        assert_eq!(
            LIMA.set(&text, Place::Bottom, &lines(&["n"])),
            "a\n#LIMA-START\nn\n#LIMA-END\nb\nc\n"
        );
    }
}
