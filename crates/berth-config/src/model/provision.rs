//! `provision`: what runs in the guest, and under which keys it is written.

use serde::{Deserialize, Serialize};

/// When and how a provisioning entry runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the modes are described in lima.yaml")]
pub enum ProvisionMode {
    System,
    User,
    Boot,
    Data,
    Dependency,
    Ansible,
    Yq,
}

/// One entry of `provision`. Its index in [`Config::provision`](super::Config::provision) is its file number in cidata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Provision {
    pub mode: ProvisionMode,
    /// Rendered text: `script`, `content` or `expression`, by mode.
    pub script: String,
    pub skip_default_dependency_resolution: bool,
    pub playbook: String,
    pub overwrite: bool,
    pub format: String,
    pub path: String,
    pub owner: String,
    pub permissions: String,
}

/// An entry under the keys of lima.yaml, of which a mode may use only its own.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    mode: ProvisionMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    skip_default_dependency_resolution: Option<bool>,
    #[serde(default)]
    script: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    playbook: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overwrite: Option<bool>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    owner: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    permissions: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expression: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    format: String,
}

impl From<Provision> for Written {
    fn from(entry: Provision) -> Self {
        let (script, content, expression) = match entry.mode {
            ProvisionMode::Data => (String::new(), Some(entry.script), None),
            ProvisionMode::Yq => (String::new(), None, Some(entry.script)),
            _ => (entry.script, None, None),
        };
        Self {
            mode: entry.mode,
            skip_default_dependency_resolution: (entry.mode == ProvisionMode::Dependency)
                .then_some(entry.skip_default_dependency_resolution),
            script,
            playbook: entry.playbook,
            content,
            overwrite: (entry.mode == ProvisionMode::Data).then_some(entry.overwrite),
            owner: entry.owner,
            path: entry.path,
            permissions: entry.permissions,
            expression,
            format: entry.format,
        }
    }
}

impl From<Written> for Provision {
    fn from(entry: Written) -> Self {
        let text = match entry.mode {
            ProvisionMode::Data => entry.content,
            ProvisionMode::Yq => entry.expression,
            _ => Some(entry.script),
        };
        Self {
            mode: entry.mode,
            script: text.unwrap_or_default(),
            skip_default_dependency_resolution: entry
                .skip_default_dependency_resolution
                .unwrap_or(false),
            playbook: entry.playbook,
            overwrite: entry.overwrite.unwrap_or(false),
            format: entry.format,
            path: entry.path,
            owner: entry.owner,
            permissions: entry.permissions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_written_under_its_own_keys() {
        for written in [
            r#"{"mode":"user","script":"s"}"#,
            r#"{"mode":"dependency","skipDefaultDependencyResolution":false,"script":"s"}"#,
            r#"{"mode":"data","script":"","content":"c","overwrite":false,"owner":"o","path":"/p","permissions":"644"}"#,
            r#"{"mode":"yq","script":"","owner":"o","path":"/p","permissions":"644","expression":".a","format":"auto"}"#,
        ] {
            let entry: Provision = serde_json::from_str(written).unwrap();
            assert_eq!(serde_json::to_string(&entry).unwrap(), written);
            assert!(!entry.script.is_empty(), "{entry:?}");
        }
    }
}
