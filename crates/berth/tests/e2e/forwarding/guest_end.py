"""The guest's end of a test: listens, answers and tells, as lines of JSON on standard input ask it to."""

import json
import os
import resource
import selectors
import socket
import struct
import sys

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


class Connection:
    """One accepted connection."""

    def __init__(self, stream, listener):
        self.stream, self.listener = stream, listener
        self.received = b""
        listener.connections.add(self)
        watch(stream, self.turn)
        if listener.answer == "greet":
            stream.sendall(listener.label)
            stream.shutdown(socket.SHUT_WR)

    def turn(self):
        try:
            data = self.stream.recv(65536)
        except OSError:
            return self.end("reset")
        if self.listener.answer == "echo":
            if data:
                return self.stream.sendall(data)
        elif data:
            self.received += data
            return None
        elif self.listener.answer == "label":
            self.stream.sendall(self.listener.label + b" got " + self.received)
        elif self.listener.answer == "reset":
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        return self.end("eof")

    def end(self, how):
        forget(self.stream)
        self.listener.connections.discard(self)
        if self.listener.answer != "echo":
            self.listener.tell({"received": self.received.decode(), "how": how})


class Listener:
    """A socket that others connect or send to."""

    def __init__(self, protocol, address, answer, label):
        self.answer, self.label = answer, label.encode()
        self.connections, self.ended, self.waiting = set(), [], False
        if protocol == "unix":
            family, at = socket.AF_UNIX, address
        else:
            host, _, port = address.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            at = (host.strip("[]"), int(port))
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        self.socket = socket.socket(family, kind)
        if kind == socket.SOCK_DGRAM:
            self.socket.bind(at)
            watch(self.socket, self.datagrams)
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(at)
            self.socket.listen(4096)
            watch(self.socket, self.accept)
        self.socket.setblocking(False)

    def accept(self):
        try:
            while True:
                stream, _ = self.socket.accept()
                stream.setblocking(True)
                Connection(stream, self)
        except BlockingIOError:
            pass

    def datagrams(self):
        try:
            while True:
                data, sender = self.socket.recvfrom(65536)
                if self.answer == "label":
                    data = self.label + b" got " + data
                self.socket.sendto(data, sender)
        except BlockingIOError:
            pass

    def tell(self, ended):
        if self.waiting:
            self.waiting = False
            say(ended)
        else:
            self.ended.append(ended)

    def close(self):
        forget(self.socket)
        for connection in list(self.connections):
            connection.end("closed")


def watch(thing, turn):
    SELECTOR.register(thing, selectors.EVENT_READ, turn)


def forget(thing):
    SELECTOR.unregister(thing)
    thing.close()


def say(answer):
    print(json.dumps(answer), flush=True)


def do(request):
    """Carries out a request; the answer may come later."""
    what = request.pop("do")
    if what == "listen":
        number = len(LISTENERS)
        LISTENERS[number] = Listener(**request)
        return say({"id": number})
    listener = LISTENERS[request["id"]]
    if what == "close":
        listener.close()
        return say({})
    if what == "connections":
        return say({"count": len(listener.connections)})
    if listener.ended:
        return say(listener.ended.pop(0))
    listener.waiting = True
    return None


def requests():
    INPUT.extend(os.read(0, 65536) or sys.exit())
    while b"\n" in INPUT:
        line, _, rest = INPUT.partition(b"\n")
        INPUT[:] = rest
        try:
            do(json.loads(line))
        except OSError as why:
            say({"error": str(why)})


SELECTOR = selectors.DefaultSelector()
LISTENERS, INPUT = {}, bytearray()
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
watch(0, requests)
say({"ready": os.getpid()})
while True:
    for key, _ in SELECTOR.select():
        key.data()
        if key.data is requests:
            # A request may have closed what else was ready.
            break
