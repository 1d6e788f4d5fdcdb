//! Type-checked in CI, run by hand.

/// What a person can do about a privileged port.
pub(crate) fn denied_hint(_port: u16) -> String {
    "only root may listen on ports below 1024 of an address other than 0.0.0.0 and 127.0.0.1"
        .to_owned()
}
