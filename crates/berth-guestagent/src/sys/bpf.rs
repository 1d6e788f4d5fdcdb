//! The few calls of bpf(2) that watch sockets from the guest's control groups.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use super::owned;

/// Commands of `enum bpf_cmd`.
mod command {
    pub(super) const MAP_CREATE: libc::c_int = 0;
    pub(super) const MAP_LOOKUP: libc::c_int = 1;
    pub(super) const MAP_UPDATE: libc::c_int = 2;
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const LINK_CREATE: libc::c_int = 28;
}

/// Kinds of maps, of `enum bpf_map_type`, and a flag.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const RING: u32 = 27;
const NO_PREALLOCATION: u32 = 1;

/// Of `bpf(BPF_MAP_UPDATE_ELEM)`: leave what is there.
const ONLY_NEW: u64 = 1;

/// The programs use no helper that asks for another.
const LICENSE: &CStr = c"Apache-2.0";

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Where a program is asked: its type, and the place of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `enum bpf_prog_type`.
    pub(crate) program: u32,
    /// `enum bpf_attach_type`.
    pub(crate) place: u32,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapElement {
    map: i32,
    padding: u32,
    key: *const u8,
    value: *mut u8,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
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
    place: u32,
}

#[repr(C)]
struct LinkCreate {
    program: i32,
    target: i32,
    place: u32,
    flags: u32,
}

/// A map from numbers to numbers.
#[derive(Debug)]
pub(crate) struct NumberMap(OwnedFd);

impl NumberMap {
    /// Makes an empty one for at most so many.
    pub(crate) fn create(entries: u32) -> io::Result<Self> {
        // Memory for entries that there are, not for all that there could be.
        create_map(HASH, [8, 8], entries, NO_PREALLOCATION).map(Self)
    }

    /// The number that `key` leads to.
    pub(crate) fn get(&self, key: u64) -> io::Result<Option<u64>> {
        let mut value = 0_u64;
        let element = MapElement {
            map: self.0.as_raw_fd(),
            padding: 0,
            key: (&raw const key).cast(),
            value: (&raw mut value).cast(),
            flags: 0,
        };
        // SAFETY: key and value live across the call, and have the sizes that the map was made with.
        match unsafe { bpf(command::MAP_LOOKUP, &element) } {
            Ok(_) => Ok(Some(value)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Adds a number, unless there is one already. Tells whether it was added.
    pub(crate) fn add(&self, key: u64, value: u64) -> io::Result<bool> {
        match store(&self.0, &key, &value, ONLY_NEW) {
            Ok(()) => Ok(true),
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(why) => Err(why),
        }
    }
}

impl AsRawFd for NumberMap {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A map with one entry, 0: a bit for each port.
#[derive(Debug)]
pub(crate) struct PortMap(OwnedFd);

/// A bit for each port.
pub(crate) type PortBits = [u8; 8192];

impl PortMap {
    /// Makes one with no bit set.
    pub(crate) fn create() -> io::Result<Self> {
        let size = u32::try_from(size_of::<PortBits>()).map_err(io::Error::other)?;
        create_map(ARRAY, [4, size], 1, 0).map(Self)
    }

    /// Sets all bits.
    pub(crate) fn set(&self, bits: &PortBits) -> io::Result<()> {
        store(&self.0, &0_u32, bits, 0)
    }
}

impl AsRawFd for PortMap {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Makes a ring buffer of `size` bytes: a power of two, and whole pages. See [`super::ring`].
pub(crate) fn create_ring(size: usize) -> io::Result<OwnedFd> {
    let size = u32::try_from(size).map_err(io::Error::other)?;
    create_map(RING, [0, 0], size, 0)
}

fn create_map(kind: u32, sizes: [u32; 2], entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let [key_size, value_size] = sizes;
    let map = MapCreate {
        kind,
        key_size,
        value_size,
        entries,
        flags,
    };
    // SAFETY: the attributes hold no pointer.
    owned(unsafe { bpf(command::MAP_CREATE, &map) }?)
}

/// `K` and `V` have the sizes that the map was made with.
fn store<K, V>(map: &OwnedFd, key: &K, value: &V, flags: u64) -> io::Result<()> {
    let element = MapElement {
        map: map.as_raw_fd(),
        padding: 0,
        key: std::ptr::from_ref(key).cast(),
        // Only read by this command.
        value: std::ptr::from_ref(value).cast_mut().cast(),
        flags,
    };
    // SAFETY: key and value live across the call, and have the right sizes.
    unsafe { bpf(command::MAP_UPDATE, &element) }.map(drop)
}

/// Has the kernel check and load a program; `name` shows in lists of programs.
pub(crate) fn load(name: &str, hook: Hook, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let program = ProgLoad {
        kind: hook.program,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr(),
        license: LICENSE.as_ptr(),
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: padded,
        interface: 0,
        place: hook.place,
    };
    // SAFETY: the instructions live across the call and are as many as said; the licence ends in a NUL.
    owned(unsafe { bpf(command::PROG_LOAD, &program) }?)
}

/// Has the program asked for every socket of a control group and those below, beside the programs of others, until the returned
/// descriptor is closed.
pub(crate) fn attach(program: &OwnedFd, hook: Hook, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let link = LinkCreate {
        program: program.as_fd().as_raw_fd(),
        target: cgroup.as_raw_fd(),
        place: hook.place,
        // Links to control groups are all BPF_F_ALLOW_MULTI.
        flags: 0,
    };
    // SAFETY: the attributes hold no pointer.
    owned(unsafe { bpf(command::LINK_CREATE, &link) }?)
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
