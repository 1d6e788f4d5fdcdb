"""A name server on UDP: every name has the address 203.0.113.9."""

import socket

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 10053))
while True:
    query, client = server.recvfrom(512)
    question = query[12 : query.index(b"\0", 12) + 5]
    head = query[:2] + b"\x85\x80\0\1\0\1\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + bytes([203, 0, 113, 9])
    server.sendto(head + question + answer, client)
