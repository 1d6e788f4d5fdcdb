use super::*;

fn parse(line: &str) -> Result<Request> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Request::parse(&words)
}

fn machine(line: &str) -> Hardware {
    match parse(line).unwrap() {
        Request::Machine(machine) => *machine,
        other => panic!("not a machine: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(line).unwrap_err().to_string()
}

#[test]
fn a_host_agents_command_line_becomes_a_machine() {
    let machine = machine(
        "-m 4096 -cpu max -machine q35,vmport=off -accel tcg,thread=multi,tb-size=512 \
         -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd -device qemu-xhci,id=usb-bus \
         -drive file=/i/my,,disk,format=raw,if=none,discard=on,id=boot-disk \
         -device virtio-blk-pci,drive=boot-disk,bootindex=1 -boot order=c,splash-time=0,menu=on \
         -drive id=cdrom0,if=none,format=raw,readonly=on,file=/i/cidata.iso -device virtio-scsi,id=scsi0 \
         -netdev user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15,hostfwd=tcp:127.0.0.1:41179-:22 \
         -device virtio-net-pci,netdev=net0,mac=52:55:55:83:58:3a -display none -vga none -parallel none \
         -chardev socket,id=char-serial,path=/i/serial.sock,server=on,wait=off,logfile=/i/serial.log \
         -serial chardev:char-serial \
         -chardev socket,id=char-qmp,path=/i/qmp.sock,server=on,wait=off -qmp chardev:char-qmp \
         -chardev socket,id=char-ga,path=/i/ga-link.sock,server=on,wait=off -device virtio-serial-pci \
         -device virtserialport,chardev=char-ga,name=io.lima-vm.guest_agent.0,id=ga-port \
         -device berth-vsock,directory=/i/vsock \
         -qmp unix:/i/qmp-berth.sock,server=on,wait=off -name lima-x -pidfile /i/qemu.pid",
    );
    assert_eq!(machine.name, "lima-x");
    assert_eq!(machine.memory, 4 << 30);
    assert_eq!(machine.pid_file, Some(PathBuf::from("/i/qemu.pid")));
    assert_eq!(machine.disk, Some(PathBuf::from("/i/my,disk")));
    assert_eq!(machine.cidata, Some(PathBuf::from("/i/cidata.iso")));
    assert_eq!(machine.files.len(), 3);
    assert_eq!(machine.vsock, Some(PathBuf::from("/i/vsock")));
    assert_eq!(machine.mac.as_deref(), Some("52:55:55:83:58:3a"));
    assert_eq!(machine.console.as_deref(), Some("char-serial"));
    let chardev = |id: &str| {
        machine
            .chardevs
            .iter()
            .find(|chardev| chardev.id == id)
            .unwrap()
    };
    let serial = chardev("char-serial");
    assert_eq!(serial.socket, Some(PathBuf::from("/i/serial.sock")));
    assert_eq!(serial.log, Some(PathBuf::from("/i/serial.log")));
    let monitors: Vec<_> = machine.monitors.iter().map(|id| chardev(id)).collect();
    assert_eq!(monitors[0].socket, Some(PathBuf::from("/i/qmp.sock")));
    assert_eq!(monitors[1].socket, Some(PathBuf::from("/i/qmp-berth.sock")));
    assert_eq!(
        machine.ports,
        [SerialPort {
            chardev: "char-ga".to_owned(),
            name: "io.lima-vm.guest_agent.0".to_owned(),
            device: Some("ga-port".to_owned()),
        }]
    );
    let network = machine.network.unwrap();
    assert_eq!(network.gateway, Ipv4Addr::new(192, 168, 5, 2));
    assert_eq!(network.dns, Ipv4Addr::new(192, 168, 5, 3));
    assert_eq!(network.guest, Ipv4Addr::new(192, 168, 5, 15));
    assert_eq!(network.forwards[0].listen.port(), 41179);
}

#[test]
fn probes_are_told_from_machines() {
    assert_eq!(parse("--version").unwrap(), Request::Version);
    let help = |line| match parse(line).unwrap() {
        Request::Help(option) => option,
        other => panic!("not help: {other:?}"),
    };
    assert_eq!(help("-M none -accel help"), "accel");
    assert_eq!(help("-cpu help -machine q35"), "cpu");
    assert_eq!(help("-machine help"), "machine");
}

#[test]
fn defaults_are_qemus() {
    let machine = machine("-netdev user,id=n -m 2G");
    let network = machine.network.unwrap();
    assert_eq!(network.guest, Ipv4Addr::new(10, 0, 2, 15));
    assert!(network.forwards.is_empty());
    assert_eq!(machine.memory, 2 << 30);
}

#[test]
fn vnc_displays() {
    let vnc = machine("-display vnc=127.0.0.1:0,to=9,password=on")
        .vnc
        .unwrap();
    assert_eq!(vnc.host, "127.0.0.1");
    assert_eq!(vnc.displays, 0..=9);
    assert!(vnc.password);
    assert_eq!(machine("-display none").vnc, None);
    assert_eq!(machine("-vnc :3").vnc.unwrap().displays, 3..=3);
}

#[test]
fn bad_lines_are_refused_in_qemus_words() {
    assert_eq!(error("-foo"), "-foo: invalid option");
    assert_eq!(error("-name"), "-name: requires an argument");
    assert_eq!(
        error("-netdev user,id=n,hostfwd=foo"),
        "-netdev user,id=n,hostfwd=foo: Invalid host forwarding rule 'foo' (No : separators)"
    );
    assert_eq!(
        error("-qmp chardev:nix"),
        "-qmp chardev:nix: chardev \"nix\" not found"
    );
    assert!(error("bare").starts_with("bare: Could not open 'bare'"));
    assert!(error("-m x").contains("Parameter 'size' expects"));
    assert!(error("-chardev nonsense,id=a").contains("not a valid char driver name"));
    assert!(error("-chardev socket,id=a,path=/x,server=on").contains("wait=on"));
}
