"""Three asyncio tasks that take turns, each calling step() four times, with an argument to be captured."""

import asyncio
import json

calls = {"step": 0}


class Worker:
    def step(self, word, number):
        calls["step"] += 1
        return [word, number]

    async def run(self):
        for number in range(4):
            self.step("plain", number)
            await asyncio.sleep(0)


async def main():
    tasks = [asyncio.create_task(Worker().run(), name=f"worker-{n}") for n in range(3)]
    await asyncio.gather(*tasks)


asyncio.run(main())
print(json.dumps({"calls": calls}), flush=True)
