//! Lanes: further ports to the host, for its connections only, each served on a thread of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use berth_link::event::{Refusal, Request, Response, Welcome};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::ResetCode;
use berth_link::guest::{Board, Duties, open_port, serve_lane};
use berth_link::lane;
use berth_link::mux::LinkStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::args::chain;
use crate::runtime;
use crate::tunnels::Tunnels;
use crate::watch::Wait;

/// Bytes of stack: lanes only move bytes.
const STACK: usize = 128 * 1024;

/// How long a port may take to appear; a host that has no lanes gives no sign of it.
const PORT_LIMIT: Duration = Duration::from_mins(1);

/// Serves every lane that has a port in `ports` until `cancel`; at once over when there is none.
pub(crate) async fn serve(
    ports: &Path,
    board: &Board,
    tunnels: &Arc<Tunnels>,
    cancel: &CancellationToken,
) {
    let serving = (1..=lane::MOST).map(|number| async move {
        let port = ports.join(lane::port_name(number));
        if appears(&port).await {
            on_a_thread(port, board.clone(), Arc::clone(tunnels), cancel.clone()).await;
        }
    });
    futures_util::future::join_all(serving).await;
}

async fn appears(port: &Path) -> bool {
    let paths = [port.to_owned()];
    let wait = Wait {
        what: "the port of a lane to the host",
        paths: &paths,
        limit: PORT_LIMIT,
        tick: None,
    };
    let appeared = wait.until(|| port.exists().then_some(())).await;
    if let Err(why) = &appeared {
        tracing::debug!("a lane less: {}", chain(why));
    }
    appeared.is_ok()
}

/// Serves one lane on a thread of its own, and waits for its end.
async fn on_a_thread(
    port: PathBuf,
    board: Board,
    tunnels: Arc<Tunnels>,
    cancel: CancellationToken,
) {
    let (ending, ended) = oneshot::channel::<()>();
    let thread = move || {
        if let Err(why) = serve_one(&port, board, tunnels, cancel) {
            tracing::warn!("a lane to the host is over: {why}");
        }
        drop(ending);
    };
    let started = thread::Builder::new()
        .name("lane".to_owned())
        .stack_size(STACK)
        .spawn(thread);
    match started {
        // Nothing is sent: it is dropped at the end.
        Ok(_) => drop(ended.await),
        Err(why) => tracing::warn!("there is no thread for a lane to the host: {why}"),
    }
}

fn serve_one(
    port: &Path,
    board: Board,
    tunnels: Arc<Tunnels>,
    cancel: CancellationToken,
) -> io::Result<()> {
    runtime::new()?.block_on(async {
        let port = open_port(port).map_err(|why| io::Error::other(chain(&why)))?;
        let served = serve_lane(port, board, &LaneDuties(tunnels), cancel).await;
        served.map_err(|why| io::Error::other(chain(&why)))
    })
}

/// Connections, and nothing else.
struct LaneDuties(Arc<Tunnels>);

impl Duties for LaneDuties {
    fn flow(&self, header: FlowHeader, stream: LinkStream) {
        match header.kind() {
            FlowKind::Tcp | FlowKind::Unix | FlowKind::UnixAsRoot => self.0.flow(header, stream),
            _ => stream.reset(ResetCode::Unsupported),
        }
    }

    // Neither comes without a control stream, which a lane does not have.
    fn welcome(&self, _welcome: Welcome) {}

    async fn answer(&self, _request: Request) -> Response {
        Err(Refusal("a lane answers nothing".to_owned()))
    }
}
