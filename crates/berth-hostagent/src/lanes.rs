//! Lanes of the guest link: which there are, and which one is next.
//!
//! Each has a thread of its own, with the connections that go through it. The link's first carrier is for everything else.

use std::io;
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use berth_driver::driver::Driver;
use berth_link::host::{Carrier, Connector, Lane, LaneHandle, LinkHandle};
use berth_link::mux::Load;
use berth_relay::share_one_heap;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::agent::Tasks;

/// Bytes of stack: lanes only move bytes.
const STACK: usize = 256 * 1024;

/// The lanes of one link.
#[derive(Debug, Clone)]
pub(crate) struct Lanes(Arc<[LaneThread]>);

/// One lane, and the thread that moves its bytes.
#[derive(Debug, Clone)]
pub(crate) struct LaneThread {
    pub(crate) lane: LaneHandle,
    pub(crate) runtime: Handle,
}

impl Lanes {
    /// Starts as many as the driver has. One that cannot be started is missed by nobody: connections go other ways.
    pub(crate) fn start(driver: &Arc<dyn Driver>, link: &LinkHandle, tasks: &Tasks) -> Self {
        share_one_heap();
        let lanes = (1..=driver.lanes()).filter_map(|number| {
            let connector = LaneConnector {
                driver: Arc::clone(driver),
                number,
            };
            match start(connector, link.clone(), tasks) {
                Ok(lane) => Some(lane),
                Err(why) => {
                    tracing::warn!(number, %why, "a lane to the guest agent was not started");
                    None
                }
            }
        });
        Self(lanes.collect())
    }

    /// The lane for the next connection: where there is no bulk, and then the fewest streams. `None`: the link's first carrier,
    /// which has `first` to do, because it has no bulk and every lane has, or is down.
    pub(crate) fn next(&self, first: Option<Load>) -> Option<&LaneThread> {
        let loads = self.0.iter().map(|lane| lane.lane.load());
        self.0.get(least(loads, first)?)
    }
}

/// The first of those with the least to do.
fn least(loads: impl Iterator<Item = Option<Load>>, first: Option<Load>) -> Option<usize> {
    let up = loads.enumerate().filter_map(|(at, load)| Some((load?, at)));
    let (least, at) = up.min()?;
    let first_is_better = least.has_bulk && first.is_some_and(|first| !first.has_bulk);
    (!first_is_better).then_some(at)
}

/// Starts a lane's thread. It ends when the tasks are to end, and the tracker waits for it.
fn start(connector: LaneConnector, link: LinkHandle, tasks: &Tasks) -> io::Result<LaneThread> {
    let name = format!("lane {}", connector.number);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (lane, watched) = Lane::new(Arc::new(connector), link);
    let cancel = tasks.cancel.clone();
    let (ending, ended) = oneshot::channel::<()>();
    thread::Builder::new()
        .name(name)
        .stack_size(STACK)
        .spawn(move || {
            runtime.block_on(lane.run(cancel));
            drop((runtime, ending));
        })?;
    tasks.tracker.spawn(async move {
        // Nothing is sent: it is dropped at the end.
        let _ = ended.await;
    });
    Ok(LaneThread {
        lane: watched,
        runtime: handle,
    })
}

/// Dials a lane's port.
struct LaneConnector {
    driver: Arc<dyn Driver>,
    number: usize,
}

#[async_trait]
impl Connector for LaneConnector {
    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        let connected = self.driver.lane_conn(self.number).await;
        connected.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use berth_driver::qemu::argv;
    use berth_link::lane;

    use super::*;

    #[test]
    fn connections_keep_away_from_bulk_and_spread() {
        let load = |has_bulk, streams| Some(Load { has_bulk, streams });
        let least = |loads: &[Option<Load>]| least(loads.iter().copied(), load(true, 0));
        assert_eq!(least(&[None, None]), None);
        assert_eq!(least(&[load(false, 0), load(false, 0)]), Some(0));
        assert_eq!(least(&[load(false, 1), load(false, 0)]), Some(1));
        assert_eq!(least(&[load(true, 1), load(false, 9)]), Some(1));
        assert_eq!(least(&[load(true, 2), load(true, 1)]), Some(1));
        assert_eq!(least(&[None, load(true, 9)]), Some(1));
    }

    #[test]
    fn the_first_carrier_helps_only_where_every_lane_has_bulk() {
        let load = |has_bulk, streams| Some(Load { has_bulk, streams });
        let least = |lane, first| least([lane].into_iter(), first);
        assert_eq!(least(load(false, 9), load(false, 0)), Some(0));
        assert_eq!(least(load(true, 1), load(false, 9)), None);
        assert_eq!(least(load(true, 1), load(true, 0)), Some(0));
        assert_eq!(least(load(true, 1), None), Some(0));
    }

    #[test]
    fn host_and_guest_mean_the_same_ports() {
        assert_eq!(argv::LANES, lane::MOST);
        for number in 1..=lane::MOST {
            assert_eq!(argv::lane_port(number), lane::port_name(number));
        }
    }
}
