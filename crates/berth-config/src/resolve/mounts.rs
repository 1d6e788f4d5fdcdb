//! `mounts`: merged by mount point.

use std::path::PathBuf;

use crate::model::{Mount, NineP, Sshfs, Virtiofs};
use crate::platform::HostOs;
use crate::schema;
use crate::sources::{Origin, Source};

use super::images::is_absolute;
use super::{Resolver, Templates};

const DEFAULT_MSIZE: u64 = 128 << 10;

/// A mount whose templates are rendered and whose defaults are still open.
struct Draft {
    location: String,
    mount_point: String,
    keys: schema::Mount,
    origin: Origin,
}

impl Resolver<'_> {
    pub(super) fn mounts(&mut self, templates: &Templates) -> Vec<Mount> {
        let mut drafts: Vec<Draft> = Vec::new();
        for source in [Source::Default, Source::Instance, Source::Over] {
            for (index, keys) in self.sources.yaml(source).mounts.iter().enumerate() {
                let draft = self.draft(templates, keys, Origin { source, index }, drafts.len());
                match drafts
                    .iter_mut()
                    .find(|earlier| earlier.mount_point == draft.mount_point)
                {
                    Some(earlier) => overwrite(&mut earlier.keys, draft.keys),
                    None => drafts.push(draft),
                }
            }
        }
        let origins = drafts.iter().map(|draft| draft.origin).collect();
        self.report.record("mounts", origins);
        drafts
            .into_iter()
            .enumerate()
            .map(|(index, draft)| self.mount(index, draft))
            .collect()
    }

    fn draft(
        &mut self,
        templates: &Templates,
        keys: &schema::Mount,
        origin: Origin,
        index: usize,
    ) -> Draft {
        let key = format!("mounts[{index}].location");
        let location = keys.location.as_deref().unwrap_or_default();
        let location = self.render(&templates.host, &key, location);
        let location = self.expand_home(&key, &location);
        let mount_point = match keys.mount_point.as_deref() {
            None | Some("") => self.guest_path(&location),
            Some(template) => self.render(
                &templates.guest,
                &format!("mounts[{index}].mountPoint"),
                template,
            ),
        };
        Draft {
            location,
            mount_point,
            keys: keys.clone(),
            origin,
        }
    }

    /// Where a host directory stands in the guest if nothing else is said.
    fn guest_path(&self, location: &str) -> String {
        if self.ctx.platform.os != HostOs::Windows {
            return location.to_owned();
        }
        let path = location.replace('\\', "/");
        match path.split_once(":/") {
            Some((drive, rest)) if drive.len() == 1 => {
                format!("/{}/{rest}", drive.to_ascii_lowercase())
            }
            _ => path,
        }
    }

    fn mount(&mut self, index: usize, draft: Draft) -> Mount {
        let Draft {
            location,
            mount_point,
            keys,
            ..
        } = draft;
        let key = format!("mounts[{index}]");
        if location.is_empty() {
            self.report.refuse(
                format!("{key}.location"),
                "missing: write a path (an unquoted `~` is nothing to YAML: write \"~\")",
            );
        } else if !is_absolute(self.ctx.platform, &location) {
            self.report.refuse(
                format!("{key}.location"),
                format!("{location:?} is not absolute: write the full path, or start it with `~/`"),
            );
        }
        let writable = keys.writable.unwrap_or(false);
        let cache = if writable { "mmap" } else { "fscache" };
        let msize = keys.nine_p.msize.unwrap_or_default();
        let or = |text: Option<String>, default: &str| text.unwrap_or_else(|| default.to_owned());
        Mount {
            location: PathBuf::from(location),
            mount_point,
            writable,
            sshfs: Sshfs {
                cache: keys.sshfs.cache.unwrap_or(true),
                follow_symlinks: keys.sshfs.follow_symlinks.unwrap_or(false),
                sftp_driver: keys.sshfs.sftp_driver.unwrap_or_default(),
            },
            nine_p: NineP {
                security_model: or(keys.nine_p.security_model, "none"),
                protocol_version: or(keys.nine_p.protocol_version, "9p2000.L"),
                msize: match msize.as_str() {
                    "" => crate::size::Size::from_bytes(DEFAULT_MSIZE),
                    text => self.parse_size(&format!("{key}.9p.msize"), text, DEFAULT_MSIZE),
                },
                cache: or(keys.nine_p.cache, cache),
            },
            virtiofs: Virtiofs {
                queue_size: keys.virtiofs.queue_size.and_then(|size| {
                    let valid = u32::try_from(size).ok().filter(|size| *size > 0);
                    if valid.is_none() {
                        self.report.refuse(
                            format!("{key}.virtiofs.queueSize"),
                            format!("{size} is no queue size: write 1 or more"),
                        );
                    }
                    valid
                }),
            },
        }
    }
}

/// Lets a later entry for the same mount point say what it says; the location stays that of the first.
fn overwrite(earlier: &mut schema::Mount, later: schema::Mount) {
    fn take<T>(earlier: &mut Option<T>, later: Option<T>) {
        if later.is_some() {
            *earlier = later;
        }
    }
    take(&mut earlier.writable, later.writable);
    take(&mut earlier.sshfs.cache, later.sshfs.cache);
    take(
        &mut earlier.sshfs.follow_symlinks,
        later.sshfs.follow_symlinks,
    );
    take(&mut earlier.sshfs.sftp_driver, later.sshfs.sftp_driver);
    take(
        &mut earlier.nine_p.security_model,
        later.nine_p.security_model,
    );
    take(
        &mut earlier.nine_p.protocol_version,
        later.nine_p.protocol_version,
    );
    take(&mut earlier.nine_p.msize, later.nine_p.msize);
    take(&mut earlier.nine_p.cache, later.nine_p.cache);
    take(&mut earlier.virtiofs.queue_size, later.virtiofs.queue_size);
}
