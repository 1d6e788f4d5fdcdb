//! Words of the guest on their way to a terminal: its console, its ssh banner, the output of its scripts.
#![no_main]

use berth_process::escape::{escape_untrusted, escape_untrusted_lines};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let line = escape_untrusted(bytes);
    assert!(!line.chars().any(is_control), "{line:?}");
    let lines = escape_untrusted_lines(bytes);
    assert!(!lines.chars().any(|c| !matches!(c, '\n' | '\t') && is_control(c)), "{lines:?}");
});

/// What a terminal may act on, the marks that reorder text among it.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
