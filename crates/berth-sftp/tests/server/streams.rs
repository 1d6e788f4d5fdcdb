//! Streams that are cut, slow, full, or no SFTP at all.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use berth_sftp::{Caller, Ended, ServeError, Share, Violation, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::client::{Body, Client, MODES, Place, Raw, Reply, fxf, fxp, packet};

#[test]
fn what_is_no_sftp_ends_it() {
    let place = Place::new();
    for (bytes, wanted) in [
        (packet(fxp::LSTAT, &[0; 8]), Violation::Greeting(fxp::LSTAT)),
        (vec![0, 0, 0, 0, 0], Violation::Length(0)),
        (vec![0, 0, 0, 4, 1, 0, 0, 0], Violation::Length(4)),
        (vec![0, 4, 0, 1, 1], Violation::Length(0x4_0001)),
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Violation::Length(0x4745_5420),
        ),
        (vec![0, 0, 0], Violation::Cut),
        (vec![0, 0, 0, 5, 1, 0], Violation::Cut),
    ] {
        for mode in MODES {
            let mut raw = Raw::start(place.writable(), mode);
            raw.stream.write_all(&bytes).unwrap();
            raw.stream.shutdown(Shutdown::Write).unwrap();
            let ended = raw.join();
            let is_it = matches!(&ended, Err(ServeError::Violation(why)) if *why == wanted);
            assert!(is_it, "{bytes:?}: {ended:?}, not {wanted:?}");
        }
    }
}

#[test]
fn a_missing_directory_is_named() {
    let place = Place::new();
    for mode in MODES {
        let ended = Raw::start(Share::new(place.share("none")), mode).join();
        let said = ended.unwrap_err();
        assert!(matches!(said, ServeError::Directory { .. }), "{said:?}");
        assert!(said.to_string().contains("share/none"), "{said}");
    }
}

#[test]
fn a_client_that_leaves_is_answered_before() {
    for mode in MODES {
        let place = Place::new();
        let mut client = Client::at(&place, mode);
        let made = client.send(fxp::MKDIR, &Body::new().string("d").word(0));
        let seen = client.send(fxp::LSTAT, &Body::new().string("d"));
        client.raw.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.wait(made), Reply::OK);
        assert!(matches!(client.wait(seen), Reply::Attributes(_)));
        assert_eq!(client.raw.join().unwrap(), Ended::ByClient);
    }
}

#[test]
fn packets_come_in_pieces() {
    for mode in MODES {
        let place = Place::new();
        let mut client = Client::at(&place, mode);
        let handle = client
            .open("f", fxf::READ | fxf::WRITE | fxf::CREAT)
            .handle();
        let body = Body::new().word(77).string(&handle).long(3).string("hello");
        for byte in packet(fxp::WRITE, &body.0) {
            client.raw.stream.write_all(&[byte]).unwrap();
        }
        assert_eq!(client.any(), (77, Reply::OK));
        assert_eq!(
            client.read(&handle, 0, 100),
            Reply::Data(b"\0\0\0hello".to_vec())
        );
        // Many at once, and a piece of one more.
        let one = packet(fxp::LSTAT, &Body::new().word(78).string("f").0);
        let mut many = one.repeat(100);
        many.extend_from_slice(&one[..7]);
        client.raw.stream.write_all(&many).unwrap();
        for _ in 0..100 {
            assert!(matches!(client.any(), (78, Reply::Attributes(_))));
        }
        let ended = client.raw.end();
        assert!(
            matches!(ended, Err(ServeError::Violation(Violation::Cut))),
            "{ended:?}"
        );
    }
}

#[test]
fn a_client_that_is_gone_ends_it() {
    for mode in MODES {
        let place = Place::new();
        std::fs::write(place.share("f"), vec![1; 1 << 20]).unwrap();
        let mut client = Client::at(&place, mode);
        let handle = client.open("f", fxf::READ).handle();
        for _ in 0..64 {
            let body = Body::new().string(&handle).long(0).word(200_000);
            client.send(fxp::READ, &body);
        }
        // Gone with unread replies, which breaks the stream, unless everything went out before.
        match client.raw.end() {
            Err(ServeError::Carrier(_)) | Ok(Ended::ByClient) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn cancelling_ends_it() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (_client, server) = tokio::io::duplex(1024);
        let (reader, writer) = tokio::io::split(server);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let ended = serve(place.writable(), reader, writer, cancel).await;
        assert_eq!(ended.unwrap(), Ended::Cancelled);
    });
}

/// A client that asks and does not listen: the server stops taking requests, and goes on when it listens again.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_listen_gets_no_memory() {
    const SIZE: usize = 200_000;
    for caller in [Caller::MayBlock, Caller::MustNotBlock] {
        let place = Place::new();
        std::fs::write(place.share("f"), vec![7; SIZE]).unwrap();
        let (client, server) = tokio::io::duplex(1024);
        let (reader, writer) = tokio::io::split(server);
        let mut share = place.writable();
        share.caller = caller;
        let cancel = CancellationToken::new();
        let serving = serve(share, reader, writer, cancel.clone());
        let (mut reader, mut writer) = tokio::io::split(client);
        let asking = async {
            writer.write_all(&packet(1, &[0, 0, 0, 3])).await.unwrap();
            let mut greeting = [0; 4];
            reader.read_exact(&mut greeting).await.unwrap();
            let mut rest = vec![0; u32::from_be_bytes(greeting) as usize];
            reader.read_exact(&mut rest).await.unwrap();
            let open = Body::new().word(1).string("f").word(fxf::READ).word(0);
            writer.write_all(&packet(fxp::OPEN, &open.0)).await.unwrap();
            let mut opened = [0; 21];
            reader.read_exact(&mut opened).await.unwrap();
            let handle = &opened[13..21];
            let size = u32::try_from(SIZE).unwrap();
            let read = Body::new().word(2).string(handle).long(0).word(size);
            let read = packet(fxp::READ, &read.0);
            let mut asked = 0;
            let whole = loop {
                // The clock runs only when nobody can do anything.
                let writing = writer.write_all(&read);
                match tokio::time::timeout(std::time::Duration::from_secs(60), writing).await {
                    Ok(written) => written.unwrap(),
                    Err(_) => break asked,
                }
                asked += 1;
            };
            assert!((1..200).contains(&whole), "{whole} requests were taken");
            for _ in 0..whole {
                let mut reply = vec![0; 13 + SIZE];
                reader.read_exact(&mut reply).await.unwrap();
                assert!(reply[4] == 103 && reply[13..].iter().all(|byte| *byte == 7));
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(serving, asking);
        ended.unwrap();
    }
}

#[test]
fn nothing_is_said_unasked() {
    let place = Place::new();
    let mut client = Client::at(&place, MODES[0]);
    client.raw.stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.raw.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}
