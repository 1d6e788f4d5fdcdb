//! Where sshd of a distribution is.
//!
//! WSL gives its machine an address behind NAT that is new with each boot; in mirrored mode the guest has the host's addresses,
//! and the host's loopback leads to it. Both are only known by asking the guest, whose answer is not believed: it is an address
//! in a private network that is not the host's own, or there is none.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::DriverError;
use crate::wsl2::wsl::{QUICK, Wsl};

/// Nothing tells when it does.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What the guest says is shown so far.
const SHOWN: usize = 200;

/// Asks for the address, until there is one, or for so long.
pub(super) async fn find(wsl: &Wsl, limit: Duration) -> Result<Ipv4Addr, DriverError> {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        if is_mirrored(wsl).await? {
            return Ok(Ipv4Addr::LOCALHOST);
        }
        let said = addresses(wsl).await?;
        if let Some(address) = choose(&said, is_ours) {
            return Ok(address);
        }
        if Instant::now() >= deadline {
            return Err(DriverError::Program {
                program: wsl.distribution().to_owned(),
                why: format!(
                    "the distribution has no address in a private network after {} s; it says: {:?}",
                    limit.as_secs(),
                    said.chars().take(SHOWN).collect::<String>()
                ),
            });
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// `wslinfo` came with the mode.
async fn is_mirrored(wsl: &Wsl) -> Result<bool, DriverError> {
    let reply = wsl.exec(&["wslinfo", "--networking-mode"], QUICK).await?;
    Ok(reply.exit.success() && reply.stdout.trim_ascii() == b"mirrored")
}

/// In the words of `hostname -I`, which Microsoft's documentation tells to ask, or of `ip`.
async fn addresses(wsl: &Wsl) -> Result<String, DriverError> {
    let mut said = String::new();
    for question in [
        &["hostname", "-I"][..],
        &["ip", "-4", "addr", "show", "eth0"],
    ] {
        let reply = wsl.exec(question, QUICK).await?;
        if reply.exit.success() {
            said.push_str(&String::from_utf8_lossy(&reply.stdout));
        }
    }
    Ok(said)
}

/// The first word that is an address of a private network, and not one of the host's own.
fn choose(said: &str, is_ours: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    /// An interface has few; each costs a question to the system.
    const MOST: usize = 64;
    let words = said.split_whitespace().take(MOST);
    let addresses = words.filter_map(|word| word.split('/').next()?.parse().ok());
    let mut private = addresses.filter(|address: &Ipv4Addr| {
        let [.., last] = address.octets();
        address.is_private() && last != 0 && last != 255
    });
    private.find(|address| !is_ours(*address))
}

/// Only what is an address of this machine can be bound to.
fn is_ours(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(said: &str) -> Option<String> {
        let ours = |address: Ipv4Addr| address == Ipv4Addr::new(192, 168, 1, 5);
        choose(said, ours).map(|address| address.to_string())
    }

    #[test]
    fn the_first_private_address_counts() {
        for (said, address) in [
            ("172.28.80.91 172.17.0.1 fd00::1 \n", Some("172.28.80.91")),
            ("192.168.1.5 10.0.0.7", Some("10.0.0.7")),
            (
                "2: eth0: <UP>\n    inet 172.28.80.91/20 brd 172.28.95.255 scope global eth0\n",
                Some("172.28.80.91"),
            ),
        ] {
            assert_eq!(chosen(said).as_deref(), address, "{said}");
        }
    }

    #[test]
    fn a_guest_chooses_no_other_place() {
        for said in [
            "",
            "127.0.0.1",
            "8.8.8.8",
            "0.0.0.0 255.255.255.255 224.0.0.1 169.254.1.1",
            "192.168.1.5",
            "172.28.95.255",
            "-oProxyCommand=calc.exe",
            "evil.example.com",
            "172.28.80.91;calc",
            "::1 fe80::1",
            "0xac.0x1c.0x50.0x5b 172.28.80 2887536731",
        ] {
            assert_eq!(chosen(said), None, "{said}");
        }
    }

    #[test]
    fn own_addresses_are_known() {
        assert!(is_ours(Ipv4Addr::LOCALHOST));
        assert!(
            !is_ours(Ipv4Addr::new(198, 51, 100, 1)),
            "for documentation"
        );
    }
}
