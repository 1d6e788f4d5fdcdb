//! git and cargo, at work in a shared directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{directory, entry, lines};
use crate::instance::Home;
use crate::variant::Variant;

/// The toolchain that compiled this test: it is mounted, so that the guest needs none.
fn toolchain() -> PathBuf {
    let cargo = Path::new(env!("CARGO"));
    let root = cargo.parent().and_then(Path::parent);
    root.expect("bin/cargo").to_owned()
}

/// A repository with a program and a library.
fn repository(at: &Path) {
    let files = [
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"tool\", \"words\"]\nresolver = \"3\"\n",
        ),
        (
            "tool/Cargo.toml",
            "[package]\nname = \"tool\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nwords = { path = \"../words\" }\n",
        ),
        (
            "tool/src/main.rs",
            "fn main() { println!(\"{}\", words::greeting()); }\n",
        ),
        (
            "words/Cargo.toml",
            "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        ),
        (
            "words/src/lib.rs",
            "pub fn greeting() -> String { [\"built\", \"in\", \"a\", \"share\"].join(\" \") }\n",
        ),
    ];
    for (name, text) in files {
        let path = at.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    let git = "git init -q && git add . && git -c user.name=x -c user.email=x@x commit -qm first";
    let made = Command::new("sh")
        .args(["-ec", git])
        .current_dir(at)
        .status();
    assert!(made.expect("git").success());
}

#[test]
fn a_project_is_cloned_and_built_in_a_share() {
    let home = Home::native();
    let guest = Variant::with_programs(&home, "guest");
    home.set("BERTH_TESTGUEST_ROOTFS", guest.root());
    let [source, work] = ["source", "work"].map(|name| directory(&home, name));
    repository(&source);
    let instance = home.instance(
        "x",
        &lines(&[
            entry(&source, "/mnt/source", ""),
            entry(&work, "/mnt/work", ", writable: true"),
            entry(&toolchain(), "/opt/rust", ""),
        ]),
    );
    let _ = instance.start(&[]).success();
    let script = "set -e; cd /mnt/work
        git config --global --add safe.directory '*'
        git clone -q /mnt/source project && cd project && git status --porcelain
        export PATH=/opt/rust/bin:$PATH CARGO_HOME=/tmp/cargo RUSTFLAGS='-Clinker=rust-lld'
        cargo build -q --offline --target x86_64-unknown-linux-musl
        ./target/x86_64-unknown-linux-musl/debug/tool
        echo '// more' >> words/src/lib.rs && git diff --stat | tail -n 1
        git fsck --no-progress";
    assert_eq!(
        instance.shell(script).success(),
        "built in a share\n 1 file changed, 1 insertion(+)\n"
    );
    let built = work.join("project/target/x86_64-unknown-linux-musl/debug/tool");
    let ran = Command::new(built).output().expect("a program");
    assert_eq!(ran.stdout, b"built in a share\n");
    instance.stop();
    home.assert_nothing_left();
}
