//! The login user: waiting for cloud-init to make it, or making it, and what it needs besides keys.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use berth_link::boot::BootSpec;

use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::{Attributes, Loss, edit, ensure_directory, failed, link, put, read_text};
use crate::guest::{Guest, Init};
use crate::programs::Command;
use crate::watch::Wait;

/// How long cloud-init may take to make the user of a first boot, on an emulated CPU.
const USER_LIMIT: Duration = Duration::from_mins(10);

/// The first user id of people on most distributions: they may read the journal anyway.
const FIRST_PERSON: u32 = 1000;

/// What may become root without a password.
const SUDOERS: &str = "/etc/sudoers.d/90-berth-user";

/// Nobody else makes it.
pub(crate) fn make_applies(spec: &BootSpec, _guest: &Guest) -> bool {
    spec.make_user
}

/// Makes the user, as cloud-init does elsewhere.
pub(crate) async fn make(work: &Work<'_>) -> Result<Done, StepError> {
    let Work { spec, guest, .. } = work;
    let is_new = !is_there(spec, guest);
    if is_new {
        work.run(maker(spec, guest)?).await?;
    }
    let mut changed = is_new;
    if spec.user.passwordless_sudo && guest.has("/etc/sudoers.d") {
        let line = format!("{} ALL=(ALL) NOPASSWD:ALL\n", spec.user.name);
        let root = Attributes::root(0o440);
        changed |= put(&guest.path(SUDOERS), line.as_bytes(), root, Loss::Matters)?;
    }
    Ok(Done::changed(changed))
}

/// The command line: shadow's, or busybox's. A number that somebody has already is left to the program.
fn maker(spec: &BootSpec, guest: &Guest) -> Result<Command, StepError> {
    let user = &spec.user;
    let passwd = read_text(&guest.path("/etc/passwd"))?.unwrap_or_default();
    let uid = user.uid.to_string();
    let is_taken = |line: &str| line.split(':').nth(2) == Some(&uid);
    let number = (!passwd.lines().any(is_taken)).then_some(uid.as_str());
    let shell = if guest.has(&user.shell) {
        user.shell.as_str()
    } else {
        "/bin/sh"
    };
    // The fields of a line end at colons.
    let comment = user
        .comment
        .replace(|c: char| c == ':' || c.is_control(), " ");
    let command = if guest.has_program("useradd") {
        let uid = number.map(|uid| ["--uid", uid]);
        let words = ["--create-home", "--home-dir", &user.home, "--shell", shell];
        Command::new("useradd")
            .args(words)
            .args(["--comment", &comment])
            .args(uid.into_iter().flatten())
    } else {
        let uid = number.map(|uid| ["-u", uid]);
        Command::new("adduser")
            .args(["-D", "-h", &user.home, "-s", shell, "-g", &comment])
            .args(uid.into_iter().flatten())
    };
    Ok(command.arg(&user.name))
}

/// Waits for the user and its home directory.
pub(crate) async fn wait(work: &Work<'_>) -> Result<Done, StepError> {
    let Work { spec, guest, .. } = work;
    if is_there(spec, guest) {
        return Ok(Done::Already);
    }
    let paths = [guest.path("/etc/passwd"), guest.path(&spec.user.home)];
    let user = Wait {
        what: &format!(
            "cloud-init to make the user {:?} and its home {}",
            spec.user.name, spec.user.home
        ),
        paths: &paths,
        limit: USER_LIMIT,
        tick: None,
    };
    user.until(|| is_there(spec, guest).then_some(())).await?;
    Ok(Done::Changed)
}

/// Tells whether the user exists, with its home directory.
pub(crate) fn is_there(spec: &BootSpec, guest: &Guest) -> bool {
    let account = guest.account(&spec.user.name).ok().flatten();
    account.is_some_and(|account| guest.path(&account.home).is_dir())
}

/// Only people's accounts read the journal by themselves.
pub(crate) fn journal_applies(spec: &BootSpec, guest: &Guest) -> bool {
    spec.user.uid < FIRST_PERSON && guest.init == Init::Systemd
}

/// Lets a user with a system's number read the journal.
pub(crate) async fn journal_group(work: &Work<'_>) -> Result<Done, StepError> {
    const GROUP: &str = "systemd-journal";
    let user = &work.spec.user.name;
    match work.guest.group(GROUP)? {
        Some(group) if !group.members.contains(user) => {
            work.run(Command::new("usermod").args(["-aG", GROUP, user]))
                .await?;
            Ok(Done::Changed)
        }
        _ => Ok(Done::Already),
    }
}

/// Gives the home directory its other name: `NAME.guest` was `NAME.linux` in earlier Limas.
pub(crate) fn other_home(work: &Work<'_>) -> Result<Done, StepError> {
    let home = work.account()?.home;
    let other = if let Some(name) = home.strip_suffix(".guest") {
        format!("{name}.linux")
    } else if let Some(name) = home.strip_suffix(".linux") {
        format!("{name}.guest")
    } else {
        return Ok(Done::Already);
    };
    let path = work.guest.path(&other);
    if path.exists() && !path.is_symlink() {
        return Ok(Done::Already);
    }
    Ok(Done::changed(link(&path, Path::new(&home))?))
}

/// Makes the directory for sockets that the host forwards, the user's alone.
pub(crate) fn host_services(work: &Work<'_>) -> Result<Done, StepError> {
    let owner = work.account()?.owner;
    let path = work.guest.path("/run/host-services");
    Ok(Done::changed(ensure_directory(
        &path,
        Attributes::of(owner, 0o700),
    )?))
}

/// A user who must type a password for sudo needs one.
pub(crate) fn password_applies(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.user.passwordless_sudo
}

/// Gives the user a random password, once, and leaves it in `~/password`.
pub(crate) async fn password(work: &Work<'_>) -> Result<Done, StepError> {
    let account = work.account()?;
    let in_home = |name: &str| work.guest.path(&account.home).join(name);
    let is_set = in_home(".lima-password-set");
    if is_set.exists() {
        return Ok(Done::Already);
    }
    let password = random_password()?;
    let line = format!("{}:{password}\n", account.name);
    work.run(Command::new("chpasswd").input(line)).await?;
    let private = Attributes::of(account.owner, 0o600);
    put(
        &in_home("password"),
        format!("{password}\n").as_bytes(),
        private,
        Loss::Matters,
    )?;
    put(&is_set, b"", private, Loss::Matters)?;
    Ok(Done::Changed)
}

/// 16 hexadecimal digits.
fn random_password() -> Result<String, StepError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    let read = File::open(source).and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(failed("read", source))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// Alpine's sshd does without PAM, and refuses accounts whose password is locked.
pub(crate) fn unlock_applies(_spec: &BootSpec, guest: &Guest) -> bool {
    guest.is_alpine()
}

/// Turns a locked password into one that nothing matches.
pub(crate) fn unlock(work: &Work<'_>) -> Result<Done, StepError> {
    let locked = format!("{}:!", work.spec.user.name);
    let shadow = work.guest.path("/etc/shadow");
    if !shadow.exists() {
        return Err(impossible("/etc/shadow is missing"));
    }
    let changed = edit(&shadow, 0o640, |text| {
        let line = |line: &str| match line.strip_prefix(&locked) {
            Some(rest) => format!(
                "{}:*{}",
                work.spec.user.name,
                rest.trim_start_matches(['!', '*'])
            ),
            None => line.to_owned(),
        };
        text.split_inclusive('\n').map(line).collect()
    })?;
    Ok(Done::changed(changed))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot::testing::{Scene, me};

    #[tokio::test(flavor = "current_thread")]
    async fn the_user_is_waited_for() {
        let mut scene = Scene::new();
        assert_eq!(scene.run(wait).await.unwrap(), Done::Already);
        scene.spec.user.name = "late".to_owned();
        scene.spec.user.home = "/home/late".to_owned();
        let made = async {
            // As useradd does: a new file takes the old one's place, then the home appears.
            let uid = me().uid;
            scene.write(
                "/etc/passwd+",
                &format!("late:x:{uid}:{uid}::/home/late:/bin/sh\n"),
            );
            fs::rename(scene.path("/etc/passwd+"), scene.path("/etc/passwd")).unwrap();
            tokio::task::yield_now().await;
            fs::create_dir(scene.path("/home/late")).unwrap();
        };
        let (waited, ()) = tokio::join!(scene.run(wait), made);
        assert_eq!(waited.unwrap(), Done::Changed);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_user_that_never_comes_is_named() {
        let mut scene = Scene::new();
        scene.spec.user.name = "never".to_owned();
        let why = scene.run(wait).await.unwrap_err().to_string();
        assert_eq!(
            why,
            "waited 600 s for cloud-init to make the user \"never\" and its home /home/lima"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_user_whom_nobody_makes_is_made() {
        let mut scene = Scene::new();
        scene.write("/bin/bash", "");
        fs::create_dir_all(scene.path("/etc/sudoers.d")).unwrap();
        let user = &mut scene.spec.user;
        user.name = "jane".to_owned();
        user.home = "/home/jane.linux".to_owned();
        user.shell = "/bin/bash".to_owned();
        user.comment = "Jane: Doe".to_owned();
        user.uid = 4711;
        scene.install("useradd");
        assert_eq!(scene.run(make).await.unwrap(), Done::Changed);
        assert_eq!(
            scene.ran(),
            [
                "useradd --create-home --home-dir /home/jane.linux --shell /bin/bash --comment Jane  Doe --uid 4711 jane"
            ]
        );
        assert_eq!(scene.read(SUDOERS), "jane ALL=(ALL) NOPASSWD:ALL\n");
        assert_eq!(scene.mode(SUDOERS), 0o440);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_number_that_is_taken_and_a_shell_that_is_missing_are_no_hindrance() {
        let mut scene = Scene::new();
        scene.spec.user.name = "jane".to_owned();
        scene.spec.user.uid = me().uid;
        scene.spec.user.shell = "/bin/fish".to_owned();
        assert_eq!(scene.run(make).await.unwrap(), Done::Changed);
        assert_eq!(
            scene.ran(),
            ["adduser -D -h /home/lima -s /bin/sh -g  jane"]
        );
        scene.spec.user.name = "lima".to_owned();
        assert_eq!(scene.run(make).await.unwrap(), Done::Already);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_member_of_the_journals_group_is_not_added_again() {
        let scene = Scene::systemd();
        scene.write("/etc/group", "systemd-journal:x:101:\n");
        assert_eq!(scene.run(journal_group).await.unwrap(), Done::Changed);
        assert_eq!(scene.ran(), ["usermod -aG systemd-journal lima"]);
        scene.write("/etc/group", "systemd-journal:x:101:lima\n");
        assert_eq!(scene.run(journal_group).await.unwrap(), Done::Already);
    }

    #[test]
    fn the_home_gets_its_other_name() {
        let scene = Scene::new();
        assert_eq!(scene.now(other_home).unwrap(), Done::Already);
        let uid = me().uid;
        scene.write(
            "/etc/passwd",
            &format!("lima:x:{uid}:{uid}::/home/lima.guest:/bin/sh\n"),
        );
        scene.now_twice(other_home);
        assert_eq!(
            fs::read_link(scene.path("/home/lima.linux")).unwrap(),
            Path::new("/home/lima.guest")
        );
    }

    #[test]
    fn host_services_are_the_users_alone() {
        let scene = Scene::new();
        scene.now_twice(host_services);
        assert_eq!(scene.mode("/run/host-services"), 0o700);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_password_is_made_once_even_if_its_file_is_gone() {
        let scene = Scene::new();
        assert_eq!(scene.run(password).await.unwrap(), Done::Changed);
        let chosen = scene.read("/home/lima/password");
        assert_eq!(scene.commands()[0].given(), format!("lima:{chosen}"));
        assert_eq!(chosen.trim().len(), 16);
        assert_eq!(scene.mode("/home/lima/password"), 0o600);
        fs::remove_file(scene.path("/home/lima/password")).unwrap();
        assert_eq!(scene.run(password).await.unwrap(), Done::Already);
        assert_eq!(scene.ran(), Vec::<String>::new());
    }

    #[test]
    fn a_locked_account_is_unlocked_and_no_other() {
        let scene = Scene::new();
        scene.write(
            "/etc/shadow",
            "root:!::0:::::\nlima:!:19000:0:::::\nlimas:!::::::\n",
        );
        scene.now_twice(unlock);
        assert_eq!(
            scene.read("/etc/shadow"),
            "root:!::0:::::\nlima:*:19000:0:::::\nlimas:!::::::\n"
        );
    }
}
