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

/// Has all threads share glibc's first heap. By itself it gives each thread one of its own, which keeps what was free in it when the
/// thread rests; threads that only move bytes allocate too seldom to be in each other's way. To be called before they are started.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a function of glibc that std does not have")]
    // SAFETY: it takes no pointers, and changes only which heap later allocations are made in.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
