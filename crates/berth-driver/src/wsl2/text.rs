//! Text that `wsl.exe` prints: UTF-16 unless it knows `WSL_UTF8`, and in the user's language either way.

use std::borrow::Cow;

use berth_process::escape::escape_untrusted_lines;

/// Words for people are cut here.
const SHOWN_MAX: usize = 2000;

/// Decodes what a management command has printed. Bytes that make no sense become replacement characters.
///
/// A byte order mark decides. Without one a zero byte does, which no text in UTF-8 has, and every ASCII letter in UTF-16.
pub(super) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes).into(),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes).into(),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        _ if bytes.contains(&0) => utf16(bytes, u16::from_le_bytes).into(),
        _ => String::from_utf8_lossy(bytes),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let (pairs, rest) = bytes.as_chunks();
    let units = pairs.iter().map(|pair| unit(*pair));
    let letters = char::decode_utf16(units);
    let mut text: String = letters
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    if !rest.is_empty() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    text
}

/// What a command has said, for people: both streams, escaped, and not for ever.
pub(super) fn shown(stdout: &[u8], stderr: &[u8]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for stream in [stderr, stdout] {
        let text = decode(stream);
        let text = escape_untrusted_lines(text.trim().as_bytes());
        if !text.is_empty() {
            texts.push(text.chars().take(SHOWN_MAX).collect());
        }
    }
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16le(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn every_encoding_is_told_apart() {
        let text = "lima-a\r\nUbuntu-24.04 läuft\r\n";
        let with = |mark: &[u8], bytes: Vec<u8>| [mark, &bytes].concat();
        let be = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [
            text.as_bytes().to_vec(),
            with(&[0xef, 0xbb, 0xbf], text.into()),
            utf16le(text),
            with(&[0xff, 0xfe], utf16le(text)),
            with(&[0xfe, 0xff], be),
        ] {
            assert_eq!(decode(&bytes), text, "{bytes:?}");
        }
        assert_eq!(decode(b""), "");
        assert_eq!(decode(&utf16le("Läuft 🐧 実行中\n")), "Läuft 🐧 実行中\n");
    }

    #[test]
    fn garbage_stays_harmless() {
        assert_eq!(decode(b"a\xff\x80"), "a\u{fffd}\u{fffd}");
        assert_eq!(
            decode(b"a\0b"),
            "a\u{fffd}",
            "cut in the middle of a letter"
        );
        assert_eq!(decode(&[0xff, 0xfe, 0x00, 0xd8]), "\u{fffd}", "half a pair");
        let shown = shown(&utf16le("\u{1b}[31mred"), b"");
        assert!(!shown.contains('\u{1b}'), "{shown}");
        let long = "x".repeat(1 << 20);
        assert_eq!(super::shown(long.as_bytes(), b"").len(), SHOWN_MAX);
    }
}
