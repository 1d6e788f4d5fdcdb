//! `copy`: where files end up, whichever program copies them.

use std::fs;
use std::path::Path;

use crate::instance::Home;

const FILE: &str = "in it/it's $HOME;*";

/// Directories there and back, with and without a slash at the end, to targets that are there and that are not; names that a
/// shell would take apart.
#[test]
fn files_and_directories_land_where_they_are_sent() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let source = home.path("a dir");
    fs::create_dir_all(source.join("in it")).expect("a directory");
    fs::write(source.join("in it/it's $HOME;*"), "content").expect("a file");
    let source = source.display().to_string();
    let _ = instance
        .shell("mkdir -p '/tmp/t t/there' && echo one >~/one")
        .success();

    let copy = |arguments: &[&str]| home.run(&[&["copy"], arguments].concat()).success();
    let found = |path: &str| {
        let script = format!("cd '{path}' && find . -type f");
        instance.shell(&script).success().trim().to_owned()
    };
    for slash in ["", "/"] {
        let from = format!("{source}{slash}");
        let name = if slash.is_empty() { "new" } else { "newer" };
        copy(&["-r", &from, "x:/tmp/t t/there"]);
        assert_eq!(
            found("/tmp/t t/there"),
            format!("./a dir/{FILE}"),
            "{slash}"
        );
        copy(&["-r", &from, &format!("x:/tmp/t t/{name}")]);
        assert_eq!(
            found(&format!("/tmp/t t/{name}")),
            format!("./{FILE}"),
            "{slash}"
        );

        let (there, not_there) = (home.path("there"), home.path(name));
        fs::create_dir_all(&there).expect("a directory");
        let from = format!("x:/tmp/t t/new{slash}");
        copy(&["-r", &from, &there.display().to_string()]);
        assert_content(&there.join("new").join(FILE));
        copy(&["-r", &from, &not_there.display().to_string()]);
        assert_content(&not_there.join(FILE));
    }

    let here = home.path("one").display().to_string();
    copy(&["x:~/one", &here]);
    copy(&[&here, "x:two"]);
    assert_eq!(instance.shell("cat ~/two").success(), "one\n");

    let refused = home.run(&["copy", "x:/no/such/file", &here]);
    assert!(refused.stderr.contains("No such file"), "{refused:#?}");
    assert!(
        refused.fatal().contains("ended with exit status"),
        "{refused:#?}"
    );
    instance.stop();
}

fn assert_content(path: &Path) {
    let content = fs::read_to_string(path);
    assert_eq!(
        content.ok().as_deref(),
        Some("content"),
        "{}",
        path.display()
    );
}
