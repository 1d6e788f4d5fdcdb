//! The fields of an instance in their two spellings: keys of `list --json`, names in Go templates.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::Value as GoValue;
use serde_json::{Map, Value};

use super::go_names;

/// What a template gets where JSON leaves an empty field out.
#[derive(Debug, Clone, Copy)]
enum Empty {
    Text,
    Number,
    List,
    Map,
}

struct Field {
    json: &'static str,
    go: &'static str,
    empty: Empty,
}

const fn field(json: &'static str, go: &'static str, empty: Empty) -> Field {
    Field { json, go, empty }
}

/// In the order of the names in Go, as `--list-fields` prints them.
const FIELDS: [Field; 25] = [
    field("additionalDisks", "AdditionalDisks", Empty::List),
    field("arch", "Arch", Empty::Text),
    field(
        "autoStartedIdentifier",
        "AutoStartedIdentifier",
        Empty::Text,
    ),
    field("berthForwards", "BerthForwards", Empty::List),
    field("berthState", "BerthState", Empty::Map),
    field("cpus", "CPUs", Empty::Number),
    field("config", "Config", Empty::Map),
    field("dir", "Dir", Empty::Text),
    field("disk", "Disk", Empty::Number),
    field("driverPID", "DriverPID", Empty::Number),
    field("errors", "Errors", Empty::List),
    field("hostAgentPID", "HostAgentPID", Empty::Number),
    field("hostname", "Hostname", Empty::Text),
    field("limaVersion", "LimaVersion", Empty::Text),
    field("memory", "Memory", Empty::Number),
    field("message", "Message", Empty::Text),
    field("name", "Name", Empty::Text),
    field("network", "Networks", Empty::List),
    field("param", "Param", Empty::Map),
    field("protected", "Protected", Empty::Text),
    field("sshAddress", "SSHAddress", Empty::Text),
    field("sshConfigFile", "SSHConfigFile", Empty::Text),
    field("sshLocalPort", "SSHLocalPort", Empty::Number),
    field("status", "Status", Empty::Text),
    field("vmType", "VMType", Empty::Text),
];

/// Fields of the host, which every instance shows. Templates know them by the same names; `--list-fields` does not list them.
const HOST_FIELDS: [&str; 4] = ["HostOS", "HostArch", "LimaHome", "IdentityFile"];

/// The names that templates can use.
pub(crate) fn field_names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|field| field.go)
}

/// Gives the fields of `list --json` the names and the empty values that a Go template sees.
pub(crate) fn template_value(json: &Map<String, Value>) -> GoValue {
    let mut fields: BTreeMap<Arc<str>, GoValue> = FIELDS
        .iter()
        .map(|field| {
            let value = match json.get(field.json) {
                Some(value) if field.json == "param" => go_names::with_free_keys(value),
                Some(value) => go_names::to_go(value),
                None => empty(field.empty),
            };
            (field.go.into(), value)
        })
        .collect();
    for name in HOST_FIELDS {
        let value = json.get(name).map_or(GoValue::Nil, go_names::to_go);
        fields.insert(name.into(), value);
    }
    go_names::remember_json(&mut fields, &Value::Object(json.clone()));
    GoValue::Map(Arc::new(fields))
}

fn empty(kind: Empty) -> GoValue {
    match kind {
        Empty::Text => GoValue::String("".into()),
        Empty::Number => GoValue::Int(0),
        Empty::List => GoValue::List(Arc::new([])),
        Empty::Map => GoValue::Map(Arc::default()),
    }
}
