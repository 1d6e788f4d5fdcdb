//! Waking up when a tracepoint of the kernel is passed (`perf_event_open(2)`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use super::mapping::Mapping;
use super::owned;

const TRACEPOINT: u32 = 2;
/// Bit of `struct perf_event_attr`: stays silent until it is enabled.
const DISABLED: u64 = 1;
const CLOSE_ON_EXEC: libc::c_ulong = 8;
/// Of `linux/perf_event.h`.
const ENABLE: libc::Ioctl = 0x2400;
const SET_OUTPUT: libc::Ioctl = 0x2405;
const SET_FILTER: libc::Ioctl = {
    // _IOW('$', 6, char *): the size of a pointer is part of the number.
    let size = size_of::<*const libc::c_char>() as libc::Ioctl;
    0x4000_2406 | size << 16
};

/// The first version of `struct perf_event_attr`, which is enough.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// A tracepoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    /// Its number, from its description.
    pub(crate) id: u64,
    /// Which of its events count: compares its fields, as the kernel's `Documentation/trace/events.rst` says.
    pub(crate) filter: &'static CStr,
}

/// Tracepoints on one processor. Becomes readable when one of them is passed; there is nothing to read.
#[derive(Debug)]
pub(crate) struct Processor {
    first: OwnedFd,
    _others: Vec<OwnedFd>,
    /// Of all of them. Mapped to be read only, it is overwritten for ever.
    _buffer: Mapping,
}

impl Processor {
    /// Watches at least one tracepoint on the processor with this number.
    pub(crate) fn watch(number: i32, points: &[Point]) -> io::Result<Self> {
        let (first, others) = points.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let first = open(*first, number)?;
        let buffer = Mapping::new(&first, 2 * rustix::param::page_size(), 0, false)?;
        control(&first, Operation::Enable)?;
        let follow = |point: &Point| {
            let other = open(*point, number)?;
            control(&other, Operation::OutputTo(&first))?;
            control(&other, Operation::Enable)?;
            Ok(other)
        };
        let others = others.iter().map(follow).collect::<io::Result<_>>()?;
        Ok(Self {
            first,
            _others: others,
            _buffer: buffer,
        })
    }
}

impl AsFd for Processor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.first.as_fd()
    }
}

fn open(point: Point, processor: i32) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: u32::try_from(size_of::<Attributes>()).map_err(io::Error::other)?,
        config: point.id,
        sample_period: 1,
        sample_type: 0,
        read_format: 0,
        flags: DISABLED,
        wakeup_events: 1,
        breakpoint_type: 0,
        config1: 0,
    };
    // SAFETY: the attributes live across the call and tell their size; -1 and -1 stand for all processes and no group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            -1,
            processor,
            -1,
            CLOSE_ON_EXEC,
        )
    };
    let fd = owned(libc::c_int::try_from(fd).map_err(io::Error::other)?)?;
    control(&fd, Operation::Filter(point.filter))?;
    Ok(fd)
}

#[derive(Clone, Copy)]
enum Operation<'a> {
    Enable,
    OutputTo(&'a OwnedFd),
    Filter(&'a CStr),
}

fn control(fd: &OwnedFd, operation: Operation<'_>) -> io::Result<()> {
    let (request, argument) = match operation {
        Operation::Enable => (ENABLE, std::ptr::null()),
        Operation::OutputTo(leader) => (
            SET_OUTPUT,
            // A number where others take a pointer.
            std::ptr::without_provenance(leader.as_raw_fd().unsigned_abs() as usize),
        ),
        Operation::Filter(text) => (SET_FILTER, text.as_ptr()),
    };
    // SAFETY: each operation has the argument that it takes, which lives across the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
