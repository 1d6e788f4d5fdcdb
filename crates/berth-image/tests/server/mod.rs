//! An HTTP/1.1 server of one answer per connection, told by a closure.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// `Range: bytes=N-` → N.
    pub(crate) fn range_start(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }

    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let headers = lines
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                let (key, value) = line.split_once(':')?;
                Some((key.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect();
        Some(Self { path, headers })
    }
}

pub(crate) struct Answer(TcpStream);

impl Answer {
    pub(crate) fn send(&mut self, status: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.head(status, headers, body.len());
        self.bytes(body);
    }

    /// Status line and headers; those with an empty value are left out.
    pub(crate) fn head(&mut self, status: &str, headers: &[(&str, &str)], length: usize) {
        let mut text =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n");
        for (key, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text += &[key, ": ", value, "\r\n"].concat();
        }
        text.push_str("\r\n");
        self.bytes(text.as_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // A client that hung up is part of some tests.
        let _ = self.0.write_all(bytes);
    }

    pub(crate) fn wait_until_hang_up(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
    stopping: Arc<std::sync::atomic::AtomicBool>,
}

impl Server {
    pub(crate) fn start(respond: impl Fn(&Request, &mut Answer) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&requests), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                let Some(request) = Request::read(&stream) else {
                    continue;
                };
                seen.lock().unwrap().push(request.clone());
                let mut answer = Answer(stream);
                respond(&request, &mut answer);
                let _ = answer.0.shutdown(Shutdown::Write);
            }
        });
        Self {
            address,
            requests,
            thread: Some(thread),
            stopping,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping
            .store(true, std::sync::atomic::Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
