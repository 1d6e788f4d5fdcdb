//! The guest's clock: read and changed as the host says.

use std::time::SystemTime;

use berth_link::mux::LinkStream;
use berth_link::time::{Ask, GuestEnd, Reading, Told};

use crate::sys::clock;

/// Answers until the host ends it.
pub(crate) async fn serve(stream: LinkStream) {
    let mut talk = GuestEnd::new(stream);
    while let Ok(ask) = talk.asked().await {
        let time = SystemTime::now();
        let told = match ask {
            Ask::Read => Told::Clock(Reading {
                time,
                kept: clock::is_kept(),
            }),
            Ask::Adjust { add_ns, step } => adjust(add_ns, step),
        };
        if talk.tell(told).await.is_err() {
            return;
        }
    }
}

fn adjust(add_ns: i64, step: bool) -> Told {
    let changed = if step {
        clock::step(add_ns)
    } else {
        clock::slew(add_ns)
    };
    match changed {
        Ok(()) => {
            tracing::info!(add_ns, step, "the clock is adjusted to the host's");
            Told::Adjusted
        }
        Err(why) => Told::Refused(format!("the clock cannot be changed: {why}")),
    }
}
