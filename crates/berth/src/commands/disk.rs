//! `disk`: additional disks, which outlive the instances that use them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use berth_config::name::check_identifier;
use berth_config::size::{Size, format_binary};
use berth_image::data_disk::{self, DataFormat};
use berth_image::qemu_img::QemuImg;
use berth_instance::dir::InstanceDir;
use berth_instance::disk::DiskDir;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::context::{Context, Host};
use crate::instances;
use crate::interrupt;

/// Additional disks, which outlive the instances that use them.
#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    #[command(subcommand)]
    pub(crate) command: DiskCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Make an empty disk
    Create(CreateArgs),
    /// List disks, and who uses them
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Delete disks
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(DeleteArgs),
    /// Remove the lock of an instance that does not run
    Unlock(NamesArgs),
    /// Grow a disk that nobody uses
    Resize(ResizeArgs),
    /// Make a disk from an image
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    #[arg(value_name = "DISK")]
    name: String,
    /// Its size, like 10GiB
    #[arg(long, value_name = "SIZE")]
    size: String,
    /// Format of its file
    #[arg(long, value_name = "FORMAT", default_value = "qcow2")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Qcow2,
    Raw,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only these
    #[arg(value_name = "DISK")]
    names: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Disks
    #[arg(value_name = "DISK", required = true)]
    names: Vec<String>,
    /// Also those that a stopped instance names
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Disks
    #[arg(value_name = "DISK", required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResizeArgs {
    /// Its name
    #[arg(value_name = "DISK")]
    name: String,
    /// Its new size, like 20GiB
    #[arg(long, value_name = "SIZE")]
    size: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Its name
    #[arg(value_name = "DISK")]
    name: String,
    /// The image: raw, qcow2, vmdk, vdi, vhd or vhdx
    #[arg(value_name = "FILE")]
    image: PathBuf,
}

pub(crate) fn run(args: &DiskArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    interrupt::run(async {
        match &args.command {
            DiskCommand::Create(args) => create(args, &host).await?,
            DiskCommand::List(args) => list(args, &host)?,
            DiskCommand::Delete(args) => delete(args, &host)?,
            DiskCommand::Unlock(args) => unlock(args, &host)?,
            DiskCommand::Resize(args) => resize(args, &host).await?,
            DiskCommand::Import(args) => import(args, &host).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A disk by a name that a person wrote.
fn named(name: &str, host: &Host) -> anyhow::Result<DiskDir> {
    check_identifier(name)?;
    Ok(host.home.disk(name))
}

fn bytes(size: &str) -> anyhow::Result<u64> {
    let bytes = Size::parse(size).context("--size")?.bytes();
    ensure!(bytes > 0, "--size: a disk of no bytes is none");
    Ok(bytes)
}

async fn create(args: &CreateArgs, host: &Host) -> anyhow::Result<()> {
    let disk = named(&args.name, host)?;
    let bytes = bytes(&args.size)?;
    let format = match args.format {
        Format::Qcow2 => DataFormat::Qcow2,
        Format::Raw => DataFormat::Raw,
    };
    let data = disk.data();
    let qemu_img = QemuImg::default();
    fill(&disk, data_disk::create(&data, bytes, format, &qemu_img)).await?;
    let size = format_binary(bytes);
    tracing::info!(
        "Created disk {:?} of {size} ({})",
        args.name,
        data.display()
    );
    Ok(())
}

async fn import(args: &ImportArgs, host: &Host) -> anyhow::Result<()> {
    let disk = named(&args.name, host)?;
    let data = disk.data();
    let qemu_img = QemuImg::default();
    fill(&disk, data_disk::import(&args.image, &data, &qemu_img)).await?;
    tracing::info!("Imported {} as disk {:?}", args.image.display(), args.name);
    Ok(())
}

/// Makes a disk's directory and fills it, or leaves neither.
async fn fill<E>(disk: &DiskDir, work: impl Future<Output = Result<(), E>>) -> anyhow::Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    disk.make()?;
    let undo = Undo(Some(disk));
    work.await?;
    undo.keep();
    Ok(())
}

/// Removes a disk that was begun, also when the command is interrupted.
struct Undo<'a>(Option<&'a DiskDir>);

impl Undo<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(disk) = self.0
            && let Err(why) = disk.remove()
        {
            tracing::warn!("{why}");
        }
    }
}

async fn resize(args: &ResizeArgs, host: &Host) -> anyhow::Result<()> {
    let disk = existing(&args.name, host)?;
    let bytes = bytes(&args.size)?;
    let (data, qemu_img) = (disk.data(), QemuImg::default());
    disk.unused(data_disk::resize(&data, bytes, &qemu_img))
        .await??;
    tracing::info!("Disk {:?} has {} now", args.name, format_binary(bytes));
    Ok(())
}

fn existing(name: &str, host: &Host) -> anyhow::Result<DiskDir> {
    let disk = named(name, host)?;
    ensure!(
        disk.data().exists(),
        "disk {name:?} does not exist ({})",
        disk.data().display()
    );
    Ok(disk)
}

fn delete(args: &DeleteArgs, host: &Host) -> anyhow::Result<()> {
    for name in &args.names {
        let disk = named(name, host)?;
        if !disk.path().exists() {
            tracing::warn!("Ignoring non-existent disk {name:?}");
            continue;
        }
        if !args.force
            && let Some(instance) = named_by(name, host)?
        {
            tracing::warn!(
                "Skipping disk {name:?}: instance {instance:?} names it in additionalDisks; `disk delete -f {name}` deletes it all \
                 the same"
            );
            continue;
        }
        disk.remove()?;
        tracing::info!("Deleted disk {name:?} ({})", disk.path().display());
    }
    Ok(())
}

/// An instance whose configuration names the disk. One that cannot be read names none.
fn named_by(disk: &str, host: &Host) -> anyhow::Result<Option<String>> {
    for instance in host.home.instance_names()? {
        let Ok(inspection) = instances::look(host, &instance) else {
            continue;
        };
        let disks = inspection
            .config
            .map(|config| config.additional_disks)
            .unwrap_or_default();
        if disks.iter().any(|named| named.name == disk) {
            return Ok(Some(instance));
        }
    }
    Ok(None)
}

fn unlock(args: &NamesArgs, host: &Host) -> anyhow::Result<()> {
    for name in &args.names {
        if existing(name, host)?.release()? {
            tracing::info!("Unlocked disk {name:?}");
        } else {
            tracing::warn!("Disk {name:?} is not locked");
        }
    }
    Ok(())
}

/// What is shown of a disk; the keys are `limactl`'s.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    name: String,
    size: u64,
    format: &'static str,
    dir: PathBuf,
    instance: String,
    instance_dir: PathBuf,
    mount_point: String,
}

impl Shown {
    fn of(name: String, disk: &DiskDir) -> anyhow::Result<Self> {
        let data = data_disk::look(&disk.data())?;
        let owner = disk.owner()?;
        let owner = owner.as_ref().map(InstanceDir::path);
        let file_name = owner.and_then(Path::file_name);
        Ok(Self {
            mount_point: format!("/mnt/lima-{name}"),
            name,
            size: data.virtual_size,
            format: data.format.as_str(),
            dir: disk.path().to_owned(),
            instance: file_name.map_or_else(String::new, |name| name.to_string_lossy().into()),
            instance_dir: owner.map(Path::to_owned).unwrap_or_default(),
        })
    }

    fn row(&self) -> [String; 5] {
        [
            self.name.clone(),
            format_binary(self.size),
            self.format.to_owned(),
            self.dir.display().to_string(),
            self.instance.clone(),
        ]
    }
}

fn list(args: &ListArgs, host: &Host) -> anyhow::Result<()> {
    let names = if args.names.is_empty() {
        host.home.disk_names()?
    } else {
        args.names.clone()
    };
    let mut shown = Vec::new();
    for name in names {
        let disk = existing(&name, host)?;
        match Shown::of(name, &disk) {
            Ok(disk) => shown.push(disk),
            Err(why) => tracing::warn!("{why:#}"),
        }
    }
    let text = if args.json {
        let lines = shown.iter().map(serde_json::to_string);
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        lines
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
    } else {
        table(&shown)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")
}

fn table(shown: &[Shown]) -> String {
    if shown.is_empty() {
        tracing::warn!("No disk found. `disk create DISK --size SIZE` makes one.");
        return String::new();
    }
    let head = ["NAME", "SIZE", "FORMAT", "DIR", "IN-USE-BY"].map(str::to_owned);
    let rows: Vec<[String; 5]> = [head]
        .into_iter()
        .chain(shown.iter().map(Shown::row))
        .collect();
    let width = |column: usize| {
        let lengths = rows.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default() + 4
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.concat().trim_end());
        text.push('\n');
    }
    text
}
