//! Running `qemu-img`, always with the format spelled out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_process::escape::escape_untrusted;
use berth_process::spawn::{SpawnError, Spec};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::{ImageError, with_causes};
use crate::format::Format;

/// Longest output that is read; a listing of thousands of snapshots fits.
const OUTPUT_MAX: u64 = 4 << 20;
/// For what only touches headers.
const QUICK: Duration = Duration::from_secs(120);
/// For what copies or rewrites whole disks.
const SLOW: Duration = Duration::from_secs(2 * 60 * 60);

/// The program. Dropping a future of its methods kills the process.
#[derive(Debug, Clone)]
pub struct QemuImg {
    program: PathBuf,
}

/// What `qemu-img info --output=json` says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// Format it was opened as.
    pub format: String,
    /// Size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// Name of the image it is based on, as its header says.
    pub backing_filename: Option<String>,
    /// The same, as QEMU would open it.
    pub full_backing_filename: Option<String>,
    /// What only some formats have.
    #[serde(default)]
    pub format_specific: Option<FormatSpecific>,
    /// The files below it (QEMU 8 and later).
    #[serde(default)]
    pub children: Vec<Child>,
}

/// `format-specific` of [`Info`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FormatSpecific {
    /// Its content.
    #[serde(default)]
    pub data: SpecificData,
}

/// `data` of [`FormatSpecific`].
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SpecificData {
    /// qcow2: the file with the data.
    pub data_file: Option<String>,
    /// vmdk: the files with the data.
    #[serde(default)]
    pub extents: Vec<Extent>,
}

/// One file with data of a vmdk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Extent {
    /// Its name.
    pub filename: String,
}

/// One file below an image.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Child {
    /// What it is.
    pub info: ChildInfo,
}

/// `info` of [`Child`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ChildInfo {
    /// Its name.
    pub filename: String,
    /// The files below it.
    #[serde(default)]
    pub children: Vec<serde_json::Value>,
}

/// What to do with the snapshots inside a qcow2 disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot<'a> {
    /// Make one.
    Create(&'a str),
    /// Go back to one.
    Apply(&'a str),
    /// Delete one.
    Delete(&'a str),
    /// List them.
    List,
}

impl QemuImg {
    /// `qemu-img` at a path, or by name in this process's `PATH`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    /// Reads the header of an image. Does not open the files that it names.
    pub async fn info(&self, path: &Path, format: Format) -> Result<Info, ImageError> {
        let verb = "read the header of";
        let args = [
            "info",
            "--output=json",
            "--force-share",
            "-f",
            format.as_str(),
            "--",
        ];
        let output = self
            .run(verb, path, os(args).chain([path.into()]), QUICK)
            .await?;
        serde_json::from_slice(&output).map_err(|error| ImageError::QemuImg {
            verb,
            path: path.to_owned(),
            why: format!("its answer is not understood: {error}"),
        })
    }

    /// Makes an empty qcow2 disk.
    pub async fn create_qcow2(&self, path: &Path, bytes: u64) -> Result<(), ImageError> {
        let args = os(["create", "-q", "-f", "qcow2", "--"]);
        let tail = [path.into(), bytes.to_string().into()];
        self.run("create", path, args.chain(tail), QUICK).await?;
        Ok(())
    }

    /// Grows a disk.
    pub async fn resize(&self, path: &Path, format: Format, bytes: u64) -> Result<(), ImageError> {
        let args = os(["resize", "-q", "-f", format.as_str(), "--"]);
        let tail = [path.into(), bytes.to_string().into()];
        self.run("resize", path, args.chain(tail), QUICK).await?;
        Ok(())
    }

    /// Copies a disk into a new one of another format.
    pub async fn convert(
        &self,
        (from, from_format): (&Path, Format),
        (to, to_format): (&Path, Format),
    ) -> Result<(), ImageError> {
        let formats = [
            "convert",
            "-q",
            "-f",
            from_format.as_str(),
            "-O",
            to_format.as_str(),
            "--",
        ];
        let tail = [from.into(), to.into()];
        self.run("convert", from, os(formats).chain(tail), SLOW)
            .await?;
        Ok(())
    }

    /// Works on the snapshots of a qcow2 disk; gives what `qemu-img` printed. Only listing is allowed while a VM uses it.
    pub async fn snapshot(&self, disk: &Path, action: Snapshot<'_>) -> Result<String, ImageError> {
        let (verb, flags, tag) = match action {
            Snapshot::Create(tag) => ("make a snapshot of", "-c", Some(tag)),
            Snapshot::Apply(tag) => ("go back to a snapshot of", "-a", Some(tag)),
            Snapshot::Delete(tag) => ("delete a snapshot of", "-d", Some(tag)),
            Snapshot::List => ("list the snapshots of", "-Ul", None),
        };
        // There is no -f here, but an image can be named with its driver.
        let mut image = OsString::from("driver=qcow2,file.driver=file,file.filename=");
        image.push(double_commas(disk)?);
        let args = os(["snapshot", "--image-opts", flags])
            .chain(tag.map(OsString::from))
            .chain([OsString::from("--"), image]);
        let output = self.run(verb, disk, args, SLOW).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    async fn run(
        &self,
        verb: &'static str,
        path: &Path,
        args: impl IntoIterator<Item = OsString>,
        limit: Duration,
    ) -> Result<Vec<u8>, ImageError> {
        let failed = |why: String| ImageError::QemuImg {
            verb,
            path: path.to_owned(),
            why,
        };
        let mut child = Spec::new(&self.program)
            .args(args)
            .env("LC_ALL", "C")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop()
            .spawn()
            .map_err(|error| match error {
                SpawnError::NotFound { .. } => ImageError::NoQemuImg,
                other => failed(with_causes(&other)),
            })?;
        let stdout = child
            .take_stdout()
            .map_err(|error| failed(error.to_string()))?;
        let stderr = child
            .take_stderr()
            .map_err(|error| failed(error.to_string()))?;
        let work = async { tokio::join!(collect(stdout), collect(stderr), child.wait()) };
        let (output, complaints, exit) = tokio::time::timeout(limit, work)
            .await
            .map_err(|_| failed(format!("it did not end within {} s", limit.as_secs())))?;
        if exit.success() {
            return Ok(output);
        }
        let words = escape_untrusted(complaints.trim_ascii());
        let words = words.strip_prefix("qemu-img: ").unwrap_or(&words);
        Err(failed(if words.is_empty() {
            exit.describe()
        } else {
            words.to_owned()
        }))
    }
}

impl Default for QemuImg {
    /// `qemu-img` of this process's `PATH`.
    fn default() -> Self {
        Self::new("qemu-img")
    }
}

/// Reads a stream to its end, and keeps the beginning of it.
async fn collect(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(OUTPUT_MAX).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}

fn os<const N: usize>(args: [&str; N]) -> std::array::IntoIter<OsString, N> {
    args.map(OsString::from).into_iter()
}

/// A path inside a comma-separated option list.
fn double_commas(path: &Path) -> Result<String, ImageError> {
    match path.to_str() {
        Some(text) => Ok(text.replace(',', ",,")),
        None => Err(ImageError::Refused {
            path: path.to_owned(),
            why: "qemu-img needs a path in UTF-8 here".to_owned(),
        }),
    }
}
