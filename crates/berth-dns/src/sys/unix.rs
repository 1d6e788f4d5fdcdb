//! `getaddrinfo(3)` and `if_nametoindex(3)`.
#![allow(
    unsafe_code,
    reason = "the standard library hides why a name was not found"
)]

use std::ffi::{CStr, CString};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use crate::system::LookupError;

/// Finds the addresses of a name, of both families. Blocks.
pub(crate) fn lookup(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let failed = |why: String| LookupError::Failed(why);
    let name = CString::new(name).map_err(|why| failed(why.to_string()))?;
    // SAFETY: the structure consists of integers and pointers, for which zero is a value, and the one that means "anything".
    let mut hints: libc::addrinfo = unsafe { mem::zeroed() };
    hints.ai_family = libc::AF_UNSPEC;
    hints.ai_socktype = libc::SOCK_DGRAM;
    let mut list = ptr::null_mut();
    // SAFETY: the name ends in zero; the other pointers are to values on this stack.
    let code =
        unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(match code {
            libc::EAI_NONAME => LookupError::NotFound,
            // "No address of this family": the name exists. Not in every C library's headers.
            #[cfg(target_os = "linux")]
            libc::EAI_NODATA => LookupError::NotFound,
            code => failed(words(code)),
        });
    }
    let addresses = collect(list);
    // SAFETY: the list came from `getaddrinfo` and is freed once.
    unsafe { libc::freeaddrinfo(list) };
    Ok(addresses)
}

/// What a failure is called.
fn words(code: libc::c_int) -> String {
    // SAFETY: any number is allowed.
    let text = unsafe { libc::gai_strerror(code) };
    // SAFETY: it is a text, which is never freed.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

fn collect(list: *const libc::addrinfo) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: each pointer of the list is null or leads to an entry, until the list is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        let address = match entry.ai_family {
            libc::AF_INET => {
                // SAFETY: the family says what the address is; it may be unaligned for all we know.
                let v4 = unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        };
        addresses.extend(address.filter(|address| !addresses.contains(address)));
        next = entry.ai_next;
    }
    addresses
}

/// The number of a network interface; `None` if there is none of the name.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends in zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
