//! Waiting for what tells nobody when it comes true.

use std::time::{Duration, Instant};

/// Finds what never comes true.
const HANG: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again, and says whether it has come true.
pub(crate) fn comes_true(mut it: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < HANG {
        if it() {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    it()
}
