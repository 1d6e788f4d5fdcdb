//! `param`: merged before anything is rendered, and checked for use.

use std::collections::BTreeMap;

use crate::schema::LimaYaml;

use super::Resolver;

/// A parameter that Lima reads itself.
const INTERNAL: &str = "internal_netplanOptional";

impl Resolver<'_> {
    /// Merges `param`. Unlike in Lima, templates see the merged values, as the scripts in the guest do.
    pub(super) fn params(&mut self) -> BTreeMap<String, String> {
        self.warn_of_unused_params();
        self.sources.overlaid(|yaml| Some(&yaml.param))
    }

    /// Lima refuses to load an unused parameter; a warning is enough to find the misspelling.
    fn warn_of_unused_params(&mut self) {
        let documents = [
            &self.sources.over,
            &self.sources.instance,
            &self.sources.default,
        ];
        // What a playbook uses is not known here.
        let mut entries = documents.iter().flat_map(|it| &it.yaml.provision);
        if entries.any(|entry| entry.playbook.is_some()) {
            return;
        }
        let texts: Vec<&str> = documents
            .into_iter()
            .flat_map(|loaded| texts_with_params(&loaded.yaml))
            .collect();
        let unused: Vec<&String> = self
            .sources
            .instance
            .yaml
            .param
            .keys()
            .filter(|key| *key != INTERNAL && !texts.iter().any(|text| uses(text, key)))
            .collect();
        for key in unused {
            self.report.warn(
                format!("param.{key}"),
                format!("not used: write {{{{.Param.{key}}}}} in a template or $PARAM_{key} in a script, or remove it"),
            );
        }
    }
}

/// Whether a text mentions the parameter as a template variable or as a variable of the shell.
fn uses(text: &str, key: &str) -> bool {
    [
        format!(".Param.{key}"),
        format!("PARAM_{key}"),
        format!(".Param \"{key}\""),
    ]
    .iter()
    .any(|mention| {
        text.match_indices(mention.as_str()).any(|(start, _)| {
            let rest = &text[start + mention.len()..];
            !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
        })
    })
}

fn texts_with_params(yaml: &LimaYaml) -> Vec<&str> {
    let mut texts: Vec<Option<&String>> = vec![yaml.user.home.as_ref(), yaml.message.as_ref()];
    for provision in &yaml.provision {
        texts.extend([
            provision.script.as_ref(),
            provision.content.as_ref(),
            provision.expression.as_ref(),
            provision.owner.as_ref(),
            provision.path.as_ref(),
            provision.permissions.as_ref(),
        ]);
    }
    texts.extend(yaml.probes.iter().map(|probe| probe.script.as_ref()));
    for copy in &yaml.copy_to_host {
        texts.extend([copy.guest.as_ref(), copy.host.as_ref()]);
    }
    for rule in &yaml.port_forwards {
        texts.extend([rule.guest_socket.as_ref(), rule.host_socket.as_ref()]);
    }
    for mount in &yaml.mounts {
        texts.extend([mount.location.as_ref(), mount.mount_point.as_ref()]);
    }
    texts.extend(yaml.env.values().map(Some));
    texts.into_iter().flatten().map(String::as_str).collect()
}
