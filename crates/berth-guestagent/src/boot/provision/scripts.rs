//! Modes `system`, `dependency` and `user`: scripts of the user.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use berth_link::boot::GuestProvision;

use crate::boot::etc_environment::is_variable;
use crate::boot::gates::runtime_directory;
use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, Loss, put, remove};
use crate::guest::Init;
use crate::programs::Command;

/// A script may build a whole toolchain. This only finds the one that hangs.
const LIMIT: Duration = Duration::from_hours(6);

/// What a user's script and the file that starts it are called in the home directory (Lima's name for the script).
const SCRIPT: &str = ".lima-user-script";
const LAUNCHER: &str = ".lima-user-launcher";

/// Runs a script as root, straight from the volume.
pub(super) async fn as_root(work: &Work<'_>, entry: &GuestProvision) -> Result<Done, StepError> {
    let path = work.volume.join(&entry.file);
    // The kernel starts only what names its interpreter; a shell would start the rest by itself.
    let names_interpreter = work.read_volume(&entry.file)?.starts_with(b"#!");
    let script = if names_interpreter {
        Command::new(&path)
    } else {
        Command::new("/bin/sh").arg(&path)
    };
    let script = environment(work)
        .iter()
        .fold(script, |script, (name, value)| script.env(name, value));
    work.run(script.limit(LIMIT)).await?;
    Ok(Done::Changed)
}

/// Runs a script as the login user, in a login shell's environment.
///
/// The volume is for root only, so the script is copied to the home directory, and its variables with it: on a command line
/// every user of the guest could read them.
pub(super) async fn as_user(work: &Work<'_>, entry: &GuestProvision) -> Result<Done, StepError> {
    let account = work.account()?;
    let home = work.guest.path(&account.home);
    let (script, launcher) = (home.join(SCRIPT), home.join(LAUNCHER));
    let private = Attributes::of(account.owner, 0o700);
    put(
        &script,
        &work.read_volume(&entry.file)?,
        private,
        Loss::Repaired,
    )?;
    let text = launcher_text(
        work,
        account.owner.uid,
        &format!("{}/{SCRIPT}", account.home),
    );
    put(&launcher, text.as_bytes(), private, Loss::Repaired)?;
    let start = format!("{}/{LAUNCHER}", account.home);
    let command = if work.guest.has_program("sudo") {
        Command::new("sudo").args(["-i", "-u", &account.name, &start])
    } else {
        Command::new("su").args(["-l", &account.name, "-c", &quoted(&start)])
    };
    let ended = work.run(command.limit(LIMIT)).await;
    remove(&script)?;
    remove(&launcher)?;
    ended.map(|()| Done::Changed)
}

fn launcher_text(work: &Work<'_>, uid: u32, script: &str) -> String {
    let mut variables = environment(work);
    // A login has them of its own.
    variables.retain(|(name, _)| name != "HOME" && name != "USER");
    if work.guest.init == Init::Systemd && work.guest.has_user_sessions() {
        variables.push(("XDG_RUNTIME_DIR".to_owned(), runtime_directory(uid)));
    }
    let mut text = "#!/bin/sh\n".to_owned();
    for (name, value) in variables {
        let _ = writeln!(text, "export {name}={}", quoted(&value));
    }
    let _ = writeln!(text, "exec {}", quoted(script));
    text
}

/// What scripts may rely on: the guest's environment, the parameters, and of Lima's own variables those that scripts are seen to use.
fn environment(work: &Work<'_>) -> Vec<(String, String)> {
    let spec = work.spec;
    let env = spec
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let param = spec
        .param
        .iter()
        .map(|(name, value)| (format!("PARAM_{name}"), value.clone()));
    let volume: &Path = work.volume;
    let own = [
        ("LIMA_CIDATA_MNT", volume.display().to_string()),
        ("LIMA_CIDATA_IID", spec.instance_id.clone()),
        ("LIMA_CIDATA_NAME", spec.instance.clone()),
        ("LIMA_CIDATA_USER", spec.user.name.clone()),
        ("LIMA_CIDATA_UID", spec.user.uid.to_string()),
        ("LIMA_CIDATA_HOME", spec.user.home.clone()),
        ("LIMA_CIDATA_SHELL", spec.user.shell.clone()),
        (
            "LIMA_CIDATA_GUEST_INSTALL_PREFIX",
            spec.guest_install_prefix.clone(),
        ),
        ("LIMA_CIDATA_VMTYPE", spec.vm_type.clone()),
    ];
    let own = own
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let all = env.chain(param).chain(own);
    all.filter(|(name, value)| is_variable(name) && !value.contains('\0'))
        .collect()
}

/// A word that the shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use berth_link::event::{MAX_TAIL, StepOutcome};

    use super::*;
    use crate::boot::engine;
    use crate::boot::provision::{entry, steps};
    use crate::boot::testing::Scene;
    use crate::guest::Guest;
    use crate::programs::SystemPrograms;

    /// A scene whose programs are real, for scripts that touch nothing.
    fn real_scene(script: &str) -> Scene {
        let mut scene = Scene::new();
        scene.guest = Guest::at(scene.root(), Box::new(SystemPrograms));
        scene.spec.provision = vec![entry(3, "system")];
        scene.write_volume("provision.system/00000003", script);
        let path = scene.site().volume.join("provision.system/00000003");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        scene
    }

    async fn report(scene: &Scene) -> berth_link::event::StepReport {
        let list = steps(&scene.spec, &[], &[]);
        engine::run(list, &scene.site(), &scene.progress())
            .await
            .unwrap();
        scene.reports().remove(0)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failing_script_is_reported_with_its_code_and_last_lines() {
        let scene = real_scene("#!/bin/sh\nseq 1 5000\necho 'no such package' >&2\nexit 42\n");
        let report = report(&scene).await;
        assert_eq!(report.name, "provision.system/00000003");
        assert_eq!(
            (report.outcome, report.exit_code),
            (StepOutcome::Failed, Some(42))
        );
        assert!(report.tail.len() <= MAX_TAIL);
        assert!(
            report
                .tail
                .ends_with("5000\nno such package\n00000003 exited with code 42"),
            "{}",
            report.tail
        );
        let log = scene.read("/var/log/lima-guestagent/provision.system-00000003.log");
        assert!(
            log.starts_with("1\n2\n"),
            "the whole output stays in the guest"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_script_gets_parameters_and_environment_and_needs_no_interpreter() {
        let mut scene = real_scene("echo \"$PARAM_color/$A/$LIMA_CIDATA_USER/$#\"\n");
        scene.spec.param = [("color".to_owned(), "light blue".to_owned())].into();
        scene.spec.env = [("A".to_owned(), "b'c".to_owned())].into();
        let report = report(&scene).await;
        assert_eq!(
            (report.outcome, report.tail.as_str()),
            (StepOutcome::Ok, "light blue/b'c/lima/0")
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_users_script_runs_from_the_home_and_leaves_nothing() {
        let mut scene = Scene::systemd();
        scene.install("sudo");
        scene.spec.param = [("P".to_owned(), "it's".to_owned())].into();
        scene.write_volume("provision.user/00000001", "#!/bin/bash\ntrue\n");
        let user = entry(1, "user");
        scene
            .run(async |work: &Work<'_>| as_user(work, &user).await)
            .await
            .unwrap();
        assert_eq!(
            scene.ran(),
            ["sudo -i -u lima /home/lima/.lima-user-launcher"]
        );
        assert_eq!(
            std::fs::read_dir(scene.path("/home/lima")).unwrap().count(),
            0
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_launcher_is_a_shell_script_that_quotes() {
        let mut scene = Scene::systemd();
        scene.write("/usr/lib/security/pam_systemd.so", "");
        scene.spec.param = [("P".to_owned(), "it's; $HOME".to_owned())].into();
        let text = scene
            .run_for(async |work: &Work<'_>| {
                launcher_text(work, 501, "/home/it's/.lima-user-script")
            })
            .await;
        assert!(
            text.starts_with("#!/bin/sh\nexport PARAM_P='it'\\''s; $HOME'\n"),
            "{text}"
        );
        assert!(
            text.contains("export XDG_RUNTIME_DIR='/run/user/501'\n"),
            "{text}"
        );
        assert!(
            text.ends_with("exec '/home/it'\\''s/.lima-user-script'\n"),
            "{text}"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_sudo_it_is_su() {
        let scene = Scene::new();
        scene.write_volume("provision.user/00000001", "true\n");
        let user = entry(1, "user");
        scene
            .run(async |work: &Work<'_>| as_user(work, &user).await)
            .await
            .unwrap();
        assert_eq!(
            scene.ran(),
            ["su -l lima -c '/home/lima/.lima-user-launcher'"]
        );
    }
}
