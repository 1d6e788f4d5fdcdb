//! `--format`: a Go template over the fields of an instance, with Lima's helper functions.

use gotmpl::{MissingKey, Template, TemplateError, Value as GoValue};
use serde_json::{Map, Value};

use super::{go_names, instance};

/// A template of the user's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// It cannot be read.
    #[error("cannot read the template {text:?}")]
    Syntax {
        /// The template.
        text: String,
        /// Why not.
        source: TemplateError,
    },
    /// It asks for something that is not there.
    #[error("cannot fill the template {text:?}; `berth list --list-fields` names the fields")]
    Fill {
        /// The template.
        text: String,
        /// Why not.
        source: TemplateError,
    },
}

/// What a template gets for a name that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// An error.
    Refused,
    /// The text `<no value>`.
    NoValue,
}

/// A parsed template.
pub(crate) struct InstanceTemplate {
    text: String,
    template: Template,
}

impl InstanceTemplate {
    /// Parses Go's template language.
    pub(crate) fn parse(text: &str, unknown: Unknown) -> Result<Self, FormatError> {
        let template = Template::new("format")
            .missing_key(match unknown {
                Unknown::Refused => MissingKey::Error,
                Unknown::NoValue => MissingKey::Invalid,
            })
            .func("json", |args| {
                Ok(string(go_names::to_json(only(args)?).to_string()))
            })
            .func("yaml", |args| {
                yaml(&go_names::to_json(only(args)?)).map(string)
            })
            .func("indent", |args| indent(args).map(string))
            .func("missing", |args| missing(args).map(string))
            .parse(text)
            .map_err(|source| FormatError::Syntax {
                text: text.to_owned(),
                source,
            })?;
        Ok(Self {
            text: text.to_owned(),
            template,
        })
    }

    /// Fills the template with one instance, as `list --json` shows it.
    pub(crate) fn fill(&self, json: &Map<String, Value>) -> Result<String, FormatError> {
        let filled = self
            .template
            .execute_to_string(&instance::template_value(json));
        filled.map_err(|source| FormatError::Fill {
            text: self.text.clone(),
            source,
        })
    }
}

/// A value in YAML, without a line feed at its end.
pub(crate) fn yaml(value: &Value) -> Result<String, TemplateError> {
    serde_saphyr::to_string(value)
        .map(|text| text.trim_end().to_owned())
        .map_err(|error| TemplateError::Exec(error.to_string()))
}

fn string(text: String) -> GoValue {
    GoValue::String(text.into())
}

fn only(args: &[GoValue]) -> Result<&GoValue, TemplateError> {
    match args {
        [value] => Ok(value),
        _ => Err(TemplateError::Exec("takes one argument".to_owned())),
    }
}

/// `indent [n] text`: every line moved right by n columns, or by 2.
fn indent(args: &[GoValue]) -> Result<String, TemplateError> {
    let (columns, text) = match args {
        [text] => (2, text),
        [columns, text] => (columns.as_int().unwrap_or(0), text),
        _ => return Err(TemplateError::Exec("takes a number and a text".to_owned())),
    };
    let margin = " ".repeat(usize::try_from(columns.clamp(0, 200)).unwrap_or(0));
    let text = text.to_string();
    let lines: Vec<_> = text
        .split('\n')
        .map(|line| format!("{margin}{line}"))
        .collect();
    Ok(lines.join("\n"))
}

/// `missing [message] value`: the value, or the message when it is empty.
fn missing(args: &[GoValue]) -> Result<String, TemplateError> {
    let (message, value) = match args {
        [value] => ("<missing>".to_owned(), value),
        [message, value] => (message.to_string(), value),
        _ => {
            return Err(TemplateError::Exec(
                "takes a message and a value".to_owned(),
            ));
        }
    };
    Ok(
        if matches!(value, GoValue::Nil) || value.to_string().is_empty() {
            message
        } else {
            value.to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::chain_in_one_line;

    fn example() -> Map<String, Value> {
        let json = json!({
            "name": "a", "hostname": "lima-a", "status": "Stopped", "dir": "/home/u/.lima/a", "vmType": "qemu",
            "arch": "x86_64", "cpus": 2, "memory": 4_294_967_296_u64, "protected": false, "limaVersion": "2.2.0",
            "config": {"cpus": 2, "ssh": {"localPort": 60022}, "param": {"X": "y"}, "probes": [{"script": "a\nb"}]},
            "param": {"X": "y"},
            "HostOS": "linux", "HostArch": "x86_64", "LimaHome": "/home/u/.lima",
            "IdentityFile": "/home/u/.lima/_config/user",
        });
        json.as_object().cloned().unwrap()
    }

    fn filled(text: &str) -> String {
        let template = InstanceTemplate::parse(text, Unknown::Refused).unwrap();
        template.fill(&example()).unwrap()
    }

    #[test]
    fn fills_what_scripts_ask_for() {
        let table = [
            ("{{.Status}}", "Stopped"),
            ("{{.Dir}}", "/home/u/.lima/a"),
            ("{{.SSHLocalPort}}", "0"),
            ("{{.Memory}}", "4294967296"),
            ("{{.Name}} {{.Protected}}", "a false"),
            ("{{.Config.SSH.LocalPort}}", "60022"),
            ("{{.Param.X}}", "y"),
            ("{{json .Config.SSH}}", "{\"localPort\":60022}"),
            ("{{json .Param}}", "{\"X\":\"y\"}"),
            ("{{yaml .Config.SSH}}", "localPort: 60022"),
            ("{{indent 3 \"a\\nb\"}}", "   a\n   b"),
            ("{{missing .Message}}", "<missing>"),
            ("{{missing \"none\" .Message}}", "none"),
            (
                "{{.HostOS}}/{{.HostArch}} {{.LimaHome}} {{.IdentityFile}}",
                "linux/x86_64 /home/u/.lima /home/u/.lima/_config/user",
            ),
            ("{{if eq .Status \"Stopped\"}}no{{else}}yes{{end}}", "no"),
            ("{{range .Config.Probes}}{{len .Script}}{{end}}", "3"),
        ];
        for (text, expected) in table {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn json_of_the_whole_instance_is_what_list_json_prints() {
        assert_eq!(filled("{{json .}}"), Value::Object(example()).to_string());
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let template = InstanceTemplate::parse("{{.Nope}}", Unknown::Refused).unwrap();
        let text = chain_in_one_line(&template.fill(&example()).unwrap_err());
        assert!(
            text.contains("Nope") && text.contains("--list-fields"),
            "{text}"
        );
        assert!(InstanceTemplate::parse("{{.Name", Unknown::Refused).is_err());
    }

    #[test]
    fn a_message_may_ask_for_what_is_not_there() {
        let template =
            InstanceTemplate::parse("{{.Param.Y}} {{.Errors}}", Unknown::NoValue).unwrap();
        assert_eq!(template.fill(&example()).unwrap(), "<no value> []");
    }

    #[test]
    fn every_listed_field_can_be_used() {
        let names: Vec<_> = instance::field_names().collect();
        assert!(names.is_sorted(), "{names:?}");
        for name in names {
            filled(&format!("{{{{.{name}}}}}"));
        }
    }
}
