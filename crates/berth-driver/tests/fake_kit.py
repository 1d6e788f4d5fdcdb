#!/usr/bin/env python3
"""A vfkit or krunkit that runs no VM, or the native-speed guest in place of one.

The contract, kept or broken as the second argument says, is that of the programs' documentation and source:
- vfkit v0.6.4: doc/usage.md, pkg/config (command line), pkg/rest (HTTP), cmd/vfkit/main.go (order of events, signals);
- krunkit v1.2.1: docs/usage.md, src/cmdline.rs and src/virtio.rs (command line), src/status.rs (HTTP).

usage: fake_kit.py vfkit|krunkit BEHAVIOUR LOG ARGUMENTS...

With BERTH_FAKE_GUEST (the program berth-testguest) a guest boots; its vsock ports are unix sockets in a directory that it sees
as /dev/vsock. LOG gets a line for the start, for each request and for each ring.
"""
import ctypes, json, os, re, select, signal, socket, subprocess, sys, tempfile, threading, time

PROGRAM, BEHAVIOUR, LOG, ARGV = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
GUEST = os.environ.get("BERTH_FAKE_GUEST")
STATE = "VirtualMachineState"


def log(text):
    with open(LOG, "a") as file:
        file.write(text + "\n")


def fail(why):
    sys.stderr.write("Error: %s\n" % why)
    sys.exit(1)


def parts(text, quoted):
    """Splits a device or boot loader into its kind and its options. Only vfkit's boot loader knows quotes."""
    split = re.findall(r'(?:[^,"]|"[^"]*")+', text) if quoted else text.split(",")
    if PROGRAM == "krunkit" and any(part.count("=") > 1 for part in split[1:]):
        fail("invalid argument format: %s" % text)
    return split[0], dict((part.split("=", 1) + [""])[:2] for part in split[1:])


class Machine:
    """What the command line describes."""

    FLAGS = {"vfkit": {"--gui", "--nested"}, "krunkit": {"--gui", "--nested"}}
    VALUES = {
        "vfkit": {"--cpus", "--memory", "--bootloader", "--device", "--restful-uri", "--log-level", "--pidfile"},
        "krunkit": {"--cpus", "--memory", "--bootloader", "--device", "--restful-uri", "--krun-log-level", "--pidfile"},
    }
    OPTIONS = {
        "vfkit": {
            "virtio-blk": {"path", "type", "readonly", "deviceId"}, "usb-mass-storage": {"path", "readonly"},
            "virtio-net": {"nat", "mac", "fd", "unixSocketPath"}, "virtio-serial": {"logFilePath", "stdio", "pty"},
            "virtio-vsock": {"port", "socketURL", "connect", "listen"}, "virtio-fs": {"sharedDir", "mountTag"},
            "rosetta": {"mountTag", "install", "ignore-if-missing"}, "virtio-rng": set(), "virtio-balloon": set(),
            "virtio-gpu": {"width", "height"}, "virtio-input": {"keyboard", "pointing"},
        },
        "krunkit": {
            "virtio-blk": {"path", "format"}, "virtio-net": {"unixSocketPath", "type", "path", "fd", "mac"},
            "virtio-serial": {"logFilePath"}, "virtio-vsock": {"port", "socketURL", "connect", "listen"},
            "virtio-fs": {"sharedDir", "mountTag"}, "virtio-rng": set(),
        },
    }

    def __init__(self):
        self.options, self.devices = {}, []
        words = iter(ARGV)
        for word in words:
            if word in self.FLAGS[PROGRAM]:
                self.options[word] = True
            elif word in self.VALUES[PROGRAM]:
                value = next(words, None)
                if value is None:
                    fail("flag needs an argument: %s" % word)
                if word == "--device":
                    self.add(value)
                else:
                    self.options[word] = value
            else:
                fail("unknown flag: %s" % word)
        if PROGRAM == "vfkit":
            self.check_boot()

    def add(self, text):
        kind, options = parts(text, False)
        known = self.OPTIONS[PROGRAM].get(kind)
        if known is None:
            fail("unknown device type: %s" % kind)
        for name in options:
            if name not in known:
                fail("unknown option for %s devices: %s" % (kind, name))
        for name in ("path", "sharedDir"):
            if name in options and not os.path.exists(options[name]):
                fail("failed to open file %s: no such file or directory" % options[name])
        if "path" in options and open(options["path"], "rb").read(4) == b"QFI\xfb" and PROGRAM == "vfkit":
            fail("vfkit does not support qcow2 image format")
        if kind == "virtio-net" and "nat" not in options and not os.path.exists(options.get("unixSocketPath", "")):
            fail("dial unixgram: connect: no such file or directory")
        self.devices.append((kind, options))

    def check_boot(self):
        if "--bootloader" not in self.options:
            fail("empty option list in --bootloader command line argument")
        kind, options = parts(self.options["--bootloader"], True)
        if kind == "efi":
            store = options["variable-store"]
            if "create" not in options and not os.path.exists(store):
                fail("missing EFI variable store")
            open(store, "ab").close()
        elif kind != "linux" or not os.path.exists(options["kernel"]):
            fail("unknown bootloader type: %s" % kind)

    def of(self, kind):
        return [options for name, options in self.devices if name == kind]

    def rest(self):
        return self.options["--restful-uri"].removeprefix("unix://")


class Vm:
    def __init__(self, machine):
        self.machine, self.state, self.over = machine, "Starting", threading.Event()
        self.vsock, self.guest, self.code = tempfile.mkdtemp(prefix="vsock"), None, 0

    def run(self):
        self.listen(self.machine.rest(), self.answer, unlink=PROGRAM == "krunkit")
        if BEHAVIOUR == "slow":
            time.sleep(1)
        for serial in self.machine.of("virtio-serial"):
            open(serial["logFilePath"], "w").close()
        self.state = {"lies": "Error", "paused": "Paused"}.get(BEHAVIOUR, "Running")
        if GUEST:
            self.boot()
        if BEHAVIOUR != "no-vsock":
            for port in self.machine.of("virtio-vsock"):
                self.expose(int(port["port"]), port["socketURL"], "connect" in port)
        if BEHAVIOUR == "rings":
            threading.Thread(target=self.ring, daemon=True).start()
        while BEHAVIOUR == "floods" and not self.over.is_set():
            sys.stderr.write("level=info msg=\"the same again\"\n" * 1000)
        self.over.wait()
        for path in [self.machine.rest()] + [port["socketURL"] for port in self.machine.of("virtio-vsock") if "connect" in port]:
            if os.path.exists(path):
                os.unlink(path)
        return self.code

    def listen(self, path, serve, unlink=False):
        if unlink and os.path.exists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        fresh = path + ".new"
        try:
            if os.path.lexists(path):
                raise FileExistsError("address already in use")
            # It is there when it listens: nobody can come between.
            listener.bind(fresh)
            listener.listen(64)
            os.rename(fresh, path)
        except OSError as why:
            # vfkit goes on.
            sys.stderr.write("level=warning msg=\"error exposing %s: %s\"\n" % (path, why))
            return

        def accept():
            while True:
                connection = listener.accept()[0]
                threading.Thread(target=serve, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def expose(self, port, path, connect):
        inside = os.path.join(self.vsock, str(port) if connect else "host-%d" % port)
        if connect:
            self.listen(path, lambda connection: self.into_guest(port, connection, inside))
        else:
            self.listen(inside, lambda connection: self.pass_on(connection, path))

    def into_guest(self, port, connection, inside):
        log("dialled %d" % port)
        if GUEST:
            self.pass_on(connection, inside)
        elif port == 22:
            connection.sendall(b"SSH-2.0-fake\r\n")
            while data := connection.recv(4096):
                connection.sendall(data)
            connection.close()
        else:
            connection.sendall(b"hello")
            connection.recv(1)
            connection.close()

    def pass_on(self, connection, path):
        other = socket.socket(socket.AF_UNIX)
        try:
            other.connect(path)
        except OSError:
            # Accepted and closed, as both programs do when nobody listens.
            connection.close()
            return
        for one, two in [(connection, other), (other, connection)]:
            threading.Thread(target=copy, args=[one, two], daemon=True).start()

    def ring(self):
        for port in self.machine.of("virtio-vsock"):
            if "listen" in port:
                bell = socket.socket(socket.AF_UNIX)
                bell.connect(port["socketURL"])
                log("rung")

    def answer(self, connection):
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        while len(body) < length:
            body += connection.recv(4096)
        method = head.split()[0].decode()
        log("%s %s" % (method, body.decode()))
        if BEHAVIOUR == "mute":
            time.sleep(3600)
        if BEHAVIOUR == "garbage":
            connection.sendall(b"\x1b[31m HTTP? {{{")
        elif BEHAVIOUR == "endless":
            try:
                while True:
                    connection.sendall(b"x" * 65536)
            except OSError:
                pass
        elif PROGRAM == "krunkit":
            state = "Stopping" if method == "POST" else self.state
            text = '{"state": "%s%s"}\0' % (STATE, state)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-type: application/json\r\n\r\n" + text.encode())
        else:
            self.answer_like_vfkit(connection, method, body)
        connection.close()
        if method == "POST":
            self.ordered("Stop" if PROGRAM == "krunkit" else json.loads(body)["state"])

    def answer_like_vfkit(self, connection, method, body):
        status, text = "202 Accepted", ""
        if method == "GET":
            status, text = "200 OK", json.dumps({"state": STATE + self.state, "canStop": True, "canHardStop": True})
        elif json.loads(body)["state"] not in ("Stop", "HardStop", "Pause", "Resume"):
            status, text = "500 Internal Server Error", '{"error":"invalid new VMState"}'
        head = "HTTP/1.0 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(text))
        connection.sendall((head + text).encode())

    def ordered(self, change):
        if change == "Stop" and BEHAVIOUR not in ("deaf", "stubborn"):
            self.request_stop()
        if change == "HardStop" and BEHAVIOUR != "stubborn":
            self.end()

    def request_stop(self):
        self.qmp("system_powerdown") if self.guest else self.end()

    def end(self):
        self.qmp("quit") if self.guest else self.over.set()

    def boot(self):
        """The native-speed guest takes QEMU's command line."""
        disk, cidata = [options["path"] for options in self.machine.of("virtio-blk")]
        mac, monitor = self.machine.of("virtio-net")[0]["mac"], os.path.join(self.vsock, "qmp.sock")
        console = self.machine.of("virtio-serial")[0]["logFilePath"]
        command = [
            GUEST, "-name", "kit", "-m", self.machine.options["--memory"],
            "-chardev", "socket,id=qmp,path=%s,server=on,wait=off" % monitor, "-qmp", "chardev:qmp",
            "-chardev", "file,id=console,path=%s" % console, "-serial", "chardev:console",
            "-drive", "file=%s,format=raw,if=none" % disk, "-drive", "file=%s,format=raw,if=none,readonly=on" % cidata,
            "-netdev", "user,id=net0,net=192.168.5.0/24,dhcpstart=192.168.5.15",
            "-device", "virtio-net-pci,netdev=net0,mac=%s" % mac, "-device", "berth-vsock,directory=%s" % self.vsock,
        ]
        # The guest dies with this process, as a VM with its program.
        die_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        self.guest = subprocess.Popen(command, preexec_fn=die_with_parent)
        self.monitor = connect_when_there(monitor, self.guest)
        self.qmp("qmp_capabilities")

        def wait():
            self.code = self.guest.wait()
            self.over.set()

        threading.Thread(target=wait, daemon=True).start()
        threading.Thread(target=lambda: [None for _ in iter(lambda: self.monitor.recv(4096), b"")], daemon=True).start()

    def qmp(self, command):
        try:
            self.monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        except OSError:
            pass


def connect_when_there(path, process):
    while process.poll() is None:
        monitor = socket.socket(socket.AF_UNIX)
        try:
            monitor.connect(path)
            return monitor
        except OSError:
            time.sleep(0.01)
    sys.exit(process.returncode or 1)


def copy(one, two):
    try:
        while data := one.recv(65536):
            two.sendall(data)
        two.shutdown(socket.SHUT_WR)
    except OSError:
        for connection in (one, two):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main():
    log("run %d" % os.getpid())
    if BEHAVIOUR == "dies":
        sys.stderr.write("level=info msg=\"\x1b[31mvirtual machine parameters\x1b[0m\"\n")
        fail("hypervisor virtualization error")
    machine = Machine()
    log("machine %s" % " ".join(ARGV))
    if BEHAVIOUR == "silent":
        signal.pause()
    vm = Vm(machine)
    if BEHAVIOUR == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif PROGRAM == "vfkit":
        signal.signal(signal.SIGTERM, lambda *_: vm.end())
    sys.exit(vm.run())


main()
