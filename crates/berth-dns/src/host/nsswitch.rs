//! `nsswitch.conf(5)`: which modules of the C library find host names.

/// Modules without a line of their own: what glibc has built in since 2.33.
const DEFAULT: [&str; 2] = ["files", "dns"];

/// Names of the modules of the `hosts:` line, in order; what stands in brackets is left out.
#[must_use]
pub fn modules(text: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let (key, value) = line.split_once(':')?;
        (key.trim() == "hosts").then_some(value)
    });
    let Some(line) = line else {
        return DEFAULT.map(str::to_owned).to_vec();
    };
    let mut is_action = false;
    let spaced = line.replace('[', " [ ").replace(']', " ] ");
    let words = spaced.split_ascii_whitespace().filter(|word| {
        match *word {
            "[" => is_action = true,
            "]" => is_action = false,
            _ => return !is_action,
        }
        false
    });
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_listed_without_actions() {
        let text = "passwd: files systemd\n# hosts: nis\n hosts :\tfiles mdns4_minimal [NOTFOUND=return]resolve [!UNAVAIL=return] dns # x\n";
        assert_eq!(modules(text), ["files", "mdns4_minimal", "resolve", "dns"]);
        assert_eq!(modules("passwd: files\n"), ["files", "dns"]);
        assert_eq!(modules("hosts:\n"), Vec::<String>::new());
    }
}
