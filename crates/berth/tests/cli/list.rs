//! `list` and `status`, of instances that do not run.

use std::fs;

use serde_json::Value;

use crate::sandbox::Sandbox;

const TWO_CPUS: &str = "arch: aarch64\ncpus: 2\nmemory: 2GiB\ndisk: 10GiB\nvmType: qemu\n\
                        ssh: {localPort: 60022}\nparam: {Color: red}\n\
                        message: 'Name {{.Name}}, color {{.Param.Color}}, port {{.SSHLocalPort}}'\n\
                        images: [{location: /i, arch: aarch64}]\n";

#[test]
fn the_table_shows_every_field_to_a_pipe() {
    let sandbox = Sandbox::new();
    sandbox.existing("b", TWO_CPUS);
    sandbox.existing("alpha", TWO_CPUS);
    let home = sandbox.lima_home().display().to_string();
    assert_eq!(
        sandbox.run(&["list"]).success(),
        format!(
            "\
NAME     STATUS     SSH                VMTYPE    ARCH       CPUS    MEMORY    DISK     DIR
alpha    Stopped    127.0.0.1:60022    qemu      aarch64    2       2GiB      10GiB    {home}/alpha
b        Stopped    127.0.0.1:60022    qemu      aarch64    2       2GiB      10GiB    {home}/b
"
        )
    );
}

#[test]
fn json_is_one_object_a_line_with_limas_keys() {
    let sandbox = Sandbox::new();
    sandbox.existing("a", TWO_CPUS);
    sandbox.existing("b", TWO_CPUS);
    let text = sandbox.run(&["ls", "--json"]).success();
    assert_eq!(text, sandbox.run(&["ls", "--format", "json"]).success());
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    let keys: Vec<_> = lines[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "name",
            "hostname",
            "status",
            "dir",
            "vmType",
            "arch",
            "cpus",
            "memory",
            "disk",
            "message",
            "sshLocalPort",
            "sshConfigFile",
            "config",
            "sshAddress",
            "protected",
            "limaVersion",
            "param",
            "HostOS",
            "HostArch",
            "LimaHome",
            "IdentityFile",
            "berthState"
        ]
    );
    assert_eq!(lines[0]["hostname"], "lima-a");
    assert_eq!(lines[0]["memory"], 2_147_483_648_u64);
    assert_eq!(lines[0]["limaVersion"], "2.1.0");
    assert_eq!(lines[0]["message"], "Name a, color red, port 60022");
    assert_eq!(lines[0]["berthState"]["state"], "stopped");
}

#[test]
fn yaml_has_one_document_for_each() {
    let sandbox = Sandbox::new();
    sandbox.existing("a", TWO_CPUS);
    sandbox.existing("b", TWO_CPUS);
    let text = sandbox.run(&["list", "--format=yaml"]).success();
    assert_eq!(text.matches("---\n").count(), 2, "{text}");
    assert!(text.contains("\nsshLocalPort: 60022\n"), "{text}");
}

#[test]
fn a_template_is_filled_for_each() {
    let sandbox = Sandbox::new();
    sandbox.existing("a", TWO_CPUS);
    sandbox.existing("b", TWO_CPUS);
    let filled = |template: &str| sandbox.run(&["ls", "-f", template, "b", "a"]).success();
    assert_eq!(filled("{{.Name}} {{.Status}}"), "b Stopped\na Stopped\n");
    assert_eq!(filled("{{.Config.SSH.LocalPort}}"), "60022\n60022\n");
    let wrong = sandbox.run(&["ls", "-f", "{{.Nope}}"]).fatal();
    assert!(wrong.contains("\"a\"") && wrong.contains("Nope"), "{wrong}");
}

#[test]
fn quiet_prints_names_without_looking_at_the_instances() {
    let sandbox = Sandbox::new();
    sandbox.existing("a", "cpus: [");
    sandbox.existing("b", TWO_CPUS);
    let outcome = sandbox.run(&["ls", "-q"]);
    assert_eq!(outcome.stderr, "");
    assert_eq!(outcome.success(), "a\nb\n");
    assert_eq!(sandbox.run(&["ls", "-q", "b"]).success(), "b\n");
}

#[test]
fn a_missing_instance_fails_after_the_others_are_shown() {
    let sandbox = Sandbox::new();
    sandbox.existing("a", TWO_CPUS);
    let outcome = sandbox.run(&["ls", "-f", "{{.Name}}", "x", "a"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), "a\n"));
    assert!(
        outcome
            .stderr
            .contains("level=warning msg=\"No instance matching x found.\"")
    );
    assert!(
        outcome
            .stderr
            .ends_with("level=fatal msg=\"unmatched instances\"\n"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_cannot_be_read_is_listed_all_the_same() {
    let sandbox = Sandbox::new();
    sandbox.existing("broken", "cpus: [\n");
    sandbox.existing("fine", TWO_CPUS);
    fs::create_dir(sandbox.instance("empty")).unwrap();
    let outcome = sandbox.run(&["ls", "--json"]);
    assert!(
        outcome.stderr.contains("lima.yaml:"),
        "the place: {}",
        outcome.stderr
    );
    let text = outcome.success();
    let of = |name: &str| -> Value {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("\"name\":\"{name}\"")));
        serde_json::from_str(line.unwrap()).unwrap()
    };
    assert_eq!(of("fine")["status"], "Stopped");
    assert_eq!(of("broken")["status"], "");
    assert!(
        of("broken")["errors"][0]
            .as_str()
            .unwrap()
            .contains("lima.yaml:")
    );
    assert_eq!(of("empty")["status"], "Broken");
}

#[test]
fn list_fields_names_what_templates_can_use() {
    let text = Sandbox::new().run(&["list", "--list-fields"]).success();
    for name in ["Name", "SSHLocalPort", "VMType", "Config"] {
        assert!(text.lines().any(|line| line == name), "{name}");
    }
}

#[test]
fn status_is_for_people() {
    let sandbox = Sandbox::new();
    sandbox.existing("a", TWO_CPUS);
    let text = sandbox.run(&["status", "a"]).success();
    assert!(
        text.contains("state       stopped\n") && text.contains("127.0.0.1:60022"),
        "{text}"
    );
    let message = sandbox.run(&["status", "a", "--timeline"]).fatal();
    assert!(message.contains("timeline.json"), "{message}");
}

#[test]
fn the_last_start_is_printed_and_drawn() {
    let sandbox = Sandbox::new();
    let dir = sandbox.existing("a", TWO_CPUS);
    let timeline = r#"{"began":"2026-11-23T18:00:00Z","readyMs":1500.0,"phases":[
        {"name":"prepare","startMs":0.0,"endMs":40.0,"outcome":"ok"},
        {"name":"<essential>","startMs":40.0,"endMs":1500.0,"outcome":"ok"}]}"#;
    fs::write(dir.join("timeline.json"), timeline).unwrap();
    let svg = sandbox.root().join("work/start.svg");
    let text = sandbox
        .run(&["status", "a", "--timeline", "--svg", "start.svg"])
        .success();
    assert!(text.contains("prepare") && text.contains("1.4"), "{text}");
    let drawing = fs::read_to_string(svg).unwrap();
    assert!(
        drawing.starts_with("<svg") && drawing.contains("&lt;essential&gt;"),
        "{drawing}"
    );
    fs::write(dir.join("timeline.json"), "{").unwrap();
    let message = sandbox.run(&["status", "a", "--timeline"]).fatal();
    assert!(message.contains("timeline.json is damaged"), "{message}");
}
