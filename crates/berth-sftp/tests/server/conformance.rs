//! What of pjdfstest can be said in SFTP, as a table of our own: the first word names the file of pjdfstest that a row follows.
//!
//! Not in the protocol: `chflags`, `mkfifo`, `mknod`, `posix_fallocate`, times finer than a second, counts of links, and which error it was
//! beyond "no such file", "denied", "bad message" and "failure". What needs a second user is not here: the server is one user.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::client::{Body, Client, MODES, Place, Reply, fxf, fxp};

/// Rows: where from, then steps with what comes of them. `name` × 255 is written `%255`.
const TABLE: &[(&str, &str)] = &[
    (
        "mkdir/00",
        "mkdir d 755 ok; mode d 40755; mkdir d/e 151 ok; mode d/e 40151; rmdir d/e ok; rmdir d ok; stat d none",
    ),
    ("mkdir/01", "create f ok; mkdir f/d 755 none"),
    (
        "mkdir/02",
        "mkdir %255 755 ok; rmdir %255 ok; mkdir %256 755 bad",
    ),
    ("mkdir/03", "mkdir %5000 755 bad"),
    ("mkdir/04", "mkdir a/b 755 none"),
    (
        "mkdir/10",
        "mkdir d 755 ok; mkdir d 755 fails; create f ok; mkdir f 755 fails; symlink x l ok; mkdir l 755 fails",
    ),
    ("rmdir/00", "mkdir d 755 ok; rmdir d ok; stat d none"),
    ("rmdir/01", "create f ok; rmdir f/d none"),
    ("rmdir/02", "rmdir %256 bad"),
    ("rmdir/04", "rmdir d none"),
    (
        "rmdir/06",
        "mkdir d 755 ok; create d/f ok; rmdir d fails; remove d/f ok; rmdir d ok",
    ),
    ("rmdir/12", "mkdir d 755 ok; rmdir d/. ok; stat d none"),
    (
        "rmdir/13",
        "create f ok; rmdir f none; symlink x l ok; rmdir l none",
    ),
    ("rmdir/15", "rmdir / fails; rmdir . fails; rmdir .. fails"),
    (
        "unlink/00",
        "create f ok; remove f ok; stat f none; symlink x l ok; remove l ok; stat l none",
    ),
    ("unlink/01", "create f ok; remove f/g none"),
    ("unlink/02", "remove %256 bad"),
    ("unlink/04", "remove f none"),
    (
        "unlink/08",
        "mkdir d 755 ok; remove d refused; mode d 40755",
    ),
    (
        "unlink/14",
        "create f ok; open f r ok; write-last denied-or-none; remove f ok; stat-last 0",
    ),
    (
        "open/00",
        "create f ok; mode f 100644; size f 0; open f rwc ok; open f rwcx fails",
    ),
    (
        "open/00-trunc",
        "create f ok; put f hello ok; size f 5; open f wt ok; size f 0",
    ),
    ("open/01", "create f ok; open f/g rwc none"),
    ("open/02", "open %255 rwc ok; open %256 rwc bad"),
    ("open/04", "open d/f rwc none; open f r none"),
    (
        "open/13",
        "mkdir d 755 ok; open d r fails; open d w fails; open d wc fails",
    ),
    (
        "open/16",
        "symlink x l ok; open l r none; open l rwcx fails; open l wc none; stat x none",
    ),
    (
        "open/22",
        "create f ok; open f wcx fails; mkdir d 755 ok; open d wcx fails; symlink x l ok; open l wcx fails",
    ),
    (
        "open/append",
        "create f ok; put f one ok; append f two ok; get f onetwo",
    ),
    (
        "link/00",
        "create f ok; put f hello ok; link f g ok; get g hello; put g world ok; get f world; remove f ok; get g world; remove g ok; stat g none",
    ),
    ("link/01", "create f ok; link f/a g none; link f f/g none"),
    ("link/02", "create f ok; link f %256 bad; link %256 g bad"),
    ("link/04", "create f ok; link f d/g none; link nope g none"),
    (
        "link/10",
        "create f ok; create g ok; link f g fails; mkdir d 755 ok; link f d fails; symlink x l ok; link f l fails",
    ),
    ("link/11", "mkdir d 755 ok; link d e refused; stat e none"),
    (
        "symlink/00",
        "symlink target l ok; readlink l target; mode l 120777; stat target none; remove l ok",
    ),
    ("symlink/01", "create f ok; symlink x f/l none"),
    ("symlink/02", "symlink x %255 ok; symlink x %256 bad"),
    ("symlink/03", "symlink %4000 l ok; symlink %5000 m bad"),
    (
        "symlink/08",
        "create f ok; symlink x f fails; mkdir d 755 ok; symlink x d fails; symlink x l ok; symlink x l fails",
    ),
    (
        "symlink/any",
        "symlink ../../../etc/passwd l ok; readlink l ../../../etc/passwd",
    ),
    (
        "readlink",
        "create f ok; readlink f bad; mkdir d 755 ok; readlink d bad; readlink nope none",
    ),
    (
        "rename/00",
        "create f ok; put f hello ok; prename f g ok; stat f none; get g hello; mkdir d 755 ok; prename d e ok; mode e 40755; symlink x l ok; prename l m ok; readlink m x",
    ),
    (
        "rename/01",
        "create f ok; prename f %256 bad; prename %256 g bad",
    ),
    (
        "rename/03",
        "prename a b none; prename a/b c none; create f ok; prename f d/g none",
    ),
    (
        "rename/10",
        "create f ok; put f one ok; create g ok; put g two ok; prename f g ok; get g one; stat f none",
    ),
    (
        "rename/12",
        "create f ok; prename f/a g none; prename f f/a none",
    ),
    (
        "rename/13",
        "mkdir d 755 ok; create f ok; prename d f none; mode d 40755; size f 0",
    ),
    (
        "rename/14",
        "mkdir d 755 ok; create f ok; prename f d fails; mode d 40755; size f 0",
    ),
    (
        "rename/18",
        "mkdir d 755 ok; mkdir d/e 755 ok; prename d d/e/f bad; mode d/e 40755",
    ),
    (
        "rename/20",
        "mkdir d 755 ok; mkdir e 755 ok; create e/f ok; prename d e fails; remove e/f ok; prename d e ok; stat d none",
    ),
    (
        "rename/23",
        "create f ok; link f g ok; prename f g ok; size f 0; size g 0",
    ),
    (
        "rename/v3",
        "create f ok; put f one ok; create g ok; rename f g fails; get f one; rename f h ok; get h one; stat f none; mkdir d 755 ok; rename d e ok; mkdir d 755 ok; rename d e fails; symlink x l ok; rename h l fails; rename l m ok; readlink m x",
    ),
    (
        "chmod/00",
        "create f ok; chmod f 111 ok; mode f 100111; chmod f 4755 ok; mode f 100755; mkdir d 755 ok; chmod d 1700 ok; mode d 41700",
    ),
    ("chmod/01", "create f ok; chmod f/g 644 none"),
    ("chmod/02", "chmod %256 644 bad"),
    ("chmod/04", "chmod f 644 none"),
    (
        "chmod/12-set-id",
        "create f ok; chmod f 6711 ok; mode f 100711; mkdir d 755 ok; chmod d 6755 ok; mode d 42755",
    ),
    (
        "truncate/00",
        "create f ok; truncate f 100 ok; size f 100; truncate f 10 ok; size f 10; truncate f 0 ok; size f 0",
    ),
    ("truncate/01", "create f ok; truncate f/g 1 none"),
    ("truncate/02", "truncate %256 1 bad"),
    ("truncate/04", "truncate f 1 none"),
    ("truncate/09", "mkdir d 755 ok; truncate d 1 fails"),
    (
        "truncate/12",
        "create f ok; truncate f 9223372036854775808 bad; size f 0",
    ),
    (
        "ftruncate/00",
        "create f ok; open f rw ok; truncate-last 77 ok; size f 77; truncate-last 7 ok; size f 7",
    ),
    (
        "ftruncate/13",
        "create f ok; open f r ok; truncate-last 7 bad; size f 0",
    ),
    (
        "utimensat/00",
        "create f ok; utimes f 1000000000 1100000000 ok; times f 1000000000 1100000000; mkdir d 755 ok; utimes d 1 4000000000 ok; times d 1 4000000000",
    ),
    (
        "utimensat/04-link",
        "create f ok; utimes f 5 6 ok; symlink f l ok; utimes l 100 200 ok; times l 100 200; times f 5 6",
    ),
    ("utimensat/missing", "utimes f 1 2 none"),
    (
        "chown/00",
        "create f ok; chown-same f ok; chown-none f ok; chmod f 4711 ok; mode f 100711",
    ),
    ("chown/04", "chown-same f none"),
    (
        "names",
        "mkdir .hidden 755 ok; create -rf ok; create .hidden/.. fails; list . .hidden,-rf",
    ),
    (
        "paths",
        "mkdir d 755 ok; create /d//./f ok; size d/../d/f 0; size ../../d/f 0; realpath d/../.. /; realpath //d/./f/ /d/f; realpath '' /",
    ),
];

#[test]
fn table() {
    let mut wrong = Vec::new();
    for mode in MODES {
        for (row, steps) in TABLE {
            let place = Place::new();
            let mut client = Client::at(&place, mode);
            let mut last = Vec::new();
            for step in steps.split("; ") {
                if let Err(why) = take(&mut client, &place.share(""), &mut last, step) {
                    wrong.push(format!("{row} ({mode:?}): {step}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Takes a step, and says what is wrong.
fn take(client: &mut Client, share: &Path, last: &mut Vec<u8>, step: &str) -> Result<(), String> {
    let words: Vec<String> = step.split(' ').map(word).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (reply, wanted) = match words.as_slice() {
        ["mkdir", path, mode, wanted] => (client.mkdir(path, octal(mode)), *wanted),
        ["rmdir", path, wanted] => (client.path(fxp::RMDIR, path), *wanted),
        ["remove", path, wanted] => (client.path(fxp::REMOVE, path), *wanted),
        ["create", path, wanted] => {
            let reply = client.open(path, fxf::WRITE | fxf::CREAT | fxf::EXCL);
            (close(client, reply), *wanted)
        }
        ["open", path, flags, wanted] => match client.open(path, open_flags(flags)) {
            Reply::Handle(handle) => {
                *last = handle;
                (Reply::OK, *wanted)
            }
            reply => (reply, *wanted),
        },
        ["put", path, text, wanted] => (put(client, path, fxf::WRITE | fxf::TRUNC, text), *wanted),
        ["append", path, text, wanted] => {
            (put(client, path, fxf::WRITE | fxf::APPEND, text), *wanted)
        }
        ["symlink", target, path, wanted] => (client.two(fxp::SYMLINK, target, path), *wanted),
        ["link", from, to, wanted] => (
            client.extended_two("hardlink@openssh.com", from, to),
            *wanted,
        ),
        ["prename", from, to, wanted] => (
            client.extended_two("posix-rename@openssh.com", from, to),
            *wanted,
        ),
        ["rename", from, to, wanted] => (client.two(fxp::RENAME, from, to), *wanted),
        ["chmod", path, mode, wanted] => (
            client.setstat(path, &Body::new().word(4).word(octal(mode))),
            *wanted,
        ),
        ["truncate", path, size, wanted] => (
            client.setstat(path, &Body::new().word(1).long(size.parse().unwrap())),
            *wanted,
        ),
        ["truncate-last", size, wanted] => {
            let body = Body::new()
                .string(&last)
                .word(1)
                .long(size.parse().unwrap());
            (client.call(fxp::FSETSTAT, &body), *wanted)
        }
        ["write-last", wanted] => (client.write(last, 0, "x"), *wanted),
        ["utimes", path, accessed, modified, wanted] => {
            let (accessed, modified) = (accessed.parse().unwrap(), modified.parse().unwrap());
            let body = Body::new().word(8).word(accessed).word(modified);
            (client.setstat(path, &body), *wanted)
        }
        ["chown-none", path, wanted] => {
            let body = Body::new().word(2).word(u32::MAX).word(u32::MAX);
            (client.setstat(path, &body), *wanted)
        }
        ["chown-same", path, wanted] => {
            let owner = share.metadata().unwrap();
            let body = Body::new().word(2).word(owner.uid()).word(owner.gid());
            (client.setstat(path, &body), *wanted)
        }
        other => return look(client, share, last, other),
    };
    let expected: &[Reply] = match wanted {
        "ok" => &[Reply::OK],
        "none" => &[Reply::NO_SUCH_FILE],
        "bad" => &[Reply::BAD_MESSAGE],
        "fails" => &[Reply::FAILURE],
        // Which of them it is depends on the system.
        "refused" => &[Reply::FAILURE, Reply::DENIED],
        "denied-or-none" => &[Reply::NO_SUCH_FILE, Reply::DENIED],
        other => panic!("{other:?} is no outcome"),
    };
    expected
        .contains(&reply)
        .then_some(())
        .ok_or_else(|| format!("{reply:?}"))
}

/// Looks at something through the client, and at the same thing in the directory.
fn look(client: &mut Client, share: &Path, last: &[u8], words: &[&str]) -> Result<(), String> {
    let (seen, wanted) = match words {
        ["stat", path, "none"] => {
            let reply = client.path(fxp::LSTAT, path);
            let there = share.join(path).symlink_metadata().is_ok();
            (
                format!("{reply:?} {there}"),
                format!("{:?} false", Reply::NO_SUCH_FILE),
            )
        }
        ["stat-last", size] => {
            let attributes = client.handle(fxp::FSTAT, last).attributes();
            (attributes.size.to_string(), (*size).to_owned())
        }
        ["mode", path, mode] => {
            let attributes = client.path(fxp::LSTAT, path).attributes();
            let there = share.join(path).symlink_metadata().unwrap().permissions();
            assert_eq!(attributes.mode, there.mode());
            (format!("{:o}", attributes.mode), (*mode).to_owned())
        }
        ["size", path, size] => {
            let attributes = client.path(fxp::LSTAT, path).attributes();
            (attributes.size.to_string(), (*size).to_owned())
        }
        ["times", path, accessed, modified] => {
            let attributes = client.path(fxp::LSTAT, path).attributes();
            let there = share.join(path).symlink_metadata().unwrap();
            assert_eq!(i64::from(attributes.modified), there.mtime());
            let seen = format!("{} {}", attributes.accessed, attributes.modified);
            (seen, format!("{accessed} {modified}"))
        }
        ["get", path, text] => {
            let seen = client
                .read_file(path)
                .map_err(|reply| format!("{reply:?}"))?;
            assert_eq!(seen, std::fs::read(share.join(path)).unwrap());
            (String::from_utf8(seen).unwrap(), (*text).to_owned())
        }
        ["readlink", path, "none"] => {
            let reply = client.path(fxp::READLINK, path);
            (format!("{reply:?}"), format!("{:?}", Reply::NO_SUCH_FILE))
        }
        ["readlink", path, "bad"] => {
            let reply = client.path(fxp::READLINK, path);
            (format!("{reply:?}"), format!("{:?}", Reply::BAD_MESSAGE))
        }
        ["readlink", path, target] => {
            let seen = client.path(fxp::READLINK, path).name();
            (String::from_utf8(seen).unwrap(), (*target).to_owned())
        }
        ["realpath", path, wanted] => {
            let seen = client.path(fxp::REALPATH, path).name();
            (String::from_utf8(seen).unwrap(), (*wanted).to_owned())
        }
        ["list", path, names] => {
            let seen = client.list(path).map_err(|reply| format!("{reply:?}"))?;
            let mut wanted: Vec<Vec<u8>> = names.split(',').map(Vec::from).collect();
            wanted.extend([b".".to_vec(), b"..".to_vec()]);
            wanted.sort();
            (format!("{seen:?}"), format!("{wanted:?}"))
        }
        other => panic!("{other:?} is no step"),
    };
    (seen == wanted).then_some(()).ok_or(seen)
}

fn word(word: &str) -> String {
    match word.strip_prefix('%') {
        Some(count) => "n".repeat(count.parse().unwrap()),
        None if word == "''" => String::new(),
        None => word.to_owned(),
    }
}

fn octal(mode: &str) -> u32 {
    u32::from_str_radix(mode, 8).unwrap()
}

fn open_flags(letters: &str) -> u32 {
    let flag = |letter| match letter {
        'r' => fxf::READ,
        'w' => fxf::WRITE,
        'a' => fxf::APPEND,
        'c' => fxf::CREAT,
        't' => fxf::TRUNC,
        'x' => fxf::EXCL,
        other => panic!("{other:?} is no flag"),
    };
    letters.chars().map(flag).sum()
}

fn close(client: &mut Client, reply: Reply) -> Reply {
    match reply {
        Reply::Handle(handle) => client.handle(fxp::CLOSE, &handle),
        refused => refused,
    }
}

fn put(client: &mut Client, path: &str, flags: u32, text: &str) -> Reply {
    match client.open(path, flags) {
        Reply::Handle(handle) => {
            let written = client.write(&handle, 0, text);
            assert_eq!(client.handle(fxp::CLOSE, &handle), Reply::OK);
            written
        }
        refused => refused,
    }
}
