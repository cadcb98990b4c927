"""Streams of many hosts, merged as they come. See benches/hosts.

    hosts.py PYSTAP HOSTS

A Python program is recorded once, every call of it, by the engine direct. An sshd of our own listens on loopback, and each host is a
name for it. What ssh starts there is not pystap but a script that holds pystap's conversation and then writes the recording as fast
as it is taken: this measures ssh at both ends and all that pystap does here, and no tracing. All streams are of the same seconds, so
that the merger has to choose among all hosts for each event.

A row per number of hosts and command: events, seconds from "live" to the end, events per second, seconds of a processor that pystap
itself took, and the most memory that it had at once.
"""

import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time

# So many calls, each of which is two events.
CALLS = 250_000
PROGRAM = f"""
import time
def leaf(): pass
def branch():
    for _ in range(9): leaf()
for number in range({CALLS} // 10):
    branch()
    if number % 1000 == 0: time.sleep(0.02)
"""
PLAYER = """#!/bin/sh
echo 'pystap-on-host 1 {version}'
while read -r line; do
    case $line in
        time) date +%s%N ;;
        go) break ;;
    esac
done
exec cat {recording}
"""


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def listen(directory):
    """An sshd, and the options by which ssh reaches it."""
    for key in ("key", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "sshd").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/key.pub\n"
        "PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\n"
        "MaxStartups 1000\n"
    )
    (directory / "config").write_text(
        f"Host *\n HostName 127.0.0.1\n Port {port}\n IdentityFile {directory}/key\n IdentitiesOnly yes\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {directory}/known\n LogLevel ERROR\n"
    )
    sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", directory / "sshd"], stderr=subprocess.DEVNULL)
    ssh = ["ssh", "-F", str(directory / "config"), "-oBatchMode=yes"]
    end = time.monotonic() + 30
    while subprocess.run([*ssh, "h0", "true"], stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() > end:
            sys.exit("sshd does not answer")
    return sshd, shlex.join(ssh)


def merged(command):
    """Seconds from "live" to the end, of a processor, the most megabytes, and what was said last."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    live, said = None, []
    for line in child.stderr:
        said.append(line)
        if "live, tracing" in line:
            live = time.monotonic()
    _, status, used = os.wait4(child.pid, 0)
    if status or live is None:
        sys.exit(f"{command}: {''.join(said)}")
    return time.monotonic() - live, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def main():
    pystap, most = sys.argv[1], int(sys.argv[2])
    version = run(pystap, "--version").split()[1]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        directory = pathlib.Path(directory)
        recording, output = directory / "recording", directory / "output"
        run(pystap, "record", "--engine", "direct", "-o", recording, "--", sys.executable, "-c", PROGRAM)
        # Line by line: what this process has in memory counts for those that it begins.
        with subprocess.Popen([pystap, "export", "-f", "json", recording], stdout=subprocess.PIPE) as exported:
            each = -2
            for line in exported.stdout:
                each += 1
        summary = json.loads(line)
        player = directory / "player"
        player.write_text(PLAYER.format(version=version, recording=recording))
        player.chmod(0o755)
        sshd, ssh = listen(directory)
        try:
            size = recording.stat().st_size
            print(f"{each:,} events of each host, {summary['lost']} lost; {size / each:.1f} bytes for each")
            print(f"{'':8} {'hosts':>5} {'events':>12} {'seconds':>8} {'events/s':>12} {'processor s':>11} {'MB at most':>11}")
            for command, options in (("record", ["-o", output]), ("trace", ["-f", "json", "-o", output]), ("top", ["--batch", "-i", "60s"])):
                for hosts in sorted({1, 5, most}):
                    names = ",".join(f"h{number}" for number in range(hosts))
                    reach = ["--host", names, "--ssh", ssh, "--remote-pystap", player, "-p", "1"]
                    seconds, processor, memory, said = merged([pystap, command, *reach, *options])
                    events = each * hosts
                    print(
                        f"{command:8} {hosts:5} {events:12,} {seconds:8.2f} {events / seconds:12,.0f} {processor:11.2f} {memory:11.0f}",
                        flush=True,
                    )
                    for line in said:
                        if re.search("warning|lost [1-9]|unordered", line):
                            print(f"         {line.strip()}")
        finally:
            sshd.terminate()
            sshd.wait()


main()
