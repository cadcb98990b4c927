"""Frames that are suspended and resumed in every way there is, and left in every way."""

import types


def values():
    try:
        yield 1
        yield 2
    except ValueError:
        yield 3
    finally:
        len("finally")


def plain():
    yield 1
    yield 2


def delegating(inner):
    result = yield from inner
    return result


def failing():
    yield 1
    raise KeyError("on purpose")


@types.coroutine
def switch():
    got = yield "switched"
    return got


async def coroutine(depth):
    if depth:
        return await coroutine(depth - 1)
    return await switch()


async def produce():
    for number in range(3):
        await switch()
        yield number


async def consume():
    return [number async for number in produce()]


class Manager:
    async def __aenter__(self):
        await switch()
        return self

    async def __aexit__(self, *_):
        await switch()


async def managed():
    async with Manager():
        raise ValueError("inside")


def drive(awaitable):
    try:
        while True:
            awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    except ValueError:
        return None


class Descriptor:
    def __get__(self, *_):
        raise AttributeError("no")

    def __del__(self):
        len("gone")


class Owner:
    attribute = Descriptor()

    def __getattr__(self, name):
        return name

    def __call__(self, *arguments, **named):
        return sorted(arguments, key=lambda argument: -argument)


for generator in (values(), plain(), delegating(values()), delegating(plain())):
    list(generator)
    # A generator that is dropped unstarted, closed when suspended, and closed when it handles what is thrown.
    type(generator)
for make in (values, plain, lambda: delegating(values()), lambda: delegating(plain())):
    make()
    generator = make()
    next(generator)
    generator.close()
    generator = make()
    next(generator)
    del generator
    generator = make()
    next(generator)
    try:
        print(generator.throw(ValueError("thrown")))
    except ValueError:
        pass
    generator.close()
    generator = make()
    try:
        generator.throw(ValueError("before the start"))
    except ValueError:
        pass
try:
    list(failing())
except KeyError:
    pass
drive(coroutine(5))
suspended = coroutine(3)
suspended.send(None)
suspended.close()
suspended = coroutine(3)
suspended.send(None)
try:
    suspended.throw(ValueError("into it"))
except ValueError:
    pass
coroutine(1).close()
drive(consume())
drive(managed())
owner = Owner()
owner.attribute
owner(3, 1, 2, key=4)
del owner
[list(pair) for pair in zip((number for number in range(5)), map(lambda number: -number, range(5)))]
