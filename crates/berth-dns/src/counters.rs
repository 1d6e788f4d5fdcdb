//! What the resolver has done, for people who ask why a name is not found.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters; each only grows.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn counts(&self) -> Counts {
                Counts { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Datagrams that came.
    udp_queries,
    /// Queries over connections.
    tcp_queries,
    /// Connections accepted.
    tcp_connections,
    /// Answered from the static names, or empty because the configuration says so.
    from_static,
    /// Answered from the host's `/etc/hosts`.
    from_hosts_file,
    /// Answered from the cache.
    from_cache,
    /// Answered by the system's own resolver.
    from_system,
    /// Answered by an upstream server.
    from_upstream,
    /// No upstream gave an answer.
    failed,
    /// Malformed, or of a kind that is not served.
    refused,
    /// Not answered because too many were waiting.
    over_limit,
    /// Answers that sent a public name into the guest's network or to loopback, and were kept from the guest.
    rebinding,
    /// Messages from an upstream's address that were no answer to what was asked.
    forged,
    /// Answers that came again over TCP because they did not fit.
    upstream_tcp,
    /// Answers that could not be sent.
    unsent,
    /// How often the host's configuration or network changed.
    changes,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
