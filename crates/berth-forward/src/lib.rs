//! Cables: what the host listens on for the guest, and what is carried through.
//!
//! | module | owns |
//! |---|---|
//! | [`rules`] | which socket of the guest goes to which address of the host |
//! | [`address`] | the names of both |
//! | [`guest`] | the ways into the guest, as interfaces, and what people are told |
//! | [`reconcile`] | what listens, made to agree with what ought to |
//! | [`limits`] | how much of everything there may be |
//! | [`forwarders`] | the forwards of an instance before anything runs |
//!
//! Nothing that the guest says makes the host listen where no rule of the user's says so.

pub mod address;
mod desired;
pub mod forwarders;
pub mod guest;
pub mod limits;
mod listen;
mod notices;
pub mod reconcile;
pub mod rules;
mod ssh;
mod sys;
mod way;
