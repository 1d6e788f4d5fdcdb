//! The HTTP API on `ha.sock`.
//!
//! | endpoint | answer |
//! |---|---|
//! | `GET /v1/info` | `{"autoStartedIdentifier":…,"sshLocalPort":…,"berthState":…,"berthForwards":[…],"berthNames":{…}}`; legal at any time, also while starting and stopping |
//! | `GET /v1/screenshot[?format=png]` | a PNG of the display, through the driver |
//!
//! Formats and status codes are those that Lima's CLI expects; `berthState`, `berthForwards` and `berthNames` are ours.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use berth_driver::driver::Driver;
use berth_driver::error::DriverError;
use berth_events::board::Board;
use berth_forward::reconcile::ForwardsHandle;
use berth_instance::info::{ForwardInfo, NamesInfo};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::HostAgent;
use crate::error::AgentError;
use crate::forwarding::shown;
use crate::names::ServedNames;
use crate::sys::LocalListener;

/// A client that has not sent its request by then is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the API knows. Filled while the agent is being constructed; answers come from here without waiting for anybody.
#[derive(Debug, Clone)]
pub(crate) struct ApiState {
    /// State and SSH port.
    pub(crate) board: Arc<Board>,
    /// The unit that systemd or launchd started us as.
    pub(crate) auto_started_identifier: String,
    /// Parts of the agent, once it is constructed.
    pub(crate) parts: watch::Receiver<Option<Parts>>,
}

/// Parts of an agent that the API shows.
#[derive(Clone)]
pub(crate) struct Parts {
    driver: Arc<dyn Driver>,
    forwards: Arc<OnceLock<ForwardsHandle>>,
    names: Arc<OnceLock<ServedNames>>,
}

impl Parts {
    pub(crate) fn of(agent: &HostAgent) -> Self {
        Self {
            driver: Arc::clone(&agent.driver),
            forwards: Arc::clone(&agent.live.forwards),
            names: Arc::clone(&agent.live.names),
        }
    }

    fn forwards(&self) -> Vec<ForwardInfo> {
        let status = self.forwards.get().map(ForwardsHandle::status);
        let forwards = status.map_or_else(Vec::new, |status| status.forwards);
        forwards.iter().map(shown::info).collect()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("driver", &self.driver.info().name)
            .field("forwards", &self.forwards)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(skip_serializing_if = "String::is_empty")]
    auto_started_identifier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_local_port: Option<u16>,
    berth_state: berth_events::state::State,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    berth_forwards: Vec<ForwardInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    berth_names: Option<NamesInfo>,
}

#[derive(Serialize)]
struct ErrorBody {
    message: String,
}

/// Listens on `path`; a stale socket of an earlier agent is removed first, which is safe because the caller holds the lock of
/// the instance.
pub(crate) fn listen(path: &Path) -> Result<LocalListener, AgentError> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
        Err(why) => return Err(AgentError::io("remove the old socket", path, why)),
    }
    LocalListener::bind(path).map_err(|why| AgentError::io("listen on", path, why))
}

/// Serves until cancelled.
pub(crate) async fn serve(
    listener: LocalListener,
    state: ApiState,
    tracker: TaskTracker,
    cancel: CancellationToken,
) {
    let told = |why| tracing::warn!(error = %why, "cannot accept on ha.sock");
    let next = || berth_relay::accept::next(|| listener.accept(), told);
    while let Some(stream) = cancel.run_until_cancelled(next()).await {
        let state = state.clone();
        let cancel = cancel.clone();
        tracker.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, &request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Some(Err(why)) = cancel.run_until_cancelled(connection).await {
                tracing::debug!(error = %why, "API connection ended");
            }
        });
    }
}

async fn answer<B>(state: &ApiState, request: &Request<B>) -> Response<Full<Bytes>> {
    match (request.uri().path(), request.method()) {
        ("/v1/info", &Method::GET) => info(state),
        ("/v1/info", _) => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        ("/v1/screenshot", &Method::GET) => screenshot(state, request.uri().query()).await,
        ("/v1/screenshot", _) => {
            let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "use GET");
            response
                .headers_mut()
                .insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn info(state: &ApiState) -> Response<Full<Bytes>> {
    let info = Info {
        auto_started_identifier: state.auto_started_identifier.clone(),
        ssh_local_port: state.board.ssh_local_port(),
        berth_state: state.board.state(),
        berth_forwards: state
            .parts
            .borrow()
            .as_ref()
            .map_or_else(Vec::new, Parts::forwards),
        berth_names: state
            .parts
            .borrow()
            .as_ref()
            .and_then(|parts| parts.names.get().map(ServedNames::info)),
    };
    match serde_json::to_vec(&info) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
    }
}

async fn screenshot(state: &ApiState, query: Option<&str>) -> Response<Full<Bytes>> {
    let format = query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("format="))
        .unwrap_or("png")
        .to_ascii_lowercase();
    match format.as_str() {
        "" | "png" => {}
        "bmp" => {
            return error(
                StatusCode::NOT_IMPLEMENTED,
                "format bmp: this driver makes png only",
            );
        }
        _ => return error(StatusCode::BAD_REQUEST, "format: use png or bmp"),
    }
    let parts = state.parts.borrow().clone();
    let Some(Parts { driver, .. }) = parts else {
        return error(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the VM has not been started yet",
        );
    };
    match driver.screenshot().await {
        Ok(png) => respond(StatusCode::OK, "image/png", png),
        Err(why @ DriverError::NoDisplay) => {
            error(StatusCode::UNPROCESSABLE_ENTITY, &why.to_string())
        }
        Err(why @ DriverError::Unsupported { .. }) => {
            error(StatusCode::NOT_IMPLEMENTED, &why.to_string())
        }
        Err(why) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &crate::error::chain(&why),
        ),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    if text.is_empty() {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        return response;
    }
    respond(status, "text/plain; charset=utf-8", text.into())
}

/// `{"message":…}` and a newline, as Lima's client expects.
fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let body = ErrorBody {
        message: message.to_owned(),
    };
    let mut body = serde_json::to_vec(&body).unwrap_or_default();
    body.push(b'\n');
    respond(status, "application/json", body)
}
