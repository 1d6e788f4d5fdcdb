//! What people and programs see of the forwards.

use std::sync::Arc;

use berth_events::board::Board;
use berth_events::event::{PortForwardEvent, PortForwardKind};
use berth_forward::guest::{Notice, NoticeKind, NoticeSink};
use berth_forward::reconcile::{ForwardState, ForwardStatus};
use berth_instance::info::ForwardInfo;

/// Turns notices into events.
pub(super) fn notices(board: Arc<Board>) -> NoticeSink {
    Box::new(move |notice| board.port_forward(event(notice)))
}

fn event(notice: Notice) -> PortForwardEvent {
    PortForwardEvent {
        kind: match notice.kind {
            NoticeKind::Forwarding => PortForwardKind::Forwarding,
            NoticeKind::NotForwarding => PortForwardKind::NotForwarding,
            NoticeKind::Stopping => PortForwardKind::Stopping,
            NoticeKind::Failed => PortForwardKind::Failed,
        },
        protocol: notice.guest.protocol().to_owned(),
        guest_addr: notice.guest.to_string(),
        host_addr: notice
            .host
            .map_or_else(String::new, |host| host.to_string()),
        error: notice.error.unwrap_or_default(),
    }
}

/// A forward that does not listen, in one line.
pub(super) fn trouble(forward: &ForwardStatus) -> String {
    let info = info(forward);
    format!(
        "the forward of {} {} to {} does not work: {}",
        info.transport, info.guest, info.host, info.last_error
    )
}

/// A forward for `list` and `status`.
pub(crate) fn info(forward: &ForwardStatus) -> ForwardInfo {
    let guests: Vec<String> = forward.guests.iter().map(ToString::to_string).collect();
    let (state, why) = match &forward.state {
        ForwardState::Listening => ("listening", forward.traffic.last_error.clone()),
        ForwardState::Waiting { why } => ("waiting", Some(why.clone())),
        ForwardState::Failed { why } => ("failed", Some(why.clone())),
    };
    ForwardInfo {
        transport: forward
            .guests
            .first()
            .map_or("", |guest| guest.protocol())
            .to_owned(),
        guest: guests.join(", "),
        host: forward.host.to_string(),
        state: state.to_owned(),
        connections: forward.traffic.open,
        total: forward.traffic.total,
        bytes_to_guest: forward.traffic.to_guest,
        bytes_to_host: forward.traffic.to_host,
        last_error: why.unwrap_or_default(),
    }
}
