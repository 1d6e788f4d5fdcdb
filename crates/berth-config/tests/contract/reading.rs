use berth_config::ConfigError;
use berth_config::yaml::{MAX_FILE_SIZE, load, load_file, load_file_if_present};

use super::lines;

/// Every refusal has its place, its key, and what was expected.
#[test]
fn wrong_types_and_broken_syntax_are_refused_where_they_stand() {
    for (text, expected) in [
        (
            "cpus: four\n",
            "lima.yaml:1:7: field `cpus`: expected a whole number",
        ),
        (
            "cpus: 4.5\n",
            "lima.yaml:1:7: field `cpus`: expected a whole number",
        ),
        (
            "# one\n\nplain: yes\n",
            "lima.yaml:3:8: field `plain`: expected true or false",
        ),
        (
            "user: {uid: -1}\n",
            "lima.yaml:1:13: field `user.uid`: expected a whole number from 0 to 4294967295",
        ),
        (
            "mounts: {a: b}\n",
            "lima.yaml:1:9: field `mounts`: expected a list",
        ),
        (
            "ssh: 22\n",
            "lima.yaml:1:6: field `ssh`: expected a mapping of keys to values",
        ),
        (
            "- a\n",
            "lima.yaml:1:1: expected a mapping of keys to values",
        ),
        (
            "images:\n- location: a\n- location: [a]\n",
            "lima.yaml:3:13: field `images[1].location`: expected a text",
        ),
        (
            "env:\n  A: 1\n  B: [1]\n",
            "lima.yaml:3:6: field `env.B`: expected a text",
        ),
        (
            "cpus: 1\nuser:\n  uid: 2\n  uid: 2\n",
            "lima.yaml:4:3: key `uid` is written twice: remove one",
        ),
        (
            "cpus: 1\ncpus: 1\n",
            "lima.yaml:2:1: key `cpus` is written twice: remove one",
        ),
        (
            "portForwards:\n- guestPortRange: [1]\n",
            "lima.yaml:2:3: field `portForwards[0].guestPortRange`: expected an array of length 2, found 1 entries",
        ),
        (
            "base: 1\n",
            "lima.yaml:1:1: field `base`: expected a string, a mapping with `url`, or a list of these, found integer `1`",
        ),
        (
            "ssh:\n  localPort: *x\n",
            "lima.yaml:2:14: alias references unknown anchor",
        ),
        (
            "images: [\n",
            "lima.yaml:1:9: field `images`: unclosed bracket '['",
        ),
    ] {
        let error = load(text, "lima.yaml").expect_err(text);
        assert!(matches!(error, ConfigError::Yaml { .. }), "{text:?}");
        assert_eq!(error.to_string(), expected, "{text:?}");
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    for text in [
        "\u{0}",
        "%",
        "&",
        "*",
        "{",
        "a: b: c",
        "? [a]\n: b",
        "\"",
        "a:\n\t- b",
        "!!binary x",
        "---\n--- a\n- b\nc",
    ] {
        let _ = load(text, "lima.yaml");
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        + "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
        + "f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert!(load(&bomb, "lima.yaml").is_err());
}

#[test]
fn unknown_keys_are_warnings_with_their_place() {
    let loaded = load(
        "cpu: 1\nssh:\n  localPort: 1\n  port: 2\nimages:\n- location: x\n  kernel: {locaton: z}\nadditionalDisks: [a, {name: b, fmt: c}]\nbase: {url: x, hash: y}\n",
        "lima.yaml",
    )
    .expect("types are right");
    let unknown = |at: &str, key: &str| {
        format!("lima.yaml:{at}: field `{key}`: unknown key, ignored: check the spelling")
    };
    assert_eq!(
        lines(&loaded.warnings),
        [
            unknown("1:1", "cpu"),
            unknown("4:3", "ssh.port"),
            unknown("7:12", "images[0].kernel.locaton"),
            unknown("8:32", "additionalDisks[1].fmt"),
            unknown("9:16", "base.hash"),
        ]
    );
}

#[test]
fn nulls_and_empty_documents_mean_nothing() {
    for text in [
        "",
        "# only a comment\n",
        "---\n",
        "null\n",
        "~",
        "images:\nssh:\nenv: null\nbase: ~\ncpus:\nvmOpts:\n",
    ] {
        let loaded = load(text, "lima.yaml").expect(text);
        assert_eq!(
            loaded.yaml,
            berth_config::schema::LimaYaml::default(),
            "{text:?}"
        );
        assert!(loaded.warnings.is_empty(), "{text:?}");
    }
    let yaml = load("param: {a: null, b: ~}\ndns: [null]\n", "lima.yaml")
        .expect("nulls")
        .yaml;
    assert_eq!(yaml.param.values().collect::<Vec<_>>(), ["", ""]);
    assert_eq!(yaml.dns, [""]);
}

/// The scalars of Lima's own reader.
#[test]
fn scalars_mean_what_they_mean_to_lima() {
    let yaml = load(
        "cpus: \"4\"\nmemory: 4\nenv: {A: 1.10, B: yes, C: 0644, D: true}\nprovision: [{script: !!binary aGVsbG8=}]\nvmOpts: {x: {mode: 0644, on: on, n: 1_000}}\n",
        "lima.yaml",
    )
    .expect("all are accepted")
    .yaml;
    assert_eq!(yaml.cpus, Some(4));
    assert_eq!(yaml.memory.as_deref(), Some("4"));
    assert_eq!(
        yaml.env.values().collect::<Vec<_>>(),
        ["1.10", "yes", "0644", "true"]
    );
    assert_eq!(yaml.provision[0].script.as_deref(), Some("hello"));
    let opts = yaml.vm_opts.expect("vmOpts");
    assert_eq!(
        opts["x"],
        serde_json::json!({"mode": 420, "on": "on", "n": 1000})
    );
}

#[test]
fn the_first_document_wins_and_merge_keys_work() {
    for text in [
        "cpus: 1\n---\ncpus: 2\n",
        "cpus: 1\n...\n%%%garbage\n",
        "---\ncpus: 1\n---\n- no mapping\n",
    ] {
        assert_eq!(
            load(text, "lima.yaml").expect(text).yaml.cpus,
            Some(1),
            "{text:?}"
        );
    }
    let merged = load(
        "x: &x {localPort: 1, forwardAgent: true}\nssh:\n  <<: *x\n  localPort: 2\n",
        "f",
    )
    .expect("merge keys")
    .yaml;
    assert_eq!(merged.ssh.local_port, Some(2));
    assert_eq!(merged.ssh.forward_agent, Some(true));
}

#[test]
fn files_that_cannot_be_read_say_which_and_why() {
    let dir = tempfile::tempdir().expect("tempdir");
    let missing = dir.path().join("none.yaml");
    let error = load_file(&missing).expect_err("missing");
    assert_eq!(
        error.to_string(),
        format!("cannot read the configuration file {}", missing.display())
    );
    assert!(std::error::Error::source(&error).is_some());
    assert!(load_file_if_present(&missing).is_ok());
    assert!(matches!(
        load_file_if_present(dir.path()),
        Err(ConfigError::Read { .. })
    ));

    let binary = dir.path().join("disk.yaml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).expect("write");
    assert!(matches!(load_file(&binary), Err(ConfigError::Read { .. })));

    let large = dir.path().join("large.yaml");
    let file = std::fs::File::create(&large).expect("create");
    file.set_len(MAX_FILE_SIZE + 1).expect("sparse file");
    assert!(matches!(
        load_file(&large),
        Err(ConfigError::TooLarge { .. })
    ));
}
