//! Sockets that the guest listens on for the host.

use std::fs;
use std::path::Path;

use berth_link::event::{Refusal, Request, ReverseListener};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use super::setting::{Setting, hear, hear_end, say, within};

pub(super) async fn listen(setting: &Setting, id: u32, path: &str) -> Result<(), Refusal> {
    let path = path.to_owned();
    let listen = Request::Listen(ReverseListener { id, path });
    within(setting.link.request(listen)).await.unwrap()
}

async fn unlisten(setting: &Setting, id: u32) -> Result<(), Refusal> {
    within(setting.link.request(Request::Unlisten { id }))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_connection_in_the_guest_reaches_the_host_and_ends_as_it_should() {
    let setting = Setting::new().await;
    let mut taken = setting.link.take_reverse().unwrap();
    let path = setting.path("run/host.sock");
    listen(&setting, taken.id(), &path).await.unwrap();
    for _ in 0..3 {
        let mut client = UnixStream::connect(&path).await.unwrap();
        say(&mut client, "question").await;
        client.shutdown().await.unwrap();
        let mut stream = within(taken.next()).await.unwrap();
        hear(&mut stream, "question").await;
        hear_end(&mut stream).await;
        say(&mut stream, "answer").await;
        stream.shutdown().await.unwrap();
        hear(&mut client, "answer").await;
        hear_end(&mut client).await;
    }
}

#[tokio::test]
async fn listeners_end_when_told_and_take_only_their_own_socket_along() {
    let setting = Setting::new().await;
    let path = setting.path("host.sock");
    listen(&setting, 1, &path).await.unwrap();
    assert!(
        listen(&setting, 1, &setting.path("other"))
            .await
            .unwrap_err()
            .0
            .contains("already")
    );
    assert!(
        listen(&setting, 2, &path)
            .await
            .unwrap_err()
            .0
            .ends_with("is in use")
    );
    unlisten(&setting, 1).await.unwrap();
    assert!(!Path::new(&path).exists());
    assert!(
        unlisten(&setting, 1)
            .await
            .unwrap_err()
            .0
            .contains("no listener 1")
    );

    // The id and the path are free again.
    listen(&setting, 1, &path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let _somebody_elses = UnixListener::bind(&path).unwrap();
    unlisten(&setting, 1).await.unwrap();
    assert!(Path::new(&path).exists());
}

#[tokio::test]
async fn listeners_end_with_their_session_and_the_next_has_the_path() {
    let mut setting = Setting::new().await;
    let mut taken = setting.link.take_reverse().unwrap();
    let path = setting.path("host.sock");
    for _ in 0..5 {
        listen(&setting, taken.id(), &path).await.unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        say(&mut client, "hello").await;
        hear(&mut within(taken.next()).await.unwrap(), "hello").await;
        setting.next_session().await;
    }
    within(setting.tunnels.close()).await;
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn a_connection_that_the_host_refuses_is_over_and_the_listener_is_not() {
    let setting = Setting::new().await;
    let path = setting.path("host.sock");
    // Nobody on the host has asked for it.
    listen(&setting, 9, &path).await.unwrap();
    for _ in 0..3 {
        let mut client = UnixStream::connect(&path).await.unwrap();
        hear_end(&mut client).await;
    }
}

#[tokio::test]
async fn a_closed_end_removes_sockets() {
    let setting = Setting::new().await;
    let path = setting.path("host.sock");
    listen(&setting, 1, &path).await.unwrap();
    within(setting.tunnels.close()).await;
    assert!(!Path::new(&path).exists());
}
