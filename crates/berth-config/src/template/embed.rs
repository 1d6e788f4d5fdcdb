//! Making a template self-contained: its bases and the files of its scripts become part of it.

use std::collections::BTreeSet;

use crate::schema::LimaYaml;
use crate::yaml::{MAX_FILE_SIZE, load};

use super::combine::{add_base, unite_entries};
use super::library::{Library, Template};
use super::tree::{Node, Scalar};
use super::{Locator, TemplateError};

impl Library<'_> {
    /// Embeds the bases of a template, and the files that its scripts stand in.
    ///
    /// A template without any is returned byte for byte; else comments are lost.
    pub fn embed(&self, template: Template) -> Result<Template, TemplateError> {
        let user_base = self.user_base.filter(|path| path.exists());
        let yaml = load(&template.text, &template.name)?.yaml;
        if yaml.base.is_empty() && user_base.is_none() && !names_files(&yaml) {
            return Ok(template);
        }
        let mut chain = Chain {
            library: self,
            seen: BTreeSet::from([template.name.clone()]),
            trees: Vec::new(),
        };
        chain.trees.push(chain.self_contained(&template, &yaml)?);
        if let Some(path) = user_base {
            chain.follow(&Locator::File(path.to_owned()))?;
        }
        chain.follow_bases(&template, &yaml)?;
        chain.join(template)
    }
}

fn names_files(yaml: &LimaYaml) -> bool {
    yaml.provision.iter().any(|entry| entry.file.is_some())
        || yaml.probes.iter().any(|probe| probe.file.is_some())
}

/// A template and its bases, the nearest first.
struct Chain<'a> {
    library: &'a Library<'a>,
    seen: BTreeSet<String>,
    trees: Vec<Node>,
}

impl Chain<'_> {
    fn follow(&mut self, locator: &Locator) -> Result<(), TemplateError> {
        let template = self.library.read(locator)?;
        if !self.seen.insert(template.name.clone()) {
            return Err(TemplateError::Loop(template.name));
        }
        let yaml = load(&template.text, &template.name)?.yaml;
        let tree = self.self_contained(&template, &yaml)?;
        self.trees.push(tree);
        self.follow_bases(&template, &yaml)
    }

    fn follow_bases(&mut self, template: &Template, yaml: &LimaYaml) -> Result<(), TemplateError> {
        for base in &yaml.base {
            if base.digest.is_some() {
                return Err(digest("base", template));
            }
            let locator = self.library.resolve(&base.url, template)?;
            self.follow(&locator)?;
        }
        Ok(())
    }

    /// Reads the tree of one template, its scripts in the place of their files.
    fn self_contained(&self, template: &Template, yaml: &LimaYaml) -> Result<Node, TemplateError> {
        let mut tree = Node::parse(&template.text, &template.name)?;
        for (index, entry) in yaml.provision.iter().enumerate() {
            let Some(file) = &entry.file else { continue };
            let key = match entry.mode.as_deref() {
                Some("data") => "content",
                Some("yq") => "expression",
                _ => "script",
            };
            self.inline(template, file, entry_of(&mut tree, "provision", index), key)?;
        }
        for (index, probe) in yaml.probes.iter().enumerate() {
            let Some(file) = &probe.file else { continue };
            self.inline(
                template,
                file,
                entry_of(&mut tree, "probes", index),
                "script",
            )?;
        }
        Ok(tree)
    }

    fn inline(
        &self,
        template: &Template,
        file: &crate::schema::Locator,
        entry: Option<&mut Node>,
        key: &str,
    ) -> Result<(), TemplateError> {
        let Some(entry) = entry else { return Ok(()) };
        if file.digest.is_some() {
            return Err(digest("file", template));
        }
        if entry.get(key).is_none_or(Node::is_empty) {
            let locator = self.library.resolve(&file.url, template)?;
            let text = self.library.read(&locator)?.text;
            entry.set(key, Node::Scalar(Scalar::text(text)));
        }
        entry.remove("file");
        Ok(())
    }

    fn join(self, template: Template) -> Result<Template, TemplateError> {
        let mut trees = self.trees.into_iter();
        let mut whole = trees.next().unwrap_or_else(Node::empty_mapping);
        for base in trees {
            add_base(&mut whole, base);
        }
        whole.remove("base");
        unite_entries(&mut whole);
        let text = whole.write();
        if text.len() as u64 > MAX_FILE_SIZE {
            return Err(TemplateError::TooLarge {
                template: template.name,
                limit: MAX_FILE_SIZE,
            });
        }
        Ok(Template {
            text,
            name: format!("{} with all it includes", template.name),
            directory: template.directory,
        })
    }
}

fn entry_of<'n>(tree: &'n mut Node, list: &str, index: usize) -> Option<&'n mut Node> {
    match tree.get_mut(list)? {
        Node::Sequence(entries) => entries.get_mut(index),
        _ => None,
    }
}

fn digest(key: &str, template: &Template) -> TemplateError {
    TemplateError::Digest {
        key: key.to_owned(),
        template: template.name.clone(),
    }
}
