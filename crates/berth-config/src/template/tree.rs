//! YAML as a tree that keeps scalars as they were written.
//!
//! Templates are combined here and not as typed values, because a reader that decides what `0644` or `1.10` is could not
//! write it back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::problem::{ConfigError, Position};

/// More nodes than any template has; aliases that unfold to more are an attack.
const MAX_NODES: usize = 100_000;
const INDENT: usize = 2;
const CORE_TAGS: &str = "tag:yaml.org,2002:";

/// One node of a document, aliases unfolded.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Scalar(Scalar),
    Sequence(Vec<Self>),
    Mapping(Vec<(Scalar, Self)>),
}

/// A scalar as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Written without quotes: what it means depends on who reads it.
    is_plain: bool,
    /// Name of a standard tag, such as `binary`.
    tag: Option<String>,
}

impl Scalar {
    /// A text, quoted.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_plain: false,
            tag: None,
        }
    }

    fn is_null(&self) -> bool {
        self.is_plain && ["", "~", "null", "Null", "NULL"].contains(&self.text.as_str())
    }
}

impl Node {
    /// Reads the first document of a text that the typed reader has accepted.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            parser: Parser::new_from_str(text),
            anchors: BTreeMap::new(),
            budget: MAX_NODES,
            file,
        };
        reader.document()
    }

    pub(super) fn empty_mapping() -> Self {
        Self::Mapping(Vec::new())
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.is_null())
    }

    /// Whether there is nothing in it: null, an empty text, an empty list.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(scalar) => scalar.is_null() || scalar.text.is_empty(),
            Self::Sequence(entries) => entries.is_empty(),
            Self::Mapping(entries) => entries.is_empty(),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            _ => None,
        }
    }

    /// The value of a key of a mapping, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Mapping(entries) = self else {
            return None;
        };
        let (_, value) = entries.iter().find(|(name, _)| name.text == key)?;
        Some(value).filter(|value| !value.is_null())
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Self::Mapping(entries) = self else {
            return None;
        };
        let (_, value) = entries.iter_mut().find(|(name, _)| name.text == key)?;
        Some(value).filter(|value| !value.is_null())
    }

    /// Sets a key of a mapping, in its place if it stands there.
    pub(super) fn set(&mut self, key: &str, value: Self) {
        let Self::Mapping(entries) = self else { return };
        match entries.iter_mut().find(|(name, _)| name.text == key) {
            Some((_, old)) => *old = value,
            None => entries.push((plain_key(key), value)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Self::Mapping(entries) = self {
            entries.retain(|(name, _)| name.text != key);
        }
    }

    /// Writes the tree as a document in block style.
    pub(super) fn write(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Mapping(entries) if !entries.is_empty() => write_mapping(&mut out, entries, 0),
            Self::Sequence(entries) if !entries.is_empty() => write_sequence(&mut out, entries, 0),
            inline => write_inline(&mut out, inline, 0),
        }
        out
    }
}

fn plain_key(key: &str) -> Scalar {
    Scalar {
        text: key.to_owned(),
        is_plain: true,
        tag: None,
    }
}

struct Reader<'t> {
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    anchors: BTreeMap<usize, Node>,
    budget: usize,
    file: &'t str,
}

impl<'t> Reader<'t> {
    fn document(&mut self) -> Result<Node, ConfigError> {
        loop {
            match self.next()? {
                None => return Ok(Node::empty_mapping()),
                Some((Event::StreamStart | Event::DocumentStart(..), _)) => {}
                Some((Event::StreamEnd | Event::DocumentEnd, _)) => {
                    return Ok(Node::empty_mapping());
                }
                Some((event, span)) => {
                    let node = self.node(event, span)?;
                    return Ok(if node.is_null() {
                        Node::empty_mapping()
                    } else {
                        node
                    });
                }
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, ConfigError> {
        self.parser
            .next_event()
            .transpose()
            .map_err(|error: ScanError| {
                let at = error.marker();
                self.refuse(at.line(), at.col() + 1, &error.info())
            })
    }

    fn refuse(&self, line: usize, column: usize, reason: &str) -> ConfigError {
        ConfigError::Yaml {
            position: Position {
                file: self.file.into(),
                line,
                column,
            },
            reason: reason.to_owned(),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, ConfigError> {
        let refuse = |reader: &Self, reason: &str| {
            reader.refuse(span.start.line(), span.start.col() + 1, reason)
        };
        let (anchor, cost, node) = match event {
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => (0, size(node), node.clone()),
                None => return Err(refuse(self, "an alias must not stand in what it names")),
            },
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, 1, Node::Scalar(scalar(&text, style, tag)))
            }
            Event::SequenceStart(_, anchor, _) => (anchor, 1, Node::Sequence(self.sequence()?)),
            Event::MappingStart(_, anchor, _) => (anchor, 1, Node::Mapping(self.mapping()?)),
            _ => return Err(refuse(self, "expected a value")),
        };
        self.budget = self
            .budget
            .checked_sub(cost)
            .ok_or_else(|| refuse(self, "aliases unfold to more than any template needs"))?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self) -> Result<Vec<Node>, ConfigError> {
        let mut entries = Vec::new();
        loop {
            match self.next()? {
                None | Some((Event::SequenceEnd, _)) => return Ok(entries),
                Some((event, span)) => entries.push(self.node(event, span)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Vec<(Scalar, Node)>, ConfigError> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = match self.next()? {
                None | Some((Event::MappingEnd, _)) => return Ok(entries),
                Some(next) => next,
            };
            let Node::Scalar(key) = self.node(event, span)? else {
                return Err(self.refuse(
                    span.start.line(),
                    span.start.col() + 1,
                    "a key must be a text",
                ));
            };
            match self.next()? {
                Some((event, span)) => entries.push((key, self.node(event, span)?)),
                None => return Ok(entries),
            }
        }
    }
}

/// The number of nodes that an alias of this one adds.
fn size(node: &Node) -> usize {
    match node {
        Node::Scalar(_) => 1,
        Node::Sequence(entries) => 1 + entries.iter().map(size).sum::<usize>(),
        Node::Mapping(entries) => 1 + entries.iter().map(|(_, value)| size(value)).sum::<usize>(),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<Cow<'_, Tag>>) -> Scalar {
    let tag = tag
        .filter(|tag| [CORE_TAGS, "!!"].contains(&tag.handle()))
        .map(|tag| tag.suffix().to_owned());
    Scalar {
        text: text.to_owned(),
        is_plain: style == ScalarStyle::Plain,
        tag,
    }
}

fn write_mapping(out: &mut String, entries: &[(Scalar, Node)], indent: usize) {
    for (key, value) in entries {
        push_indent(out, indent);
        write_scalar(out, key, None);
        out.push(':');
        match value {
            Node::Mapping(entries) if !entries.is_empty() => {
                out.push('\n');
                write_mapping(out, entries, indent + INDENT);
            }
            Node::Sequence(entries) if !entries.is_empty() => {
                out.push('\n');
                write_sequence(out, entries, indent);
            }
            inline => {
                out.push(' ');
                write_inline(out, inline, indent);
            }
        }
    }
}

fn write_sequence(out: &mut String, entries: &[Node], indent: usize) {
    for entry in entries {
        let mut block = String::new();
        match entry {
            Node::Mapping(entries) if !entries.is_empty() => {
                write_mapping(&mut block, entries, indent + INDENT);
            }
            Node::Sequence(entries) if !entries.is_empty() => {
                write_sequence(&mut block, entries, indent + INDENT);
            }
            inline => {
                push_indent(&mut block, indent + INDENT);
                write_inline(&mut block, inline, indent);
            }
        }
        // The dash takes the place of the first line's last two blanks.
        push_indent(out, indent);
        out.push_str("- ");
        out.push_str(&block[indent + INDENT..]);
    }
}

/// Writes what stands behind a key or a dash, and ends the line.
fn write_inline(out: &mut String, node: &Node, indent: usize) {
    match node {
        Node::Scalar(scalar) => write_scalar(out, scalar, Some(indent)),
        Node::Sequence(_) => out.push_str("[]"),
        Node::Mapping(_) => out.push_str("{}"),
    }
    out.push('\n');
}

/// Writes a scalar. With an indentation, texts of several lines become literal blocks.
fn write_scalar(out: &mut String, scalar: &Scalar, block_indent: Option<usize>) {
    if let Some(tag) = &scalar.tag {
        let _ = write!(out, "!!{tag} ");
    }
    let text = &scalar.text;
    match block_indent {
        _ if scalar.is_null() => out.push_str("null"),
        _ if scalar.is_plain && !text.contains('\n') => out.push_str(text),
        Some(indent) if is_fit_for_block(text) => write_block(out, text, indent + INDENT),
        _ => write_quoted(out, text),
    }
}

fn is_fit_for_block(text: &str) -> bool {
    text.contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with(char::is_whitespace)
        && !text
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t')
}

fn write_block(out: &mut String, text: &str, indent: usize) {
    out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            push_indent(out, indent);
            out.push_str(line);
        }
    }
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Control characters lie below U+00A0.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push_indent(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(text: &str) -> String {
        Node::parse(text, "t").expect("parses").write()
    }

    #[test]
    fn endless_aliases_and_odd_keys_are_refused() {
        let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
            .to_owned()
            + "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
            + "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]\n";
        for (text, part) in [
            (bomb.as_str(), "unfold"),
            ("a: &a [*a]\n", "must not stand in what it names"),
            ("[a]: b\n", "t:1:1: a key must be a text"),
            ("a: [", "t:1:"),
        ] {
            let error = Node::parse(text, "t").expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn scalars_stay_as_they_were_written() {
        for (text, expected) in [
            (
                "a: 0644\nb: 1.10\nc: '0644'\n",
                "a: 0644\nb: 1.10\nc: \"0644\"\n",
            ),
            ("a: ~\nb:\nc: ''\n", "a: null\nb: null\nc: \"\"\n"),
            (
                "a: |\n  x\n    y\n\n  z\nb: >-\n  x\n  y\n",
                "a: |\n  x\n    y\n\n  z\nb: \"x y\"\n",
            ),
            ("a: [1, {b: c}]\n", "a:\n- 1\n- b: c\n"),
            ("a: [[1, 2], [], {}]\n", "a:\n- - 1\n  - 2\n- []\n- {}\n"),
            (
                "- a: |-\n    x\n    y\n  b: 1\n",
                "- a: |-\n    x\n    y\n  b: 1\n",
            ),
            ("a: !!binary aGk=\n", "a: !!binary aGk=\n"),
            ("x: &x {a: 1}\ny: *x\n", "x:\n  a: 1\ny:\n  a: 1\n"),
            ("", "{}\n"),
        ] {
            assert_eq!(rewritten(text), expected, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_survives_being_written(text in "[ -~\n\t\\x01äλ\u{2028}]{0,40}") {
            let tree = Node::Mapping(vec![
                (Scalar::text("key"), Node::Scalar(Scalar::text(&text))),
                (Scalar::text("list"), Node::Sequence(vec![Node::Scalar(Scalar::text(&text))])),
            ]);
            let written = tree.write();
            let read = Node::parse(&written, "t").expect(&written);
            prop_assert_eq!(read.get("key").and_then(Node::as_text), Some(text.as_str()));
            let Some(Node::Sequence(list)) = read.get("list") else { panic!("{written}") };
            prop_assert_eq!(list[0].as_text(), Some(text.as_str()));
        }
    }
}
