//! Downloads against a small HTTP server of our own that misbehaves on demand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod server;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_image::digest::{Algorithm, Digest, Hasher, sha256_hex};
use berth_image::error::ImageError;
use berth_image::fetch::{FetchSettings, Fetcher, Packing, Proxies, Source};
use berth_image::progress::{Progress, Step};
use server::{Request, Server};

fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

/// Content that no two ranges of have in common.
fn content(len: usize) -> Vec<u8> {
    (0..len / 4)
        .flat_map(|i| u32::try_from(i).unwrap().to_be_bytes())
        .collect()
}

struct Bench {
    dir: tempfile::TempDir,
    fetcher: Fetcher,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = FetchSettings::new(dir.path().join("cache"), Proxies::default());
        settings.patience = Duration::from_millis(500);
        let fetcher = Fetcher::new(settings);
        Self { dir, fetcher }
    }

    fn entry(&self, url: &str) -> PathBuf {
        let entries = self.dir.path().join("cache/download/by-url-sha256");
        entries.join(sha256_hex(url.as_bytes()))
    }

    fn fetch(&self, url: &str, digest: Option<&Digest>) -> Result<Vec<u8>, ImageError> {
        let source = Source {
            location: url,
            digest,
        };
        let path = self
            .fetcher
            .fetch(source, &mut |_| ControlFlow::Continue(()))?;
        Ok(std::fs::read(path).unwrap())
    }

    fn fetch_to(&self, location: &str, name: &str) -> Result<Vec<u8>, ImageError> {
        let destination = self.dir.path().join(name);
        let source = Source {
            location,
            digest: None,
        };
        let watch = &mut |_: &Progress<'_>| ControlFlow::Continue(());
        self.fetcher
            .fetch_to(source, &destination, Packing::Unpack, watch)?;
        Ok(std::fs::read(destination).unwrap())
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_unchanged_file_is_not_sent_again() {
    let bench = Bench::new();
    let server = Server::start(|request, answer| {
        if request.header("if-none-match") == Some("\"v1\"") {
            answer.send("304 Not Modified", &[], b"");
        } else {
            let headers = [
                ("ETag", "\"v1\""),
                ("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT"),
                ("Content-Type", "x/y"),
            ];
            answer.send("200 OK", &headers, b"hello");
        }
    });
    let url = server.url("/image");
    for _ in 0..3 {
        assert_eq!(bench.fetch(&url, None).unwrap(), b"hello");
    }
    let asked: Vec<_> = server
        .requests()
        .iter()
        .map(|r| r.header("if-none-match").map(str::to_owned))
        .collect();
    assert_eq!(
        asked,
        [None, Some("\"v1\"".to_owned()), Some("\"v1\"".to_owned())]
    );
    let entry = bench.entry(&url);
    assert_eq!(names(&entry), ["data", "etag", "time", "type", "url"]);
    assert_eq!(std::fs::read_to_string(entry.join("url")).unwrap(), url);
    assert_eq!(
        std::fs::read_to_string(entry.join("time")).unwrap(),
        "Mon, 02 Nov 2026 10:00:00 GMT"
    );
}

#[test]
fn a_known_digest_needs_no_server() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.send("200 OK", &[], b"hello"));
    let url = server.url("/image");
    let digest = digest_of(b"hello");
    assert_eq!(bench.fetch(&url, Some(&digest)).unwrap(), b"hello");
    assert_eq!(bench.fetch(&url, Some(&digest)).unwrap(), b"hello");
    assert_eq!(server.requests().len(), 1);
    let recorded = std::fs::read_to_string(bench.entry(&url).join("sha256.digest")).unwrap();
    assert_eq!(recorded, digest.to_string());
}

#[test]
fn a_damaged_cache_heals_itself() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.send("200 OK", &[], b"hello"));
    let url = server.url("/image");
    let digest = digest_of(b"hello");
    bench.fetch(&url, Some(&digest)).unwrap();
    std::fs::write(bench.entry(&url).join("data"), "hellO").unwrap();
    assert_eq!(bench.fetch(&url, Some(&digest)).unwrap(), b"hello");
}

#[test]
fn a_wrong_digest_names_both_and_leaves_nothing() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.send("200 OK", &[], b"something else"));
    let url = server.url("/image");
    let (expected, actual) = (digest_of(b"hello"), digest_of(b"something else"));
    let error = bench.fetch(&url, Some(&expected)).unwrap_err().to_string();
    assert!(error.contains(&url), "{error}");
    assert!(
        error.contains(&format!("expected {expected}, got {actual}")),
        "{error}"
    );
    assert_eq!(names(&bench.entry(&url)), ["url"]);
}

#[test]
fn without_the_server_the_cached_file_serves() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.send("200 OK", &[("ETag", "\"a\"")], b"hello"));
    let url = server.url("/image");
    bench.fetch(&url, None).unwrap();
    drop(server);
    assert_eq!(bench.fetch(&url, None).unwrap(), b"hello");
    let never_seen = url.replace("/image", "/other");
    let error = bench.fetch(&never_seen, None).unwrap_err();
    assert!(matches!(error, ImageError::Network { .. }), "{error:?}");
}

/// Serves ranges of `content`, and breaks the connection after `limit` bytes of each answer.
fn in_pieces(content: Vec<u8>, limit: usize) -> Server {
    Server::start(move |request, answer| {
        let start = match (request.range_start(), request.header("if-range")) {
            (Some(start), Some("\"v1\"")) => start,
            _ => 0,
        };
        let (status, range) = if start == 0 {
            ("200 OK", String::new())
        } else {
            let last = content.len() - 1;
            (
                "206 Partial Content",
                format!("bytes {start}-{last}/{}", content.len()),
            )
        };
        let rest = &content[start..];
        answer.head(
            status,
            &[("ETag", "\"v1\""), ("Content-Range", &range)],
            rest.len(),
        );
        answer.bytes(&rest[..rest.len().min(limit)]);
    })
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let bench = Bench::new();
    let content = content(1_000_000);
    let server = in_pieces(content.clone(), 300_000);
    let url = server.url("/image");
    assert!(bench.fetch(&url, Some(&digest_of(&content))).unwrap() == content);
    let starts: Vec<_> = server.requests().iter().map(Request::range_start).collect();
    assert_eq!(starts, [None, Some(300_000), Some(600_000), Some(900_000)]);
    assert_eq!(
        names(&bench.entry(&url)),
        ["data", "etag", "sha256.digest", "url"]
    );
}

#[test]
fn a_cancelled_download_is_continued_by_the_next_one() {
    let bench = Bench::new();
    let content = content(4 << 20);
    let server = in_pieces(content.clone(), usize::MAX);
    let url = server.url("/image");
    let mut stop_half_way = |progress: &Progress<'_>| {
        if progress.step == Step::Downloading && progress.done >= 2 << 20 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let source = Source {
        location: &url,
        digest: None,
    };
    let error = bench.fetcher.fetch(source, &mut stop_half_way).unwrap_err();
    assert!(matches!(error, ImageError::Cancelled { .. }), "{error:?}");
    assert_eq!(
        names(&bench.entry(&url)),
        ["data.part", "data.part.validator", "url"]
    );

    assert!(bench.fetch(&url, Some(&digest_of(&content))).unwrap() == content);
    let start = server.requests()[1].range_start().unwrap();
    assert!(start >= 2 << 20, "{start}");
}

#[test]
fn a_part_of_an_older_version_is_thrown_away() {
    let bench = Bench::new();
    let content = content(100_000);
    let server = in_pieces(content.clone(), usize::MAX);
    let url = server.url("/image");
    let entry = bench.entry(&url);
    std::fs::create_dir_all(&entry).unwrap();
    std::fs::write(entry.join("data.part"), vec![b'x'; 50_000]).unwrap();
    std::fs::write(entry.join("data.part.validator"), "\"v0\"").unwrap();
    assert!(bench.fetch(&url, None).unwrap() == content);
    let first = &server.requests()[0];
    assert_eq!(
        (first.range_start(), first.header("if-range")),
        (Some(50_000), Some("\"v0\""))
    );
}

#[test]
fn a_part_longer_than_the_file_is_thrown_away() {
    let bench = Bench::new();
    let server = Server::start(|request, answer| match request.range_start() {
        Some(_) => answer.send("416 Range Not Satisfiable", &[], b""),
        None => answer.send("200 OK", &[], b"short"),
    });
    let url = server.url("/image");
    let entry = bench.entry(&url);
    std::fs::create_dir_all(&entry).unwrap();
    std::fs::write(entry.join("data.part"), "longer than that").unwrap();
    std::fs::write(entry.join("data.part.validator"), "\"v0\"").unwrap();
    assert_eq!(bench.fetch(&url, None).unwrap(), b"short");
}

#[test]
fn a_server_that_breaks_every_time_without_progress_is_given_up() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.head("200 OK", &[], 10));
    let error = bench.fetch(&server.url("/image"), None).unwrap_err();
    assert!(matches!(error, ImageError::Network { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_silent_server_is_given_up() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.wait_until_hang_up());
    let error = bench.fetch(&server.url("/image"), None).unwrap_err();
    assert!(matches!(error, ImageError::Network { .. }), "{error:?}");
    // In the middle of the content, too.
    let server = Server::start(|_, answer| {
        answer.head("200 OK", &[], 10);
        answer.wait_until_hang_up();
    });
    let error = bench.fetch(&server.url("/image"), None).unwrap_err();
    assert!(matches!(error, ImageError::Network { .. }), "{error:?}");
}

#[test]
fn refusals_and_garbage_are_errors() {
    let bench = Bench::new();
    let server = Server::start(|request, answer| match request.path.as_str() {
        "/gone" => answer.send("404 Not Found", &[], b"<html>no such image</html>"),
        _ => answer.bytes(b"\xff\xfe garbage \0 without end"),
    });
    let url = server.url("/gone");
    let error = bench.fetch(&url, None).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot download {url}: the server answered 404")
    );
    assert_eq!(names(&bench.entry(&url)), ["url"]);
    let error = bench.fetch(&server.url("/garbage"), None).unwrap_err();
    assert!(matches!(error, ImageError::Network { .. }), "{error:?}");
}

#[test]
fn local_files_stay_where_they_are() {
    let bench = Bench::new();
    let path = bench.dir.path().join("a, b.img");
    std::fs::write(&path, "hello").unwrap();
    let plain = path.to_str().unwrap();
    for location in [plain.to_owned(), format!("file://{plain}")] {
        let source = Source {
            location: &location,
            digest: Some(&digest_of(b"hello")),
        };
        let got = bench
            .fetcher
            .fetch(source, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(got, path);
        let error = bench.fetch(&location, Some(&digest_of(b"x"))).unwrap_err();
        assert!(
            matches!(error, ImageError::DigestMismatch { .. }),
            "{error:?}"
        );
    }
    assert_eq!(names(bench.dir.path()), ["a, b.img"]);
}

#[test]
fn locations_that_are_nothing() {
    let bench = Bench::new();
    for (location, why) in [
        ("/no/such/image", "cannot open /no/such/image"),
        ("file://relative", "needs an absolute path"),
        (
            "ftp://host/image",
            "only paths, file://, http:// and https:// are understood",
        ),
        ("http://", "cannot download"),
    ] {
        let error = bench.fetch(location, None).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// What another program packs comes out as it was, and a cut file never comes out at all.
#[test]
fn compressed_files_are_unpacked() {
    let bench = Bench::new();
    let mut content = content(2_000_000);
    content.resize(content.len() + 3_000_000, 0);
    content.extend_from_slice(b"end");
    let plain = bench.dir.path().join("plain");
    std::fs::write(&plain, &content).unwrap();
    for (tool, extension) in [
        ("gzip", "gz"),
        ("bzip2", "bz2"),
        ("xz", "xz"),
        ("zstd", "zst"),
    ] {
        let packed = Command::new(tool)
            .arg("-c")
            .arg(&plain)
            .output()
            .unwrap_or_else(|error| panic!("{tool}: {error}"));
        assert!(packed.status.success());
        let location = bench.dir.path().join(format!("image.{extension}"));
        std::fs::write(&location, &packed.stdout).unwrap();
        assert!(
            bench.fetch_to(location.to_str().unwrap(), tool).unwrap() == content,
            "{tool}"
        );

        // Without the extension, the first bytes tell.
        let bare = bench.dir.path().join(format!("{tool}-bare"));
        let twice = [&packed.stdout[..], &packed.stdout[..]].concat();
        std::fs::write(&bare, twice).unwrap();
        let got = bench
            .fetch_to(bare.to_str().unwrap(), &format!("{tool}-2"))
            .unwrap();
        assert!(
            got == [&content[..], &content[..]].concat(),
            "{tool}, two members"
        );

        std::fs::write(&bare, &packed.stdout[..packed.stdout.len() / 2]).unwrap();
        let error = bench
            .fetch_to(bare.to_str().unwrap(), &format!("{tool}-cut"))
            .unwrap_err();
        assert!(
            matches!(error, ImageError::Unpack { .. }),
            "{tool}: {error:?}"
        );
        assert!(
            !names(bench.dir.path())
                .iter()
                .any(|name| name.starts_with(&format!("{tool}-cut")))
        );
    }
}

#[test]
fn a_destination_that_is_there_is_kept() {
    let bench = Bench::new();
    std::fs::write(bench.dir.path().join("image"), "mine").unwrap();
    assert_eq!(bench.fetch_to("/no/such/file", "image").unwrap(), b"mine");
}

/// Two at once share one download.
#[test]
fn a_second_process_waits_for_the_first() {
    let bench = Bench::new();
    let server = Server::start(|_, answer| answer.send("200 OK", &[], b"hello"));
    let url = server.url("/image");
    let entry = bench.entry(&url);
    std::fs::create_dir_all(&entry).unwrap();
    let held = std::fs::File::open(&entry).unwrap();
    held.lock().unwrap();
    let mut waited = false;
    let mut release = |progress: &Progress<'_>| {
        if progress.step == Step::Waiting {
            waited = true;
            held.unlock().unwrap();
        }
        ControlFlow::Continue(())
    };
    let source = Source {
        location: &url,
        digest: None,
    };
    bench.fetcher.fetch(source, &mut release).unwrap();
    assert!(waited);
}

mod full_disk {
    //! On a file system of one mebibyte. The test runs itself again inside a mount namespace that has one.

    use super::*;

    const DIR: &str = "BERTH_TEST_FULL_DISK";

    #[test]
    fn a_full_disk_is_named_and_left_clean() {
        if let Some(dir) = std::env::var_os(DIR) {
            return on_full_disk(Path::new(&dir));
        }
        let dir = tempfile::tempdir().unwrap();
        let script =
            "mount -t tmpfs -o size=1m none \"$BERTH_TEST_FULL_DISK\" && exec \"$0\" \"$@\"";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "full_disk::a_full_disk_is_named_and_left_clean",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .output()
            .expect("unshare (util-linux) is installed");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    }

    fn on_full_disk(dir: &Path) {
        let fetcher = Fetcher::new(FetchSettings::new(dir.join("cache"), Proxies::default()));
        let server = Server::start(|_, answer| {
            answer.send("200 OK", &[("ETag", "\"a\"")], &content(4 << 20));
        });
        let url = server.url("/image");
        let full = |error: &ImageError| matches!(error, ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
        let source = Source {
            location: &url,
            digest: None,
        };
        let error = fetcher
            .fetch(source, &mut |_| ControlFlow::Continue(()))
            .unwrap_err();
        assert!(full(&error), "{error:?}");
        let entry = dir
            .join("cache/download/by-url-sha256")
            .join(sha256_hex(url.as_bytes()));
        assert_eq!(names(&entry), ["url"]);

        // A local file into an instance on a full disk.
        let elsewhere = tempfile::tempdir().unwrap();
        let local = elsewhere.path().join("image");
        std::fs::write(&local, content(4 << 20)).unwrap();
        let source = Source {
            location: local.to_str().unwrap(),
            digest: None,
        };
        let watch = &mut |_: &Progress<'_>| ControlFlow::Continue(());
        let error = fetcher
            .fetch_to(source, &dir.join("image"), Packing::Unpack, watch)
            .unwrap_err();
        assert!(full(&error), "{error:?}");
        assert_eq!(names(dir), ["cache"]);
    }
}
