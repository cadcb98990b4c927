"""A user who wishes root ill, beside a pystap that root runs: lays traps at every name that pystap knows and keeps
processes that lie about themselves.

    neighbour.py DIRECTORY BUILD CANARY...

DIRECTORY is the user's own. BUILD is how the build id of the agent's library begins, which is part of names. The canaries are
directories of root's that the user may read, and wants root to damage. Everything that is a program here writes, when it
is run, its effective user id into DIRECTORY/evidence: no other id than the user's own must ever stand there.

Says `ready` with the ids of its processes as JSON. They end with its input.
"""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time

home, build, *canaries = sys.argv[1:]
PYTHON = "/usr/bin/python3.11"
EVIDENCE = home + "/evidence"
HUGE = 1 << 30
LIBRARY = "libpystap_agent.so"
OWN = os.geteuid()

# What no terminal, no shell and no parser of lines should be given as it is.
EVIL = [
    "\x1b[2J\x1b]0;owned\x07",
    "\n--pid=1\npystap: warning: all is well",
    "'; touch %s/pasted; '" % home,
    "$(touch %s/pasted)`touch %s/pasted`" % (home, home),
    "\u202egnp.exe\u2066",
    "\x9b31m\x7f",
    "nova.cmd.compute",
    "x" * 4096,
]


def path(*parts):
    at = os.path.join(home, *parts)
    os.makedirs(os.path.dirname(at), exist_ok=True)
    return at


def write(at, text, mode=0o755):
    with open(at, "w") as file:
        file.write(text)
    os.chmod(at, mode)
    return at


def script(at, name="script"):
    """A program that says who ran it, and goes on as the Python that it is called like."""
    return write(
        at,
        '#!/bin/sh\necho "$(id -u) %s $0" >>%s\nexec %s "$@"\n' % (name, EVIDENCE, PYTHON),
    )


def module(at):
    """Python code that says who imported it."""
    return write(
        at,
        "import os\nwith open(%r, 'a') as file:\n    file.write('%%d module %%s\\n' %% (os.geteuid(), __file__))\n" % EVIDENCE,
        0o644,
    )


def huge(at):
    with open(at, "wb") as file:
        file.truncate(HUGE)
    os.chmod(at, 0o755)
    return at


def link(target, at):
    os.symlink(target, at)
    return at


def listening(at):
    held = socket.socket(socket.AF_UNIX)
    # Deep paths are too long for a socket's name.
    os.chdir(os.path.dirname(at))
    held.bind(os.path.basename(at))
    os.chdir(home)
    return held


def traps(directory):
    """Every kind of thing that a name can be, in a directory that is called as pystap's own are."""
    os.makedirs(directory)
    os.mkfifo(directory + "/" + LIBRARY)
    link(canaries[0], directory + "/site")
    os.mkfifo(directory + "/sitecustomize.py")
    link(canaries[0] + "/file", directory + "/" + LIBRARY + ".lock")


def place_names():
    """The names in the directories that everybody may write to. Root's are taken before root comes."""
    taken = "pystap-agent-0-" + build
    os.mkfifo("/tmp/" + taken)
    traps("/var/tmp/" + taken)
    link(canaries[0], "/dev/shm/" + taken)
    for number, place in enumerate(["/tmp", "/var/tmp", "/dev/shm"]):
        for user in (0, OWN):
            name = "%s/pystap-agent-%d-0123456789a%d" % (place, user, number)
            traps(name)
            link(canaries[0], name + "-link")
            os.mkfifo(name + "-fifo")
            huge(name + "-huge")
            os.makedirs(name + "-dir")
            huge(name + "-dir/" + LIBRARY)
            link(canaries[0], name + "-dir/site")
            os.makedirs(name + "-linked")
            link(canaries[0] + "/" + LIBRARY, name + "-linked/" + LIBRARY)
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        for name in ("pystap", "pystap-0", "pystap-lock"):
            if not os.path.lexists(place + "/" + name):
                os.mkfifo(place + "/" + name)


def place_home():
    """A home as somebody has it who runs `sudo -E`: caches, templates, services, version managers."""
    for kind in (".cache", "run"):
        os.makedirs(path(kind, "pystap", "modules"))
        module(path(kind, "pystap", "modules", "sitecustomize.py"))
        os.mkfifo(path(kind, "pystap", "failures"))
        link(canaries[0], path(kind, "pystap", "sessions"))
        link(canaries[0], path(kind, "pystap", "agent"))
    os.mkfifo(path(".config", "pystap", "services.toml"))
    os.makedirs(path(".config", "pystap", "templates"))
    os.mkfifo(path(".config", "pystap", "templates", "calls.stp.tera"))
    huge(path(".config", "pystap", "templates", "huge.stp.tera"))
    script(path(".pyenv", "shims", "python3"), "shim")
    script(path(".pyenv", "bin", "pyenv"), "pyenv")
    script(path(".pyenv", "libexec", "pyenv"), "pyenv")


def place_environments():
    """Environments of Python whose every part is somebody else's."""
    for name in ("venv", "linked"):
        script(path(name, "bin", "python"))
        link("python", path(name, "bin", "python3"))
        write(path(name, "pyvenv.cfg"), "home = /usr/bin\nversion = 3.11.2\n", 0o644)
        packages = path(name, "lib", "python3.11", "site-packages")
        if name == "linked":
            link(canaries[0], packages)
            continue
        os.makedirs(packages)
        module(packages + "/sitecustomize.py")
        link(canaries[0] + "/file", packages + "/pystap_agent.pth")
        os.mkfifo(packages + "/_pystap_agent.abi3.so")
    # What lies where a command happens to be started.
    for name in ("python3", "python", "stap", "staprun", "gdb", "id", "uname", "modinfo", "cc", "nsenter"):
        script(path("here", name), "here")
    for name in ("sitecustomize", "usercustomize", "_pystap_agent", "json", "site", "sysconfig"):
        module(path("here", name + ".py"))
    write(path("here", "pystap.toml"), "x", 0o644)
    os.mkfifo(path("out", "fifo"))
    os.mkfifo(path("templates", "calls.stp.tera"))
    huge(path("bin", "libpython3.99.so"))
    huge(path("bin", "python3.98"))
    os.mkfifo(path("bin", "fifo"))
    link("/dev/zero", path("bin", "zero"))
    link("/proc/self/mem", path("bin", "mem"))


def place_recordings():
    os.mkfifo(path("recordings", "fifo"))
    huge(path("recordings", "huge"))
    write(path("recordings", "garbage"), "\x1b[31m" * 1000, 0o644)
    write(
        path("recordings", "text.json"),
        json.dumps({"type": "session", "version": EVIL[0], "targets": EVIL}) + "\n",
        0o644,
    )
    link("/dev/zero", path("recordings", "zero"))
    os.makedirs(path("recordings", "directory"))


# Written into each process: it calls a function again and again, and its title is not to be printed as it is.
TICKS = """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"\\x1b[41mpython3", 0, 0, 0)
def tick():
    time.sleep(0.01)
while True:
    tick()
"""


def ordinary(*arguments, **options):
    return subprocess.Popen([PYTHON, "-c", TICKS, *EVIL], stdin=subprocess.DEVNULL, **options)


def copied():
    """A process whose program is a file of the user's own, which is no longer what it runs."""
    at = path("bin", "python3")
    with open(PYTHON, "rb") as source, open(at, "wb") as own:
        own.write(source.read())
    os.chmod(at, 0o755)
    packages = path("lib", "python3.11", "sitecustomize.py")
    module(packages)
    environment = {"PATH": path("here") + ":/usr/bin:/bin", "PYTHONPATH": path("here"), "HOME": home}
    started = subprocess.Popen(["python3", "-I", "-c", TICKS], executable=at, stdin=subprocess.DEVNULL, env=environment)
    while os.readlink("/proc/%d/exe" % started.pid) != at:
        time.sleep(0.01)
    os.rename(at, at + ".gone")
    script(at)
    return started


def mapping():
    """A process that has mapped what is called like an interpreter and like the agent, and speaks as agents do."""
    pid = os.fork()
    if pid:
        return pid
    held = []
    for name in ("python3.97", "libpython3.12.so.1.0", LIBRARY, "_pystap_agent.abi3.so"):
        with open(huge(path("mapped", name)), "r+b") as file:
            held.append(mmap.mmap(file.fileno(), 1 << 20, prot=mmap.PROT_READ | mmap.PROT_EXEC))
    for number in range(50):
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agent.bind("\0pystap-agent/%016x" % number)
        agent.listen(1)
        agent.setblocking(False)
        held.append(agent)
    hello = {
        "protocol": 1, "version": EVIL[0], "python": [3, 12, 1], "implementation": EVIL[1], "pid": 1,
        "way": "monitoring", "busy": False, "dormant": False, "parent": 1, "type": "joined",
    }
    started = {
        "type": "started", "tool_id": 1, "threads": 1, "chained_profiler": False, "already_running": 0,
        "warnings": EVIL,
    }
    silent = []
    while os.getppid() != 1:
        with open("/proc/net/unix") as table:
            names = {line.split(" @", 1)[1].strip() for line in table if " @pystap-session/" in line}
        for name in names:
            for number in range(40):
                try:
                    joining = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    joining.setblocking(False)
                    joining.connect("\0" + name)
                    if number % 4 == 1:
                        joining.send(json.dumps(hello).encode())
                        joining.send(json.dumps(started).encode())
                    elif number % 4 == 2:
                        joining.send(b"\xff" * 60000)
                    silent.append(joining)
                except OSError:
                    break
            del silent[:-200]
        time.sleep(0.02)
    os._exit(0)


# In namespaces of its own a user is root of a kind: what pystap finds there at its own names are root's canaries.
INSIDE = r"""
set -e
canary=$3
for place in /run /tmp /var/tmp /dev/shm; do
    mount -t tmpfs none "$place"
    for name in pystap pystap-agent-0-$2 pystap-agent-0-aaaaaaaaaaaa pystap-agent-%(own)d-$2; do
        mkdir "$place/$name"
        mount --bind "$canary" "$place/$name"
    done
done
mkdir -p /run/user/0/pystap && mount --bind "$canary" /run/user/0/pystap || true
%(python)s -c "$4" inside &
inside=$!
# It has mapped its Python; who looks for that by its path finds another.
while ! tr '\0' ' ' </proc/$inside/cmdline | grep -q inside; do sleep 0.01; done
mount --bind "$5" %(python)s
mount --bind "$5" "$(readlink -f /usr/bin/python3)" || true
echo mounted >"$1/mounted"
wait
"""


def namespaced():
    """A Python in namespaces of its own, for user, mounts, network and processes."""
    return subprocess.Popen(
        [
            "unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
            "sh", "-c", INSIDE % {"own": OWN, "python": PYTHON}, "sh",
            home, build, canaries[0], TICKS, script(path("inside", "python3"), "inside"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=open(home + "/unshare", "w"),
    )


def descendants(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry, "rb") as stat:
                    parent = int(stat.read().rsplit(b")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry), *descendants(int(entry))]
    return found


os.umask(0o022)
open(EVIDENCE, "a").close()
os.chmod(EVIDENCE, 0o666)
place_names()
place_home()
place_environments()
place_recordings()
held = [listening(path("out", "socket")), listening(path("bin", "socket"))]
# The traps work: this is what they say when their own user falls into them.
subprocess.run([home + "/venv/bin/python", "-c", ""], check=True)

processes = {"ordinary": ordinary().pid, "copied": copied().pid, "mapping": mapping()}
processes["script"] = subprocess.Popen(
    ["/bin/sh", script(path("bin", "python3.96")), "-c", TICKS], stdin=subprocess.DEVNULL
).pid
outside = namespaced()
deadline = time.monotonic() + 20
while not os.path.exists(home + "/mounted") and outside.poll() is None and time.monotonic() < deadline:
    time.sleep(0.02)
if os.path.exists(home + "/mounted"):
    for pid in descendants(outside.pid):
        with open("/proc/%d/comm" % pid, "rb") as comm:
            if b"python" in comm.read():
                processes["inside"] = pid
print("ready " + json.dumps(processes), flush=True)
sys.stdin.read()
outside.kill()
for pid in processes.values():
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
