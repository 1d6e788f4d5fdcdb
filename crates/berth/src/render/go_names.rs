//! Names that Go templates use for the keys of JSON: `{{.Config.SSH.LocalPort}}` is `config.ssh.localPort`.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::Value as GoValue;
use serde_json::Value;

/// Under this key a value with Go's names keeps its original JSON. No template can spell it.
const ORIGINAL: &str = "\0json";

/// Keys whose values are maps of the user's own keys, not of fields.
const FREE_KEYS: [&str; 4] = ["param", "env", "hosts", "cpuType"];

/// Fields whose Go name is more than the key with a capital first letter.
const IRREGULAR: [(&str, &str); 24] = [
    ("9p", "NineP"),
    ("caCerts", "CACertificates"),
    ("cpuType", "CPUType"),
    ("cpus", "CPUs"),
    ("dns", "DNS"),
    ("fsArgs", "FSArgs"),
    ("fsType", "FSType"),
    ("ipv6", "IPv6"),
    ("macAddress", "MACAddress"),
    ("os", "OS"),
    ("qemu", "QEMU"),
    ("sftpDriver", "SFTPDriver"),
    ("ssh", "SSH"),
    ("sshfs", "SSHFS"),
    ("timezone", "TimeZone"),
    ("tpm", "TPM"),
    ("uid", "UID"),
    ("vmOpts", "VMOpts"),
    ("vmType", "VMType"),
    ("vnc", "VNC"),
    ("vz", "VZ"),
    ("vzNAT", "VZNAT"),
    ("wsl2", "WSL2"),
    ("osOpts", "OSOpts"),
];

/// Turns JSON into a template value whose objects have Go's field names.
pub(crate) fn to_go(value: &Value) -> GoValue {
    match value {
        Value::Object(fields) => {
            let mut named: BTreeMap<Arc<str>, GoValue> = fields
                .iter()
                .map(|(key, value)| {
                    let value = if FREE_KEYS.contains(&key.as_str()) {
                        with_free_keys(value)
                    } else {
                        to_go(value)
                    };
                    (Arc::from(go_name(key)), value)
                })
                .collect();
            named.insert(ORIGINAL.into(), GoValue::String(value.to_string().into()));
            GoValue::Map(Arc::new(named))
        }
        Value::Array(items) => GoValue::List(items.iter().map(to_go).collect()),
        other => scalar(other),
    }
}

/// Turns JSON into a template value with the keys as they are.
pub(crate) fn with_free_keys(value: &Value) -> GoValue {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter();
            GoValue::Map(Arc::new(
                fields
                    .map(|(key, value)| (Arc::from(key.as_str()), with_free_keys(value)))
                    .collect(),
            ))
        }
        Value::Array(items) => GoValue::List(items.iter().map(with_free_keys).collect()),
        other => scalar(other),
    }
}

/// Gives a value with Go's names the JSON that it stands for.
pub(crate) fn remember_json(fields: &mut BTreeMap<Arc<str>, GoValue>, json: &Value) {
    fields.insert(ORIGINAL.into(), GoValue::String(json.to_string().into()));
}

/// Turns a template value back into JSON with JSON's names.
pub(crate) fn to_json(value: &GoValue) -> Value {
    match value {
        GoValue::Bool(value) => (*value).into(),
        GoValue::Int(number) => (*number).into(),
        GoValue::Uint(number) => (*number).into(),
        GoValue::Float(number) => (*number).into(),
        GoValue::String(text) => Value::from(&**text),
        GoValue::List(items) => items.iter().map(to_json).collect(),
        GoValue::Map(fields) => {
            if let Some(GoValue::String(json)) = fields.get(ORIGINAL) {
                return serde_json::from_str(json).unwrap_or(Value::Null);
            }
            let fields = fields
                .iter()
                .map(|(key, value)| (key.to_string(), to_json(value)));
            Value::Object(fields.collect())
        }
        _ => Value::Null,
    }
}

fn scalar(value: &Value) -> GoValue {
    match value {
        Value::Bool(value) => GoValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => GoValue::Int(number),
            (_, Some(number), _) => GoValue::Uint(number),
            (_, _, number) => GoValue::Float(number.unwrap_or(f64::NAN)),
        },
        Value::String(text) => GoValue::String(text.as_str().into()),
        _ => GoValue::Nil,
    }
}

fn go_name(key: &str) -> String {
    if let Some((_, name)) = IRREGULAR.iter().find(|(json, _)| *json == key) {
        return (*name).to_owned();
    }
    let mut letters = key.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_get_gos_names_and_the_users_keys_stay() {
        let go = to_go(
            &json!({"vmType": "qemu", "mounts": [{"mountPoint": "/m"}], "param": {"vmType": "mine"}}),
        );
        assert_eq!(go.field("VMType").and_then(GoValue::as_str), Some("qemu"));
        let Some(GoValue::List(mounts)) = go.field("Mounts") else {
            panic!("{go}")
        };
        assert_eq!(
            mounts[0].field("MountPoint").and_then(GoValue::as_str),
            Some("/m")
        );
        let param = go.field("Param").unwrap();
        assert_eq!(
            param.field("vmType").and_then(GoValue::as_str),
            Some("mine")
        );
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let json = json!({"ssh": {"localPort": 60022, "forwardAgent": false}, "dns": ["1.1.1.1"], "env": {"A": "b"}});
        assert_eq!(to_json(&to_go(&json)), json);
    }
}
