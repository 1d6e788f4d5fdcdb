//! How a template takes over what its base says.

use crate::version::LimaVersion;

use super::tree::{Node, Scalar};

/// Lists whose base entries come first, so that the base's scripts run first.
const PREPENDED: [&str; 2] = ["provision", "probes"];
/// Versions of which the greater one counts.
const VERSIONS: [&str; 2] = ["minimumLimaVersion", "vmOpts.qemu.minimumVersion"];
/// The key of an entry that speaks of all entries before it.
const ALL: &str = "*";

/// Adds a base to a template: what the template says stays, what it leaves open is filled.
pub(super) fn add_base(template: &mut Node, base: Node) {
    fill(template, base, "");
}

fn fill(template: &mut Node, base: Node, path: &str) {
    let Node::Mapping(entries) = base else { return };
    for (key, value) in entries {
        if path.is_empty() && key.text == "base" {
            continue;
        }
        let path = crate::yaml::join(path, &key.text);
        match template.get_mut(&key.text) {
            None => template.set(&key.text, value),
            Some(own) => combine(own, value, &path),
        }
    }
}

fn combine(own: &mut Node, base: Node, path: &str) {
    if path == "dns" {
        if own.is_empty() {
            *own = base;
        }
        return;
    }
    match (own, base) {
        (Node::Scalar(own), Node::Scalar(base))
            if VERSIONS.contains(&path)
                && LimaVersion::parse(&own.text) < LimaVersion::parse(&base.text) =>
        {
            *own = base;
        }
        (Node::Sequence(own), Node::Sequence(base)) if path == "mountTypesUnsupported" => {
            for entry in base {
                if !own.contains(&entry) {
                    own.push(entry);
                }
            }
        }
        (Node::Sequence(own), Node::Sequence(mut base)) if PREPENDED.contains(&path) => {
            base.append(own);
            *own = base;
        }
        (Node::Sequence(own), Node::Sequence(base)) => own.extend(base),
        (own @ Node::Mapping(_), base @ Node::Mapping(_)) => fill(own, base, path),
        _ => {}
    }
}

/// Unites entries that speak of the same disk, mount or network: the first keeps what it says, later ones fill the gaps.
pub(super) fn unite_entries(template: &mut Node) {
    if let Some(disks) = list(template, "additionalDisks") {
        for disk in disks.iter_mut() {
            if let Node::Scalar(name) = disk {
                let mut whole = Node::empty_mapping();
                whole.set("name", Node::Scalar(name.clone()));
                *disk = whole;
            }
        }
        unite(disks, &["name"], &[]);
    }
    if let Some(mounts) = list(template, "mounts") {
        unite(mounts, &["mountPoint", "location"], &[]);
    }
    if let Some(networks) = list(template, "networks") {
        unite(networks, &["interface"], &["lima", "socket"]);
    }
}

fn list<'n>(template: &'n mut Node, key: &str) -> Option<&'n mut Vec<Node>> {
    match template.get_mut(key) {
        // A list that no other entry could be united in stays as it was written.
        Some(Node::Sequence(entries)) if entries.len() > 1 => Some(entries),
        _ => None,
    }
}

/// `names` are the keys that identify an entry, the first one that is set counts. Of `exclusive` keys an entry takes over
/// any only if it has none.
fn unite(entries: &mut Vec<Node>, names: &[&str], exclusive: &[&str]) {
    let mut united: Vec<Node> = Vec::new();
    for entry in entries.drain(..) {
        match identity(&entry, names) {
            Some(name) if name == ALL => {
                for earlier in &mut united {
                    take_over(earlier, &entry, names, exclusive);
                }
            }
            Some(name) => match united
                .iter_mut()
                .find(|earlier| identity(earlier, names).as_deref() == Some(&name))
            {
                Some(earlier) => take_over(earlier, &entry, &[], exclusive),
                None => united.push(entry),
            },
            None => united.push(entry),
        }
    }
    *entries = united;
}

fn identity(entry: &Node, names: &[&str]) -> Option<String> {
    names
        .iter()
        .find_map(|name| entry.get(name)?.as_text())
        .filter(|text| !text.is_empty())
        .map(ToOwned::to_owned)
}

fn take_over(earlier: &mut Node, later: &Node, except: &[&str], exclusive: &[&str]) {
    let Node::Mapping(entries) = later else {
        return;
    };
    let has_exclusive = exclusive.iter().any(|key| earlier.get(key).is_some());
    for (Scalar { text: key, .. }, value) in entries {
        let is_barred =
            except.contains(&key.as_str()) || (has_exclusive && exclusive.contains(&key.as_str()));
        match earlier.get_mut(key) {
            _ if is_barred => {}
            None => earlier.set(key, value.clone()),
            Some(own) => take_over(own, value, &[], &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combined(template: &str, base: &str) -> String {
        let parse = |text| Node::parse(text, "t").expect("parses");
        let mut tree = parse(template);
        add_base(&mut tree, parse(base));
        unite_entries(&mut tree);
        tree.write()
    }

    #[test]
    fn the_template_keeps_what_it_says() {
        assert_eq!(combined("cpus: 2\n", "cpus: 4\nbase: x\n"), "cpus: 2\n");
        assert_eq!(combined("cpus: null\n", "cpus: 4\n"), "cpus: 4\n");
        assert_eq!(
            combined(
                "ssh:\n  localPort: 1\n",
                "ssh: {localPort: 2, forwardAgent: true}\n"
            ),
            "ssh:\n  localPort: 1\n  forwardAgent: true\n"
        );
        assert_eq!(combined("images: x\n", "images: [y]\n"), "images: x\n");
    }

    #[test]
    fn lists_are_joined_each_in_its_own_way() {
        assert_eq!(
            combined("images: [a]\n", "images: [b]\n"),
            "images:\n- a\n- b\n"
        );
        assert_eq!(
            combined("provision: [a]\n", "provision: [b]\n"),
            "provision:\n- b\n- a\n"
        );
        assert_eq!(combined("dns: [a]\n", "dns: [b]\n"), "dns:\n- a\n");
        assert_eq!(combined("dns: []\n", "dns: [b]\n"), "dns:\n- b\n");
        assert_eq!(
            combined(
                "mountTypesUnsupported: [9p]\n",
                "mountTypesUnsupported: [9p, virtiofs]\n"
            ),
            "mountTypesUnsupported:\n- 9p\n- virtiofs\n"
        );
    }

    #[test]
    fn the_greater_minimum_counts() {
        let versions = |low: &str, high: &str| {
            (
                format!(
                    "minimumLimaVersion: {low}\nvmOpts:\n  qemu:\n    minimumVersion: {high}\n"
                ),
                format!(
                    "minimumLimaVersion: {high}\nvmOpts:\n  qemu:\n    minimumVersion: {low}\n"
                ),
            )
        };
        let (template, base) = versions("1.9.0", "1.10.0");
        let both = "minimumLimaVersion: 1.10.0\nvmOpts:\n  qemu:\n    minimumVersion: 1.10.0\n";
        assert_eq!(combined(&template, &base), both);
    }

    #[test]
    fn entries_of_one_name_become_one() {
        assert_eq!(
            combined(
                "additionalDisks: [a]\n",
                "additionalDisks: [{name: a, format: false}, b]\n"
            ),
            "additionalDisks:\n- name: a\n  format: false\n- name: b\n"
        );
        assert_eq!(
            combined(
                "mounts:\n- location: x\n  sshfs: {cache: true}\n- {location: y, mountPoint: z}\n",
                "mounts:\n- {location: x, sshfs: {cache: false, followSymlinks: true}}\n- {location: '*', writable: true}\n"
            ),
            "mounts:\n- location: x\n  sshfs:\n    cache: true\n    followSymlinks: true\n  writable: true\n- location: y\n  mountPoint: z\n  writable: true\n"
        );
        assert_eq!(
            combined(
                "networks:\n- {interface: a, socket: s}\n- vzNAT: true\n",
                "networks: [{interface: a, lima: l, metric: 1}, {vzNAT: true}]\n"
            ),
            "networks:\n- interface: a\n  socket: s\n  metric: 1\n- vzNAT: true\n- vzNAT: true\n"
        );
    }
}
