//! The program's own code in memory, on Linux.
#![allow(
    unsafe_code,
    reason = "giving pages back to the system has no safe interface"
)]

use std::fs;
use std::io;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Lets go of the program's code: what is executed from now on comes back from the file, page by page, and what only a start needs
/// does not.
pub(crate) fn let_go_of_code() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read("/proc/self/maps")?;
    for Range { start, end } in code(&maps, program.as_os_str().as_encoded_bytes()) {
        let pages = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a mapping of this program's file that nobody can write to, as the kernel has just said, so every page
        // holds what the file does and is read from there when it is wanted next. It stays mapped: nothing unmaps code.
        unsafe { madvise(pages, end - start, Advice::LinuxDontNeed) }?;
    }
    Ok(())
}

/// Addresses of what is mapped from `program` to be executed and never written, from the lines of `proc_pid_maps(5)`.
fn code(maps: &[u8], program: &[u8]) -> Vec<Range<usize>> {
    let lines = maps.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| code_of_line(line, program))
        .collect()
}

fn code_of_line(line: &[u8], program: &[u8]) -> Option<Range<usize>> {
    let (fields, path) = line.split_at(line.iter().position(|byte| *byte == b'/')?);
    let fields = std::str::from_utf8(fields).ok()?;
    let (addresses, rest) = fields.split_once(' ')?;
    if path != program || !rest.starts_with("r-xp ") {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"\
55d000000000-55d000100000 r--p 00000000 fe:00 1234                       /opt/my berth/berth
55d000100000-55d000700000 r-xp 00100000 fe:00 1234                       /opt/my berth/berth
55d000700000-55d000730000 rw-p 00700000 fe:00 1234                       /opt/my berth/berth
7f0000000000-7f0000100000 r-xp 00000000 fe:00 99                         /usr/lib/libc.so.6
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
";

    #[test]
    fn only_this_programs_code_is_let_go_of() {
        let found = code(MAPS, b"/opt/my berth/berth");
        let text = found.first().map(|text| (text.start, text.end));
        assert_eq!(text, Some((0x55d0_0010_0000, 0x55d0_0070_0000)));
        assert_eq!(found.len(), 1);
        assert_eq!(code(MAPS, b"/opt/my berth/other"), []);
        assert_eq!(code(b"nonsense\n/\n- /x", b"/x"), []);
    }

    #[test]
    fn the_program_runs_on_without_the_pages_and_has_fewer() {
        let mapped = || {
            let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
            let line = rollup
                .lines()
                .find(|line| line.starts_with("Rss:"))
                .unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let before = mapped();
        let_go_of_code().unwrap();
        let after = mapped();
        assert!(after < before, "{before} KiB, then {after} KiB");
    }
}
