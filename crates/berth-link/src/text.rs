//! Texts that cross the link: cut to length, and free of anything that a terminal would act on.

/// Escapes control characters and marks that reorder text, and keeps the first `limit` bytes of the result.
///
/// Escaping twice changes nothing, so that both ends may do it.
pub(crate) fn head(text: &str, limit: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let mut escaped = [0; 10];
        let escaped = escape(c, false, &mut escaped);
        if kept.len() + escaped.len() > limit {
            break;
        }
        kept.push_str(escaped);
    }
    kept
}

/// As [`head`], for several lines: line ends and tabs stay, and the last `limit` bytes are kept, from the start of a line
/// where there is one among them.
pub(crate) fn tail(text: &str, limit: usize) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        escaped.push_str(escape(c, true, &mut [0; 10]));
    }
    let cut = escaped.len().saturating_sub(limit);
    if cut == 0 {
        return escaped;
    }
    let within_line = (cut..=escaped.len())
        .find(|at| escaped.is_char_boundary(*at))
        .unwrap_or(0);
    let starts_line = escaped.as_bytes()[cut - 1] == b'\n';
    let start = match escaped[within_line..].find('\n') {
        Some(end) if !starts_line && within_line + end + 1 < escaped.len() => within_line + end + 1,
        _ => within_line,
    };
    escaped.split_off(start)
}

/// Whether a text can be a name: printable ASCII, at most `limit` bytes.
pub(crate) fn is_name(text: &str, limit: usize) -> bool {
    text.len() <= limit
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// The nearest name to a text.
pub(crate) fn name(text: &str, limit: usize) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .take(limit)
        .collect()
}

/// The character itself, or `\u{…}`.
fn escape(c: char, keep_lines: bool, buffer: &mut [u8; 10]) -> &str {
    let harmless = !c.is_control() && !reorders(c) || keep_lines && matches!(c, '\n' | '\t');
    if harmless {
        return c.encode_utf8(buffer);
    }
    let mut length = 0;
    for piece in c.escape_unicode() {
        length += piece.encode_utf8(&mut buffer[length..]).len();
    }
    std::str::from_utf8(&buffer[..length]).unwrap_or("?")
}

/// Marks that make text read otherwise than it is (bidirectional controls, line and paragraph separators).
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_act_on_is_spelled_out() {
        assert_eq!(
            head("a\x1b[31m\tb\r\n\u{202e}ü", 100),
            "a\\u{1b}[31m\\u{9}b\\u{d}\\u{a}\\u{202e}ü"
        );
        assert_eq!(tail("a\tb\n\x07", 100), "a\tb\n\\u{7}");
    }

    #[test]
    fn a_tail_keeps_whole_lines_where_it_can() {
        assert_eq!(
            tail("first\nsecond\nthird\n", 14),
            "second\nthird\n".to_owned()
        );
        assert_eq!(
            tail("first\nsecond\nthird\n", 13),
            "second\nthird\n".to_owned()
        );
        assert_eq!(tail("first\nsecond\nthird\n", 12), "third\n".to_owned());
        assert_eq!(tail("one long line", 4), "line");
        assert_eq!(tail("one long line\n", 5), "line\n");
        assert_eq!(tail("üü", 3), "ü");
    }

    proptest! {
        #[test]
        fn any_text_becomes_short_and_harmless(text in any::<String>(), limit in 0..64usize) {
            for kept in [head(&text, limit), tail(&text, limit)] {
                prop_assert!(kept.len() <= limit);
                prop_assert!(kept.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')));
            }
            prop_assert!(is_name(&name(&text, limit), limit));
        }

        #[test]
        fn doing_it_twice_changes_nothing(text in any::<String>()) {
            let once = head(&text, 1000);
            prop_assert_eq!(head(&once, 1000), once.clone());
            let once = tail(&text, 1000);
            prop_assert_eq!(tail(&once, 1000), once.clone());
        }
    }
}
