//! A client of a shared directory that says anything: packets, pieces of packets, handles it was never given.
//!
//! The first byte chooses how the directory is shared. What comes back must be whole packets, and nothing of what lies outside.
#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_sftp::{Caller, Share, serve};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const SECRET: &[u8] = b"0c2f8d6e-not-for-guests-77b1";

const GREETING: [u8; 9] = [0, 0, 0, 5, 1, 0, 0, 0, 3];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, requests)) = bytes.split_first() else {
        return;
    };
    let ground = ground();
    let mut share = Share::new(ground.join("share"));
    share.writable = choice & 1 != 0;
    share.follow_symlinks = choice & 2 != 0;
    if choice & 4 != 0 {
        share.caller = Caller::MayBlock;
    }
    share.limits.handles = 16;
    share.limits.requests = 8;
    share.limits.linger = Duration::ZERO;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let replies = runtime.block_on(session(share, requests));
    check(&replies);
    let outside = fs::read(ground.join("outside/secret")).unwrap();
    assert!(outside == SECRET, "something outside was changed");
    assert_eq!(fs::read_dir(ground.join("outside")).unwrap().count(), 1);
    fs::remove_dir_all(&ground).unwrap();
});

/// A directory to share, with ways out of it, and what lies outside.
fn ground() -> PathBuf {
    let ground = std::env::temp_dir().join(format!("berth-fuzz-sftp.{}", std::process::id()));
    let _ = fs::remove_dir_all(&ground);
    let at = |path: &str| ground.join(path);
    fs::create_dir_all(at("share/d")).unwrap();
    fs::create_dir_all(at("outside")).unwrap();
    fs::write(at("outside/secret"), SECRET).unwrap();
    fs::write(at("share/f"), "content").unwrap();
    fs::write(at("share/d/g"), "deeper").unwrap();
    link("../outside", &at("share/o"));
    link("d", &at("share/l"));
    link(&at("outside").to_string_lossy(), &at("share/a"));
    ground
}

fn link(target: &str, name: &Path) {
    symlink(target, name).unwrap();
}

/// Says everything, and returns all that was answered.
async fn session(share: Share, requests: &[u8]) -> Vec<u8> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (reader, writer) = tokio::io::split(server);
    let serving = serve(share, reader, writer, CancellationToken::new());
    let (mut reader, mut writer) = tokio::io::split(client);
    let asking = async move {
        let _ = writer.write_all(&GREETING).await;
        let _ = writer.write_all(requests).await;
        let _ = writer.shutdown().await;
        writer
    };
    let mut replies = Vec::new();
    let listening = async {
        reader.read_to_end(&mut replies).await.unwrap();
        reader
    };
    // However it ends, it ends.
    let _ = tokio::join!(serving, asking, listening);
    replies
}

/// Every reply is of a kind that a server sends, and tells nothing.
fn check(replies: &[u8]) {
    let mut rest = replies;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        assert!(length <= 256 * 1024, "a reply of {length} bytes");
        // Where a client breaks the protocol, the last reply may be cut.
        let Some((reply, behind)) = behind.split_at_checked(length) else {
            break;
        };
        assert!(matches!(reply[0], 2 | 101..=105 | 201), "{}", reply[0]);
        rest = behind;
    }
    let tells = replies
        .windows(SECRET.len())
        .any(|window| window == SECRET);
    assert!(!tells, "the secret is out");
}
