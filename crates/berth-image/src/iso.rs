//! Tells an installer image (ISO 9660) from a disk.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

const SECTOR: usize = 2048;
const FIRST_DESCRIPTOR: u64 = 16;
/// More descriptors than any real disc has.
const MOST_DESCRIPTORS: u64 = 64;

/// Whether the file is an ISO 9660 volume (ECMA-119): a chain of volume descriptors with a primary one that has a root
/// directory, and a terminator. Hybrid images, which are also disks, count as ISO, as in Lima.
pub fn is_iso(file: &mut File) -> io::Result<bool> {
    let mut primary = false;
    for index in 0..MOST_DESCRIPTORS {
        let mut sector = [0; SECTOR];
        file.seek(SeekFrom::Start((FIRST_DESCRIPTOR + index) * SECTOR as u64))?;
        match file.read_exact(&mut sector) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        if &sector[1..6] != b"CD001" {
            return Ok(false);
        }
        match sector[0] {
            1 => primary = primary || has_root_directory(&sector),
            255 => return Ok(primary),
            _ => {}
        }
    }
    Ok(false)
}

/// The root directory's record has its fixed length and says that it is a directory; the block size is the usual one, in both
/// byte orders.
fn has_root_directory(descriptor: &[u8; SECTOR]) -> bool {
    const DIRECTORY: u8 = 2;
    let root = &descriptor[156..190];
    descriptor[128..132] == [0, 8, 8, 0] && root[0] == 34 && root[25] & DIRECTORY != 0
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn xorriso_makes_isos_and_other_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), "content").unwrap();
        let iso = dir.path().join("x.iso");
        let made = Command::new("xorriso")
            .args(["-as", "mkisofs", "-quiet", "-J", "-R", "-o"])
            .args([&iso, &tree])
            .output()
            .expect("xorriso is installed (`cargo xtask test` does it)");
        assert!(made.status.success(), "{made:?}");
        assert!(is_iso(&mut File::open(&iso).unwrap()).unwrap());

        let bytes = std::fs::read(&iso).unwrap();
        let cut = dir.path().join("cut");
        std::fs::write(&cut, &bytes[..0x8000 + 2048]).unwrap();
        assert!(!is_iso(&mut File::open(&cut).unwrap()).unwrap());
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        assert!(!is_iso(&mut File::open(&disk).unwrap()).unwrap());
        assert!(!is_iso(&mut File::open("/dev/null").unwrap()).unwrap());
    }
}
