"""Asks the guest's name server directly. Arguments: a name; or --steady and for how many seconds, twice in a second.

Prints the address, or how it ended; or how many ended how."""

import collections
import select
import socket
import sys
import time

SERVER = ("192.168.5.3", 53)
PATIENCE = 20
WORDS = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN"}


def question(number, name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return number.to_bytes(2, "big") + bytes.fromhex("01000001000000000000") + labels + b"\0\0\1\0\1"


def steady(seconds):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ended = collections.Counter()
    waiting = set()
    begin = time.monotonic()
    last = begin + seconds
    number = 0
    while waiting or number < 2 * seconds:
        now = time.monotonic()
        if number < 2 * seconds and now >= begin + number / 2:
            number += 1
            waiting.add(number)
            client.sendto(question(number, f"n{number}.gone.example.com"), SERVER)
        elif now >= last + PATIENCE:
            ended["no answer"] = len(waiting)
            break
        due = begin + number / 2 if number < 2 * seconds else last + PATIENCE
        if select.select([client], [], [], max(0, due - time.monotonic()))[0]:
            reply = client.recv(1500)
            waiting.discard(int.from_bytes(reply[:2], "big"))
            ended[WORDS.get(reply[3] & 15, "other")] += 1
    print(", ".join(f"{count} {how}" for how, count in sorted(ended.items())))


def once(name):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(PATIENCE)
    client.sendto(question(1, name), SERVER)
    reply = client.recv(1500)
    is_found = reply[7] > 0
    print(socket.inet_ntoa(reply[-4:]) if is_found else WORDS.get(reply[3] & 15, "other"))


if sys.argv[1] == "--steady":
    steady(int(sys.argv[2]))
else:
    once(sys.argv[1])
