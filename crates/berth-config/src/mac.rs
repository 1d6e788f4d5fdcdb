//! MAC addresses that stay the same for the same instance on the same machine.

use std::path::Path;

use sha2::{Digest, Sha256};

/// The address of the guest's first interface, from the absolute path of the instance directory.
#[must_use]
pub fn first_nic(machine_id: &str, instance_dir: &Path) -> String {
    derive(machine_id, &instance_dir.to_string_lossy())
}

/// The address of `networks[index]`, from the absolute path of the instance's `lima.yaml`.
#[must_use]
pub fn extra_nic(machine_id: &str, lima_yaml: &Path, index: usize) -> String {
    derive(machine_id, &format!("{}#{index}", lima_yaml.display()))
}

/// Reads an address of six bytes, written with `:` or `-`.
#[must_use]
pub fn parse(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next()?;
        if part.len() != 2 || part.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn derive(machine_id: &str, key: &str) -> String {
    let hash = Sha256::new()
        .chain_update(machine_id)
        .chain_update(key)
        .finalize();
    format!("52:55:55:{:02x}:{:02x}:{:02x}", hash[0], hash[1], hash[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "52:55:55",
            "52:55:55:00:00:0",
            "52:55:55:00:00:gg",
            "52:55:55:00:00:00:00",
            "+2:55:55:00:00:00",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    /// The expected bytes are those of `printf %s ... | sha256sum`.
    #[test]
    fn addresses_come_from_machine_and_path() {
        assert_eq!(first_nic("id", Path::new("/l/x")), "52:55:55:b1:bf:bd");
        assert_eq!(
            extra_nic("id", Path::new("/l/x/lima.yaml"), 1),
            "52:55:55:0d:dc:10"
        );
        assert_eq!(
            parse("52:55:55:0A:ff:00"),
            Some([0x52, 0x55, 0x55, 0x0a, 0xff, 0])
        );
    }
}
