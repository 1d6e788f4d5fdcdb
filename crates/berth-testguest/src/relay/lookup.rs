//! Every TCP and UDP port of two addresses, received by one socket each.
//!
//! QEMU's user network answers for the whole gateway. Here a short program in the kernel (`BPF_PROG_TYPE_SK_LOOKUP`,
//! documented in the kernel's `Documentation/bpf/prog_sk_lookup.rst`) picks the listener for any port of its addresses, in
//! the gateway's own network namespace, so that the guest sees nothing of it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::bpf::{self, Instruction};

/// Offsets in `struct bpf_sk_lookup`.
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const TCP: i32 = 6;

const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_SK_RELEASE: i32 = 86;
const HELPER_SK_ASSIGN: i32 = 124;
const VERDICT_PASS: i32 = 1;

/// The installed program; gone when dropped.
#[derive(Debug)]
pub(super) struct PortCatcher {
    _link: OwnedFd,
    _sockets: OwnedFd,
}

impl PortCatcher {
    /// Installs the program in the network namespace `namespace`.
    pub(super) fn install(
        namespace: BorrowedFd<'_>,
        addresses: [Ipv4Addr; 2],
        tcp: BorrowedFd<'_>,
        udp: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let sockets = bpf::create_socket_map(2)?;
        bpf::store_socket(&sockets, 0, tcp)?;
        bpf::store_socket(&sockets, 1, udp)?;
        let program = bpf::load_lookup_program(&instructions(sockets.as_raw_fd(), addresses))?;
        Ok(Self {
            _link: bpf::attach_lookup_program(&program, namespace)?,
            _sockets: sockets,
        })
    }
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// Compares 32 bits.
const fn skip_if_equal(register: u8, value: i32, count: i16) -> Instruction {
    instruction(0x16, register, 0, count, value)
}

const fn skip_unless_equal(register: u8, value: i32, count: i16) -> Instruction {
    instruction(0x56, register, 0, count, value)
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

/// How far the last instruction but one lies from the first, counted as jumps count: from the one after.
const TO_VERDICT: i16 = 21;

/// In words: unless the packet is for one of our addresses, pass. Take socket 0 for TCP, 1 for UDP; assign it; pass.
fn instructions(map: i32, addresses: [Ipv4Addr; 2]) -> Vec<Instruction> {
    let [first, second] = addresses.map(|address| i32::from_ne_bytes(address.octets()));
    vec![
        copy(6, 1),
        load_word(2, 6, LOCAL_IP4),
        skip_if_equal(2, first, 1),
        skip_unless_equal(2, second, TO_VERDICT - 3),
        load_word(2, 6, PROTOCOL),
        set(7, 0),
        skip_if_equal(2, TCP, 1),
        set(7, 1),
        instruction(0x63, 10, 7, -4, 0),
        // A 64-bit immediate takes two slots; source register 1 says that it is a map.
        instruction(0x18, 1, 1, 0, map),
        instruction(0, 0, 0, 0, 0),
        copy(2, 10),
        instruction(0x07, 2, 0, 0, -4),
        call(HELPER_MAP_LOOKUP),
        instruction(0x15, 0, 0, TO_VERDICT - 14, 0),
        copy(7, 0),
        copy(1, 6),
        copy(2, 7),
        set(3, 0),
        call(HELPER_SK_ASSIGN),
        copy(1, 7),
        call(HELPER_SK_RELEASE),
        set(0, VERDICT_PASS),
        instruction(0x95, 0, 0, 0, 0),
    ]
}
