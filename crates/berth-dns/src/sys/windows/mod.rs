//! Windows: the system's resolver through the standard library, and the IP Helper's notifications.

pub(super) mod changes;

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};

use crate::system::LookupError;

/// `WSAHOST_NOT_FOUND` and `WSANO_DATA`.
const NOT_FOUND: [i32; 2] = [11001, 11004];

/// Finds the addresses of a name, of both families. Blocks.
pub(crate) fn lookup(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let not_found = |why: &io::Error| {
        why.raw_os_error()
            .is_some_and(|code| NOT_FOUND.contains(&code))
    };
    match (name, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(why) if not_found(&why) => Err(LookupError::NotFound),
        Err(why) => Err(LookupError::Failed(why.to_string())),
    }
}

/// Interfaces have no names in addresses here.
pub(crate) fn interface_index(_name: &str) -> Option<u32> {
    None
}
