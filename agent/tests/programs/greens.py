"""Greenlets that take turns, are killed, and die suspended; in the main thread and in another."""

import threading

import greenlet


def leaf(number):
    return number


def step(number):
    leaf(number)
    greenlet.getcurrent().parent.switch(number)
    return leaf(number)


def worker(number):
    for _ in range(3):
        step(number)
    return number


def turns():
    greens = [greenlet.greenlet(worker) for _ in range(5)]
    for green in greens:
        green.switch(1)
    while not all(green.dead for green in greens):
        for green in greens:
            if not green.dead:
                green.switch(2)
    killed = greenlet.greenlet(worker)
    killed.switch(3)
    killed.throw(greenlet.GreenletExit)
    dropped = greenlet.greenlet(worker)
    dropped.switch(4)
    del dropped


turns()
thread = threading.Thread(target=turns)
thread.start()
thread.join()
