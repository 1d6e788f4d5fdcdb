//! Where each key of a YAML document stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Marker, Parser};

use crate::problem::Position;
use crate::yaml::join;

/// The places of all keys and values of a document, by key path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    file: Arc<str>,
    places: BTreeMap<String, Place>,
    /// Byte offset of the end of the first document, when another follows.
    end: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    key: (usize, usize),
    value: (usize, usize),
}

/// A collection that the walk is inside of.
enum Open {
    Mapping {
        path: String,
        key: Option<(String, Marker)>,
    },
    Sequence {
        path: String,
        next: usize,
    },
}

impl Outline {
    /// Walks the first document of `text`. A syntax error ends the walk: the typed reader reports it.
    pub(crate) fn of(text: &str, file: &str) -> Self {
        let mut outline = Self {
            file: Arc::from(file),
            ..Self::default()
        };
        let mut open = Vec::new();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            match event {
                Event::DocumentEnd => {
                    outline.end = span.start.byte_offset();
                    break;
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    open.pop();
                }
                Event::Scalar(text, ..) => {
                    outline.enter(&mut open, Some(&text), span.start);
                }
                Event::Alias(_) | Event::UnresolvedAlias(_) => {
                    outline.enter(&mut open, None, span.start);
                }
                Event::MappingStart(..) => {
                    let path = outline.enter(&mut open, None, span.start);
                    open.push(Open::Mapping { path, key: None });
                }
                Event::SequenceStart(..) => {
                    let path = outline.enter(&mut open, None, span.start);
                    open.push(Open::Sequence { path, next: 0 });
                }
                _ => {}
            }
        }
        outline
    }

    /// The part of `text` that is the first document.
    pub(crate) fn first_document<'t>(&self, text: &'t str) -> &'t str {
        self.end.and_then(|end| text.get(..end)).unwrap_or(text)
    }

    /// Where the key itself stands.
    pub(crate) fn key(&self, path: &str) -> Option<Position> {
        let (line, column) = self.places.get(path)?.key;
        Some(self.position(line, column))
    }

    /// Where the value of a key stands, or of the nearest key around it that is written.
    pub(crate) fn value(&self, path: &str) -> Option<Position> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                let (line, column) = place.value;
                return Some(self.position(line, column));
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Whether the document writes this key at all.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// The innermost key whose name or value starts at this place.
    pub(crate) fn path_at(&self, line: usize, column: usize) -> Option<&str> {
        self.places
            .iter()
            .filter(|(_, place)| [place.key, place.value].contains(&(line, column)))
            .map(|(path, _)| path.as_str())
            .max_by_key(|path| path.len())
    }

    pub(crate) fn position(&self, line: usize, column: usize) -> Position {
        Position {
            file: Arc::clone(&self.file),
            line,
            column,
        }
    }

    /// Takes note of one node and returns its path. A scalar in key position names the next node instead.
    fn enter(&mut self, open: &mut [Open], scalar: Option<&str>, at: Marker) -> String {
        let (path, key) = match open.last_mut() {
            None => return String::new(),
            Some(Open::Sequence { path, next }) => {
                let path = format!("{path}[{next}]");
                *next += 1;
                (path, at)
            }
            Some(Open::Mapping { path, key }) => {
                let Some((name, key_at)) = key.take() else {
                    let name = scalar.unwrap_or("?");
                    *key = Some((name.to_owned(), at));
                    return join(path, name);
                };
                (join(path, &name), key_at)
            }
        };
        let place = Place {
            key: line_and_column(key),
            value: line_and_column(at),
        };
        self.places.entry(path.clone()).or_insert(place);
        path
    }
}

fn line_and_column(marker: Marker) -> (usize, usize) {
    (marker.line(), marker.col() + 1)
}
