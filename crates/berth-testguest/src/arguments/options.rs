//! QEMU's option strings: `driver,key=value,flag`, with a comma doubled where it is meant.

/// The parts of one option string, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pairs: Vec<(String, String)>,
}

impl Options {
    /// Parses; a first part without `=` is the value of `implied`. A flag `x` reads `x=on`.
    pub(crate) fn parse(text: &str, implied: &str) -> Self {
        let parts = split_at_single_commas(text);
        let pairs = parts
            .into_iter()
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
            .map(|(position, part)| match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None if position == 0 => (implied.to_owned(), part),
                None => (part, "on".to_owned()),
            })
            .collect();
        Self { pairs }
    }

    /// The value of a key; of several the last, as QEMU does.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).last()
    }

    /// Every value of a key that may be repeated (`hostfwd`).
    pub(crate) fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a flag is given and on.
    pub(crate) fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("on" | "yes" | "true"))
    }
}

fn split_at_single_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let part = parts.last_mut().expect("starts with one part");
        if letter != ',' {
            part.push(letter);
        } else if letters.next_if_eq(&',').is_some() {
            part.push(',');
        } else {
            parts.push(String::new());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_commas_belong_to_the_value() {
        let options = Options::parse("socket,path=/a,,b/c,,,,d,id=x", "backend");
        assert_eq!(options.get("backend"), Some("socket"));
        assert_eq!(options.get("path"), Some("/a,b/c,,d"));
        assert_eq!(options.get("id"), Some("x"));
    }

    #[test]
    fn flags_and_repeated_keys() {
        let options = Options::parse("user,id=n,hostfwd=a,hostfwd=b,restrict", "type");
        assert_eq!(options.all("hostfwd").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(options.get("hostfwd"), Some("b"));
        assert!(options.is_on("restrict"));
        assert!(!options.is_on("id"));
        assert_eq!(options.get("absent"), None);
    }

    #[test]
    fn the_implied_key_is_only_for_the_first_part() {
        let options = Options::parse("id=x,socket", "backend");
        assert_eq!(options.get("backend"), None);
        assert!(options.is_on("socket"));
        assert_eq!(Options::parse("", "backend"), Options { pairs: vec![] });
    }
}
