"""A server of asyncio and its clients, in one thread."""

import asyncio

CLIENTS, REQUESTS = 50, 40
served = 0
handlers = []


def parse(line):
    return line.strip().upper() + b"\n"


async def handle(reader, writer):
    global served
    handlers.append(asyncio.current_task())
    for _ in range(REQUESTS):
        line = await reader.readline()
        await asyncio.sleep(0)
        served += 1
        writer.write(parse(line))
        await writer.drain()
    writer.close()


async def ask(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    for number in range(REQUESTS):
        writer.write(b"request %d\n" % number)
        await writer.drain()
        assert await reader.readline() == b"REQUEST %d\n" % number
    writer.close()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(*(ask(*address) for _ in range(CLIENTS)))
    await asyncio.gather(*handlers)
    server.close()
    await server.wait_closed()


asyncio.run(main())
