//! `provision` and `probes`: what runs in the guest.

use crate::model::{GuestOs, Probe, Provision, ProvisionMode};
use crate::schema;

use super::{Resolver, Templates};

impl Resolver<'_> {
    pub(super) fn provision(&mut self, os: GuestOs, templates: &Templates) -> Vec<Provision> {
        let entries = self.report.concatenate("provision", |yaml| &yaml.provision);
        entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                self.provision_entry(&format!("provision[{index}]"), entry, os, templates)
            })
            .collect()
    }

    fn provision_entry(
        &mut self,
        key: &str,
        entry: &schema::Provision,
        os: GuestOs,
        templates: &Templates,
    ) -> Provision {
        let mode = match entry.mode.as_deref() {
            None | Some("") => ProvisionMode::System,
            Some(word) => self
                .word(&format!("{key}.mode"), word)
                .unwrap_or(ProvisionMode::System),
        };
        self.refuse_foreign_keys(key, entry, mode);
        self.refuse_file(key, entry.file.as_ref());
        let owns_file = matches!(mode, ProvisionMode::Data | ProvisionMode::Yq);
        let (name, text) = match mode {
            ProvisionMode::Data => ("content", &entry.content),
            ProvisionMode::Yq => ("expression", &entry.expression),
            _ => ("script", &entry.script),
        };
        let text = text.as_deref().unwrap_or_default();
        let mut guest =
            |name: &str, text: &str| self.render(&templates.guest, &format!("{key}.{name}"), text);
        let of_file = |text: &Option<String>, default: &str| match text {
            _ if !owns_file => String::new(),
            Some(text) => text.clone(),
            None => default.to_owned(),
        };
        Provision {
            mode,
            script: guest(name, text),
            skip_default_dependency_resolution: entry
                .skip_default_dependency_resolution
                .unwrap_or(false),
            playbook: entry.playbook.clone().unwrap_or_default(),
            overwrite: entry.overwrite.unwrap_or(mode == ProvisionMode::Data),
            format: match mode {
                ProvisionMode::Yq => entry.format.clone().unwrap_or_else(|| "auto".to_owned()),
                _ => String::new(),
            },
            path: guest("path", &of_file(&entry.path, "")),
            owner: guest("owner", &of_file(&entry.owner, default_owner(os))),
            permissions: of_file(&entry.permissions, "644"),
        }
    }

    /// Refuses keys that another mode owns: they would do nothing.
    fn refuse_foreign_keys(&mut self, key: &str, entry: &schema::Provision, mode: ProvisionMode) {
        use ProvisionMode::{Ansible, Data, Dependency, Yq};
        let owned_by: [(&str, bool, &[ProvisionMode]); 9] = [
            ("content", entry.content.is_some(), &[Data]),
            ("overwrite", entry.overwrite.is_some(), &[Data]),
            ("owner", entry.owner.is_some(), &[Data, Yq]),
            ("path", entry.path.is_some(), &[Data, Yq]),
            ("permissions", entry.permissions.is_some(), &[Data, Yq]),
            ("expression", entry.expression.is_some(), &[Yq]),
            ("format", entry.format.is_some(), &[Yq]),
            ("playbook", entry.playbook.is_some(), &[Ansible]),
            (
                "skipDefaultDependencyResolution",
                entry.skip_default_dependency_resolution.is_some(),
                &[Dependency],
            ),
        ];
        for (name, is_set, owners) in owned_by {
            if is_set && !owners.contains(&mode) {
                let owners: Vec<String> = owners
                    .iter()
                    .map(|owner| format!("`{}`", format!("{owner:?}").to_lowercase()))
                    .collect();
                self.report.refuse(
                    format!("{key}.{name}"),
                    format!(
                        "only for mode {}: remove it or change the mode",
                        owners.join(" or ")
                    ),
                );
            }
        }
        if matches!(mode, Data | Yq)
            && entry
                .script
                .as_ref()
                .is_some_and(|script| !script.is_empty())
        {
            let instead = if mode == Data {
                "content"
            } else {
                "expression"
            };
            self.report.refuse(
                format!("{key}.script"),
                format!("not for this mode: write `{instead}`"),
            );
        }
        if mode == Ansible
            && entry
                .script
                .as_ref()
                .is_some_and(|script| !script.is_empty())
        {
            self.report.refuse(
                format!("{key}.script"),
                "not for mode `ansible`: write `playbook`",
            );
        }
    }

    fn refuse_file(&mut self, key: &str, file: Option<&schema::Locator>) {
        let Some(file) = file else { return };
        if file.digest.is_some() {
            self.report.refuse(
                format!("{key}.file.digest"),
                "digests of scripts are not supported: remove it",
            );
        }
        self.report.refuse(
            format!("{key}.file"),
            format!(
                "{:?} is not embedded: it is read only when an instance is created from a template",
                file.url
            ),
        );
    }

    pub(super) fn probes(&mut self, templates: &Templates) -> Vec<Probe> {
        let entries = self.report.concatenate("probes", |yaml| &yaml.probes);
        let count = entries.len();
        let mut probes = Vec::new();
        for (index, probe) in entries.into_iter().enumerate() {
            let key = format!("probes[{index}]");
            self.refuse_file(&key, probe.file.as_ref());
            let or = |text: &Option<String>, default: &str| {
                text.as_deref()
                    .filter(|text| !text.is_empty())
                    .unwrap_or(default)
                    .to_owned()
            };
            let script = probe.script.as_deref().unwrap_or_default();
            probes.push(Probe {
                mode: or(&probe.mode, "readiness"),
                description: or(
                    &probe.description,
                    &format!("user probe {}/{count}", index + 1),
                ),
                script: self.render(&templates.guest, &format!("{key}.script"), script),
                hint: probe.hint.clone().unwrap_or_default(),
            });
        }
        probes
    }
}

fn default_owner(os: GuestOs) -> &'static str {
    match os {
        GuestOs::Darwin | GuestOs::FreeBSD => "root:wheel",
        GuestOs::Linux | GuestOs::Windows => "root:root",
    }
}
