//! The names of the network interfaces, which configuration in the guest relies on (`eth0`, `lima0`).

use std::time::Duration;

use berth_link::boot::{BootSpec, Nic};
use tokio::time::timeout;

use crate::boot::step::{Done, StepError, Work, impossible};
use crate::guest::Guest;
use crate::netlink::{Changes, Interface, interfaces};
use crate::programs::Command;

/// How long the guest's own rules (netplan, udev) may take to name the interfaces.
const LIMIT: Duration = Duration::from_secs(30);

/// The host knows the guest's interfaces.
pub(crate) fn applies(spec: &BootSpec, _guest: &Guest) -> bool {
    !spec.nics.is_empty()
}

/// Waits for the right names, and corrects those that the guest's own rules left wrong.
///
/// A wrong name under which an interface has its address stays: whatever configured it knows it by that name, and would not
/// configure it again under another.
pub(crate) async fn run(work: &Work<'_>) -> Result<Done, StepError> {
    let nics = &work.spec.nics;
    let names = match timeout(LIMIT, settled(nics)).await {
        Ok(settled) => settled,
        Err(_) => interfaces().map(|interfaces| name_all(nics, &interfaces)),
    };
    let mut done = Done::Already;
    let mut wrong = Vec::new();
    for (nic, name) in nics.iter().zip(names.map_err(StepError::Network)?) {
        match name {
            Name::Right => {}
            Name::Unused(name) => {
                rename(work, &name, &nic.name).await?;
                done = Done::Changed;
            }
            Name::InUse(name) => wrong.push(format!("{} ({}) is called {name}", nic.name, nic.mac)),
            Name::Missing => wrong.push(format!("{} ({}) is missing", nic.name, nic.mac)),
        }
    }
    if wrong.is_empty() {
        Ok(done)
    } else {
        Err(impossible(format!(
            "network interface {}: see the guest's network configuration",
            wrong.join(", ")
        )))
    }
}

/// How an interface is called.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// As it should.
    Right,
    /// Otherwise, and nobody has configured it.
    Unused(String),
    /// Otherwise, and it has its address.
    InUse(String),
    /// Not at all: there is no such interface.
    Missing,
}

/// Waits until no name can be expected to change any more.
async fn settled(nics: &[Nic]) -> std::io::Result<Vec<Name>> {
    let changes = Changes::listen()?;
    loop {
        let names = name_all(nics, &interfaces()?);
        let is_settled = |name: &Name| matches!(name, Name::Right | Name::InUse(_));
        if names.iter().all(is_settled) {
            return Ok(names);
        }
        changes.next().await?;
    }
}

fn name_all(nics: &[Nic], interfaces: &[Interface]) -> Vec<Name> {
    let name = |nic: &Nic| {
        let by_mac = |interface: &&Interface| interface.mac.eq_ignore_ascii_case(&nic.mac);
        match interfaces.iter().find(by_mac) {
            None => Name::Missing,
            Some(interface) if interface.name == nic.name => Name::Right,
            Some(interface) if interface.addresses.is_empty() => {
                Name::Unused(interface.name.clone())
            }
            Some(interface) => Name::InUse(interface.name.clone()),
        }
    };
    nics.iter().map(name).collect()
}

async fn rename(work: &Work<'_>, from: &str, to: &str) -> Result<(), StepError> {
    let ip = |args: &[&str]| work.run(Command::new("ip").args(["link", "set", "dev"]).args(args));
    ip(&[from, "down"]).await?;
    ip(&[from, "name", to]).await?;
    ip(&[to, "up"]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn nic(mac: &str, name: &str) -> Nic {
        Nic {
            mac: mac.to_owned(),
            name: name.to_owned(),
            metric: 200,
        }
    }

    fn interface(mac: &str, name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            mac: mac.to_owned(),
            addresses: addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
        }
    }

    #[test]
    fn interfaces_are_known_by_their_hardware_address() {
        let nics = [
            nic("52:55:55:AA:00:01", "eth0"),
            nic("52:55:55:aa:00:02", "lima0"),
        ];
        let eth0 = interface("52:55:55:aa:00:01", "eth0", &["192.168.5.15"]);
        let second = |name: &str, addresses: &[&str]| {
            let interfaces = [
                eth0.clone(),
                interface("52:55:55:aa:00:02", name, addresses),
            ];
            name_all(&nics, &interfaces).remove(1)
        };
        assert_eq!(second("lima0", &[]), Name::Right);
        assert_eq!(second("ens4", &[]), Name::Unused("ens4".to_owned()));
        assert_eq!(
            second("ens4", &["192.168.105.2"]),
            Name::InUse("ens4".to_owned())
        );
        assert_eq!(name_all(&nics, &[eth0]), [Name::Right, Name::Missing]);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_interface_that_is_missing_is_named() {
        let mut scene = Scene::new();
        scene.spec.nics = vec![nic("02:00:00:00:00:fe", "berth-none0")];
        let why = scene.run(run).await.unwrap_err().to_string();
        let expected = "network interface berth-none0 (02:00:00:00:00:fe) is missing";
        assert!(why.starts_with(expected), "{why}");
    }
}
