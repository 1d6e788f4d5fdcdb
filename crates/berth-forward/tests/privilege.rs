//! Privileged ports without the privilege. On a thread of its own, because a privilege that is given up does not come back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use berth_forward::reconcile::ForwardState;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use support::{one, start};

fn give_up_the_privilege() {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_BIND_SERVICE);
    sets.permitted.remove(CapabilitySet::NET_BIND_SERVICE);
    set_capabilities(None, sets).unwrap();
}

#[test]
fn a_privileged_port_says_what_to_do_and_is_not_tried_for_ever() {
    let play = async {
        let f = start([one(80, "127.77.7.1", 80)]);
        f.reports(&["tcp 127.0.0.1:80"]);
        let status = f
            .until("refused", |status| {
                matches!(&status.forwards[..], [one] if one.state != ForwardState::Listening)
            })
            .await;
        let ForwardState::Failed { why } = &status.forwards[0].state else {
            panic!("{status:?}");
        };
        assert!(why.starts_with("permission denied: "), "{why}");
        assert!(why.contains("ip_unprivileged_port_start=80"), "{why}");
        assert!(why.contains("cap_net_bind_service"), "{why}");
        f.until("told", |_| !f.notices.lock().unwrap().is_empty())
            .await;
        {
            let notices = f.notices.lock().unwrap();
            assert!(notices.len() == 1 && notices[0].is_minor, "{notices:?}");
        }
        f.handle.kick();
        f.stop().await;
    };
    std::thread::spawn(|| {
        give_up_the_privilege();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(play);
    })
    .join()
    .unwrap();
}
