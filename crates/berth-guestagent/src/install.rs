//! Installing the agent as a service of the guest: its program, its unit, and starting it without waiting.
//!
//! On a first boot cloud-init runs this in the middle of its own work, so nothing here may wait for the boot.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::args::Options;
use crate::boot::step_log::StepLog;
use crate::files::{Attributes, FileError, Loss, ensure_directory, failed, link, put, remove};
use crate::guest::{Guest, Init};
use crate::programs::{Command, Output, ProgramError};
use crate::runtime;
use crate::volume;

/// Name of the agent's program, in the guest as in the volume.
const PROGRAM: &str = "berth-guestagent";

/// This process's own program, even if its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Where programs go when the volume does not say.
const USUAL_PREFIX: &str = "/usr/local";

/// Name of the service: Lima's name, so that a guest has only one of the two agents.
const SERVICE: &str = "lima-guestagent";

/// What Lima's cloud-init leaves behind to run at each boot. It ends in an error where the volume is mounted already; Lima
/// writes it anew when it starts the instance again.
const LIMA_BOOT_SCRIPT: &str = "/var/lib/cloud/scripts/per-boot/00-lima.boot.sh";

/// Files are compared in pieces of this size.
const PIECE: usize = 64 * 1024;

/// Why the agent was not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program could not be run, or failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// There is no runtime to run programs with.
    #[error("could not begin")]
    Runtime(#[source] io::Error),
    /// Nobody would start the service.
    #[error(
        "this guest has neither systemd nor OpenRC: run `{PROGRAM} daemon` from whatever starts its services"
    )]
    NoInit,
}

/// Installs this program as a service and starts it.
pub(crate) fn run(options: &Options) -> Result<(), InstallError> {
    let runtime = runtime::new().map_err(InstallError::Runtime)?;
    runtime.block_on(install(&Guest::here(), Path::new(OWN_PROGRAM), options))
}

async fn install(guest: &Guest, own_program: &Path, options: &Options) -> Result<(), InstallError> {
    if let Some(from) = &options.from {
        // An empty directory is what an earlier boot waited at for a volume.
        let _ = fs::remove_dir(&options.cidata);
        link(&options.cidata, from)?;
    }
    // A volume that cannot be read is reported by the service, to the host; it must start for that.
    let prefix = volume::read(&options.cidata).map_or_else(
        |why| {
            tracing::warn!("{why}");
            USUAL_PREFIX.to_owned()
        },
        |spec| spec.guest_install_prefix,
    );
    let program = format!("{}/bin/{PROGRAM}", prefix.trim_end_matches('/'));
    let is_new = replace_program(own_program, &guest.path(&program))?;
    remove(&guest.path(LIMA_BOOT_SCRIPT))?;
    let tools = Tools {
        guest,
        log: StepLog::new(guest, "install"),
    };
    if is_new && guest.has_selinux() && guest.has_program("restorecon") {
        tools.run(Command::new("restorecon").arg(&program)).await?;
    }
    match guest.init {
        Init::Systemd => systemd(&tools, &unit(&program, options), is_new).await,
        Init::OpenRc => openrc(&tools, &init_script(&program, options), is_new).await,
        Init::Unknown => Err(InstallError::NoInit),
    }
}

struct Tools<'a> {
    guest: &'a Guest,
    log: StepLog,
}

impl Tools<'_> {
    async fn run(&self, command: Command) -> Result<(), InstallError> {
        let finished = self
            .guest
            .programs
            .run(&command, Output::Log(self.log.open()?))
            .await?;
        if finished.code == 0 {
            return Ok(());
        }
        let program = command.name();
        Err(ProgramError::Failed {
            program,
            code: finished.code,
        }
        .into())
    }
}

async fn systemd(tools: &Tools<'_>, unit: &str, is_new_program: bool) -> Result<(), InstallError> {
    let path = format!("/etc/systemd/system/{SERVICE}.service");
    let wants = format!("/etc/systemd/system/multi-user.target.wants/{SERVICE}.service");
    let was_known = tools.guest.has(&path);
    ensure_directory(
        &tools
            .guest
            .path("/etc/systemd/system/multi-user.target.wants"),
        Attributes::root(0o755),
    )?;
    let is_new_unit = put(
        &tools.guest.path(&path),
        unit.as_bytes(),
        Attributes::root(0o644),
        Loss::Matters,
    )?;
    // What `systemctl enable` does, without a process and without reading all units again.
    link(&tools.guest.path(&wants), Path::new(&path))?;
    // systemd looks for a unit that it has never heard of; only one that it knows must be read again.
    if is_new_unit && was_known {
        tools
            .run(Command::new("systemctl").arg("daemon-reload"))
            .await?;
    }
    let verb = if was_known && (is_new_unit || is_new_program) {
        "restart"
    } else {
        "start"
    };
    tools
        .run(Command::new("systemctl").args(["--no-block", verb, &format!("{SERVICE}.service")]))
        .await
}

async fn openrc(tools: &Tools<'_>, script: &str, is_new_program: bool) -> Result<(), InstallError> {
    let path = format!("/etc/init.d/{SERVICE}");
    let is_new_script = put(
        &tools.guest.path(&path),
        script.as_bytes(),
        Attributes::root(0o755),
        Loss::Matters,
    )?;
    ensure_directory(
        &tools.guest.path("/etc/runlevels/default"),
        Attributes::root(0o755),
    )?;
    link(
        &tools
            .guest
            .path(&format!("/etc/runlevels/default/{SERVICE}")),
        Path::new(&path),
    )?;
    if is_new_script || is_new_program {
        tools
            .run(Command::new("rc-service").args(["--ifstarted", SERVICE, "restart"]))
            .await?;
    }
    tools
        .run(Command::new("rc-service").args(["--ifstopped", SERVICE, "start"]))
        .await
}

/// The systemd unit.
///
/// - It starts as soon as there are file systems, beside everything else of the boot.
/// - It is ready when sshd finds its keys: sshd comes after it, and nothing else does.
/// - Its end is not the end of what provision scripts have started.
fn unit(program: &str, options: &Options) -> String {
    format!(
        "[Unit]\n\
         Description=berth guest agent\n\
         DefaultDependencies=no\n\
         Conflicts=shutdown.target\n\
         After=local-fs.target\n\
         Before=ssh.service sshd.service shutdown.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={program} daemon {}\n\
         Restart=on-failure\n\
         RuntimeDirectory={SERVICE}\n\
         RuntimeDirectoryPreserve=yes\n\
         TimeoutStartSec=infinity\n\
         KillMode=process\n\
         TasksMax=infinity\n\
         OOMPolicy=continue\n\
         OOMScoreAdjust=-500\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        daemon_options(options)
    )
}

fn init_script(program: &str, options: &Options) -> String {
    format!(
        "#!/sbin/openrc-run\n\
         supervisor=supervise-daemon\n\
         name=\"berth guest agent\"\n\
         command={program}\n\
         command_args=\"daemon {}\"\n\
         pidfile=/run/{SERVICE}.pid\n\
         output_log=/var/log/{SERVICE}.log\n\
         error_log=/var/log/{SERVICE}.log\n\
         \n\
         depend() {{\n\
         \tneed localmount\n\
         \tbefore sshd\n\
         }}\n",
        daemon_options(options)
    )
}

fn daemon_options(options: &Options) -> String {
    let debug = if options.debug { " --debug" } else { "" };
    format!(
        "--cidata={} --port={}{debug}",
        options.cidata.display(),
        options.port
    )
}

/// Makes `target` the same as `source`; tells whether it was not.
fn replace_program(source: &Path, target: &Path) -> Result<bool, FileError> {
    if is_same(source, target) {
        return Ok(false);
    }
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
    }
    let new = target.with_extension("berth-new");
    remove(&new)?;
    let copied = copy(source, &new);
    copied.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })?;
    fs::rename(&new, target).map_err(failed("replace", target))?;
    Ok(true)
}

fn copy(source: &Path, target: &Path) -> Result<(), FileError> {
    let mut from = File::open(source).map_err(failed("open", source))?;
    let mut to = File::options()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(target)
        .map_err(failed("create", target))?;
    io::copy(&mut from, &mut to).map_err(failed("write", target))?;
    to.flush().map_err(failed("write", target))?;
    to.set_permissions(fs::Permissions::from_mode(0o755))
        .map_err(failed("change the mode of", target))?;
    // Without it a power cut may leave a guest whose agent cannot start.
    to.sync_all().map_err(failed("sync", target))
}

/// Compares byte by byte: cheaper than a hash, which would have to read both files to their ends in any case.
fn is_same(one: &Path, other: &Path) -> bool {
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    if length(one).is_none() || length(one) != length(other) {
        return false;
    }
    let (Ok(one), Ok(other)) = (File::open(one), File::open(other)) else {
        return false;
    };
    have_same_bytes(one, other).unwrap_or(false)
}

fn have_same_bytes(mut one: impl Read, mut other: impl Read) -> io::Result<bool> {
    let mut pieces = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = one.read(&mut pieces.0)?;
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(&mut pieces.1[..length])?;
        if pieces.0[..length] != pieces.1[..length] {
            return Ok(false);
        }
    }
}

/// Becomes the agent that the volume brings, if that is another one: a newer host needs its own agent before anything else.
///
/// Returns when there is nothing to do. Only an installed agent replaces itself.
pub(crate) fn become_current(volume: &Path, options: &Options) -> Result<(), FileError> {
    let brought = volume.join(PROGRAM);
    let own = Path::new(OWN_PROGRAM);
    let installed = fs::read_link(own).map_err(failed("read", own))?;
    let is_installed = installed.ends_with(Path::new("bin").join(PROGRAM));
    if !is_installed || !brought.exists() || !replace_program(&brought, &installed)? {
        return Ok(());
    }
    tracing::info!("the volume brings another agent: going on as that one");
    let mut program = std::process::Command::new(&installed);
    let options = daemon_options(options);
    let why = program.arg("daemon").args(options.split(' ')).exec();
    Err(failed("run", &installed)(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    const UNIT: &str = "/etc/systemd/system/lima-guestagent.service";
    const INSTALLED: &str = "/usr/local/bin/berth-guestagent";

    fn options(scene: &Scene) -> Options {
        Options {
            cidata: scene.path("/mnt/lima-cidata"),
            from: None,
            port: "io.lima-vm.guest_agent.0".to_owned(),
            debug: false,
        }
    }

    async fn install_in(scene: &Scene) -> Result<Vec<String>, InstallError> {
        install(&scene.guest, &scene.path("/program"), &options(scene)).await?;
        Ok(scene.ran())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_first_boot_waits_for_nothing() {
        let scene = Scene::systemd();
        scene.write("/program", "version 1");
        assert_eq!(
            install_in(&scene).await.unwrap(),
            ["systemctl --no-block start lima-guestagent.service"]
        );
        assert_eq!(scene.read(INSTALLED), "version 1");
        assert_eq!(scene.mode(INSTALLED), 0o755);
        let wants =
            scene.path("/etc/systemd/system/multi-user.target.wants/lima-guestagent.service");
        assert_eq!(fs::read_link(wants).unwrap(), Path::new(UNIT));
        assert!(
            scene
                .read(UNIT)
                .contains("ExecStart=/usr/local/bin/berth-guestagent daemon --cidata=")
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_later_boot_changes_nothing_and_an_upgrade_restarts() {
        let scene = Scene::systemd();
        scene.write("/program", "version 1");
        install_in(&scene).await.unwrap();
        assert_eq!(
            install_in(&scene).await.unwrap(),
            ["systemctl --no-block start lima-guestagent.service"]
        );
        scene.write("/program", "version 2");
        assert_eq!(
            install_in(&scene).await.unwrap(),
            ["systemctl --no-block restart lima-guestagent.service"]
        );
        assert_eq!(scene.read(INSTALLED), "version 2");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn limas_agent_gives_way() {
        let scene = Scene::systemd();
        scene.write("/program", "version 1");
        scene.write(
            UNIT,
            "[Service]\nExecStart=/usr/local/bin/lima-guestagent daemon\n",
        );
        scene.write(LIMA_BOOT_SCRIPT, "#!/bin/sh\nexec /mnt/x/boot.sh\n");
        let restart = "systemctl --no-block restart lima-guestagent.service";
        assert_eq!(
            install_in(&scene).await.unwrap(),
            ["systemctl daemon-reload", restart]
        );
        assert!(!scene.guest.has(LIMA_BOOT_SCRIPT));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_directory_takes_the_volumes_place() {
        let scene = Scene::systemd();
        scene.write("/program", "version 1");
        scene.write("/mnt/c/cidata/boot.json", "{}");
        fs::create_dir_all(scene.path("/mnt/lima-cidata")).unwrap();
        let options = Options {
            from: Some(scene.path("/mnt/c/cidata")),
            port: "hvsock:7".to_owned(),
            ..options(&scene)
        };
        install(&scene.guest, &scene.path("/program"), &options)
            .await
            .unwrap();
        assert_eq!(scene.read("/mnt/lima-cidata/boot.json"), "{}");
        assert!(
            scene
                .read(UNIT)
                .contains("/mnt/lima-cidata --port=hvsock:7\n")
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn openrc_gets_a_script_and_the_volume_names_the_prefix() {
        let mut scene = Scene::new();
        scene.write("/sbin/openrc-run", "");
        scene.write("/etc/init.d/sshd", "");
        scene.guest.init = Init::OpenRc;
        scene.write("/program", "version 1");
        scene.spec.guest_install_prefix = "/opt/x".to_owned();
        let spec = serde_json::to_string(&scene.spec).unwrap();
        scene.write("/mnt/lima-cidata/boot.json", &spec);
        let ran = install_in(&scene).await.unwrap();
        assert_eq!(ran[1], "rc-service --ifstopped lima-guestagent start");
        let script = scene.read("/etc/init.d/lima-guestagent");
        assert!(
            script.contains("\ncommand=/opt/x/bin/berth-guestagent\n"),
            "{script}"
        );
        assert_eq!(scene.mode("/etc/init.d/lima-guestagent"), 0o755);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_goes_wrong_is_named() {
        let scene = Scene::new();
        scene.write("/program", "version 1");
        let why = install_in(&scene).await.unwrap_err().to_string();
        assert!(
            why.starts_with("this guest has neither systemd nor OpenRC"),
            "{why}"
        );
        let scene = Scene::systemd();
        let why = install_in(&scene).await.unwrap_err().to_string();
        assert!(
            why.starts_with("could not open ") && why.ends_with("/program"),
            "{why}"
        );
        assert!(!scene.guest.has(INSTALLED), "no half a program");
    }

    #[test]
    fn programs_are_compared_to_the_last_byte() {
        let bytes = vec![7; 3 * PIECE];
        let mut other = bytes.clone();
        assert!(have_same_bytes(&bytes[..], &other[..]).unwrap());
        *other.last_mut().unwrap() = 8;
        assert!(!have_same_bytes(&bytes[..], &other[..]).unwrap());
    }
}
