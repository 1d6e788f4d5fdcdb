//! What a guest says about a mount.
#![no_main]

use berth_link::mount::{MAX_REASON, Told, read_told};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(all) = read_told(bytes) else { return };
    for told in all {
        if let Told::Failed(why) = told {
            assert!(why.len() <= MAX_REASON);
            assert!(!why.chars().any(|c| c != '\n' && c != '\t' && c.is_control()), "{why:?}");
        }
    }
});
