"""A client of Lima's driver contract (v2.2), for a server under test: calls what it is told to, and prints what came as JSON.

    driver_client.py SOCKET CONFIG_JSON STEP...

A step is a method, `Start`, `end` (the rest of the stream of `Start`), `cancel` (of that stream), `agent` (what `ga.sock` says
first) or `METHOD=TEXT` with a text for the request. Speaks gRPC through Python's grpcio, with messages written by hand.
"""

import json
import socket
import sys
from os import path

import grpc

socket_path, instance = sys.argv[1:3]
HANG = 60


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(data):
    return b"\x0a" + varint(len(data)) + data if data else b""


def content(message):
    """The content of field 1, which is length-delimited."""
    if not message:
        return ""
    length, shift, at = 0, 0, 1
    while True:
        length |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message[at - 1] < 0x80:
            return message[at : at + length].decode()


def answered(message):
    """A StartResponse."""
    if message == b"\x08\x01":
        return "success"
    assert message[0] == 0x12, message
    return message[2:].decode() if message[1] < 0x80 else message[3:].decode()


channel = grpc.insecure_channel(
    f"unix:{socket_path}",
    options=[("grpc.max_receive_message_length", 16 << 20)],
)
results = []
stream = None


def call(method, request):
    try:
        message = channel.unary_unary(f"/Driver/{method}")(request, timeout=HANG)
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}
    if method in ("Configure", "Info"):
        return json.loads(content(message))
    if method == "ForwardGuestAgent":
        return message == b"\x08\x01"
    if method == "BootScripts":
        return message.hex()
    return content(message)


for step in sys.argv[3:]:
    method, _, text = step.partition("=")
    if method == "Start":
        stream = channel.unary_stream("/Driver/Start")(b"", timeout=HANG)
        results.append(answered(next(stream)))
    elif method == "end":
        rest = []
        try:
            rest = [answered(message) for message in stream]
        except grpc.RpcError as error:
            rest.append(error.code().name)
        results.append(rest)
    elif method == "cancel":
        stream.cancel()
        results.append("cancelled")
    elif method == "agent":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(HANG)
        connection.connect(path.join(path.dirname(socket_path), "ga.sock"))
        said = connection.recv(100)
        connection.sendall(b"echo")
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(100):
            said += more
        connection.close()
        results.append(said.decode())
    elif method == "Configure":
        results.append(call(method, field((text or instance).encode())))
    elif method == "big":
        results.append(call("Configure", field(b"x" * (5 << 20))))
    else:
        results.append(call(method, field(text.encode())))

print(json.dumps(results))
