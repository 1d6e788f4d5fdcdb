//! A small YAML writer: block style, every string quoted, so that no value is ever read as something else.

use std::fmt::Write as _;

/// A YAML value. Maps keep the order they were built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Yaml {
    Bool(bool),
    Int(i64),
    Text(String),
    Seq(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Yaml {
    /// A text value.
    pub(crate) fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    /// A sequence of texts.
    pub(crate) fn texts<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Self {
        Self::Seq(values.into_iter().map(Self::text).collect())
    }

    /// A map from pairs.
    pub(crate) fn map<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(pairs.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// The whole document.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    }

    /// Writes the value in block style with every line indented, ending in a newline for collections.
    fn write(&self, out: &mut String, indent: usize) {
        match self {
            Self::Map(pairs) if !pairs.is_empty() => {
                for (key, value) in pairs {
                    pad(out, indent);
                    write_key(out, key);
                    out.push(':');
                    value.write_after_colon(out, indent);
                }
            }
            Self::Seq(items) if !items.is_empty() => {
                for item in items {
                    let begin = out.len();
                    match item {
                        Self::Map(_) | Self::Seq(_) if !item.is_empty() => {
                            item.write(out, indent + 2);
                            // The dash takes the place of the first line's indentation.
                            out.replace_range(begin + indent..begin + indent + 2, "- ");
                        }
                        scalar => {
                            pad(out, indent);
                            out.push('-');
                            scalar.write_after_colon(out, indent);
                        }
                    }
                }
            }
            scalar => scalar.write_after_colon(out, indent),
        }
    }

    /// Writes what follows `key:` or `-`, up to and with the newline.
    fn write_after_colon(&self, out: &mut String, indent: usize) {
        match self {
            Self::Bool(value) => writeln!(out, " {value}").expect("a string takes all"),
            Self::Int(value) => writeln!(out, " {value}").expect("a string takes all"),
            Self::Text(text) if fits_literal(text) => write_literal(out, text, indent + 2),
            Self::Text(text) => {
                out.push(' ');
                write_quoted(out, text);
                out.push('\n');
            }
            Self::Seq(items) if items.is_empty() => out.push_str(" []\n"),
            Self::Map(pairs) if pairs.is_empty() => out.push_str(" {}\n"),
            Self::Seq(_) | Self::Map(_) => {
                out.push('\n');
                self.write(out, indent + 2);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Seq(items) => items.is_empty(),
            Self::Map(pairs) => pairs.is_empty(),
            _ => false,
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Keys stand bare only where YAML 1.1 and 1.2 agree that they are strings.
fn write_key(out: &mut String, key: &str) {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && !WORDS.contains(&key.to_ascii_lowercase().as_str());
    if plain {
        out.push_str(key);
    } else {
        write_quoted(out, key);
    }
}

/// Whether a character means itself in a literal block and in quotes, for every YAML reader.
fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // Line separators, the byte order mark and non-characters are not plain text to a YAML reader.
        '\u{2028}' | '\u{2029}' | '\u{FEFF}' => false,
        c => c >= '\u{A1}' && (u32::from(c) & 0xFFFE) != 0xFFFE,
    }
}

/// Texts of several lines stand as a literal block, for people to read.
fn fits_literal(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && text.chars().all(|c| is_plain(c) || c == '\n' || c == '\t')
}

fn write_literal(out: &mut String, text: &str, indent: usize) {
    out.push_str(" |");
    // Without the number, leading blanks of the text would be taken for indentation.
    if text.starts_with([' ', '\n', '\t']) {
        out.push('2');
    }
    let body = text.trim_end_matches('\n');
    match text.len() - body.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    out.push('\n');
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
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
            '\r' => out.push_str("\\r"),
            c if is_plain(c) => out.push(c),
            c if u32::from(c) <= 0xFF => write!(out, "\\x{:02X}", u32::from(c)).expect("a string"),
            c if u32::from(c) <= 0xFFFF => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("a string");
            }
            c => write!(out, "\\U{:08X}", u32::from(c)).expect("a string"),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_like_a_person_wrote_it() {
        let document = Yaml::map([
            ("name", Yaml::text("it's \"me\": yes")),
            ("id", Yaml::Int(1000)),
            ("locked", Yaml::Bool(true)),
            ("none", Yaml::Seq(vec![])),
            (
                "list",
                Yaml::Seq(vec![
                    Yaml::map([("a", Yaml::text("1")), ("on", Yaml::text("x\ny\n"))]),
                    Yaml::texts(["sh", "-c", "one\n two"]),
                    Yaml::text("plain"),
                ]),
            ),
        ]);
        assert_eq!(
            document.render(),
            r#"name: "it's \"me\": yes"
id: 1000
locked: true
none: []
list:
  - a: "1"
    "on": |
      x
      y
  - - "sh"
    - "-c"
    - |-
      one
       two
  - "plain"
"#
        );
    }

    fn parse(yaml: &str) -> serde_json::Value {
        serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
    }

    #[test]
    fn awkward_texts_come_back() {
        for text in [
            "",
            " ",
            "\n",
            "\n\n",
            "a\n",
            "a\nb",
            "a\nb\n\n\n",
            " a\nb",
            "\n a\nb",
            "\ta\nb\n",
            "a\r\nb\n",
            "~",
            "null",
            "0x10",
            "1e3",
            "- a\n- b\n",
            "# a\n# b\n",
            "---\n...\n",
            "a: b\nc: d",
            "tab\tin",
            "\u{85}x",
            "\u{2028}\n\u{2029}",
            "\u{FEFF}",
            "ümlaut\nüml",
            "𝄞",
            "%x",
            "a \nb ",
            "  \n  a\n",
            "\0",
            "\u{7f}",
        ] {
            let yaml = Yaml::map([("k", Yaml::Seq(vec![Yaml::text(text), Yaml::texts([text])]))]);
            assert_eq!(
                parse(&yaml.render()),
                serde_json::json!({"k": [text, [text]]}),
                "{}",
                yaml.render()
            );
        }
    }

    fn any_yaml() -> impl Strategy<Value = Yaml> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Yaml::Bool),
            (-9999_i64..9999).prop_map(Yaml::Int),
            "[ -~\n\t]{0,40}".prop_map(Yaml::Text),
            "\\PC{0,20}".prop_map(Yaml::Text),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Yaml::Seq),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..4).prop_map(Yaml::map),
            ]
        })
    }

    fn as_json(yaml: &Yaml) -> serde_json::Value {
        match yaml {
            Yaml::Bool(value) => (*value).into(),
            Yaml::Int(value) => (*value).into(),
            Yaml::Text(text) => text.clone().into(),
            Yaml::Seq(items) => items.iter().map(as_json).collect(),
            Yaml::Map(pairs) => serde_json::Value::Object(
                pairs.iter().map(|(k, v)| (k.clone(), as_json(v))).collect(),
            ),
        }
    }

    proptest! {
        #[test]
        fn every_document_comes_back(value in any_yaml()) {
            let document = Yaml::map([("top", value)]);
            prop_assert_eq!(parse(&document.render()), as_json(&document));
        }
    }
}
