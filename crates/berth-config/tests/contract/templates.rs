use std::path::{Path, PathBuf};

use berth_config::model::Arch;
use berth_config::template::{FetchError, Library, Locator, Template};
use berth_config::yaml::load;
use berth_config::{resolve, validate};

use super::{context, lines, linux, sources};

/// A web of two pages.
fn fetch(url: &str) -> Result<String, FetchError> {
    match url {
        "https://x.org/t/base.yaml" => Ok("base: more.yaml\ncpus: 2\n".to_owned()),
        "https://x.org/t/more.yaml" => Ok("provision: [{file: s.sh}]\n".to_owned()),
        "https://x.org/t/s.sh" => Ok("#!/bin/sh\n\techo hi\n".to_owned()),
        _ => Err("404 Not Found".into()),
    }
}

struct Shelf {
    dir: tempfile::TempDir,
    directories: Vec<PathBuf>,
}

impl Shelf {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        }
        Self {
            directories: vec![dir.path().join("_templates")],
            dir,
        }
    }

    fn library(&self) -> Library<'_> {
        Library {
            directories: &self.directories,
            user_base: None,
            home: Path::new("/home/jane"),
            host_arch: Arch::X8664,
            fetch: &fetch,
        }
    }

    fn locator(&self, argument: &str) -> Locator {
        Locator::parse(argument, self.dir.path()).expect(argument)
    }

    fn embed(&self, argument: &str) -> Result<String, String> {
        let library = self.library();
        library
            .read(&self.locator(argument))
            .and_then(|template| library.embed(template))
            .map(|template| template.text)
            .map_err(|error| {
                error
                    .to_string()
                    .replace(&self.dir.path().display().to_string(), "DIR")
            })
    }
}

#[test]
fn what_cannot_be_embedded_says_why() {
    let shelf = Shelf::new(&[
        ("missing.yaml", "base: nowhere.yaml\n"),
        ("outside.yaml", "base: a/../../x.yaml\n"),
        ("self.yaml", "base: self.yaml\n"),
        ("twice.yaml", "base: [leaf.yaml, leaf.yaml]\n"),
        ("leaf.yaml", "cpus: 1\n"),
        (
            "digest.yaml",
            "base: {url: leaf.yaml, digest: 'sha256:00'}\n",
        ),
        (
            "script.yaml",
            "provision: [{file: {url: s.sh, digest: x}}]\n",
        ),
        ("types.yaml", "base: bad.yaml\n"),
        ("bad.yaml", "cpus: many\n"),
        ("web.yaml", "base: https://x.org/none.yaml\n"),
        ("image.yaml", "base: https://x.org/a.img\n"),
        ("stdin.yaml", "base: '-'\n"),
        ("unknown.yaml", "base: template:nope\n"),
        ("scheme.yaml", "base: github:org\n"),
    ]);
    for (template, expected) in [
        (
            "none.yaml",
            "cannot read the configuration file DIR/none.yaml",
        ),
        (
            "missing.yaml",
            "cannot read the configuration file DIR/nowhere.yaml",
        ),
        (
            "outside.yaml",
            "\"a/../../x.yaml\" must not contain `..`: it would lead out of the directory it stands in",
        ),
        (
            "self.yaml",
            "base template loop: DIR/self.yaml is embedded already; name each base once",
        ),
        (
            "twice.yaml",
            "base template loop: DIR/leaf.yaml is embedded already; name each base once",
        ),
        (
            "digest.yaml",
            "`base` of DIR/digest.yaml has a digest, which is not supported here: remove it",
        ),
        (
            "script.yaml",
            "`file` of DIR/script.yaml has a digest, which is not supported here: remove it",
        ),
        (
            "types.yaml",
            "DIR/bad.yaml:1:7: field `cpus`: expected a whole number",
        ),
        ("web.yaml", "cannot fetch https://x.org/none.yaml"),
        (
            "image.yaml",
            "\"https://x.org/a.img\" in DIR/image.yaml is no template: write a path, `template:NAME` or an address",
        ),
        (
            "stdin.yaml",
            "\"-\" in DIR/stdin.yaml is no template: write a path, `template:NAME` or an address",
        ),
        (
            "unknown.yaml",
            "template \"nope\" does not exist; searched DIR/_templates",
        ),
        (
            "scheme.yaml",
            "\"github:org\": locators of scheme `github:` are not supported; use a path, `template:NAME` or an https:// address",
        ),
    ] {
        assert_eq!(
            shelf.embed(template),
            Err(expected.to_owned()),
            "{template}"
        );
    }
    let stdin = Template::from_stdin("base: leaf.yaml\n".to_owned());
    let error = shelf.library().embed(stdin).expect_err("relative");
    assert_eq!(
        error.to_string(),
        "\"leaf.yaml\" is relative, and a template from standard input has no directory: write an absolute one"
    );
}

#[test]
fn a_template_without_bases_stays_byte_for_byte() {
    let text = "# comment\nimages:   [ {location: /i} ] # more\n\n";
    let shelf = Shelf::new(&[("t.yaml", text)]);
    assert_eq!(shelf.embed("t.yaml").as_deref(), Ok(text));
}

#[test]
fn bases_are_embedded_depth_first() {
    let shelf = Shelf::new(&[
        (
            "t.yaml",
            "base: [a.yaml, sub/b.yaml]\nprovision: [{script: t}]\nimages: [{location: /t}]\nparam: {V: 1.10}\n",
        ),
        (
            "a.yaml",
            "base: a2.yaml\nprovision: [{script: a}]\nimages: [{location: /a}]\ncpus: 1\n",
        ),
        (
            "a2.yaml",
            "provision: [{script: a2}]\nimages: [{location: /a2}]\ncpus: 2\nmemory: 2GiB\n",
        ),
        (
            "sub/b.yaml",
            "base: c.yaml\nprovision: [{script: b}]\nmemory: 3GiB\n",
        ),
        ("sub/c.yaml", "disk: 10GiB\n"),
    ]);
    let text = shelf.embed("t.yaml").expect("embeds");
    let yaml = load(&text, "t").expect(&text).yaml;
    assert!(yaml.base.is_empty());
    let scripts: Vec<_> = yaml
        .provision
        .iter()
        .filter_map(|it| it.script.as_deref())
        .collect();
    assert_eq!(scripts, ["b", "a2", "a", "t"]);
    let images: Vec<_> = yaml
        .images
        .iter()
        .filter_map(|it| it.location.as_deref())
        .collect();
    assert_eq!(images, ["/t", "/a", "/a2"]);
    assert_eq!(yaml.cpus, Some(1));
    assert_eq!(yaml.memory.as_deref(), Some("2GiB"));
    assert_eq!(yaml.disk.as_deref(), Some("10GiB"));
    assert_eq!(yaml.param["V"], "1.10", "scalars are not reformatted");
}

#[test]
fn scripts_in_files_become_part_of_the_template() {
    let shelf = Shelf::new(&[
        (
            "t.yaml",
            "provision:\n- {mode: data, path: /x, file: f/data}\n- {mode: yq, path: /x, file: f/data}\n- {script: own, file: nowhere}\nprobes:\n- file: f/probe.sh\n",
        ),
        ("f/data", "0644\n"),
        ("f/probe.sh", "#!/bin/sh\n  true\n\n\n"),
    ]);
    let text = shelf.embed("t.yaml").expect("embeds");
    let yaml = load(&text, "t").expect(&text).yaml;
    assert_eq!(yaml.provision[0].content.as_deref(), Some("0644\n"));
    assert_eq!(yaml.provision[1].expression.as_deref(), Some("0644\n"));
    assert_eq!(yaml.provision[2].script.as_deref(), Some("own"));
    assert_eq!(
        yaml.probes[0].script.as_deref(),
        Some("#!/bin/sh\n  true\n\n\n")
    );
    assert!(yaml.provision.iter().all(|entry| entry.file.is_none()));
}

#[test]
fn bases_on_the_web_are_relative_to_their_address() {
    let shelf = Shelf::new(&[]);
    let text = shelf.embed("https://x.org/t/base.yaml").expect("embeds");
    let yaml = load(&text, "t").expect(&text).yaml;
    assert_eq!(yaml.cpus, Some(2));
    assert_eq!(
        yaml.provision[0].script.as_deref(),
        Some("#!/bin/sh\n\techo hi\n")
    );
    assert!(
        text.contains("\techo hi"),
        "a script stays readable: {text}"
    );
}

#[test]
fn the_user_s_base_comes_before_the_template_s_bases() {
    let shelf = Shelf::new(&[
        ("t.yaml", "base: b.yaml\n"),
        ("b.yaml", "cpus: 1\nmemory: 1GiB\n"),
        ("_config/base.yaml", "cpus: 2\n"),
    ]);
    let user_base = shelf.dir.path().join("_config/base.yaml");
    let mut library = shelf.library();
    library.user_base = Some(&user_base);
    let template = library.read(&shelf.locator("t.yaml")).expect("reads");
    let text = library.embed(template).expect("embeds").text;
    assert_eq!(text, "cpus: 2\nmemory: 1GiB\n");
    let missing = shelf.dir.path().join("none.yaml");
    library.user_base = Some(&missing);
    let template = library.read(&shelf.locator("b.yaml")).expect("reads");
    assert_eq!(
        library.embed(template).expect("embeds").text,
        "cpus: 1\nmemory: 1GiB\n"
    );
}

#[test]
fn the_user_s_templates_hide_the_built_in_ones() {
    let shelf = Shelf::new(&[
        ("_templates/debian-12.yaml", "cpus: 7\n"),
        ("_templates/_images/x-1.2.yaml", "cpus: 8\n"),
        ("_templates/y.yml", "base: _images/x-1.2\n"),
    ]);
    assert_eq!(
        shelf.embed("template:debian-12").as_deref(),
        Ok("cpus: 7\n")
    );
    assert_eq!(
        shelf.embed("template:_images/x-1.2").as_deref(),
        Ok("cpus: 8\n")
    );
    assert_eq!(shelf.embed("template:y.yml").as_deref(), Ok("cpus: 8\n"));
    // The built-in default is based on whatever has that name now.
    assert_eq!(shelf.embed("some-instance").as_deref(), Ok("cpus: 7\n"));
}

/// What berth brings along must start on every architecture that it has an image for.
#[test]
fn built_in_templates_resolve_without_a_remark() {
    let shelf = Shelf::new(&[]);
    let platform = linux();
    for template in ["template:default", "template:debian-12", "new-instance"] {
        let text = shelf.embed(template).expect(template);
        for arch in ["x86_64", "aarch64", "ppc64le"] {
            let sources = sources("", &format!("{text}arch: {arch}\n"), "");
            let resolved = resolve(&sources, &context(&platform)).expect(template);
            assert_eq!(lines(&resolved.warnings), Vec::<String>::new());
            assert_eq!(
                lines(&validate(&resolved, &context(&platform))),
                Vec::<String>::new()
            );
            let config = resolved.config;
            assert!(
                config
                    .images
                    .iter()
                    .any(|image| image.file.arch == config.arch)
            );
        }
    }
}

#[test]
fn a_bare_image_becomes_a_template() {
    let shelf = Shelf::new(&[]);
    let text = shelf.embed("./Debian-12-arm64.qcow2").expect("synthesised");
    let yaml = load(&text, "t").expect(&text).yaml;
    assert_eq!(yaml.arch.as_deref(), Some("aarch64"));
    let location = yaml.images[0].location.as_deref().map(PathBuf::from);
    assert_eq!(
        location,
        Some(shelf.dir.path().join("./Debian-12-arm64.qcow2"))
    );
}
