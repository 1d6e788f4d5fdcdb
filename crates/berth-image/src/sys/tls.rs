//! Which cryptography TLS uses: graviola (Rust and its inline assembly, so nothing but Rust is needed to build) on x86-64 and
//! 64-bit Arm, ring elsewhere.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use rustls::crypto::KeyProvider;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use rustls::{pki_types::PrivateKeyDer, sign::SigningKey};

/// The provider, or what this CPU lacks for it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn provider() -> Result<Arc<CryptoProvider>, String> {
    let missing = missing_cpu_features();
    if missing.is_empty() {
        Ok(Arc::new(CryptoProvider {
            // No download needs a key of ours, and all that signs with one is a tenth of the whole.
            key_provider: &NoKeys,
            ..rustls_graviola::default_provider()
        }))
    } else {
        Err(missing.join(", "))
    }
}

/// Whoever asks for a certificate of ours gets none.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[derive(Debug)]
struct NoKeys;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl KeyProvider for NoKeys {
    fn load_private_key(
        &self,
        _key: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("there are no keys here".to_owned()))
    }
}

/// The provider, or what this CPU lacks for it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[allow(
    clippy::unnecessary_wraps,
    reason = "the signature of the other version"
)]
pub(crate) fn provider() -> Result<Arc<CryptoProvider>, String> {
    Ok(Arc::new(rustls::crypto::ring::default_provider()))
}

/// What graviola's documentation demands of the CPU; it panics without, so ask first.
#[cfg(target_arch = "x86_64")]
fn missing_cpu_features() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    [
        ("aes", has!("aes")),
        ("ssse3", has!("ssse3")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("bmi1", has!("bmi1")),
        ("bmi2", has!("bmi2")),
        ("adx", has!("adx")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
    ]
    .into_iter()
    .filter_map(|(name, present)| (!present).then_some(name))
    .collect()
}

/// What graviola's documentation demands of the CPU; it panics without, so ask first.
#[cfg(target_arch = "aarch64")]
fn missing_cpu_features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    [
        ("neon", has!("neon")),
        ("aes", has!("aes")),
        ("pmull", has!("pmull")),
        ("sha2", has!("sha2")),
    ]
    .into_iter()
    .filter_map(|(name, present)| (!present).then_some(name))
    .collect()
}
