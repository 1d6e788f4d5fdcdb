//! The guest's screen: VNC password and port, and pictures.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_instance::dir::InstanceDir;
use serde_json::{Value, json};

use crate::error::DriverError;
use crate::qemu::qmp::Qmp;

/// A large screen takes a while to compress under emulation.
const PICTURE_LIMIT: Duration = Duration::from_secs(15);
/// More than any screen has.
const PICTURE_MAX: u64 = 64 << 20;

/// Sets the password of the VNC server.
pub(super) async fn set_password(monitor: &Qmp, password: &str) -> Result<(), DriverError> {
    let arguments = json!({ "password": password });
    monitor.execute("change-vnc-password", arguments).await?;
    Ok(())
}

/// The TCP port that the VNC server really listens on.
pub(super) async fn vnc_port(monitor: &Qmp) -> Result<u16, DriverError> {
    let answer = monitor.execute("query-vnc", json!({})).await?;
    let service = answer.get("service").and_then(Value::as_str);
    service
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| DriverError::Monitor {
            command: "query-vnc".to_owned(),
            why: "the VNC server has no TCP port".to_owned(),
        })
}

/// A picture of the screen, as PNG. QEMU writes it into a file of the instance, which is gone afterwards.
pub(super) async fn picture(monitor: &Qmp, dir: &InstanceDir) -> Result<Vec<u8>, DriverError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = Gone(dir.path().join(format!("screenshot-{number}.png.tmp")));
    let arguments = json!({ "filename": file.0, "format": "png" });
    let taken = monitor
        .execute_within(PICTURE_LIMIT, "screendump", arguments)
        .await;
    match taken {
        Ok(_) => read(&file.0),
        Err(DriverError::Monitor { why, .. }) if why.contains("no console") => {
            Err(DriverError::NoDisplay)
        }
        // Before 7.1 there is no argument `format`; some builds lack PNG.
        Err(DriverError::Monitor { why, .. })
            if why.contains("'format'") || why.contains("PNG") =>
        {
            Err(DriverError::Unsupported {
                key: "screenshot".to_owned(),
                why: format!("needs QEMU 7.1 or later with PNG ({why})"),
            })
        }
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DriverError> {
    let file = std::fs::File::open(path).map_err(DriverError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(PICTURE_MAX)
        .read_to_end(&mut bytes)
        .map_err(DriverError::io("read", path))?;
    Ok(bytes)
}

/// A file that does not outlive this value.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
