"""An external driver as Lima's contract wants it (v2.2), or not, by the first argument.

    fake_driver.py BEHAVIOUR LOG NAME --inst-dir DIRECTORY
    fake_driver.py BEHAVIOUR LOG NAME --inspect-status

Speaks gRPC through Python's grpcio, with messages written by hand: nothing of it comes from the code under test.
Every call is noted in LOG.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

behaviour, log_path, name = sys.argv[1:4]
words = sys.argv[4:]


def log(kind, text=""):
    with open(log_path, "a", encoding="utf-8") as out:
        out.write(f"{kind} {text}\n")


def forever():
    while True:
        time.sleep(3600)


log("run", str(os.getpid()))

if words == ["--inspect-status"]:
    if behaviour == "hangs":
        forever()
    instance = json.loads(base64.b64decode(json.loads(sys.stdin.readline())))
    log("inspect", instance["name"])
    instance["status"] = "Installing" if behaviour == "obeys" else "On\x1bFire"
    print(json.dumps(base64.b64encode(json.dumps(instance).encode()).decode()))
    sys.exit(0)

if len(words) != 2 or words[0] != "--inst-dir":
    print("usage", file=sys.stderr)
    sys.exit(2)
directory = words[1]
socket_path = os.path.join(directory, f"{name}.drv.sock")
if os.getsid(0) != os.getpid():
    log("session", "shared")

if behaviour == "exits":
    print("no licence\x1b[2J", file=sys.stderr)
    sys.exit(3)
if behaviour == "silent":
    forever()
if behaviour in ("garbage", "mute"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    connections = []
    while True:
        connection, _ = listener.accept()
        connections.append(connection)
        if behaviour == "garbage":
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n\x1b" * 1000)

import grpc  # noqa: E402  (slow to load, and not needed above)


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(data, number=1):
    """A length-delimited field; empty ones are left out, as proto3 does."""
    data = data.encode() if isinstance(data, str) else data
    return bytes([number << 3 | 2]) + varint(len(data)) + data if data else b""


def first_field(message):
    """The content of field 1, which is length-delimited."""
    if not message:
        return b""
    assert message[0] == 0x0A
    length, shift, at = 0, 0, 1
    while True:
        length |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message[at - 1] < 0x80:
            return message[at : at + length]


STARTED = b"\x08\x01"


def failure(text):
    return field(text, 2)


stopping = threading.Event()
setting_up = threading.Event()


def configure(request, context):
    instance = json.loads(first_field(request))
    log("configure", json.dumps({key: instance[key] for key in ("name", "vmType", "sshLocalPort", "dir")}))
    if behaviour == "bad_config":
        return field(b'{"config": {"mountType": "carrier pigeon\\u001b"}}')
    if behaviour == "no_json":
        return field(b"\xff\x00{")
    instance["config"]["mountType"] = "9p"
    instance["config"]["invented"] = {"by": "the driver"}
    if behaviour == "takes_port":
        del instance["sshLocalPort"]
    return field(json.dumps(instance))


def info(_request, _context):
    if behaviour == "hangs":
        forever()
    if behaviour == "floods":
        return field(b" " * (17 << 20))
    if behaviour == "bad_info":
        return field(b'{"vsockPort": "\x1b"}')
    features = {
        "dynamicSSHAddress": behaviour == "elsewhere",
        "staticSSHPort": False,
        "skipSocketForwarding": False,
        "noCloudInit": False,
        "rosettaEnabled": False,
        "rosettaBinFmt": False,
        "supportedImageFormats": ["raw"],
        "canRunGui": behaviour == "window",
    }
    return field(json.dumps({"name": "somebody", "vsockPort": 2222, "virtioPort": "", "features": features}))


def start(_request, context):
    if behaviour == "fails":
        yield failure("no firmware\x1b[2J\nlook again")
        context.abort(grpc.StatusCode.INTERNAL, "no firmware")
    if behaviour == "never_starts":
        context.add_callback(lambda: log("cancelled"))
        log("starting")
        forever()
    vm = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    log("vm", str(vm.pid))
    with open(os.path.join(directory, f"{name}.pid"), "w", encoding="utf-8") as out:
        out.write(str(vm.pid))
    if behaviour != "leaves_vm":
        context.add_callback(vm.kill)
    context.add_callback(stopping.set)
    yield STARTED
    if behaviour == "vm_dies":
        vm.kill()
        yield failure("exit status 1: \x1bkernel panic")
        yield STARTED
        return
    if behaviour == "cut":
        return
    if behaviour == "ssh_waits":
        setting_up.wait()
        yield failure("gone while SSH was set up")
        return
    stopping.wait()
    vm.kill()
    vm.wait()
    yield STARTED


def stop(_request, _context):
    if behaviour == "stop_hangs":
        forever()
    stopping.set()
    return b""


def agent_socket(_request, _context):
    path = os.path.join(directory, "ga.sock")
    if not os.path.exists(path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def serve():
            while True:
                connection, _ = listener.accept()
                connection.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
    return b""


def create_disk(_request, _context):
    if behaviour == "slow":
        time.sleep(3.5)
    return b""


def validate(_request, context):
    if behaviour == "refuses":
        context.abort(grpc.StatusCode.UNKNOWN, "field `tpm` is\x1b not for me")
    return b""


def set_up_ssh(_request, _context):
    if behaviour == "ssh_waits":
        setting_up.set()
        forever()
    return b""


def window(_request, _context):
    stopping.wait()
    return b""


def scripts(_request, _context):
    key = "../../etc/x" if behaviour == "bad_script" else "boot.Linux/05-x.sh"
    return field(field(key) + field("#!/bin/sh\n", 2))


def snapshot(request, _context):
    log("snapshot", first_field(request).decode())
    return b""


METHODS = {
    "Configure": configure,
    "Info": info,
    "Stop": stop,
    "Validate": validate,
    "Create": lambda *_: b"",
    "CreateDisk": create_disk,
    "Delete": lambda *_: b"",
    "BootScripts": scripts,
    "RunGUI": window,
    "ChangeDisplayPassword": lambda request, _: log("password", first_field(request).decode()) or b"",
    "GetDisplayConnection": lambda *_: field("no port\x1b" if behaviour == "elsewhere" else "5901"),
    "CreateSnapshot": snapshot,
    "ApplySnapshot": snapshot,
    "DeleteSnapshot": snapshot,
    "ListSnapshots": lambda *_: field("ID TAG\n1 \x1bone\n"),
    "ForwardGuestAgent": lambda *_: b"\x08\x01" if behaviour == "forwards" else b"",
    "GuestAgentConn": agent_socket,
    "SSHAddress": lambda *_: field("127.0.0.2"),
    "AdditionalSetupForSSH": set_up_ssh,
}


def noted(method, handler):
    def call(request, context):
        log("call", method)
        return handler(request, context)

    return call


handlers = {
    method: grpc.unary_unary_rpc_method_handler(noted(method, handler)) for method, handler in METHODS.items()
}
handlers["Start"] = grpc.unary_stream_rpc_method_handler(noted("Start", start))
server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=16),
    options=[("grpc.max_send_message_length", -1)],
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Driver", handlers),))


def end(*_):
    log("signal", "SIGTERM")
    if behaviour == "stop_hangs":
        return
    try:
        os.unlink(socket_path)
    except FileNotFoundError:
        pass
    os._exit(0)


signal.signal(signal.SIGTERM, end)
server.add_insecure_port(f"unix:{socket_path}")
server.start()
forever()
