"""A process that has the agent's library loaded and answers in the agent's place with words of another version.

Usage: other_agent.py LIBRARY PROTOCOL
"""

import importlib.machinery
import importlib.util
import json
import os
import select
import socket
import sys

name = "_pystap_agent"
loader = importlib.machinery.ExtensionFileLoader(name, sys.argv[1])
loader.exec_module(importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader)))
hello = {
    "type": "hello",
    "protocol": int(sys.argv[2]),
    "version": "9.8.7",
    "python": list(sys.version_info[:3]),
    "implementation": "cpython",
    "pid": os.getpid(),
    "way": "monitoring",
    "busy": False,
    "dormant": True,
}
if hello["protocol"] > 3:
    # A later one may have other words for everything.
    hello = {"type": "greeting", "version": hello["version"]}
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind("\0pystap-agent/00000000%08x" % os.getpid())
listener.listen()
visitors = []
print("ready", flush=True)
while True:
    ready, _, _ = select.select([sys.stdin, listener], [], [])
    if sys.stdin in ready:
        break
    visitor, _ = listener.accept()
    visitor.send(json.dumps(hello).encode())
    visitors.append(visitor)
print(json.dumps({"unharmed": True, "visitors": len(visitors)}), flush=True)
