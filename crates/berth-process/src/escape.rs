//! Showing bytes that a guest or a child wrote, without letting them act on a terminal or forge lines of a log.

use std::fmt::Write as _;

/// Makes bytes of unknown origin safe to print on one line.
///
/// Printable text stays as it is. Control characters (line feeds included), characters that reorder or hide text, and bytes
/// that are no UTF-8 become visible escapes: `\n`, `\u{1b}`, `\xff`. The result is for people; it cannot be turned back.
#[must_use]
pub fn escape_untrusted(bytes: &[u8]) -> String {
    escape(bytes, |_| false)
}

/// Makes bytes of unknown origin safe to print as several lines.
///
/// Like [`escape_untrusted`], but line feeds and tabs stay, and `\r\n` counts as one line feed.
#[must_use]
pub fn escape_untrusted_lines(bytes: &[u8]) -> String {
    let text = escape(bytes, |c| c == '\n' || c == '\t');
    text.replace("\\r\n", "\n")
}

fn escape(bytes: &[u8], keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                _ if keep(c) => out.push(c),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                _ if c.is_control() || reorders_or_hides(c) => {
                    out.extend(c.escape_unicode());
                }
                _ => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Bidirectional controls, zero-width characters, line separators and tags: printable by name, not by nature.
fn reorders_or_hides(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_people_stays() {
        assert_eq!(
            escape_untrusted("Grüße, 世界 \\ \"x\"".as_bytes()),
            "Grüße, 世界 \\ \"x\""
        );
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(escape_untrusted(b"a\x1b[2Jb\x07"), "a\\u{1b}[2Jb\\u{7}");
        assert_eq!(escape_untrusted(b"ok\nlevel=fatal"), "ok\\nlevel=fatal");
        assert_eq!(
            escape_untrusted("\u{9b}31m\u{202e}txt".as_bytes()),
            "\\u{9b}31m\\u{202e}txt"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers() {
        assert_eq!(escape_untrusted(b"\xff\xfe\0"), "\\xff\\xfe\\u{0}");
        assert_eq!(escape_untrusted(b"cut \xe4\xb8"), "cut \\xe4\\xb8");
    }

    #[test]
    fn lines_keep_their_ends_and_nothing_else() {
        assert_eq!(escape_untrusted_lines(b"a\r\n\tb\rc\n"), "a\n\tb\\rc\n");
    }

    #[test]
    fn every_byte_gives_printable_output() {
        for byte in 0..=u8::MAX {
            let shown = escape_untrusted(&[byte]);
            assert!(
                shown.chars().all(|c| !c.is_control()),
                "{byte:#x} gave {shown:?}"
            );
        }
    }
}
