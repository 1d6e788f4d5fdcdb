//! Addresses from the system's own resolver, `getaddrinfo(3)`.
//!
//! It blocks, for as long as its modules please, and cannot be cancelled. So each call has a thread of its own, few of them at a
//! time: one that hangs holds its place until it comes back, and nobody else's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::sys;

/// Calls at a time.
const PLACES: usize = 8;
/// How long somebody waits for an answer, or for a place.
const LIMIT: Duration = Duration::from_secs(5);
/// What modules of the C library need.
const STACK: usize = 512 * 1024;

/// Why the system's resolver gave no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// There is no such name, or it has no addresses.
    #[error("the host's resolver knows no addresses")]
    NotFound,
    /// It could not find out.
    #[error("the host's resolver failed: {0}")]
    Failed(String),
    /// It took too long.
    #[error("the host's resolver did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
}

/// Who finds addresses of both families; a trait, so that tests can be any system.
pub(crate) type Lookup = dyn Fn(&str) -> Result<Vec<IpAddr>, LookupError> + Send + Sync;

/// The system's resolver, with its places.
#[derive(Clone)]
pub(crate) struct SystemResolver {
    places: Arc<Semaphore>,
    lookup: Arc<Lookup>,
}

impl std::fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemResolver")
            .field("places", &self.places.available_permits())
            .finish_non_exhaustive()
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new(Arc::new(sys::lookup))
    }
}

impl SystemResolver {
    pub(crate) fn new(lookup: Arc<Lookup>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            lookup,
        }
    }

    /// Finds the addresses of a name, of both families.
    pub(crate) async fn addresses(&self, name: String) -> Result<Vec<IpAddr>, LookupError> {
        let found = timeout(LIMIT, self.call(name)).await;
        found.unwrap_or(Err(LookupError::TimedOut))
    }

    async fn call(&self, name: String) -> Result<Vec<IpAddr>, LookupError> {
        let failed = |why: String| LookupError::Failed(why);
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|why| failed(why.to_string()))?;
        let (tell, told) = oneshot::channel();
        let lookup = Arc::clone(&self.lookup);
        std::thread::Builder::new()
            .name("getaddrinfo".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Nobody may be waiting any more.
                let _ = tell.send(lookup(&name));
                drop(place);
            })
            .map_err(|why| failed(why.to_string()))?;
        told.await.map_err(|_| failed("it panicked".to_owned()))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_systems_own_names_are_found() {
        let system = SystemResolver::default();
        let addresses = system.addresses("localhost".to_owned()).await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty());
        // RFC 6761: never delegated. Where nobody can be asked, that is a failure.
        let nowhere = system.addresses("x.invalid.".to_owned()).await;
        assert!(nowhere.is_err(), "{nowhere:?}");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn calls_that_hang_hold_their_places_and_no_more() {
        let gate = Arc::new(Barrier::new(PLACES + 1));
        let inside = Arc::clone(&gate);
        let system = SystemResolver::new(Arc::new(move |name| {
            if name == "hangs" {
                inside.wait();
            }
            Ok(Vec::new())
        }));
        let hanging = (0..PLACES).map(|_| system.addresses("hangs".to_owned()));
        let results = futures_util::future::join_all(hanging).await;
        assert!(
            results
                .iter()
                .all(|result| *result == Err(LookupError::TimedOut))
        );
        assert_eq!(system.places.available_permits(), 0);
        let late = system.addresses("other".to_owned()).await;
        assert_eq!(late, Err(LookupError::TimedOut), "no place is free");
        gate.wait();
        let _all = system
            .places
            .acquire_many(u32::try_from(PLACES).unwrap())
            .await
            .unwrap();
    }
}
