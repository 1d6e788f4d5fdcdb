"""A WebSocket server that sends back what it gets."""

import asyncio

import websockets


async def echo(client):
    async for message in client:
        await client.send(message)


async def main():
    async with websockets.serve(echo, "127.0.0.1", 8765, max_size=None):
        await asyncio.Future()


asyncio.run(main())
