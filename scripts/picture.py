"""Records `pystap top nova` in a terminal of its own, and draws its last screen; run by scripts/picture while nova is up.

Usage: picture.py CAST SVG, with PYSTAP and NOVA_TREE in the environment.
"""

import fcntl
import html
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte

COLUMNS, ROWS = 80, 24
SECONDS = 12
PYSTAP, TREE = os.environ["PYSTAP"], os.environ["NOVA_TREE"]
LOAD = [
    *["chroot", TREE, "/usr/bin/env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"],
    *["python3", "-W", "ignore", "/nova/load.py", "reading", "100000"],
]

# Names of colours as terminals have them, on a dark ground.
COLOURS = {
    "black": "#3b4048",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#dcdfe4",
}
GROUND, TEXT = "#1e2127", "#c8ccd4"
WIDTH, HEIGHT, MARGIN = 8.4, 18, 12


def record(command):
    """What the command writes, with the times in seconds at which it does, until it has run for SECONDS and ended."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8")
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    begun, written, ended = time.monotonic(), [], False
    while True:
        if not ended and time.monotonic() - begun > SECONDS:
            os.kill(child, signal.SIGINT)
            ended = True
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            some = os.read(terminal, 65536)
        except OSError:
            break
        if not some:
            break
        written.append((time.monotonic() - begun, some.decode(errors="replace")))
    os.waitpid(child, 0)
    return written


def last_table(written):
    """The last screen that had a table, because the end of a session clears it."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    best = None
    for _, text in written:
        stream.feed(text)
        if any("FUNCTION" in line for line in screen.display) and screen.display[-1].strip():
            best = [[screen.buffer[y][x] for x in range(COLUMNS)] for y in range(ROWS)]
    if best is None:
        sys.exit("the terminal showed no table")
    return best


def drawn(cells):
    """These cells as SVG."""
    wide, high = COLUMNS * WIDTH + 2 * MARGIN, ROWS * HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high}" viewBox="0 0 {wide:.0f} {high}">',
        f'<rect width="100%" height="100%" rx="6" fill="{GROUND}"/>',
        f'<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" fill="{TEXT}">',
    ]
    for y, row in enumerate(cells):
        at = 0
        while at < COLUMNS:
            look = style(row[at])
            end = at
            while end < COLUMNS and style(row[end]) == look:
                end += 1
            text = "".join(cell.data for cell in row[at:end])
            parts.extend(run(at, y, text, look))
            at = end
    return "\n".join([*parts, "</g>", "</svg>", ""])


def style(cell):
    front, back = cell.fg, cell.bg
    return (back, front, cell.bold, True) if cell.reverse else (front, back, cell.bold, False)


def run(at, y, text, look):
    front, back, bold, turned = look
    left, top = MARGIN + at * WIDTH, MARGIN + y * HEIGHT
    if turned or back != "default":
        fill = COLOURS.get(back, TEXT if turned else GROUND)
        yield f'<rect x="{left:.1f}" y="{top}" width="{len(text) * WIDTH:.1f}" height="{HEIGHT}" fill="{fill}"/>'
    colour = COLOURS.get(front, GROUND if turned else TEXT)
    weight = ' font-weight="bold"' if bold else ""
    # Each word has its own place, because viewers make one blank of many.
    for word in re.finditer(r"\S+", text):
        start = left + word.start() * WIDTH
        length = f' textLength="{len(word.group()) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
        yield f'<text x="{start:.1f}" y="{top + 13}" fill="{colour}"{weight}{length}>{html.escape(word.group())}</text>'


def main():
    cast, svg = sys.argv[1:]
    load = subprocess.Popen(LOAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        written = record([PYSTAP, "top", "nova"])
    finally:
        load.terminate()
        load.wait()
    with open(cast, "w") as file:
        head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "pystap top nova"}
        print(json.dumps(head), file=file)
        for moment, text in written:
            print(json.dumps([round(moment, 3), "o", text]), file=file)
    with open(svg, "w") as file:
        file.write(drawn(last_table(written)))


if __name__ == "__main__":
    main()
