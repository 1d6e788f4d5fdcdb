//! Memory that the allocator keeps for later.

/// Has glibc give free memory back to the system. It does so by itself only at the end of its heap, and whatever lives there keeps the
/// rest; musl needs no telling.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a function of glibc that std does not have")]
    // SAFETY: it takes no pointers, changes nothing that is in use, and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
