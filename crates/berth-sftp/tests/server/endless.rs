//! Directories without end.

use std::fs;

use crate::client::{Body, Client, MODES, Place, Reply, fxp};

#[test]
fn a_directory_of_many_files_comes_as_a_whole() {
    const FILES: usize = 200_000;
    let place = Place::in_memory();
    fs::write(place.share("first"), "x").unwrap();
    for at in 1..FILES {
        // Names are what costs, not files.
        let name = place.share(&format!("a name of some length, {at}"));
        if fs::hard_link(place.share("first"), &name).is_err() {
            fs::write(name, "x").unwrap();
        }
    }
    let mut client = Client::at(&place, MODES[0]);
    let directory = client.path(fxp::OPENDIR, "/").handle();
    let mut seen = 0;
    // Many at a time, as sshfs asks.
    let mut asked = std::collections::VecDeque::new();
    let mut ended = false;
    while !ended || !asked.is_empty() {
        while !ended && asked.len() < 16 {
            asked.push_back(client.send(fxp::READDIR, &Body::new().string(&directory)));
        }
        match client.wait(asked.pop_front().unwrap()) {
            Reply::Names(names) => {
                assert!(!ended, "names after the end");
                seen += names.len();
            }
            Reply::EOF => ended = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, FILES + 2);
}
