//! Go templates in values: `{{.Home}}` and its like.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gotmpl::{Template, Value};

use crate::model::User;
use crate::name::hostname;
use crate::platform::{HostOs, HostPlatform};

/// What an unknown variable renders to, as in Go.
pub(crate) const NO_VALUE: &str = "<no value>";

const LAST: &str = "\u{0}";

/// A template that does not render.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    #[error(transparent)]
    Engine(#[from] gotmpl::TemplateError),
    #[error("an `{{{{end}}}}` or `{{{{else}}}}` belongs to nothing before it")]
    StandsAlone,
}

/// Variables of one side, ready for rendering.
#[derive(Debug, Clone)]
pub(crate) struct Variables(Value);

impl Variables {
    /// Variables of values that the guest uses.
    pub(crate) fn guest(
        instance_name: &str,
        user: &User,
        param: &BTreeMap<String, String>,
    ) -> Self {
        Self(map([
            ("Name", text(instance_name)),
            ("Hostname", text(&hostname(instance_name))),
            ("UID", Value::Uint(user.uid.into())),
            ("User", text(&user.name)),
            ("Home", text(&user.home)),
            ("Param", texts(param)),
        ]))
    }

    /// Variables of values that the host uses.
    pub(crate) fn host(
        instance_name: &str,
        instance_dir: &Path,
        lima_home: &Path,
        platform: &HostPlatform,
        param: &BTreeMap<String, String>,
    ) -> Self {
        let temp_dir = platform.temp_dir.to_string_lossy();
        let global_temp_dir = match platform.os {
            HostOs::Windows => &*temp_dir,
            _ => "/tmp",
        };
        Self(map([
            ("Dir", text(&instance_dir.to_string_lossy())),
            ("Name", text(instance_name)),
            ("UID", text(&platform.uid.to_string())),
            ("User", text(&platform.user)),
            ("Home", text(&platform.home.to_string_lossy())),
            ("Param", texts(param)),
            ("GlobalTempDir", text(global_temp_dir)),
            ("TempDir", text(&temp_dir)),
            ("Instance", text(instance_name)),
            ("LimaHome", text(&lima_home.to_string_lossy())),
        ]))
    }

    /// Renders a text; one without `{{` is returned as it is.
    pub(crate) fn render(&self, template: &str) -> Result<String, RenderError> {
        if !template.contains("{{") {
            return Ok(template.to_owned());
        }
        // The engine takes a lone `{{end}}` for the end of the text, where Go refuses it: what stands last must come out.
        let rendered = Template::new("")
            .parse(&format!("{template}{LAST}"))?
            .execute_to_string(&self.0)?;
        match rendered.strip_suffix(LAST) {
            Some(whole) => Ok(whole.to_owned()),
            None => Err(RenderError::StandsAlone),
        }
    }
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries
        .into_iter()
        .map(|(name, value)| (Arc::from(name), value));
    Value::Map(Arc::new(entries.collect()))
}

fn text(text: &str) -> Value {
    Value::String(Arc::from(text))
}

fn texts(texts: &BTreeMap<String, String>) -> Value {
    let entries = texts
        .iter()
        .map(|(name, value)| (Arc::from(name.as_str()), text(value)));
    Value::Map(Arc::new(entries.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::tests::linux;

    fn guest() -> Variables {
        let user = User {
            name: "jane".to_owned(),
            comment: String::new(),
            home: "/home/jane.guest".to_owned(),
            shell: "/bin/bash".to_owned(),
            uid: 501,
            passwordless_sudo: true,
        };
        let param = BTreeMap::from([("ON".to_owned(), "true".to_owned())]);
        Variables::guest("a.b", &user, &param)
    }

    #[test]
    fn a_broken_template_is_an_error() {
        for template in [
            "{{",
            "{{.Name",
            "{{if}}",
            "{{nosuch .Name}}",
            "{{.Name.First}}",
        ] {
            assert!(guest().render(template).is_err(), "{template:?}");
        }
        for template in [
            "a {{end}} b",
            "a {{else}} b",
            "{{if true}}x{{end}}{{end}} y",
        ] {
            let error = guest().render(template).expect_err(template);
            assert!(matches!(error, RenderError::StandsAlone), "{template:?}");
        }
    }

    #[test]
    fn guest_variables_render_as_in_go() {
        for (template, expected) in [
            ("plain", "plain"),
            (
                "{{.Name}} {{.Hostname}} {{.UID}} {{.User}} {{.Home}}",
                "a.b lima-a-b 501 jane /home/jane.guest",
            ),
            ("{{if eq .Param.ON \"true\"}}yes{{else}}no{{end}}", "yes"),
            ("{{.Nope}} {{.Param.NOPE}}", "<no value> <no value>"),
            ("{{.Dir}}", "<no value>"),
            ("a {{- /* gone */ -}} b", "ab"),
            ("{{printf \"%04d|%q\" .UID .User}}", "0501|\"jane\""),
            ("{{with $x := .Name}}{{len $x}}{{end}}", "3"),
        ] {
            assert_eq!(guest().render(template).expect(template), expected);
        }
    }

    #[test]
    fn host_variables_speak_of_the_host() {
        let host = Variables::host(
            "x",
            Path::new("/l/x"),
            Path::new("/l"),
            &linux(),
            &BTreeMap::new(),
        );
        let all = "{{.Dir}} {{.Name}} {{.UID}} {{.User}} {{.Home}} {{.GlobalTempDir}} {{.TempDir}} {{.Instance}} {{.LimaHome}}";
        assert_eq!(
            host.render(all).expect("renders"),
            "/l/x x 501 jane /home/jane /tmp /var/tmp x /l"
        );
    }
}
