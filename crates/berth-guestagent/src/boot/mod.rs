//! The boot steps: what the agent applies at each boot, in which order, and how it ends.
//!
//! Each step is a value ([`step::Step`]): name, what it comes after, whether it applies, what it does. [`steps`] is the list; the
//! [`engine`] runs them, in parallel where the order allows. A step looks before it changes anything, so running all of them
//! again does no harm; a step that fails is reported and stops no other.

mod authorized_keys;
mod ca_certificates;
mod containerd;
mod disks;
mod early_sshd;
mod engine;
mod etc_environment;
mod gates;
mod host_keys;
mod host_name;
mod host_resolver;
mod kernel_modules;
mod login_user;
mod markers;
mod name_servers;
mod network_names;
mod packages;
mod provision;
mod rootless;
mod rosetta;
mod shares;
mod sshd_config;
mod sshd_port;
mod step;
pub(crate) mod step_log;
#[cfg(test)]
pub(crate) mod testing;
mod time_zone;

use std::future::ready;

use berth_link::boot::{BootSpec, GuestDisk};
use berth_link::event::{EARLY_SSHD, Stage};

pub(crate) use authorized_keys::are_in_place as keys_are_in_place;
pub(crate) use engine::PlanError;
pub(crate) use host_keys::public_keys as public_host_keys;
pub(crate) use host_resolver::keep as keep_host_resolver;
pub(crate) use login_user::is_there as user_is_there;
pub(crate) use markers::{BOOT_DONE, FUSE_READY};
pub(crate) use sshd_config::running_sshd;
pub(crate) use step::Site;

use crate::boot::step::{Done, Ending, Step, StepError, Work, impossible};
use crate::files::FileError;
use crate::guest::Guest;
use crate::progress::Progress;

/// The step that tells systemd to start sshd.
const SSHD_MAY_START: &str = "sshd-may-start";

/// Why a boot could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The list of steps is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A marker could not be written.
    #[error(transparent)]
    Marker(#[from] FileError),
}

/// Runs all steps of this boot that have not ended yet, and tells that the boot is done.
pub(crate) async fn run(site: &Site<'_>, progress: &Progress) -> Result<(), BootError> {
    if !progress.is_resumed() {
        markers::forget(site.guest)?;
    }
    engine::run(steps(site.spec, site.guest), site, progress).await?;
    if markers::boot_done(site.guest, &site.spec.instance_id)? {
        progress.reach(Stage::BootScriptsDone {
            failed: progress.failed(),
        });
    } else {
        tracing::warn!("the guest is to boot again before its boot counts as done");
    }
    Ok(())
}

/// The steps that a boot of this guest may have.
fn steps(spec: &BootSpec, guest: &Guest) -> Vec<Step> {
    let mut steps = login_steps(spec, guest);
    let logins = steps.len();
    if !spec.plain {
        steps.extend(system_steps());
        steps.extend(spec.disks.iter().map(disk_step));
        steps.extend(container_steps(spec));
    }
    let system: Vec<String> = steps.iter().map(|step| step.name.clone()).collect();
    let system: Vec<&str> = system.iter().map(String::as_str).collect();
    let before_scripts = ["network-online", "services", "user-session"];
    let provision = provision::steps(spec, &system, &before_scripts);
    steps.extend(gates(spec));
    steps.extend(provision);
    for step in &mut steps[logins..] {
        // What sshd waits for must not wait for programs to start.
        step.after.push(SSHD_MAY_START.to_owned());
    }
    steps
}

/// What other steps wait for, where they apply.
fn gates(spec: &BootSpec) -> [Step; 3] {
    let before_session: &[&str] = if spec.plain {
        &["user"]
    } else {
        &["user", "rootless"]
    };
    [
        step("network-online", &[], needs_network, |work| {
            Box::pin(gates::network_online(work))
        }),
        step(
            "services",
            &[],
            |spec, _| provision::has_scripts(spec),
            |work| Box::pin(gates::services(work)),
        ),
        step("user-session", before_session, needs_user_session, |work| {
            Box::pin(gates::user_session(work))
        }),
    ]
}

/// What a login needs: all that plain mode has.
fn login_steps(spec: &BootSpec, guest: &Guest) -> Vec<Step> {
    // cloud-init makes the user of a first boot before it lets sshd start; waiting for it here too would wait for ever where
    // it does not.
    let before_sshd: &[&str] = if user_is_there(spec, guest) {
        &["host-keys", "sshd-config", "sshd-port", "authorized-keys"]
    } else {
        &["host-keys", "sshd-config", "sshd-port"]
    };
    vec![
        step("host-keys", &[], host_keys::applies, |work| {
            Box::pin(host_keys::run(work))
        }),
        now("sshd-config", &[], sshd_config::applies, sshd_config::run),
        step("sshd-port", &[], sshd_port::applies, |work| {
            Box::pin(sshd_port::run(work))
        }),
        now(SSHD_MAY_START, before_sshd, always, sshd_may_start),
        step("make-user", &[], login_user::make_applies, |work| {
            Box::pin(login_user::make(work))
        }),
        step("user", &["make-user"], always, |work| {
            Box::pin(login_user::wait(work))
        }),
        now(
            "unlock-account",
            &["user"],
            login_user::unlock_applies,
            login_user::unlock,
        ),
        step("authorized-keys", &["user"], always, |work| {
            Box::pin(authorized_keys::run(work))
        }),
        step(
            "password",
            &["user"],
            login_user::password_applies,
            |work| Box::pin(login_user::password(work)),
        ),
        now("host-name", &[], host_name::applies, host_name::run),
        now("etc-environment", &[], not_plain, etc_environment::run),
        now(
            "ssh-ready",
            &[
                "host-keys",
                "unlock-account",
                "authorized-keys",
                "etc-environment",
            ],
            always,
            markers::ssh_ready,
        ),
        step(
            EARLY_SSHD,
            &[SSHD_MAY_START, "ssh-ready"],
            early_sshd::applies,
            |work| Box::pin(early_sshd::run(work)),
        ),
    ]
}

/// What makes the guest fit its host.
fn system_steps() -> Vec<Step> {
    vec![
        now("etc-hosts", &["host-name"], always, host_name::hosts),
        now("time-zone", &[], time_zone::applies, time_zone::run),
        step("network-names", &[], network_names::applies, |work| {
            Box::pin(network_names::run(work))
        }),
        step(host_resolver::NAME, &[], host_resolver::applies, |work| {
            Box::pin(host_resolver::run(work))
        }),
        step("name-servers", &[], always, |work| {
            Box::pin(name_servers::run(work))
        }),
        step(
            "multicast-names",
            &["network-names", "name-servers"],
            name_servers::multicast_applies,
            |work| Box::pin(name_servers::multicast(work)),
        ),
        step("ca-certificates", &[], ca_certificates::applies, |work| {
            Box::pin(ca_certificates::run(work))
        }),
        step("kernel-modules", &[], kernel_modules::applies, |work| {
            Box::pin(kernel_modules::run(work))
        }),
        step(
            "journal-group",
            &["user"],
            login_user::journal_applies,
            |work| Box::pin(login_user::journal_group(work)),
        ),
        now("other-home", &["user"], always, login_user::other_home),
        now(
            "host-services",
            &["user"],
            always,
            login_user::host_services,
        ),
        step(
            "shares",
            &["user", "kernel-modules"],
            shares::applies,
            |work| Box::pin(shares::run(work)),
        ),
        step("rosetta", &[], rosetta::applies, |work| {
            Box::pin(rosetta::run(work))
        }),
    ]
}

/// What is installed, and what works with it.
fn container_steps(spec: &BootSpec) -> Vec<Step> {
    let dependencies = provision::dependency_steps(
        spec,
        &["network-online", "upgrade-packages", "ca-certificates"],
    );
    let mut before_packages = vec!["network-online", "upgrade-packages", "ca-certificates"];
    before_packages.extend(dependencies.last().map(|last| last.name.as_str()));
    let packages = step("packages", &before_packages, packages::applies, |work| {
        Box::pin(packages::install(work))
    });
    let rest = [
        step(
            "upgrade-packages",
            &["network-online", "ca-certificates"],
            packages::upgrade_applies,
            |work| Box::pin(packages::upgrade(work)),
        ),
        packages,
        // Mount points are made before anything is mounted: one may lie in another share.
        step(
            "fuse",
            &["packages", "shares"],
            shares::fuse_applies,
            |work| Box::pin(shares::allow_other(work)),
        ),
        step(
            "rootless",
            &["user", "packages"],
            rootless::applies,
            |work| Box::pin(rootless::run(work)),
        ),
        step(
            "containerd",
            &["user-session", "rootless", "packages", "kernel-modules"],
            containerd::applies,
            |work| Box::pin(containerd::run(work)),
        ),
    ];
    dependencies.into_iter().chain(rest).collect()
}

fn disk_step(disk: &GuestDisk) -> Step {
    let disk = disk.clone();
    Step {
        name: format!("disk/{}", disk.name),
        after: Vec::new(),
        applies: always,
        run: Box::new(move |work| {
            let disk = disk.clone();
            Box::pin(async move { disks::run(work, &disk).await })
        }),
    }
}

fn step(
    name: &str,
    after: &[&str],
    applies: fn(&BootSpec, &Guest) -> bool,
    run: impl for<'a> Fn(&'a Work<'a>) -> Ending<'a> + 'static,
) -> Step {
    Step {
        name: name.to_owned(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        applies,
        run: Box::new(run),
    }
}

/// A step that waits for nothing.
fn now(
    name: &str,
    after: &[&str],
    applies: fn(&BootSpec, &Guest) -> bool,
    run: fn(&Work<'_>) -> Result<Done, StepError>,
) -> Step {
    step(name, after, applies, move |work| Box::pin(ready(run(work))))
}

fn always(_spec: &BootSpec, _guest: &Guest) -> bool {
    true
}

fn not_plain(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.plain
}

fn needs_network(spec: &BootSpec, guest: &Guest) -> bool {
    let installs = packages::applies(spec, guest)
        || spec.upgrade_packages
        || provision::has_dependencies(spec);
    provision::has_scripts(spec) || (installs && !spec.plain)
}

fn needs_user_session(spec: &BootSpec, guest: &Guest) -> bool {
    provision::has_user_scripts(spec)
        || (containerd::applies(spec, guest) && spec.containerd_user && !spec.plain)
}

/// Tells systemd that sshd, which comes after the agent, finds its keys.
fn sshd_may_start(work: &Work<'_>) -> Result<Done, StepError> {
    let told = work.readiness.tell();
    told.map(|()| Done::Changed)
        .map_err(|why| impossible(format!("could not tell systemd: {why}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_link::event::{StepOutcome, StepReport};

    use super::*;
    use crate::boot::testing::Scene;

    fn rich(spec: &mut BootSpec) {
        spec.provision = (0..)
            .zip(["system", "user", "data", "dependency", "yq"])
            .map(|(index, mode)| provision::entry(index, mode))
            .collect();
        spec.disks = vec![GuestDisk {
            name: "data".to_owned(),
            serial: "data".to_owned(),
            format: true,
            fs_type: "ext4".to_owned(),
            fs_args: Vec::new(),
        }];
    }

    #[test]
    fn every_list_of_steps_can_be_put_in_an_order() {
        for plain in [false, true] {
            for is_rich in [false, true] {
                let mut scene = Scene::systemd();
                scene.spec.plain = plain;
                if is_rich {
                    rich(&mut scene.spec);
                }
                for user in ["lima", "not-yet-there"] {
                    scene.spec.user.name = user.to_owned();
                    assert_eq!(engine::check(&steps(&scene.spec, &scene.guest)), Ok(()));
                }
            }
        }
    }

    fn comes_after(after: &BTreeMap<&str, &[String]>, step: &str, before: &str) -> bool {
        let mut directly = after[step].iter();
        directly.any(|name| name == before || comes_after(after, name, before))
    }

    #[test]
    fn the_order_is_what_the_work_needs() {
        let mut scene = Scene::systemd();
        rich(&mut scene.spec);
        let steps = steps(&scene.spec, &scene.guest);
        let after: BTreeMap<&str, &[String]> = steps
            .iter()
            .map(|step| (step.name.as_str(), step.after.as_slice()))
            .collect();
        for (step, before) in [
            ("sshd-may-start", "host-keys"),
            ("sshd-may-start", "authorized-keys"),
            ("ssh-ready", "etc-environment"),
            ("packages", "provision.dependency/00000003"),
            ("fuse", "packages"),
            ("containerd", "user-session"),
            ("provision.data/00000002", "shares"),
            ("provision.data/00000002", "disk/data"),
            ("provision.system/00000000", "services"),
            ("provision.system/00000000", "containerd"),
            ("provision.user/00000001", "provision.system/00000000"),
            ("provision.user/00000001", "user-session"),
        ] {
            assert!(
                comes_after(&after, step, before),
                "{step} must come after {before}"
            );
        }
    }

    fn names(reports: &[StepReport]) -> Vec<&str> {
        let mut names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_small_guest_is_booted_and_a_second_boot_changes_nothing() {
        let scene = Scene::systemd();
        let first = Progress::unrecorded();
        run(&scene.site(), &first).await.unwrap();
        let expected = [
            "authorized-keys",
            "etc-environment",
            "etc-hosts",
            "host-name",
            "host-services",
            "name-servers",
        ];
        let steps = first.steps();
        assert_eq!(names(&steps)[..6], expected);
        assert!(first.has_reached(Stage::BootScriptsDone { failed: 0 }));
        assert_eq!(scene.read("/run/lima-boot-done"), "iid-1700000000\n");
        assert_eq!(
            scene.ran(),
            Vec::<String>::new(),
            "a boot without provisioning starts no program"
        );

        let second = Progress::unrecorded();
        run(&scene.site(), &second).await.unwrap();
        let steps = second.steps();
        let changed: Vec<StepReport> = steps
            .into_iter()
            .filter(|step| step.outcome != StepOutcome::Skipped)
            .collect();
        // The first tells systemd each time, the second's marker was forgotten with the earlier run's.
        assert_eq!(names(&changed), ["ssh-ready", "sshd-may-start"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_plain_guest_gets_keys_name_and_provisioning_only() {
        let mut scene = Scene::systemd();
        scene.spec.plain = true;
        scene.spec.env = [("A".to_owned(), "1".to_owned())].into();
        let progress = Progress::unrecorded();
        run(&scene.site(), &progress).await.unwrap();
        let expected = [
            "authorized-keys",
            "host-name",
            "ssh-ready",
            "sshd-may-start",
            "user",
        ];
        assert_eq!(names(&progress.steps()), expected);
        assert!(!scene.guest.has("/etc/environment"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failing_step_is_counted_and_the_boot_is_done_all_the_same() {
        let mut scene = Scene::systemd();
        scene.spec.timezone = "Asia/Atlantis".to_owned();
        let progress = scene.progress();
        run(&scene.site(), &progress).await.unwrap();
        assert_eq!(progress.failed(), 1);
        assert!(scene.guest.has("/run/lima-boot-done"));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_guest_that_is_to_boot_again_is_not_done() {
        let mut scene = Scene::systemd();
        scene.spec.upgrade_packages = true;
        scene.write("/usr/bin/apt-get", "\x7fELF");
        scene.write("/run/reboot-required", "");
        let progress = scene.progress();
        run(&scene.site(), &progress).await.unwrap();
        assert!(!progress.has_reached(Stage::BootScriptsDone { failed: 0 }));
        assert!(!scene.guest.has("/run/lima-boot-done"));
        assert!(
            scene
                .ran()
                .contains(&"systemctl --no-block reboot".to_owned())
        );
    }
}
