//! The volume on disk: an ISO 9660 image or a directory, written only when something changed.

use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use berth_instance::files::write_atomic;
use flate2::read::MultiGzDecoder;

use crate::digest::sha256_hex;
use crate::error::CidataError;
use crate::files::{Cidata, Source};
use crate::iso::{self, IsoError};
use crate::sys;
use crate::user_data::LABEL;

/// Counted up whenever the writer's output changes, so that volumes of an earlier berth are written anew.
const FORMAT: u32 = 1;

/// What became of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was there, with this content: nothing was written, and no big file was read.
    Unchanged,
    /// It was written.
    Written,
}

/// Writes the volume as an ISO 9660 image with label `cidata`, mode 0600, unless it is there already.
///
/// Whether it is there is decided by a stamp beside it (`cidata.iso.stamp`): a hash over the small files' texts, over size,
/// time and number of the big ones, and over size, time and number of the image itself. The caller holds the instance's lock.
pub fn write_iso_if_changed(volume: &Cidata, path: &Path) -> Result<Outcome, CidataError> {
    let inputs = fingerprint(volume)?;
    let stamp_path = beside(path, ".stamp");
    if let (Ok(metadata), Ok(stamp)) = (fs::symlink_metadata(path), fs::read_to_string(&stamp_path))
        && metadata.is_file()
        && stamp == stamp_of(&inputs, &metadata)
    {
        return Ok(Outcome::Unchanged);
    }
    let temporary = beside(path, ".tmp");
    let written = write_iso(volume, &temporary)
        .and_then(|()| fs::rename(&temporary, path).map_err(CidataError::io("replace", path)));
    if written.is_err() {
        // Half a volume is of no use, and the disk may be full.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    let metadata = fs::metadata(path).map_err(CidataError::io("look at", path))?;
    let stamp = stamp_of(&inputs, &metadata);
    write_atomic(&stamp_path, stamp.as_bytes(), 0o600)
        .map_err(CidataError::io("write", &stamp_path))?;
    Ok(Outcome::Written)
}

fn write_iso(volume: &Cidata, path: &Path) -> Result<(), CidataError> {
    let failed = CidataError::io("write", path);
    let file = sys::create_private(path).map_err(CidataError::io("create", path))?;
    let mut out = BufWriter::with_capacity(256 * 1024, file);
    match iso::write(&mut out, LABEL, &volume.entries) {
        Ok(()) => {}
        Err(IsoError::Layout(source)) => {
            let path = path.with_extension("");
            return Err(CidataError::Layout { path, source });
        }
        Err(IsoError::Read { path, source }) => {
            return Err(CidataError::io("read", path)(source));
        }
        Err(IsoError::Write(source)) => return Err(failed(source)),
    }
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .map_err(failed)
}

/// Writes the volume as a directory, for guests that nobody hands a disk. It is made anew each time; everything in it is 0700.
pub fn write_directory(volume: &Cidata, path: &Path) -> Result<(), CidataError> {
    let temporary = beside(path, ".tmp");
    remove_tree(&temporary)?;
    sys::make_private_dir(&temporary).map_err(CidataError::io("create", &temporary))?;
    for (name, entry) in &volume.entries {
        let file = temporary.join(name);
        for directory in missing_parents(&file, &temporary) {
            sys::make_private_dir(&directory).map_err(CidataError::io("create", &directory))?;
        }
        copy_out(&entry.source, &file)?;
        sys::set_mode(&file, 0o700).map_err(CidataError::io("set the mode of", &file))?;
    }
    remove_tree(path)?;
    fs::rename(&temporary, path).map_err(CidataError::io("replace", path))
}

/// Directories between `root` and `file` that do not exist, outermost first.
fn missing_parents(file: &Path, root: &Path) -> Vec<PathBuf> {
    let parents = file.ancestors().skip(1).take_while(|at| *at != root);
    let mut missing: Vec<PathBuf> = parents
        .filter(|at| !at.exists())
        .map(Path::to_path_buf)
        .collect();
    missing.reverse();
    missing
}

fn copy_out(source: &Source, to: &Path) -> Result<(), CidataError> {
    let mut out = sys::create_private(to).map_err(CidataError::io("create", to))?;
    let mut copy = |from: &Path, input: &mut dyn Read| {
        // Which of the two failed cannot be told apart here; both are named.
        io::copy(input, &mut out)
            .map(|_| ())
            .map_err(CidataError::io(
                "copy",
                format!("{} to {}", from.display(), to.display()),
            ))
    };
    match source {
        Source::Text(text) => out
            .write_all(text.as_bytes())
            .map_err(CidataError::io("write", to)),
        Source::File(path) => copy(path, &mut open(path)?),
        Source::Gzip(path) => copy(path, &mut MultiGzDecoder::new(open(path)?)),
    }
}

fn open(path: &Path) -> Result<File, CidataError> {
    File::open(path).map_err(CidataError::io("read", path))
}

fn remove_tree(path: &Path) -> Result<(), CidataError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CidataError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes the user-data for people to read (`cloud-config.yaml`, mode 0444), unless it is there already.
pub fn write_reference(volume: &Cidata, path: &Path) -> Result<Outcome, CidataError> {
    if fs::read(path).is_ok_and(|text| text == volume.reference.as_bytes()) {
        return Ok(Outcome::Unchanged);
    }
    write_atomic(path, volume.reference.as_bytes(), 0o444)
        .map_err(CidataError::io("write", path))?;
    Ok(Outcome::Written)
}

/// The path with something added to its file name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// What the volume is made from, without reading the big files.
fn fingerprint(volume: &Cidata) -> Result<String, CidataError> {
    let mut text = format!("format {FORMAT}\n");
    for (name, entry) in &volume.entries {
        let what = match &entry.source {
            Source::Text(text) => format!("text {}", sha256_hex(text)),
            Source::File(path) => format!("file {}", identity(&stat(path)?)),
            Source::Gzip(path) => format!("gzip {}", identity(&stat(path)?)),
        };
        writeln!(text, "{name:?} {} {what}", entry.executable).expect("a string takes all");
    }
    Ok(text)
}

fn stat(path: &Path) -> Result<Metadata, CidataError> {
    fs::metadata(path).map_err(CidataError::io("read", path))
}

/// Size, time and number of a file: another content has another identity.
fn identity(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = since.map_or(0, |since| since.as_nanos());
    format!("{} {nanos} {:?}", metadata.len(), sys::file_id(metadata))
}

fn stamp_of(inputs: &str, image: &Metadata) -> String {
    let text = format!("{inputs}image {}\n", identity(image));
    sha256_hex(&text) + "\n"
}
