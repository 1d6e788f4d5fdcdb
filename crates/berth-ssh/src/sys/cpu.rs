//! Whether this processor speeds up AES, which decides the cipher that is offered first.

/// Whether AES is done in hardware.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub(crate) fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

/// Whether AES is done in hardware.
#[cfg(target_arch = "aarch64")]
pub(crate) fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Other processors: `ChaCha20` is fast on every one.
#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn has_aes() -> bool {
    false
}
