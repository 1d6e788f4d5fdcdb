//! The few calls of `bpf(2)` that install a socket lookup program.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::owned;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;
const LICENSE: &CStr = c"Apache-2.0";

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Instruction {
    /// Operation.
    pub(crate) code: u8,
    /// Destination register in the low half, source in the high.
    pub(crate) registers: u8,
    /// Of a jump or a memory access.
    pub(crate) offset: i16,
    /// Constant.
    pub(crate) immediate: i32,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: i32,
    padding: u32,
    key: *const u32,
    value: *const u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    count: u32,
    instructions: *const Instruction,
    license: *const libc::c_char,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: i32,
    target: i32,
    attach_type: u32,
    flags: u32,
}

/// Makes a map from small numbers to sockets.
pub(crate) fn create_socket_map(entries: u32) -> io::Result<OwnedFd> {
    let map = MapCreate {
        map_type: MAP_TYPE_SOCKMAP,
        key_size: 4,
        value_size: 8,
        max_entries: entries,
        flags: 0,
    };
    // SAFETY: the attributes hold no pointer.
    owned(unsafe { bpf(MAP_CREATE, &map) }?)
}

/// Puts a listening TCP socket or a UDP socket into a map.
pub(crate) fn store_socket(map: &OwnedFd, key: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = u64::from(socket.as_raw_fd().unsigned_abs());
    let update = MapUpdate {
        map: map.as_raw_fd(),
        padding: 0,
        key: &raw const key,
        value: &raw const value,
        flags: 0,
    };
    // SAFETY: key and value live across the call, and have the sizes that the map was made with.
    unsafe { bpf(MAP_UPDATE_ELEM, &update) }.map(drop)
}

/// Has the kernel check and load a program of the socket lookup type.
pub(crate) fn load_lookup_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..13].copy_from_slice(b"berth_gateway");
    let program = ProgLoad {
        prog_type: PROG_TYPE_SK_LOOKUP,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr(),
        license: LICENSE.as_ptr(),
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        expected_attach_type: ATTACH_SK_LOOKUP,
    };
    // SAFETY: the instructions live across the call and are as many as said; the licence ends in a NUL.
    owned(unsafe { bpf(PROG_LOAD, &program) }?)
}

/// Has the program asked for every socket lookup in a network namespace, until the returned descriptor is closed.
pub(crate) fn attach_lookup_program(
    program: &OwnedFd,
    namespace: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let link = LinkCreate {
        program: program.as_raw_fd(),
        target: namespace.as_raw_fd(),
        attach_type: ATTACH_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the attributes hold no pointer.
    owned(unsafe { bpf(LINK_CREATE, &link) }?)
}

/// # Safety
///
/// `attributes` is the part of `union bpf_attr` that the command reads; what its pointers lead to is as the command wants it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: the kernel reads `size_of::<T>()` bytes at the pointer, and the rest is promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
