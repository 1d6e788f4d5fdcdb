//! Which variables of the host `shell --preserve-env` hands on to the guest.

/// What would confuse the guest: everything about the host's own session. `*` stands for any characters.
const BLOCKED: [&str; 27] = [
    "BASH*",
    "DISPLAY",
    "DYLD_*",
    "EUID",
    "FPATH",
    "GID",
    "GROUP",
    "HOME",
    "HOSTNAME",
    "LD_*",
    "LOGNAME",
    "OLDPWD",
    "PATH",
    "PWD",
    "SHELL",
    "SHLVL",
    "SSH_*",
    "TERM",
    "TERMINFO",
    "TMPDIR",
    "UID",
    "USER",
    "XAUTHORITY",
    "XDG_*",
    "ZDOTDIR",
    "ZSH*",
    "_*",
];

/// A list of `LIMA_SHELLENV_BLOCK` or `LIMA_SHELLENV_ALLOW` that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: pattern {pattern:?} may contain letters, digits, `_` and `*` only")]
pub(crate) struct PatternError {
    variable: &'static str,
    pattern: String,
}

/// The choice of variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PreservedEnv {
    blocked: Vec<String>,
    allowed: Vec<String>,
}

impl PreservedEnv {
    /// `block` replaces the built-in list, or extends it when it begins with `+`; `allow` makes exceptions from either.
    pub(crate) fn new(block: Option<&str>, allow: Option<&str>) -> Result<Self, PatternError> {
        let built_in = || BLOCKED.map(str::to_owned).to_vec();
        let blocked = match block.unwrap_or_default() {
            "" => built_in(),
            list => match list.strip_prefix('+') {
                Some(more) => {
                    let mut blocked = built_in();
                    blocked.extend(patterns("LIMA_SHELLENV_BLOCK", more)?);
                    blocked
                }
                None => patterns("LIMA_SHELLENV_BLOCK", list)?,
            },
        };
        let allowed = patterns("LIMA_SHELLENV_ALLOW", allow.unwrap_or_default())?;
        Ok(Self { blocked, allowed })
    }

    /// Those of the variables that are handed on. What no shell could take as a name is not.
    pub(crate) fn choose<'a>(&self, env: &'a [(String, String)]) -> Vec<(&'a str, &'a str)> {
        let listed =
            |list: &[String], name: &str| list.iter().any(|pattern| matches(pattern, name));
        let mut chosen: Vec<_> = env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| is_variable_name(name))
            .filter(|(name, _)| !listed(&self.blocked, name) || listed(&self.allowed, name))
            .collect();
        chosen.sort_unstable();
        chosen
    }
}

/// Whether a shell takes it for the name of a variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(word) && name.starts_with(|c: char| !c.is_ascii_digit())
}

fn patterns(variable: &'static str, list: &str) -> Result<Vec<String>, PatternError> {
    let patterns = list
        .split(',')
        .map(str::trim)
        .filter(|pattern| !pattern.is_empty());
    patterns
        .map(|pattern| {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '*';
            if pattern.chars().all(fits) {
                Ok(pattern.to_owned())
            } else {
                Err(PatternError {
                    variable,
                    pattern: pattern.to_owned(),
                })
            }
        })
        .collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(head) else {
        return false;
    };
    (0..=name.len()).any(|start| matches(rest, &name[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(block: Option<&str>, allow: Option<&str>) -> Vec<String> {
        let env = [
            "HOME",
            "PATH",
            "SSH_AUTH_SOCK",
            "LANG",
            "MY_TOKEN",
            "_",
            "BASH_FUNC_x%%",
            "EDITOR",
        ];
        let env: Vec<_> = env.map(|name| (name.to_owned(), "v".to_owned())).to_vec();
        let chosen = PreservedEnv::new(block, allow).unwrap();
        chosen
            .choose(&env)
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    #[test]
    fn the_hosts_own_session_stays_behind() {
        assert_eq!(chosen(None, None), ["EDITOR", "LANG", "MY_TOKEN"]);
        assert_eq!(chosen(Some(""), Some("")), ["EDITOR", "LANG", "MY_TOKEN"]);
    }

    #[test]
    fn lists_replace_extend_and_make_exceptions() {
        assert_eq!(chosen(Some("*"), Some("LANG")), ["LANG"]);
        assert_eq!(chosen(Some("+ *TOKEN , LANG"), None), ["EDITOR"]);
        assert_eq!(
            chosen(None, Some("SSH_*SOCK")),
            ["EDITOR", "LANG", "MY_TOKEN", "SSH_AUTH_SOCK"]
        );
        assert!(chosen(Some("LANG"), None).contains(&"HOME".to_owned()));
    }

    #[test]
    fn other_characters_are_refused_by_name() {
        let error = PreservedEnv::new(None, Some("A,B?")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "LIMA_SHELLENV_ALLOW: pattern \"B?\" may contain letters, digits, `_` and `*` only"
        );
        assert!(PreservedEnv::new(Some("+A-B"), None).is_err());
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, fits) in [
            ("A*", "A", true),
            ("A*", "BA", false),
            ("*A", "BA", true),
            ("A*C*E", "ABCDE", true),
            ("A*C*E", "ABDE", false),
            ("**", "", true),
            ("", "A", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
