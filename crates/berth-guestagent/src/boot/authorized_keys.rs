//! The keys that may log in as the user: a marked block in `~/.ssh/authorized_keys`; other keys there are the user's own.

use berth_link::boot::BootSpec;

use crate::block::{BERTH, Place};
use crate::boot::step::{Done, StepError, Work};
use crate::files::{Attributes, FileError, Loss, ensure_directory, put, read_text};
use crate::guest::Guest;

/// Puts the keys in place.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let account = work.account()?;
    let directory = format!("{}/.ssh", account.home);
    let made = ensure_directory(
        &work.guest.path(&directory),
        Attributes::of(account.owner, 0o700),
    )?;
    let path = work.guest.path(&format!("{directory}/authorized_keys"));
    let old = read_text(&path)?.unwrap_or_default();
    let new = with_keys(&old, &keys(work.spec));
    let changed = put(
        &path,
        new.as_bytes(),
        Attributes::of(account.owner, 0o600),
        Loss::Matters,
    )?;
    if made || changed {
        work.restore_labels(&[&directory]).await?;
    }
    Ok(Done::changed(made || changed))
}

/// Tells whether every key is there, wherever in the file: cloud-init may have written them.
pub(crate) fn are_in_place(spec: &BootSpec, guest: &Guest) -> Result<bool, FileError> {
    let Some(account) = guest.account(&spec.user.name)? else {
        return Ok(false);
    };
    let text = read_text(&guest.path(&format!("{}/.ssh/authorized_keys", account.home)))?;
    let text = text.unwrap_or_default();
    Ok(keys(spec)
        .iter()
        .all(|key| text.lines().any(|line| line.trim() == key)))
}

fn keys(spec: &BootSpec) -> Vec<String> {
    let keys = spec.authorized_keys.iter().map(|key| key.trim());
    keys.filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Moves what cloud-init wrote of the same keys into the block: a key that the host takes back must not stay beside it.
fn with_keys(text: &str, keys: &[String]) -> String {
    let ours = |line: &str| {
        material(line).is_some_and(|found| keys.iter().any(|key| material(key) == Some(found)))
    };
    let others: String = text
        .split_inclusive('\n')
        .filter(|line| !ours(line))
        .collect();
    BERTH.set(&others, Place::Bottom, keys)
}

/// Type and key of a line without options: what makes two lines the same key.
fn material(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let is_kind = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|prefix| kind.starts_with(prefix));
    is_kind.then_some((kind, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    const FILE: &str = "/home/lima/.ssh/authorized_keys";

    #[tokio::test(flavor = "current_thread")]
    async fn only_our_block_is_replaced() {
        let mut scene = Scene::new();
        scene.write(
            FILE,
            "ssh-ed25519 OLD lima\ncommand=\"x\" ssh-ed25519 OLD limited\nssh-rsa MINE me@laptop\n",
        );
        scene.spec.authorized_keys = vec![
            "ssh-ed25519 OLD lima\n".to_owned(),
            "ssh-rsa B b".to_owned(),
        ];
        scene.run_twice(run).await;
        let begin = BERTH.begin;
        let end = BERTH.end;
        let others = "command=\"x\" ssh-ed25519 OLD limited\nssh-rsa MINE me@laptop\n";
        assert_eq!(
            scene.read(FILE),
            format!("{others}{begin}\nssh-ed25519 OLD lima\nssh-rsa B b\n{end}\n")
        );
        assert_eq!(scene.mode(FILE), 0o600);
        assert_eq!(scene.mode("/home/lima/.ssh"), 0o700);

        scene.spec.authorized_keys = vec!["ssh-ed25519 NEW lima".to_owned()];
        scene.run(run).await.unwrap();
        assert_eq!(
            scene.read(FILE),
            format!("{others}{begin}\nssh-ed25519 NEW lima\n{end}\n")
        );
    }

    #[test]
    fn keys_count_wherever_they_stand() {
        let mut scene = Scene::new();
        scene.spec.authorized_keys = vec!["ssh-rsa B b".to_owned()];
        assert!(!are_in_place(&scene.spec, &scene.guest).unwrap());
        scene.write(FILE, "# by cloud-init\nssh-rsa B b\n");
        assert!(are_in_place(&scene.spec, &scene.guest).unwrap());
        scene.spec.user.name = "other".to_owned();
        assert!(!are_in_place(&scene.spec, &scene.guest).unwrap());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_the_user_it_says_so() {
        let mut scene = Scene::new();
        scene.spec.user.name = "nobody-here".to_owned();
        let why = scene.run(run).await.unwrap_err();
        assert_eq!(
            why.to_string(),
            "the guest has no user \"nobody-here\": see cloud-init's log"
        );
    }
}
