//! The BPF programs: what is asked in the kernel when a socket binds, listens, connects or closes.
//!
//! Instructions as in the kernel's `Documentation/bpf/standardization/instruction-set.rst`; contexts as in `linux/bpf.h`. All
//! return 1: "go on".

use crate::sys::bpf::{Hook, Instruction};

/// Hooks: `enum bpf_prog_type` and `enum bpf_attach_type`. Where there are two, they are for IPv4 and IPv6.
mod hook {
    use crate::sys::bpf::Hook;

    const CGROUP_SOCK: u32 = 9;
    const SOCK_OPS: u32 = 13;
    const CGROUP_SOCK_ADDR: u32 = 18;

    pub(super) const BIND: &[Hook] = &[at(CGROUP_SOCK_ADDR, 8), at(CGROUP_SOCK_ADDR, 9)];
    pub(super) const CONNECT: &[Hook] = &[at(CGROUP_SOCK_ADDR, 10), at(CGROUP_SOCK_ADDR, 11)];
    pub(super) const POST_BIND: &[Hook] = &[at(CGROUP_SOCK, 12), at(CGROUP_SOCK, 13)];
    pub(super) const OPS: &[Hook] = &[at(SOCK_OPS, 3)];
    pub(super) const RELEASE: &[Hook] = &[at(CGROUP_SOCK, 34)];

    const fn at(program: u32, place: u32) -> Hook {
        Hook { program, place }
    }
}

/// Helpers of `linux/bpf.h`.
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const MAP_UPDATE: i32 = 2;
    pub(super) const MAP_DELETE: i32 = 3;
    pub(super) const SOCKET_COOKIE: i32 = 46;
    pub(super) const SET_SOCK_OPS_FLAGS: i32 = 59;
    pub(super) const RING_OUTPUT: i32 = 130;
}

/// Offsets in `struct bpf_sock_addr`: what a program asks for.
mod request {
    pub(super) const PORT: i16 = 24;
    pub(super) const PROTOCOL: i16 = 36;
}

/// Offsets in `struct bpf_sock`.
mod sock {
    pub(super) const PROTOCOL: i16 = 12;
    pub(super) const SOURCE_PORT: i16 = 44;
    pub(super) const STATE: i16 = 72;
}

/// Offsets in `struct bpf_sock_ops`, and two of its operations.
mod ops {
    pub(super) const OPERATION: i16 = 0;
    /// First argument; of `STATE_CHANGES` the state that is left.
    pub(super) const OLD_STATE: i16 = 4;
    pub(super) const FLAGS: i16 = 84;
    pub(super) const STATE_CHANGES: i32 = 10;
    pub(super) const LISTENS: i32 = 11;
    /// `BPF_SOCK_OPS_STATE_CB_FLAG`.
    pub(super) const TELL_STATES: i32 = 4;
}

const TCP: i32 = 6;
const UDP: i32 = 17;
/// States of `linux/tcp_states.h`.
const CLOSED: i32 = 7;
const LISTENING: i32 = 10;

/// Why a socket is in the map: it asked for its port by number.
pub(super) const BY_NUMBER: u64 = 1;
/// Why a socket is in the map: its port is named, or it was there before the programs.
pub(super) const OTHERWISE: u64 = 2;

/// Written to the ring: a socket has begun to listen, or is bound.
pub(super) const BEGINS: u64 = 0;
/// Written to the ring: a socket is about to go that has no cookie that the kernel would list. Otherwise it is the cookie.
pub(super) const UNKNOWN_ENDS: u64 = u64::MAX;

/// The descriptors of the maps that programs use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps {
    /// What to tell the agent.
    pub(super) ring: i32,
    /// Cookies of sockets whose end matters, with the reason.
    pub(super) sockets: i32,
    /// A bit for each UDP port that matters however it was bound.
    pub(super) ports: i32,
}

/// A program and where it is asked.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) hooks: &'static [Hook],
    pub(super) instructions: Vec<Instruction>,
}

/// All programs.
pub(super) fn programs(maps: Maps) -> [Program; 5] {
    let program = |name, hooks, instructions| Program {
        name,
        hooks,
        instructions,
    };
    [
        program("berth_bind", hook::BIND, bind(maps)),
        program("berth_bound", hook::POST_BIND, bound(maps)),
        program("berth_connect", hook::CONNECT, connect(maps)),
        program("berth_listen", hook::OPS, listen(maps)),
        program("berth_release", hook::RELEASE, release(maps)),
    ]
}

/// Before a bind. In words: of UDP sockets, remember those that ask for a port.
fn bind(maps: Maps) -> Vec<Instruction> {
    let mut code = Code::begin();
    code.load(2, CONTEXT, request::PROTOCOL);
    code.end_unless_equal(2, UDP);
    code.load(2, CONTEXT, request::PORT);
    code.end_if_equal(2, 0);
    code.cookie();
    code.remember(maps.sockets, BY_NUMBER);
    code.finish()
}

/// After a bind. In words: of UDP sockets, tell those that asked for a port or got one that matters.
fn bound(maps: Maps) -> Vec<Instruction> {
    let mut code = Code::begin();
    code.load(2, CONTEXT, sock::PROTOCOL);
    code.end_unless_equal(2, UDP);
    code.load(PORT, CONTEXT, sock::SOURCE_PORT);
    code.cookie();
    code.call_with_map(helper::MAP_LOOKUP, maps.sockets, COOKIE);
    let is_known = code.jump_unless_equal(0, 0);
    code.store(NUMBER, 0);
    code.call_with_map(helper::MAP_LOOKUP, maps.ports, NUMBER);
    code.end_if_equal(0, 0);
    code.bit_of_port();
    code.end_if_equal(0, 0);
    code.remember(maps.sockets, OTHERWISE);
    code.land(is_known);
    code.store(NUMBER, BEGINS);
    code.tell(maps.ring, NUMBER);
    code.finish()
}

/// Before a connect. In words: a UDP socket that was told is a service no longer.
fn connect(maps: Maps) -> Vec<Instruction> {
    let mut code = Code::begin();
    code.load(2, CONTEXT, request::PROTOCOL);
    code.end_unless_equal(2, UDP);
    code.cookie();
    code.call_with_map(helper::MAP_LOOKUP, maps.sockets, COOKIE);
    code.end_if_equal(0, 0);
    code.tell(maps.ring, COOKIE);
    code.finish()
}

/// In words: tell when a TCP socket listens, and have the kernel say when it changes its state; then tell when it
/// listens no more (`shutdown`). Its children inherit that the kernel says so, which ends at the second comparison: to take it from
/// them could take it from the program of somebody else.
fn listen(maps: Maps) -> Vec<Instruction> {
    let mut code = Code::begin();
    code.load(2, CONTEXT, ops::OPERATION);
    let listens = code.jump_if_equal(2, ops::LISTENS);
    code.end_unless_equal(2, ops::STATE_CHANGES);
    code.load(2, CONTEXT, ops::OLD_STATE);
    code.end_unless_equal(2, LISTENING);
    code.cookie();
    code.tell(maps.ring, COOKIE);
    code.end();
    code.land(listens);
    code.load(2, CONTEXT, ops::FLAGS);
    code.or(2, ops::TELL_STATES);
    code.copy(1, CONTEXT);
    code.call(helper::SET_SOCK_OPS_FLAGS);
    code.store(NUMBER, BEGINS);
    code.tell(maps.ring, NUMBER);
    code.finish()
}

/// Before a socket is closed for good. In words: tell when it listens, or is one of those whose end matters. Ordinary TCP
/// connections are neither closed nor listening.
fn release(maps: Maps) -> Vec<Instruction> {
    let mut code = Code::begin();
    code.load(STATE, CONTEXT, sock::STATE);
    let listens = code.jump_if_equal(STATE, LISTENING);
    code.load(2, CONTEXT, sock::PROTOCOL);
    let is_udp = code.jump_if_equal(2, UDP);
    code.end_unless_equal(STATE, CLOSED);
    code.land(listens);
    code.land(is_udp);
    code.cookie();
    code.call_with_map(helper::MAP_DELETE, maps.sockets, COOKIE);
    let was_known = code.jump_if_equal(0, 0);
    code.end_unless_equal(STATE, LISTENING);
    code.land(was_known);
    // An MPTCP socket hides the TCP socket that listens for it.
    code.load(2, CONTEXT, sock::PROTOCOL);
    let is_tcp = code.jump_if_equal(2, TCP);
    let is_udp = code.jump_if_equal(2, UDP);
    code.store(COOKIE, UNKNOWN_ENDS);
    code.land(is_tcp);
    code.land(is_udp);
    code.tell(maps.ring, COOKIE);
    code.finish()
}

/// Registers that calls leave alone.
const CONTEXT: u8 = 6;
const PORT: u8 = 7;
const STATE: u8 = 8;
/// The frame pointer.
const FRAME: u8 = 10;

/// Places in the frame.
const COOKIE: i16 = -8;
const NUMBER: i16 = -16;

/// A jump whose target is not known yet: where it stands.
#[derive(Clone, Copy)]
#[must_use]
struct Jump(usize);

/// A program that is being written.
struct Code {
    instructions: Vec<Instruction>,
    /// Jumps to the end.
    ends: Vec<Jump>,
}

impl Code {
    /// Saves the context, which comes in the first register.
    fn begin() -> Self {
        let mut code = Self {
            instructions: Vec::new(),
            ends: Vec::new(),
        };
        code.copy(CONTEXT, 1);
        code
    }

    fn put(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction {
            code,
            registers: to | from << 4,
            offset,
            immediate,
        });
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.put(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.put(0xb7, to, 0, 0, value);
    }

    fn or(&mut self, to: u8, value: i32) {
        self.put(0x47, to, 0, 0, value);
    }

    /// Loads 32 bits.
    fn load(&mut self, to: u8, from: u8, offset: i16) {
        self.put(0x61, to, from, offset, 0);
    }

    /// Stores 64 bits in the frame: 0, a small number, or all ones.
    fn store(&mut self, place: i16, number: u64) {
        // The immediate is extended with its sign.
        let immediate = i32::try_from(number.cast_signed()).unwrap_or_default();
        self.put(0x7a, FRAME, 0, place, immediate);
    }

    /// Puts the cookie of the context's socket into the frame.
    fn cookie(&mut self) {
        self.copy(1, CONTEXT);
        self.call(helper::SOCKET_COOKIE);
        self.put(0x7b, FRAME, 0, COOKIE, 0);
    }

    fn call(&mut self, helper: i32) {
        self.put(0x85, 0, 0, 0, helper);
    }

    /// Loads a map. The constant takes two slots; source register 1 says that it is a map's descriptor.
    fn map(&mut self, to: u8, map: i32) {
        self.put(0x18, to, 1, 0, map);
        self.put(0, 0, 0, 0, 0);
    }

    fn place(&mut self, to: u8, place: i16) {
        self.copy(to, FRAME);
        self.put(0x07, to, 0, 0, place.into());
    }

    fn call_with_map(&mut self, helper: i32, map: i32, key: i16) {
        self.map(1, map);
        self.place(2, key);
        self.call(helper);
    }

    /// Puts the cookie into the map of sockets.
    fn remember(&mut self, map: i32, reason: u64) {
        self.store(NUMBER, reason);
        self.map(1, map);
        self.place(2, COOKIE);
        self.place(3, NUMBER);
        self.set(4, 0);
        self.call(helper::MAP_UPDATE);
    }

    /// Writes a number to the ring.
    fn tell(&mut self, ring: i32, number: i16) {
        self.map(1, ring);
        self.place(2, number);
        self.set(3, 8);
        self.set(4, 0);
        self.call(helper::RING_OUTPUT);
    }

    /// From the map of ports, whose value register 0 points to: the bit of the port in its register.
    fn bit_of_port(&mut self) {
        self.put(0x57, PORT, 0, 0, 0xffff);
        self.copy(1, PORT);
        self.put(0x77, 1, 0, 0, 3);
        self.put(0x0f, 0, 1, 0, 0);
        self.put(0x71, 0, 0, 0, 0);
        self.put(0x57, PORT, 0, 0, 7);
        self.put(0x7f, 0, PORT, 0, 0);
        self.put(0x57, 0, 0, 0, 1);
    }

    fn jump(&mut self, code: u8, register: u8, value: i32) -> Jump {
        self.put(code, register, 0, 0, value);
        Jump(self.instructions.len() - 1)
    }

    fn jump_if_equal(&mut self, register: u8, value: i32) -> Jump {
        self.jump(0x15, register, value)
    }

    fn jump_unless_equal(&mut self, register: u8, value: i32) -> Jump {
        self.jump(0x55, register, value)
    }

    fn end_if_equal(&mut self, register: u8, value: i32) {
        let jump = self.jump_if_equal(register, value);
        self.ends.push(jump);
    }

    fn end_unless_equal(&mut self, register: u8, value: i32) {
        let jump = self.jump_unless_equal(register, value);
        self.ends.push(jump);
    }

    fn end(&mut self) {
        let jump = self.jump(0x05, 0, 0);
        self.ends.push(jump);
    }

    /// Has a jump go to the next instruction.
    fn land(&mut self, Jump(from): Jump) {
        // Counted from the instruction after the jump.
        let distance = self.instructions.len() - from - 1;
        self.instructions[from].offset = i16::try_from(distance).expect("programs are short");
    }

    fn finish(mut self) -> Vec<Instruction> {
        for jump in std::mem::take(&mut self.ends) {
            self.land(jump);
        }
        self.set(0, 1);
        self.put(0x95, 0, 0, 0, 0);
        self.instructions
    }
}
