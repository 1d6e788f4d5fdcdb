//! Tunnels through a real link: both ends in this process, a pair of unix sockets between them.

mod setting;

mod dialled;
mod reversed;
mod rights;
