#!/usr/bin/env python3
"""A QEMU that runs nothing: the contract of its command line and its monitor, kept or broken as the first argument says.

usage: fake_qemu.py BEHAVIOUR LOG QEMU-ARGUMENTS...

Appends one line to LOG for each run ("probe ..." or "run PID"), and one for each command of the monitor.
"""
import json, os, signal, socket, sys, threading, time

BEHAVIOUR, LOG, ARGV = sys.argv[1], sys.argv[2], sys.argv[3:]
DEAF = {"stubborn", "deaf"}


def log(text):
    with open(LOG, "a") as file:
        file.write(text + "\n")


def probe():
    if "--version" in ARGV:
        version = "3.1.0" if BEHAVIOUR == "ancient" else "7.2.22 (fake)"
        return "QEMU emulator version %s\nCopyright (c)" % version
    if ARGV[-2:] == ["-accel", "help"]:
        return "Accelerators supported in QEMU binary:\ntcg\nkvm"
    if ARGV[-2:] == ["-netdev", "help"]:
        return "Available netdev backend types:\nuser\nstream"
    if ARGV[-2:] == ["-cpu", "help"]:
        return "Available CPUs:\nx86 host\nx86 max\n\nRecognized CPUID flags:\n  fpu"
    return None


def values(option):
    return [ARGV[i + 1] for i, word in enumerate(ARGV[:-1]) if word == option]


def options(text):
    """Splits an option list, where a doubled comma is a comma."""
    parts = text.replace(",,", "\0").split(",")
    return dict((part.replace("\0", ",").split("=", 1) + [""])[:2] for part in parts)


class Monitor:
    def __init__(self, machine, connection):
        self.machine, self.connection, self.lock = machine, connection, threading.Lock()

    def send(self, message):
        self.raw(json.dumps(message).encode() + b"\r\n")

    def raw(self, data):
        with self.lock:
            try:
                self.connection.sendall(data)
            except OSError:
                pass

    def event(self, name, **data):
        self.send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}})

    def serve(self):
        if BEHAVIOUR == "no-greeting":
            time.sleep(1000)
        if BEHAVIOUR == "garbage-greeting":
            return self.raw(b"\xff\xfe\0 SSH-2.0-what \n")
        if BEHAVIOUR == "endless-greeting":
            return self.raw(b"x" * (3 << 20))
        if BEHAVIOUR == "hangs-up":
            return self.connection.close()
        self.send({"QMP": {"version": {}, "capabilities": []}})
        for line in self.connection.makefile("rb"):
            request = json.loads(line)
            command = request["execute"]
            log("command " + command)
            if BEHAVIOUR in DEAF and command != "qmp_capabilities":
                continue
            reply = self.answer(command, request.get("arguments", {}))
            self.send({**reply, "id": request["id"]})
            if command == "qmp_capabilities":
                self.greeted()
            if command == "quit" or (command == "system_powerdown" and BEHAVIOUR not in ("ignores-powerdown", "late")):
                self.event("SHUTDOWN", guest=command != "quit")
                self.machine.end(0)
            if command == "system_powerdown" and BEHAVIOUR == "late":
                threading.Timer(0.5, self.machine.end, [0]).start()

    def greeted(self):
        if BEHAVIOUR == "flood":
            threading.Thread(target=self.flood, daemon=True).start()
        if BEHAVIOUR == "garbage-later" and not self.machine.spoiled:
            self.machine.spoiled = True
            self.raw(b'{"event": \n')
        if BEHAVIOUR == "events":
            self.event("VSERPORT_CHANGE", id="console0", open=True)
            self.event("VSERPORT_CHANGE", id="agent-port", open=True)
            self.event("NIC_RX_FILTER_CHANGED", path="/x")
            self.event("RESET", guest=True, reason="guest-reset")
            self.event("STOP")
            self.event("RESUME")
            self.event("VSERPORT_CHANGE", id="agent-port", open=False)

    def flood(self):
        while True:
            self.event("RTC_CHANGE", offset=1)

    def answer(self, command, arguments):
        if command == "human-monitor-command":
            return {"return": self.human(arguments["command-line"])}
        if command == "screendump":
            with open(arguments["filename"], "wb") as file:
                file.write(b"\x89PNG picture")
            return {"return": {}}
        if command == "query-vnc":
            return {"return": {"enabled": True, "service": "5907"}}
        if command in ("qmp_capabilities", "system_powerdown", "quit", "change-vnc-password"):
            return {"return": {}}
        return {"error": {"class": "CommandNotFound", "desc": "The command %s has not been found" % command}}

    def human(self, line):
        words = line.split()
        if words[0] != "hostfwd_add":
            return "unknown command: '%s'\r\n" % words[0]
        _, host, rest = words[2].split(":", 2)
        port = int(rest.split("-")[0])
        refusal = "could not set up host forwarding rule '%s'\r\n" % words[2]
        if BEHAVIOUR == "refuses-forwards":
            return refusal
        try:
            self.machine.forwards.append(socket.create_server((host, port)))
        except OSError:
            return refusal
        return ""


class Machine:
    def __init__(self):
        self.forwards, self.pidfile, self.spoiled = [], None, False

    def end(self, status):
        if self.pidfile:
            os.unlink(self.pidfile)
        os._exit(status)

    def listen(self, path, serve):
        # A socket that can be seen can be connected to.
        server = socket.socket(socket.AF_UNIX)
        server.bind(path + ".new")
        server.listen(8)
        os.rename(path + ".new", path)

        def accept():
            while True:
                connection = server.accept()[0]
                threading.Thread(target=serve, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def run(self):
        log("run %d" % os.getpid())
        if BEHAVIOUR == "dies":
            sys.exit("qemu: -drive file=x: \x1b[31mCould not open 'x'\x1b[0m\nqemu: giving up")
        if BEHAVIOUR == "mute":
            time.sleep(1000)
        if BEHAVIOUR == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, lambda *_: self.end(0))
        chardevs = {o["id"]: o for o in map(options, values("-chardev"))}
        self.pidfile = values("-pidfile")[0]
        with open(self.pidfile, "w") as file:
            file.write("%d\n" % os.getpid())
        # As in QEMU, whoever is greeted by the monitor finds all other sockets there.
        for chardev in ("char-serial", "char-serial-virtio", "char-agent"):
            self.listen(chardevs[chardev]["path"], lambda connection: connection.sendall(b"hello"))
        for chardev in values("-qmp"):
            path = chardevs[chardev.split(":")[1]]["path"]
            self.listen(path, lambda connection: Monitor(self, connection).serve())
        if BEHAVIOUR == "dies-later":
            threading.Timer(0.3, self.crash).start()
        while True:
            signal.pause()

    def crash(self):
        os.write(2, b"qemu: internal error\n")
        os.abort()


answer = probe()
if answer is not None:
    log("probe " + " ".join(ARGV))
    print(answer)
else:
    Machine().run()
