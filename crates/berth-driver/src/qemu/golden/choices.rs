//! What a configuration chooses, and what it may not.

use super::*;

#[test]
fn options_of_the_user_win() {
    let mut instance = Instance::new();
    let words = [
        "-m",
        "512",
        "-machine",
        "pc",
        "--display",
        "sdl",
        "-smp",
        "1",
        "-device",
        "own",
    ];
    instance.program.leading = words.map(str::to_owned).to_vec();
    let lines = instance.lines(json!({}));
    let want = "-m 512\n-machine pc\n--display sdl\n-smp 1\n-device own\n-cpu host\n-device qemu-xhci,id=usb-bus\n";
    assert!(lines.starts_with(want), "{lines}");
    assert!(
        lines.contains("\n-vga none\n"),
        "there may be several devices, so ours stay"
    );
}

#[test]
fn accelerators_can_be_chosen() {
    let mut instance = Instance::new();
    let tcg = json!({"vmOpts": {"qemu": {"accel": "tcg"}}});
    assert!(
        instance
            .lines(tcg.clone())
            .contains("-accel tcg,thread=multi")
    );
    instance.env = vec![("BERTH_QEMU_ACCEL".to_owned(), "kvm".to_owned())];
    instance.hardware = Hardware::Unusable("not asked".to_owned());
    assert!(
        instance.lines(tcg.clone()).contains("accel=kvm"),
        "the environment wins"
    );
    instance.capabilities.accels.remove("kvm");
    let error = instance
        .resolve(config(tcg.clone()))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("BERTH_QEMU_ACCEL: ")
            && error.contains("built without the accelerator kvm"),
        "{error}"
    );
    instance.env[0].1 = "warp".to_owned();
    let error = instance.resolve(config(tcg)).unwrap_err().to_string();
    assert!(
        error.starts_with("BERTH_QEMU_ACCEL: \"warp\" is no accelerator"),
        "{error}"
    );

    // Chosen by rule, and not there: slow is better than not at all.
    instance.env.clear();
    instance.hardware = Hardware::Usable;
    let resolved = instance.resolve(config(json!({}))).unwrap();
    assert_eq!(resolved.plan.accel.as_str(), "tcg");
    assert!(
        resolved.warnings[0].contains("built without kvm"),
        "{:?}",
        resolved.warnings
    );
}

#[test]
fn cpu_models_can_be_chosen() {
    let instance = Instance::new();
    let chosen = |cpu: &str| json!({"vmOpts": {"qemu": {"cpuType": {"x86_64": cpu}}}});
    assert_eq!(
        instance.lines_with(chosen("qemu64,+aes"), &["-cpu"]),
        "-cpu qemu64,+aes"
    );
    let error = instance
        .resolve(config(chosen("qemu6")))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("vmOpts.qemu.cpuType: \"qemu6\" is no CPU"),
        "{error}"
    );
}

#[test]
fn variables_follow_their_firmware() {
    let instance = Instance::new().with_firmware("edk2-x86_64-code.fd", Some("edk2-i386-vars.fd"));
    let uefi = json!({"firmware": {"legacyBIOS": false}});
    let vars = instance.dir.efi_vars();
    std::fs::write(&vars, "the one!").unwrap();
    instance.lines(uefi.clone());
    assert_eq!(
        std::fs::read(&vars).unwrap(),
        b"the one!",
        "same size: the guest's own"
    );
    std::fs::write(&vars, "of other firmware").unwrap();
    instance.lines(uefi.clone());
    assert_eq!(std::fs::read(&vars).unwrap(), b"template");

    // Firmware of the instance's own comes first, and brings no template.
    std::fs::remove_file(&vars).unwrap();
    std::fs::write(instance.dir.efi_code(), "own").unwrap();
    let want = "-drive if=pflash,format=raw,readonly=on,file=$INST/qemu-efi-code.fd";
    assert_eq!(instance.lines_with(uefi, &["pflash"]), want);
}

#[test]
fn hostile_disks_are_no_part_of_any_plan() {
    let instance = Instance::new();
    let made = std::process::Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-F",
            "raw",
            "-b",
            "/etc/passwd",
        ])
        .arg(instance.dir.disk())
        .arg("1M")
        .status();
    assert!(
        made.expect("qemu-img is installed (`cargo xtask test` does it)")
            .success()
    );
    let error = instance.resolve(config(json!({}))).unwrap_err();
    assert!(matches!(error, DriverError::Image(_)), "{error:?}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("based on another file"), "{cause}");
}
