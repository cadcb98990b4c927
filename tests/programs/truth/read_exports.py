"""Reads exports of one recording back, as their consumers do, and prints what they say of the functions of one file.

Usage: read_exports.py DIRECTORY FILE

DIRECTORY has `chrome`, `speedscope`, `pstats`, `folded` and `flamegraph`. The last line is {FORMAT: {FUNCTION: {"calls":
COUNT, "inclusive_ns": NANOSECONDS}}}; "calls" is missing where a format has none. Inclusive time is that of the outermost
stays. Functions are named as in the program, without their classes.
"""

import json
import os
import pstats
import re
import sys
import xml.etree.ElementTree

directory, program = sys.argv[1:]
base = os.path.basename(program)


def path(name):
    return os.path.join(directory, name)


def function_of(name):
    """The function of a frame's name, `Made.__init__ (…/constructs.py:12)`; None for other files."""
    found = re.fullmatch(r"(.*?) \((.*?)(?::-?\d+)?\)", name)
    if not found or os.path.basename(found.group(2)) != base:
        return None
    return bare(found.group(1))


def bare(name):
    return name.rsplit(".", 1)[-1]


class Functions(dict):
    def of(self, name):
        return self.setdefault(name, {"inclusive_ns": 0})

    def call(self, name, nanoseconds):
        entry = self.of(name)
        entry["calls"] = entry.get("calls", 0) + 1
        entry["inclusive_ns"] += nanoseconds


def chrome():
    functions = Functions()
    with open(path("chrome")) as file:
        events = json.load(file)["traceEvents"]
    tracks = {}
    for event in events:
        if event["ph"] == "X":
            begin, took = round(event["ts"] * 1000), round(event["dur"] * 1000)
            tracks.setdefault((event["pid"], event["tid"]), []).append((begin, -took, event))
    for track in tracks.values():
        below = []
        # Of those that begin together, the longest is outermost.
        for begin, minus, event in sorted(track, key=lambda slice: slice[:2]):
            while below and below[-1][1] <= begin:
                below.pop()
            assert not below or begin - minus <= below[-1][1], "slices of a track nest"
            chrome_call(functions, event, -minus, below)
            below.append((event["name"], begin - minus))
    return functions


def chrome_call(functions, event, nanoseconds, below):
    where = event.get("args", {}).get("file", "")
    if os.path.basename(where) != base:
        return
    name = event["name"]
    recursive = any(other == name for other, _ in below)
    functions.call(bare(name), 0 if recursive else nanoseconds)


def speedscope():
    functions = Functions()
    with open(path("speedscope")) as file:
        loaded = json.load(file)
    frames = loaded["shared"]["frames"]
    names = [
        bare(frame["name"]) if os.path.basename(frame.get("file", "")) == base else None for frame in frames
    ]
    for profile in loaded["profiles"]:
        if profile["type"] != "evented":
            continue
        unit = {"nanoseconds": 1, "microseconds": 1000}[profile["unit"]]
        events = [
            (round(event["at"] * unit), (names[event["frame"]], event["frame"]), event["type"] == "O")
            for event in profile["events"]
        ]
        speedscope_profile(events, functions)
    return functions


def speedscope_profile(events, functions):
    stack = []
    for time, (name, frame), begins in events:
        if begins:
            stack.append((name, frame, time))
        else:
            opened, was, since = stack.pop()
            assert was == frame, "speedscope refuses what does not nest"
            if opened is not None:
                recursive = any(other == opened for other, _, _ in stack)
                functions.call(opened, 0 if recursive else time - since)


def statistics():
    functions = Functions()
    stats = pstats.Stats(path("pstats"))
    for (file, _, name), (_, calls, _, cumulative, _) in stats.stats.items():
        if os.path.basename(file) == base:
            entry = functions.of(bare(name))
            entry["calls"] = entry.get("calls", 0) + calls
            entry["inclusive_ns"] += round(cumulative * 1e9)
    return functions


def folded():
    functions = Functions()
    with open(path("folded")) as file:
        for line in file:
            stack, time = line.rstrip("\n").rsplit(" ", 1)
            for name in {function_of(frame) for frame in stack.split(";")} - {None}:
                functions.of(name)["inclusive_ns"] += int(time)
    return functions


def flamegraph():
    """Of each frame its own title: function (file), nanoseconds, share. Frames below one of the same function are part of it."""
    functions = Functions()
    svg = xml.etree.ElementTree.parse(path("flamegraph")).getroot()
    space = "{http://www.w3.org/2000/svg}"
    boxes = []
    for group in svg.iter(space + "g"):
        title, box = group.find(space + "title"), group.find(space + "rect")
        if title is None or box is None:
            continue
        found = re.fullmatch(r"(.*) \(([\d,]+) µs, [\d.]+%\)", title.text)
        if found:
            x, width = (float(box.get(key).rstrip("%")) for key in ("x", "width"))
            time = int(found.group(2).replace(",", "")) * 1000
            boxes.append((function_of(found.group(1)), time, x, width, float(box.get("y"))))
    for name, nanoseconds, x, width, y in boxes:
        inside = any(
            name == other and beneath > y and left <= x + 0.001 and x + width <= left + wide + 0.001
            for other, _, left, wide, beneath in boxes
        )
        if name is not None and not inside:
            functions.of(name)["inclusive_ns"] += nanoseconds
    return functions


print(
    json.dumps(
        {
            "chrome": chrome(),
            "speedscope": speedscope(),
            "pstats": statistics(),
            "folded": folded(),
            "flamegraph": flamegraph(),
        }
    )
)
