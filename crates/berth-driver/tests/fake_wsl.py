#!/usr/bin/env python3
"""A wsl.exe without Windows, and the powershell.exe that is asked for WSL's machine.

The contract, kept or broken as the second argument says, is that of
- Microsoft's documentation: WSL/basic-commands.md of 2026-09-26 (options, `--force`, `hostname -I`), and "Make your own
  integration services" (the service of a vsock port);
- the source of WSL 2.9.4: src/windows/common/WslClient.cpp (lists, WSL_UTF8, import, terminate, unregister), helpers.cpp (the
  command line of wslhost.exe), src/linux/init/wslpath.cpp, wslinfo.cpp and drvfs.cpp.

usage: fake_wsl.py wsl.exe|powershell.exe BEHAVIOUR DIRECTORY ARGUMENTS...

DIRECTORY keeps the registry and a log, and is the drive C: (/mnt/c in a guest). Machines are directories of unix sockets in
BERTH_HYPERV_SOCKETS. With BERTH_FAKE_GUEST (the program berth-testguest) a guest boots, and commands run in it.
"""
import contextlib, ctypes, fcntl, json, os, re, signal, socket, subprocess, sys, tarfile, threading, time, uuid

PROGRAM, BEHAVIOUR, HOME, ARGV = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
GUEST = os.environ.get("BERTH_FAKE_GUEST")
MACHINES = os.environ.get("BERTH_HYPERV_SOCKETS", "")
STALE = "11111111-2222-3333-4444-555555555555"
HIDDEN = ("Installing", "Uninstalling")


def log(text):
    with open(os.path.join(HOME, "log"), "a") as file:
        file.write(text + "\n")


def say(text, stream=sys.stdout):
    """Prints as wsl.exe does: in UTF-8 if asked, by a version that knows how; else in UTF-16."""
    if BEHAVIOUR in ("utf16", "bom"):
        mark = b"\xff\xfe" if BEHAVIOUR == "bom" else b""
        stream.buffer.write(mark + text.replace("\n", "\r\n").encode("utf-16-le"))
    else:
        stream.buffer.write(text.replace("\n", "\r\n").encode())
    stream.flush()


def fail(text, code=255):
    say(text + "\n", sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def registry():
    """The distributions by name; changes are kept. Readers see the old file or the new one."""
    path = os.path.join(HOME, "registry.json")
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = open(path).read() if os.path.exists(path) else "{}"
        known = json.loads(text)
        yield known
        if json.dumps(known) != text:
            with open(path + ".new", "w") as file:
                json.dump(known, file)
            os.replace(path + ".new", path)


def lookup(name):
    with registry() as known:
        found = [key for key in known if key.lower() == name.lower()]
    if not found:
        fail("Es ist keine Distribution mit dem angegebenen Namen vorhanden.\nFehlercode: Wsl/Service/WSL_E_DISTRO_NOT_FOUND")
    return found[0]


def change(name, **values):
    with registry() as known:
        if name in known:
            known[name].update(values)


def state(name):
    with registry() as known:
        distribution = known.get(name, {})
    if GUEST and distribution.get("state") == "Running" and not os.path.exists("/proc/%d" % distribution["front"]):
        change(name, state="Stopped")
        return "Stopped"
    return distribution.get("state")


def list_distributions(options):
    with registry() as known:
        names = list(known)
    states = {name: state(name) for name in names}
    if BEHAVIOUR == "broken":
        fail("WSL wurde nicht ordnungsgemäß installiert.\nFehlercode: Wsl/0x80070422")
    if "--verbose" in options:
        lines = ["  NAME      STATUS      VERSION"] + ["  %s  Wird ausgeführt  2" % name for name in names]
        say("\n".join(lines) + "\n")
        return
    if BEHAVIOUR == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe\x00\xd8lima-vm\n\x00\x1b]0;\x07")
        return
    if "--running" in options:
        names = [name for name in names if states[name] == "Running"]
        if not names and BEHAVIOUR == "old":
            fail("Es werden keine Distributionen ausgeführt.")
    elif "--all" not in options:
        names = [name for name in names if states[name] not in HIDDEN]
    if not names and BEHAVIOUR == "old" and "--running" not in options:
        fail("Keine Distributionen.\nFehlercode: Wsl/WSL_E_DEFAULT_DISTRO_NOT_FOUND")
    say("".join(name + "\n" for name in ["Ubuntu-24.04 LTS läuft", *names]))


def import_distribution(name, directory, file, *options):
    if list(options) != ["--version", "2"] or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        fail("Ungültiges Befehlszeilenargument\nFehlercode: Wsl/E_INVALIDARG")
    with registry() as known:
        if name.lower() in [key.lower() for key in known]:
            fail("Der Name ist bereits vergeben.\nFehlercode: Wsl/Service/RegisterDistro/ERROR_ALREADY_EXISTS")
    if not os.path.isdir(directory) or not tarfile.is_tarfile(file):
        fail("Fehler beim Importieren.\nFehlercode: Wsl/Service/RegisterDistro/WSL_E_IMPORT_FAILED")
    if BEHAVIOUR == "import-lies":
        return
    disk = os.path.join(directory, "ext4.vhdx")
    if os.path.exists(disk):
        fail("Die Datei ist vorhanden.\nFehlercode: Wsl/Service/RegisterDistro/ERROR_FILE_EXISTS")
    with open(disk, "w") as vhdx:
        vhdx.truncate(4 << 30 if GUEST else 1)
    with registry() as known:
        known[name] = {"state": "Installing", "directory": directory}
    if BEHAVIOUR == "import-hangs":
        time.sleep(3600)
    if BEHAVIOUR == "import-fails":
        fail("Auf dem Datenträger ist kein Platz.\nFehlercode: Wsl/Service/RegisterDistro/0x80070070")
    change(name, state="Stopped")


def terminate(name):
    name = lookup(name)
    if BEHAVIOUR == "stubborn":
        return
    if GUEST and state(name) == "Running":
        with registry() as known:
            front = known[name]["front"]
        os.kill(front, signal.SIGKILL)
        while os.path.exists("/proc/%d" % front):
            time.sleep(0.01)
    change(name, state="Stopped")


def unregister(name, *options):
    name = lookup(name)
    if options not in ((), ("--force",)) or (options and BEHAVIOUR != "asks"):
        fail("Ungültiges Befehlszeilenargument: --force\nFehlercode: Wsl/E_INVALIDARG")
    if BEHAVIOUR == "asks" and not options:
        say("Geben Sie j ein, um fortzufahren.\n")
        sys.exit(1)
    terminate(name)
    if BEHAVIOUR == "unregister-lies":
        return
    with registry() as known:
        disk = os.path.join(known.pop(name)["directory"], "ext4.vhdx")
    if os.path.exists(disk):
        os.unlink(disk)


def execute(name, words):
    name = lookup(name)
    if BEHAVIOUR == "no-boot":
        fail("Das virtuelle Gerät wurde nicht gestartet, weil ein Feature fehlt.\nFehlercode: Wsl/Service/CreateInstance/CreateVm/HCS")
    if BEHAVIOUR == "boot-hangs":
        time.sleep(3600)
    if state(name) in HIDDEN:
        fail("Fehlercode: Wsl/Service/CreateInstance/E_ILLEGAL_STATE_CHANGE")
    if state(name) != "Running":
        boot(name)
    program = os.path.basename(words[0])
    if program in ("wslpath", "wslinfo", "hostname", "ip"):
        return {"wslpath": wslpath, "wslinfo": wslinfo, "hostname": address, "ip": address}[program](*words[1:])
    if program == "sleep":
        return keep_alive(name)
    if GUEST:
        with registry() as known:
            guest = known[name]["guest"]
        sys.exit(subprocess.call(["nsenter", "-t", str(guest), "-a", "--", *words]))
    if program == "true":
        while BEHAVIOUR == "floods":
            sys.stdout.write("\x1b[31mno end" * 1000)
    elif program == "systemctl":
        if BEHAVIOUR not in ("deaf", "stubborn", "stuck"):
            change(name, state="Stopped")
    elif program == "berth-guestagent":
        install(name, words)
    else:
        sys.stderr.write("%s: not found\n" % words[0])
        sys.exit(127)


def boot(name):
    machine = str(uuid.uuid4())
    os.makedirs(os.path.join(MACHINES, machine))
    change(name, state="Running", machine=machine)
    if BEHAVIOUR == "slow":
        time.sleep(1)
    if GUEST:
        boot_guest(name, os.path.join(MACHINES, machine))


def keep_alive(name):
    """Lives as long as the distribution."""
    if BEHAVIOUR == "dies":
        fail("\x1b[31mDer Kernel ist abgestürzt.", 1)
    while BEHAVIOUR == "chatters" and state(name) == "Running":
        sys.stderr.write("the same again\n" * 1000)
    while state(name) == "Running" or BEHAVIOUR == "stuck":
        time.sleep(0.02)
    sys.exit(1)


def wslpath(option, path):
    if BEHAVIOUR == "dies":
        time.sleep(3600)
    if BEHAVIOUR == "path-lies":
        sys.stdout.write("\x1b[31mC:\\evil\n/x")
        return
    path = re.sub(r"^[Cc]:", HOME, path)
    if option != "-u" or "\\" in path or not path.startswith(HOME + "/"):
        sys.stderr.write("wslpath: %s\n" % path)
        sys.exit(1)
    sys.stdout.write("/mnt/c/%s\n" % path[len(HOME) + 1:])


def wslinfo(option):
    if BEHAVIOUR in ("old", "address-lies", "nat"):
        sys.stderr.write("wslinfo: not found\n")
        sys.exit(127)
    print("mirrored")


def address(*words):
    if BEHAVIOUR == "address-lies":
        print("8.8.8.8 127.0.0.1 -oProxyCommand=touch${IFS}/tmp/x evil.example.com \x1b[31m")
    elif BEHAVIOUR == "old" and words == ("-I",):
        sys.stderr.write("hostname: unrecognized option: I\n")
        sys.exit(1)
    elif words == ("-I",):
        print("172.28.80.91 172.17.0.1 ")
    else:
        print("2: eth0: <UP>\n    inet 172.28.80.92/20 brd 172.28.95.255 scope global eth0")


def install(name, words):
    """Stands in for the guest agent: listens, and greets."""
    path = HOME + words[0].removeprefix("/mnt/c")
    options = dict(word.split("=", 1) for word in words[2:])
    if words[1] != "install" or not os.access(path, os.X_OK) or words[0] != options["--from"] + "/berth-guestagent":
        sys.stderr.write("install: \x1b[31m%s\n" % words)
        sys.exit(1)
    if BEHAVIOUR == "no-agent":
        sys.stderr.write("berth-guestagent: this guest has neither systemd nor OpenRC\n")
        sys.exit(1)
    with registry() as known:
        machine = known[name]["machine"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(MACHINES, machine, options["--port"].removeprefix("hvsock:")))
    listener.listen()
    log("installed %s" % options["--port"])
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)

    def greet():
        while True:
            connection = listener.accept()[0]
            connection.sendall(b"hello")

    threading.Thread(target=greet, daemon=True).start()
    while state(name) == "Running":
        time.sleep(0.05)
    os._exit(0)


def boot_guest(name, vsock):
    """The native-speed guest takes QEMU's command line; a port of sshd is forwarded, as WSL does in mirrored mode."""
    with registry() as known:
        directory = known[name]["directory"]
    port = os.environ["BERTH_FAKE_SSH_PORT"]
    console, monitor = os.path.join(directory, "console.log"), os.path.join(directory, "fake-qmp")
    command = [
        GUEST, "-name", name, "-m", "512",
        "-chardev", "socket,id=qmp,path=%s,server=on,wait=off" % monitor, "-qmp", "chardev:qmp",
        "-chardev", "file,id=console,path=%s" % console, "-serial", "chardev:console",
        "-drive", "file=%s,format=raw,if=none" % os.path.join(directory, "ext4.vhdx"),
        "-netdev", "user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15,hostfwd=tcp:127.0.0.1:%s-:%s" % (port, port),
        "-device", "virtio-net-pci,netdev=net0,mac=52:55:55:00:00:02", "-device", "berth-vsock,directory=%s" % vsock,
    ]
    out = open(os.path.join(directory, "guest.log"), "ab")
    front = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    while not (guest := first_process(front.pid)):
        if front.poll() is not None:
            fail(open(out.name).read(), 1)
        time.sleep(0.02)
    show_drive(guest)
    change(name, front=front.pid, guest=guest)
    # WSL waits for systemd.
    booted = ["nsenter", "-t", str(guest), "-a", "--", "systemctl", "is-system-running", "--wait"]
    while subprocess.run(booted, capture_output=True, text=True).stdout.strip() not in ("running", "degraded"):
        time.sleep(0.1)
    # This guest may not write to /proc/sys; a distribution's root may.
    subprocess.run(["nsenter", "-t", str(guest), "-u", "--", "hostname", name], check=True)


def first_process(front):
    """The descendant that is the first process of its namespace, once it is systemd."""
    children, found = {}, [front]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = open("/proc/%s/stat" % pid).read()
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(pid))
    for pid in found:
        found += children.get(pid, [])
        with contextlib.suppress(OSError):
            status = open("/proc/%d/status" % pid).read()
            if re.search(r"^Name:\tsystemd$", status, re.M) and re.search(r"^NSpid:.*\t1$", status, re.M):
                if os.path.exists("/proc/%d/root/run/systemd/private" % pid):
                    return pid
    return None


def show_drive(guest):
    """Mounts the drive in the guest, and brings the helper by which mount(8) knows drives."""
    libc = ctypes.CDLL(None, use_errno=True)
    tree = libc.syscall(428, -100, HOME.encode(), 1)  # open_tree, OPEN_TREE_CLONE
    namespace = os.open("/proc/%d/ns/mnt" % guest, os.O_RDONLY)
    child = os.fork()
    if not child:
        libc.setns(namespace, 0)
        os.makedirs("/mnt/c", exist_ok=True)
        moved = libc.syscall(429, tree, b"", -100, b"/mnt/c", 4)  # move_mount, MOVE_MOUNT_F_EMPTY_PATH
        helper = "#!/bin/sh\nexec mount --bind \"/mnt/c/$(printf %s \"$1\" | tr '\\\\' / | cut -c4-)\" \"$2\"\n"
        with open("/sbin/mount.drvfs", "w") as file:
            file.write(helper)
        os.chmod("/sbin/mount.drvfs", 0o755)
        os._exit(-moved)
    if os.waitpid(child, 0)[1] or tree < 0:
        fail("the drive could not be mounted")


def powershell():
    log("powershell")
    if ARGV[:4] != ["-NoLogo", "-NoProfile", "-NonInteractive", "-Command"] or "wslhost.exe" not in ARGV[4]:
        fail("Die Benennung wurde nicht als Name eines Cmdlet erkannt.", 1)
    if BEHAVIOUR == "no-machine":
        fail("Zugriff verweigert", 1)
    with registry() as known:
        machines = [one["machine"] for one in known.values() if one.get("state") == "Running"]
    if BEHAVIOUR == "stale":
        machines.insert(0, STALE)
    host = '"C:\\Program Files\\WSL\\wslhost.exe" --vm-id {%s} --handle 2372\r\n'
    sys.stdout.write("\r\n" + "".join(host % machine for machine in machines))


def wsl():
    log("wsl %s" % "\t".join(ARGV))
    if os.environ.get("WSL_UTF8") != "1" or os.environ.get("WSLENV") != "" or os.fstat(0).st_rdev != os.stat("/dev/null").st_rdev:
        fail("environment: WSL_UTF8=%s WSLENV=%s" % (os.environ.get("WSL_UTF8"), os.environ.get("WSLENV")), 90)
    command, rest = ARGV[0], ARGV[1:]
    if command == "--distribution":
        name, *options = rest
        if options[:5] != ["--user", "root", "--cd", "/", "--exec"]:
            fail("Ungültige Befehlszeilenoption: %s" % options)
        return execute(name, options[5:])
    commands = {"--list": lambda *options: list_distributions(options), "--import": import_distribution, "--terminate": terminate, "--unregister": unregister}
    if command not in commands:
        fail("Ungültige Befehlszeilenoption: %s" % command)
    commands[command](*rest)
    if command != "--list":
        say("Der Vorgang wurde erfolgreich beendet.\n")


sys.exit(powershell() if PROGRAM == "powershell.exe" else wsl())
