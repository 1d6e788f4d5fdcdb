//! The network is up when the first interface has an IPv4 address that is valid beyond the machine.

use std::io;
use std::time::Duration;

use berth_link::boot::Nic;
use tokio::time::timeout;

use crate::netlink::{Changes, Interface, interfaces};
use crate::watch::WaitError;

/// Waits for the address. Without a known interface any one counts.
pub(crate) async fn up(first: Option<&Nic>, limit: Duration) -> Result<(), WaitError> {
    let what = match first {
        Some(nic) => format!("an IPv4 address of {} ({})", nic.name, nic.mac),
        None => "an IPv4 address".to_owned(),
    };
    match timeout(limit, addressed(first)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(WaitError::Watch { what, source }),
        Err(_) => Err(WaitError::TimedOut { what, limit }),
    }
}

async fn addressed(first: Option<&Nic>) -> io::Result<()> {
    let changes = Changes::listen()?;
    while !is_up(first, &interfaces()?) {
        changes.next().await?;
    }
    Ok(())
}

/// By name as well as by hardware address: whichever of the two the guest has right.
fn is_up(first: Option<&Nic>, interfaces: &[Interface]) -> bool {
    let counts = |interface: &&Interface| {
        first.is_none_or(|nic| {
            interface.name == nic.name || interface.mac.eq_ignore_ascii_case(&nic.mac)
        })
    };
    interfaces
        .iter()
        .filter(counts)
        .any(|interface| !interface.addresses.is_empty())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_the_first_interface_counts() {
        let interface = |name: &str, mac: &str, addresses: &[Ipv4Addr]| Interface {
            name: name.to_owned(),
            mac: mac.to_owned(),
            addresses: addresses.to_vec(),
        };
        let address = [Ipv4Addr::new(192, 168, 5, 15)];
        let nic = Nic {
            mac: "52:55:55:00:00:01".to_owned(),
            name: "eth0".to_owned(),
            metric: 200,
        };
        let other = interface("docker0", "02:42:00:00:00:01", &address);
        assert!(!is_up(Some(&nic), std::slice::from_ref(&other)));
        assert!(is_up(None, std::slice::from_ref(&other)));
        assert!(!is_up(
            Some(&nic),
            &[interface("eth0", "52:55:55:00:00:01", &[])]
        ));
        assert!(is_up(
            Some(&nic),
            &[other, interface("ens3", "52:55:55:00:00:01", &address)]
        ));
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_network_that_never_comes_is_named() {
        let nic = Nic {
            mac: "52:55:55:00:00:01".to_owned(),
            name: "berth-none0".to_owned(),
            metric: 200,
        };
        let why = up(Some(&nic), Duration::from_mins(1)).await.unwrap_err();
        let expected = "waited 60 s for an IPv4 address of berth-none0 (52:55:55:00:00:01)";
        assert_eq!(why.to_string(), expected);
    }
}
