//! Which proxy a URL goes through.

use ureq::{Proxy, ProxyProtocol};

use crate::error::ImageError;

/// Proxies by scheme, as the usual environment variables name them. Passed in: this crate reads no environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Comma-separated hosts that are reached directly.
    pub except: String,
}

impl Proxies {
    /// Takes them out of an environment: `https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`, lower case before upper case.
    /// `HTTP_PROXY` in upper case is left out, since CGI lets strangers set it.
    #[must_use]
    pub fn from_env(env: &[(String, String)]) -> Self {
        let get = |names: &[&str]| {
            names.iter().find_map(|name| {
                let (_, value) = env.iter().find(|(key, _)| key == name)?;
                (!value.is_empty()).then(|| value.clone())
            })
        };
        let all = get(&["all_proxy", "ALL_PROXY"]);
        Self {
            http: get(&["http_proxy"]).or_else(|| all.clone()),
            https: get(&["https_proxy", "HTTPS_PROXY"]).or(all),
            except: get(&["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        }
    }

    /// The proxy for one URL.
    pub(super) fn for_url(&self, url: &str) -> Result<Option<Proxy>, ImageError> {
        let https = url
            .get(..8)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let Some(address) = (if https { &self.https } else { &self.http }) else {
            return Ok(None);
        };
        let bad = |why: String| ImageError::Location {
            location: url.to_owned(),
            why,
        };
        let parsed = Proxy::new(address).map_err(|_| {
            bad(format!(
                "the proxy {address:?} of the environment is no URL of a proxy"
            ))
        })?;
        let protocol = parsed.protocol();
        if !matches!(protocol, ProxyProtocol::Http | ProxyProtocol::Https) {
            return Err(bad(format!(
                "{protocol} proxies are not supported, only http and https"
            )));
        }
        let mut builder = Proxy::builder(protocol)
            .host(parsed.host())
            .port(parsed.port());
        if let Some(user) = parsed.username() {
            builder = builder.username(user);
        }
        if let Some(password) = parsed.password() {
            builder = builder.password(password);
        }
        for host in self
            .except
            .split(',')
            .map(str::trim)
            .filter(|host| !host.is_empty())
        {
            builder = builder.no_proxy(host);
        }
        let proxy = builder.build().map_err(|_| {
            bad(format!(
                "the proxy {address:?} of the environment cannot be used"
            ))
        })?;
        Ok(Some(proxy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn by_scheme_and_with_exceptions() {
        let proxies = Proxies::from_env(&env(&[
            ("HTTP_PROXY", "http://ignored:1"),
            ("https_proxy", "http://user:pa%40ss@proxy:3128"),
            ("NO_PROXY", "localhost, .example.com"),
        ]));
        assert_eq!(proxies.for_url("http://x/").unwrap(), None);
        let proxy = proxies.for_url("HTTPS://x/").unwrap().unwrap();
        assert_eq!((proxy.host(), proxy.port()), ("proxy", 3128));
        assert_eq!(proxy.username(), Some("user"));
        assert_eq!(proxy.password(), Some("pa@ss"));
        assert!(proxy.is_no_proxy(&"https://a.example.com/".parse().unwrap()));
        assert!(!proxy.is_no_proxy(&"https://example.org/".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_named() {
        let proxies = Proxies::from_env(&env(&[("all_proxy", "socks5://x:1")]));
        let error = proxies.for_url("http://x/").unwrap_err().to_string();
        assert!(
            error.contains("proxies are not supported") || error.contains("no URL"),
            "{error}"
        );
    }
}
