//! Taking connections, whatever happens.

use std::io;
use std::time::Duration;

/// First and longest pause after an error that does not concern one connection only, such as too many open files: nothing tells when
/// there are descriptors again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Waits for the next connection that `accept` takes. No error ends that, as a listener that is gone would be missed by nobody but its
/// users; `told` hears of those that do not concern one connection only.
pub async fn next<T, F>(accept: impl Fn() -> F, told: impl Fn(io::Error)) -> T
where
    F: Future<Output = io::Result<T>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match accept().await {
            Ok(connection) => return connection,
            // The client was gone before its turn.
            Err(why) if is_of_one_connection(&why) => {}
            Err(why) => {
                told(why);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn is_of_one_connection(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_error_ends_it_and_those_of_one_connection_cost_nothing() {
        use io::ErrorKind::{ConnectionAborted, Interrupted, Other, OutOfMemory};
        let errors = [ConnectionAborted, OutOfMemory, Interrupted, Other, Other];
        let (turn, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let accept = || {
            let error = errors.get(turn.replace(turn.get() + 1)).copied();
            std::future::ready(error.map_or(Ok("a client"), |kind| Err(kind.into())))
        };
        let began = Instant::now();
        let taken = next(accept, |why| told.borrow_mut().push(why.kind())).await;
        assert_eq!(taken, "a client");
        assert_eq!(*told.borrow(), [OutOfMemory, Other, Other]);
        assert_eq!(began.elapsed(), Duration::from_millis(50 + 100 + 200));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn errors_of_the_system_are_told_apart() {
        for (code, is_passing) in [
            (libc::ECONNABORTED, true),
            (libc::EINTR, true),
            (libc::EMFILE, false),
            (libc::ENFILE, false),
            (libc::ENOBUFS, false),
            (libc::EPERM, false),
            (libc::EINVAL, false),
        ] {
            let why = io::Error::from_raw_os_error(code);
            assert_eq!(is_of_one_connection(&why), is_passing, "{why}");
        }
    }
}
