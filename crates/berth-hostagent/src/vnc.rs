//! VNC set-up: a one-time password, and two files that tell people where to connect.

use std::path::Path;

use berth_driver::driver::Driver;
use berth_instance::dir::InstanceDir;

use crate::error::AgentError;

/// First TCP port of VNC; the display number counts from it (RFB).
const FIRST_PORT: u16 = 5900;

/// Letters and digits of passwords; none that look alike.
const LETTERS: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";
const DIGITS: &[u8] = b"23456789";

/// Sets a password and writes `vncpassword` and `vncdisplay` (both 0600).
///
/// `display` is `video.vnc.display`: `host:N[,options]`. With `to=` among the options QEMU picks the number, and is asked for it.
pub(crate) async fn set_up(
    driver: &dyn Driver,
    dir: &InstanceDir,
    display: &str,
    random: &[u8; 32],
) -> Result<(), AgentError> {
    let password = password(random);
    driver.change_display_password(&password).await?;
    write_secret(&dir.vnc_password(), &password)?;
    let (address, options) = display.split_once(',').unwrap_or((display, ""));
    let shown = if options.split(',').any(|option| option.starts_with("to=")) {
        let port = driver.display_port().await?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        format!("{host}:{}", port.saturating_sub(FIRST_PORT))
    } else {
        address.to_owned()
    };
    write_secret(&dir.vnc_display(), &shown)
}

/// Eight characters (VNC takes no more), exactly two of them digits, none twice. `random` must come from the system.
fn password(random: &[u8; 32]) -> String {
    let mut dice = random.iter().copied().map(usize::from);
    let mut roll = |sides: usize| dice.next().unwrap_or(0) % sides;
    let mut draw = |pool: &mut Vec<u8>| pool.swap_remove(roll(pool.len()));
    let (mut letters, mut digits) = (LETTERS.to_vec(), DIGITS.to_vec());
    let mut chosen: Vec<u8> = (0..6).map(|_| draw(&mut letters)).collect();
    for _ in 0..2 {
        let digit = draw(&mut digits);
        let mut places: Vec<u8> = (0..=u8::try_from(chosen.len()).unwrap_or(0)).collect();
        chosen.insert(usize::from(draw(&mut places)), digit);
    }
    chosen.into_iter().map(char::from).collect()
}

fn write_secret(path: &Path, text: &str) -> Result<(), AgentError> {
    berth_instance::files::write_atomic(path, text.as_bytes(), 0o600)
        .map_err(|why| AgentError::io("write", path, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_eight_characters_two_digits_and_no_repeats() {
        for seed in 0..=255_u8 {
            let mut random = [0; 32];
            for (i, byte) in (0_u8..).zip(random.iter_mut()) {
                *byte = seed.wrapping_mul(31).wrapping_add(i.wrapping_mul(97));
            }
            let password = password(&random);
            assert_eq!(password.len(), 8);
            assert_eq!(
                password.bytes().filter(u8::is_ascii_digit).count(),
                2,
                "{password}"
            );
            let mut unique: Vec<_> = password.bytes().collect();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), 8, "{password}");
        }
    }
}
