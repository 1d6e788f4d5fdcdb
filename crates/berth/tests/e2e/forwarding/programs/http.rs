//! HTTP: one connection for several requests, and connections that end in every order.

use std::io::{ErrorKind, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::super::guest_end::{Answer, Ended, GuestEnd};
use super::super::talk;
use super::Lab;

/// curl fetches three files from a server in the guest over one connection.
pub(super) fn a_connection_is_kept_alive(lab: &mut Lab<'_, '_>) {
    let files = "mkdir /tmp/www && cd /tmp/www && echo small >small && head -c 20000000 /dev/urandom >big && sha256sum <big";
    let digest = lab.instance.shell(files).success();
    let server = [
        "python3",
        "-m",
        "http.server",
        "--protocol=HTTP/1.1",
        "--bind=127.0.0.1",
        "--directory=/tmp/www",
        "8080",
    ];
    lab.serve("www", &server);
    lab.await_port("tcp", "127.0.0.1:8080");
    let fetch = "cd /tmp && curl --silent --show-error --write-out '%{num_connects} %{http_code} %{size_download}\n' \
                 -o a http://127.0.0.1:8080/small -o b http://127.0.0.1:8080/big -o c http://127.0.0.1:8080/small && sha256sum <b";
    let said = lab.client(&["sh", "-c", fetch]).success();
    assert_eq!(said, format!("1 200 6\n0 200 20000000\n0 200 6\n{digest}"));
}

/// Who ends its direction first, and what the other does then.
pub(super) fn each_end_ends_in_its_own_way(lab: &mut Lab<'_, '_>) {
    let mut guest = GuestEnd::start(lab.instance);
    let request = "GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n";
    let mut serve = |guest: &mut GuestEnd<'_>, address: &str, answer| {
        let listener = guest.listen("tcp", address, answer);
        lab.await_port("tcp", address);
        let stream = talk::connect(address.parse().expect("an address"));
        (listener, stream.expect("a connection"))
    };

    // The client has said all; the server answers, and ends.
    let (first, mut stream) = serve(&mut guest, "127.0.0.1:8001", Answer::Label);
    stream.write_all(request.as_bytes()).expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("a connection");
    let answer = talk::read_all(stream).expect("an end");
    assert_eq!(answer, format!("127.0.0.1:8001 got {request}"));

    // The server has said all; the client goes on, and ends.
    let (second, mut stream) = serve(&mut guest, "127.0.0.1:8002", Answer::Greet);
    let greeting = talk::read_all(&stream).expect("an end");
    assert_eq!(greeting, "127.0.0.1:8002");
    stream
        .write_all(request.as_bytes())
        .expect("half a connection");
    drop(stream);

    // The client has said all; the server breaks off.
    let (third, mut stream) = serve(&mut guest, "127.0.0.1:8003", Answer::Reset);
    stream.write_all(request.as_bytes()).expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("a connection");
    let why = talk::read_all(stream).expect_err("no end");
    assert_eq!(why.kind(), ErrorKind::ConnectionReset);

    for listener in [first, second, third] {
        let Ended { received, how } = guest.ended(listener);
        assert_eq!((received.as_str(), how.as_str()), (request, "eof"));
    }

    // The server has said all; the client breaks off.
    let (fourth, stream) = serve(&mut guest, "127.0.0.1:8004", Answer::Greet);
    let greeting = talk::read_all(&stream).expect("an end");
    assert_eq!(greeting, "127.0.0.1:8004");
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
    drop(stream);
    assert_eq!(guest.ended(fourth).how, "reset");
}
