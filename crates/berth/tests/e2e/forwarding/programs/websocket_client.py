"""Talks to the WebSocket server: every length of frame header, a ping, and the closing handshake."""

import asyncio

import websockets


async def main():
    async with websockets.connect("ws://127.0.0.1:8765", max_size=None) as server:
        for size in 0, 1, 125, 126, 65535, 65536, 3000000:
            message = "x" * size
            await server.send(message)
            assert await server.recv() == message, size
        await (await server.ping())
    print("closed with", server.close_code)


asyncio.run(main())
