//! The notice board: instance state, the start timeline, JSON events and their one writer.
//!
//! | module | owns |
//! |---|---|
//! | [`state`] | the life of an instance: one enum, one transition table |
//! | [`board`] | the one place where state, timeline and events are kept together |
//! | [`event`] | the JSON of an event, as Lima's CLI reads it |
//! | [`writer`] | writing events, each in one `write(2)` |
//! | [`timeline`] | where the time of a start went, as JSON, text and SVG |
//! | [`follow`] | following a file that grows, line by line |
//! | [`logline`] | reading the agent's log lines back |
//! | [`clock`] | the time, as a value that callers pass in |

pub mod board;
pub mod clock;
pub mod event;
pub mod follow;
pub mod logline;
pub mod state;
mod sys;
pub mod timeline;
pub mod writer;
