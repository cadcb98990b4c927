"""An asyncio service: each line of its input is a request, answered by a line. It ends when its input does, with what it
has called; handle() is suspended once in each call.
"""

import asyncio
import json
import sys

calls = {"parse": 0, "render": 0}


def parse(request):
    calls["parse"] += 1
    return request.strip().lower()


def render(word):
    calls["render"] += 1
    return "ok " + word


async def handle(request):
    word = parse(request)
    await asyncio.sleep(0)
    print(render(word), flush=True)


async def main():
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while True:
        line = await reader.readline()
        if not line:
            break
        await handle(line.decode())


asyncio.run(main())
print(json.dumps({"calls": calls, "stays": {"handle": 2 * calls["parse"]}}), flush=True)
