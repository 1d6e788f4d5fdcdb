//! Streams alone: whoever writes and reads them is in the same thread.

use std::time::{Duration, Instant};

use berth_link::mux::{Incoming, LinkStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Cost, Way, ends};

const CHUNK: usize = 64 * 1024;

/// `bytes` over as many streams.
pub(super) fn bulk(way: Way, streams: u32, bytes: u64) -> Cost {
    let each = bytes / u64::from(streams);
    let ((), cost) = ends::run(
        move |mux, tracker| async move {
            let tasks: Vec<_> = (0..streams)
                .map(|_| {
                    let stream = mux.open(&ends::header()).unwrap();
                    tracker.spawn(half(stream, way == Way::ToGuest, each))
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        },
        move |mut incoming: Incoming, tracker| async move {
            let mut tasks = Vec::new();
            for _ in 0..streams {
                let (_, stream) = incoming.accept().await.unwrap();
                tasks.push(tracker.spawn(half(stream, way == Way::ToHost, each)));
            }
            for task in tasks {
                task.await.unwrap();
            }
        },
    );
    cost
}

/// One end of a bulk stream.
async fn half(mut stream: LinkStream, sends: bool, bytes: u64) {
    let mut chunk = vec![7; CHUNK];
    if sends {
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            stream.write_all(&chunk[..length]).await.unwrap();
            left -= length as u64;
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut chunk).await.unwrap(), 0);
    } else {
        let mut seen = 0;
        loop {
            match stream.read(&mut chunk).await.unwrap() {
                0 => break,
                count => seen += count as u64,
            }
        }
        assert_eq!(seen, bytes);
        stream.shutdown().await.unwrap();
    }
}

/// Median and 99th percentile of a short message there and back.
pub(super) fn ping(count: usize) -> (Duration, Duration) {
    let (mut times, _) = ends::run(
        move |mux, _| async move {
            let mut stream = mux.open(&ends::header()).unwrap();
            let mut message = [1; 64];
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let began = Instant::now();
                stream.write_all(&message).await.unwrap();
                stream.read_exact(&mut message).await.unwrap();
                times.push(began.elapsed());
            }
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut message).await.unwrap(), 0);
            times
        },
        |mut incoming, _| async move {
            let (_, stream) = incoming.accept().await.unwrap();
            echo(stream).await;
        },
    );
    times.sort_unstable();
    (times[count / 2], times[count * 99 / 100])
}

async fn echo(mut stream: LinkStream) {
    let mut message = [0; 64];
    loop {
        let count = stream.read(&mut message).await.unwrap();
        if count == 0 {
            break;
        }
        stream.write_all(&message[..count]).await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

/// Streams that carry 64 bytes there and back, so many of them at once.
pub(super) fn open_and_close(count: u32, at_once: u32) -> (u32, Cost) {
    let each = count / at_once;
    let ((), cost) = ends::run(
        move |mux, tracker| async move {
            let tasks: Vec<_> = (0..at_once)
                .map(|_| {
                    let mux = mux.clone();
                    tracker.spawn(async move {
                        for _ in 0..each {
                            let mut stream = mux.open(&ends::header()).unwrap();
                            stream.write_all(&[1; 64]).await.unwrap();
                            stream.shutdown().await.unwrap();
                            let mut back = Vec::with_capacity(64);
                            stream.read_to_end(&mut back).await.unwrap();
                            assert_eq!(back.len(), 64);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        },
        |mut incoming, tracker| async move {
            while let Some((_, stream)) = incoming.accept().await {
                tracker.spawn(echo(stream));
            }
        },
    );
    (each * at_once, cost)
}
