//! The end of a flow that sends to the server.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::activity::{Activity, Sender};
use super::framing::{Datagrams, append};
use super::{FlowError, Patience, is_passing};
use crate::buffers::{Buffer, User};

/// Datagrams that are taken from the socket at once.
const BATCH: usize = 32;

/// Bytes that are written to the stream at once, more or less.
const ENOUGH: usize = 16 * 1024;

/// Errors in a row, each of no known kind, after which the socket counts as broken.
const MOST_ERRORS: usize = 16;

/// Carries datagrams between `stream` and the server that `socket` is connected to, until the stream ends or both are silent for too
/// long.
///
/// That nobody listens at the server is no end: it may come.
pub async fn carry<S>(socket: UdpSocket, stream: S, patience: Patience) -> Result<(), FlowError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _user = User::new();
    // Before that, every attempt to send fails.
    socket.writable().await.map_err(FlowError::Socket)?;
    let activity = Activity::new();
    let (read, write) = tokio::io::split(stream);
    tokio::select! {
        ended = to_server(read, &socket, &activity) => ended,
        ended = to_client(write, &socket, &activity) => ended,
        () = activity.idle(patience) => Ok(()),
    }
}

async fn to_server(
    stream: impl AsyncRead + Unpin,
    socket: &UdpSocket,
    activity: &Activity,
) -> Result<(), FlowError> {
    let mut datagrams = Datagrams::new(stream);
    let send = |datagram: &[u8]| {
        activity.note(Sender::Client);
        if let Err(why) = socket.try_send(datagram) {
            // Also when an earlier one was refused: the error comes instead of sending. Once more, then.
            let _ = if why.kind() == io::ErrorKind::ConnectionRefused {
                socket.try_send(datagram)
            } else {
                Err(why)
            };
        }
    };
    while datagrams.receive(send).await? {}
    Ok(())
}

async fn to_client(
    mut stream: impl AsyncWrite + Unpin,
    socket: &UdpSocket,
    activity: &Activity,
) -> Result<(), FlowError> {
    let mut errors = 0;
    loop {
        socket.readable().await.map_err(FlowError::Socket)?;
        let mut framed = Vec::new();
        match receive(socket, &mut framed) {
            Ok(()) => errors = 0,
            Err(why) if errors == MOST_ERRORS => return Err(FlowError::Socket(why)),
            Err(_) => errors += 1,
        }
        if !framed.is_empty() {
            activity.note(Sender::Server);
            let written = async {
                stream.write_all(&framed).await?;
                stream.flush().await
            };
            written.await.map_err(FlowError::Stream)?;
        }
        // Whoever sends without end does so beside others.
        tokio::task::yield_now().await;
    }
}

/// Takes what has come.
fn receive(socket: &UdpSocket, framed: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = Buffer::take_large();
    let room = buffer.room();
    for _ in 0..BATCH {
        if framed.len() >= ENOUGH {
            break;
        }
        match socket.try_recv(room) {
            Ok(length) => drop(append(framed, &room[..length])),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
            Err(why) if is_passing(&why) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
