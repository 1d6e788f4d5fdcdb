//! How much of the guest's data may wait in our memory: HTTP/2's receive windows.
//!
//! The connection's window is shared by its tunnels. If each tunnel's own window were large, a few whose readers have stopped
//! (a suspended download) could fill it and stop all others. So the more tunnels there are, the less each may fill: the first
//! sixteen get 256 KiB, later ones less, and the sum of everything that was ever granted stays below the connection's window.

/// Most tunnels of one connection: what Lima's agent takes at the same time, less some streams for the other calls.
pub(crate) const MAX_TUNNELS: usize = 2048 - 16;

/// Up to so many tunnels, a tunnel's window has so many bytes.
const STEPS: [(usize, u32); 4] = [
    (16, 256 * 1024),
    (64, 64 * 1024),
    (256, 16 * 1024),
    (MAX_TUNNELS, 8 * 1024),
];

/// A tunnel's window to begin with, in bytes.
pub(crate) const FIRST_WINDOW: u32 = STEPS[0].1;

/// The connection's window, in bytes. Most that the guest can make us hold, whatever it does.
pub(crate) const CONNECTION_WINDOW: u32 = 25 * 1024 * 1024;

/// The window for so many tunnels, given the present one.
///
/// It shrinks at once and grows late, so that a number of tunnels that goes up and down does not change it each time.
pub(crate) fn window_for(tunnels: usize, present: u32) -> u32 {
    let smallest_for = |tunnels: usize| {
        let step = STEPS.iter().find(|(most, _)| tunnels <= *most);
        step.map_or(STEPS[STEPS.len() - 1].1, |(_, window)| *window)
    };
    let now = smallest_for(tunnels);
    if now <= present {
        now
    } else {
        smallest_for(tunnels.saturating_mul(2)).max(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_stop_never_fill_the_connection() {
        let mut granted = 0;
        let mut below = 0;
        for (most, window) in STEPS {
            granted += u64::try_from(most - below).unwrap() * u64::from(window);
            below = most;
        }
        assert!(granted + 1024 * 1024 <= u64::from(CONNECTION_WINDOW));
    }

    #[test]
    fn windows_shrink_at_once_and_grow_late() {
        assert_eq!(window_for(1, FIRST_WINDOW), FIRST_WINDOW);
        assert_eq!(window_for(17, FIRST_WINDOW), 64 * 1024);
        assert_eq!(window_for(16, 64 * 1024), 64 * 1024);
        assert_eq!(window_for(8, 64 * 1024), FIRST_WINDOW);
        assert_eq!(window_for(300, FIRST_WINDOW), 8 * 1024);
        assert_eq!(window_for(0, 8 * 1024), FIRST_WINDOW);
        assert_eq!(window_for(usize::MAX, FIRST_WINDOW), 8 * 1024);
    }
}
