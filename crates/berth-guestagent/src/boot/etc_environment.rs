//! The block of `/etc/environment` that every login of the guest gets.
//!
//! Sessions that exist already keep what they have: none is ended for it. The block is in place before the host logs in.

use std::collections::BTreeMap;

use crate::block::{LIMA, Place};
use crate::boot::step::{Done, StepError, Work, impossible};
use crate::files::edit;

/// Writes the block.
pub(crate) fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let (lines, refused) = lines(&work.spec.env);
    let path = work.guest.path("/etc/environment");
    let changed = edit(&path, 0o644, |text| LIMA.set(text, Place::Bottom, &lines))?;
    if refused.is_empty() {
        Ok(Done::changed(changed))
    } else {
        let names = refused.join(", ");
        Err(impossible(format!(
            "env: {names}: a line of /etc/environment cannot hold this name or value"
        )))
    }
}

/// The lines, and the names of variables that no line can hold. The values are as they are: `pam_env` knows no escapes.
fn lines(env: &BTreeMap<String, String>) -> (Vec<String>, Vec<String>) {
    let mut lines = Vec::new();
    let mut refused = Vec::new();
    for (name, value) in env {
        if is_variable(name) && !value.contains(['\n', '\0']) {
            lines.push(format!("{name}={value}"));
        } else {
            refused.push(format!("{name:?}"));
        }
    }
    (lines, refused)
}

/// Tells whether a shell takes this for a variable's name.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_block_is_the_one_that_lima_writes() {
        let mut scene = Scene::new();
        scene.write(
            "/etc/environment",
            "PATH=\"/bin\"\n#LIMA-START\nOLD=1\n#LIMA-END\nLAST=1\n",
        );
        scene.spec.env = env(&[("http_proxy", "http://192.168.5.2:3128"), ("A", "b c")]);
        scene.now_twice(run);
        let block = "#LIMA-START\nA=b c\nhttp_proxy=http://192.168.5.2:3128\n#LIMA-END\n";
        assert_eq!(
            scene.read("/etc/environment"),
            format!("PATH=\"/bin\"\n{block}LAST=1\n")
        );
    }

    #[test]
    fn a_value_cannot_add_lines() {
        let mut scene = Scene::new();
        scene.spec.env = env(&[("GOOD", "1"), ("BAD", "1\nLD_PRELOAD=x"), ("1X", "1")]);
        let why = scene.now(run).unwrap_err().to_string();
        assert!(why.starts_with("env: \"1X\", \"BAD\": "), "{why}");
        assert_eq!(
            scene.read("/etc/environment"),
            "#LIMA-START\nGOOD=1\n#LIMA-END\n"
        );
    }
}
