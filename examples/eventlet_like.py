"""Two green threads on one thread: calls whose returns belong to another stack.

Needs greenlet; without it says so and calls nothing.

Shape: left() and right() run in a greenlet each and switch to each other in the middle of step(); left() calls step()
twice, right() calls step() twice. The order on the one thread is: entry left, entry step, (switch) entry right, entry
step, (switch) return step of left, and so on, which no single stack explains.
"""

import json

calls = {"left": 0, "right": 0, "step": 0}

try:
    import greenlet
except ImportError:
    greenlet = None


def step(other):
    calls["step"] += 1
    other().switch()


def left():
    calls["left"] += 1
    step(lambda: right_let)
    step(lambda: right_let)


def right():
    calls["right"] += 1
    step(lambda: left_let)
    step(lambda: left_let)


if greenlet is None:
    print("greenlet is not installed; nothing was called")
else:
    left_let = greenlet.greenlet(left)
    right_let = greenlet.greenlet(right)
    left_let.switch()
    while not right_let.dead or not left_let.dead:
        (right_let if not right_let.dead else left_let).switch()
print(json.dumps({"calls": calls}))
