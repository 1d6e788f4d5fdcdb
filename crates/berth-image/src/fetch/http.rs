//! HTTP downloads: conditional, resumable, each wait with a limit.

use std::io::Read as _;
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use crate::error::ImageError;
use crate::fetch::FetchSettings;
use crate::sys;

/// What a server says of a file's version: enough to ask for "the rest of this one" or "only if it changed".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Validators {
    /// `ETag`, with its quotes.
    pub(super) etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub(super) last_modified: Option<String>,
}

impl Validators {
    fn of(headers: &HeaderMap) -> Self {
        Self {
            etag: text(headers, header::ETAG),
            last_modified: text(headers, header::LAST_MODIFIED),
        }
    }

    /// What `If-Range` may carry: a strong tag, else the date (RFC 9110, 13.1.5).
    pub(super) fn for_range(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if !etag.starts_with("W/") => Some(etag),
            _ => self.last_modified.as_deref(),
        }
    }
}

/// Which part of the file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    /// All of it.
    Whole,
    /// All of it, but only if it is no longer the version with these validators.
    Changed(&'a Validators),
    /// What follows `have` bytes of the version with this validator; all of it if that version is gone.
    Rest {
        /// Bytes that are there.
        have: u64,
        /// Strong `ETag` or `Last-Modified`.
        validator: &'a str,
    },
}

/// What the server answered.
pub(super) enum Answer {
    /// The file is still the version that was asked about.
    Unchanged,
    /// The file, or the rest of it.
    Content(Box<Download>),
}

/// Bytes that are on their way.
pub(super) struct Download {
    /// Where they belong in the file.
    pub(super) start: u64,
    /// Length of the whole file, if the server says.
    pub(super) total: Option<u64>,
    /// Which version of the file they belong to.
    pub(super) validators: Validators,
    /// `Content-Type`.
    pub(super) media_type: Option<String>,
    reader: ureq::BodyReader<'static>,
}

impl Download {
    /// Next bytes; 0: the connection ended.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// A client for one location.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    url: String,
}

impl Client {
    pub(super) fn new(settings: &FetchSettings, url: &str) -> Result<Self, ImageError> {
        let provider = sys::tls::provider().map_err(|missing| ImageError::Location {
            location: url.to_owned(),
            why: format!(
                "TLS needs CPU features that this machine lacks ({missing}): download the file by other means and give its path"
            ),
        })?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let patience = Some(settings.patience);
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(settings.proxies.for_url(url)?)
            .http_status_as_error(false)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_recv_response(settings.patience.checked_mul(2))
            .timeout_per_read(patience)
            .timeout_per_write(patience)
            .max_idle_age(Duration::ZERO)
            .build();
        Ok(Self {
            agent: config.into(),
            url: url.to_owned(),
        })
    }

    /// Asks for the file.
    pub(super) fn get(&self, ask: Ask<'_>) -> Result<Answer, ImageError> {
        let mut request = self.agent.get(&self.url);
        match ask {
            Ask::Whole => {}
            Ask::Changed(validators) => {
                if let Some(etag) = &validators.etag {
                    request = request.header(header::IF_NONE_MATCH, etag);
                }
                if let Some(date) = &validators.last_modified {
                    request = request.header(header::IF_MODIFIED_SINCE, date);
                }
            }
            Ask::Rest { have, validator } => {
                request = request
                    .header(header::RANGE, format!("bytes={have}-"))
                    .header(header::IF_RANGE, validator);
            }
        }
        let response = request.call().map_err(|error| self.network(error))?;
        self.answer(ask, response)
    }

    fn answer(
        &self,
        ask: Ask<'_>,
        response: ureq::http::Response<Body>,
    ) -> Result<Answer, ImageError> {
        let headers = response.headers();
        let (start, total) = match (response.status(), ask) {
            (StatusCode::NOT_MODIFIED, Ask::Changed(_)) => return Ok(Answer::Unchanged),
            (StatusCode::OK, _) => (
                0,
                text(headers, header::CONTENT_LENGTH).and_then(|len| len.parse().ok()),
            ),
            (StatusCode::PARTIAL_CONTENT, Ask::Rest { have, .. }) => {
                let range = text(headers, header::CONTENT_RANGE).unwrap_or_default();
                match content_range(&range) {
                    Some((start, total)) if start == have => (start, total),
                    _ => {
                        return Err(self.network(format!(
                            "the server sent the range {range:?} when asked for the bytes from {have} on"
                        )));
                    }
                }
            }
            // What is there is no beginning of what the server has now.
            (StatusCode::RANGE_NOT_SATISFIABLE, Ask::Rest { .. }) => return self.get(Ask::Whole),
            (status, _) => {
                return Err(ImageError::Http {
                    location: self.url.clone(),
                    status: status.as_u16(),
                });
            }
        };
        Ok(Answer::Content(Box::new(Download {
            start,
            total,
            validators: Validators::of(headers),
            media_type: text(headers, header::CONTENT_TYPE),
            reader: response.into_body().into_reader(),
        })))
    }

    /// Wraps a failure of the network.
    pub(super) fn network(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ImageError {
        ImageError::Network {
            location: self.url.clone(),
            source: source.into(),
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// `bytes START-END/TOTAL` → (start, total).
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strong_tags_and_dates_resume() {
        let validators = |etag: &str, date: &str| Validators {
            etag: (!etag.is_empty()).then(|| etag.to_owned()),
            last_modified: (!date.is_empty()).then(|| date.to_owned()),
        };
        assert_eq!(validators("\"a\"", "date").for_range(), Some("\"a\""));
        assert_eq!(validators("W/\"a\"", "date").for_range(), Some("date"));
        assert_eq!(validators("W/\"a\"", "").for_range(), None);
    }

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in [
            "",
            "bytes */10",
            "bytes 5/10",
            "items 5-9/10",
            "bytes -9/10",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
