#!/usr/bin/env bash
# Who calls an RPC through oslo.messaging 14.8 to 18.1 looks for the answer twice per second, so that every call that is not
# answered at once takes half a second.
#
# Packages: oslo.messaging 17.3.0 and, for comparison, 18.3.1, from PyPI, on CPython 3.11 or later.
#
# Expectation: `call` returns when the answer is there, some milliseconds after the server had it, as in 18.3.1.
#
# Behaviour: 17.3.0 finds no answer when it looks for the first time, and sleeps for 0.5 s before it looks again. A method that
# takes 20 ms has a median of 500 ms for its caller. (The transport is kombu's in memory; with RabbitMQ it is the same.)
#
# For users of pystap: a nova of Debian 13 (oslo.messaging 16.1.0) shows RPCs of half a second whose server was done after
# 20 ms, and almost all of the caller's time in `ReplyWaiters.get`. That is the wait for the next look, and no slow server:
# examples/nova/README.md.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

cat >rpc.py <<'END'
import os, statistics, time
import oslo_messaging
from oslo_config import cfg

class Answers:
    def work(self, context):
        time.sleep(0.02)

cfg.CONF([])
transport = oslo_messaging.get_rpc_transport(cfg.CONF, url="kombu+memory:////")
target = oslo_messaging.Target(topic="answers", server="here")
oslo_messaging.get_rpc_server(transport, target, [Answers()], executor="threading").start()
client = oslo_messaging.get_rpc_client(transport, oslo_messaging.Target(topic="answers"))
took = []
for _ in range(8):
    began = time.perf_counter()
    client.call({}, "work")
    took.append(time.perf_counter() - began)
print(round(statistics.median(took[1:]) * 1000), flush=True)
os._exit(0)
END

median() { # VERSION
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check "oslo.messaging==$1" oslo.config==10.0.0 kombu==5.5.4
    timeout 120 "$1/bin/python" -W ignore rpc.py 2>/dev/null
}

polled=$(median 17.3.0)
waited=$(median 18.3.1)
echo "oslo.messaging 17.3.0: $polled ms per call of 20 ms"
echo "oslo.messaging 18.3.1: $waited ms per call of 20 ms"
[ "$polled" -ge 450 ] && [ "$waited" -lt 200 ]
echo "as described: the first waits for the next half second"
