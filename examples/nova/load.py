"""Remote calls to nova-conductor, as nova's other services make them: through RabbitMQ, answered by its workers.

    load.py ready         waits until the conductor answers, at most a minute
    load.py COUNT         makes COUNT rounds of calls and says how many were answered
    load.py forever       makes them until it is ended
    load.py parallel COUNT   makes COUNT rounds at once, each a request of its own, and says which request made which calls

A round is three calls: a `ping` (nova/baserpc.py), a list of services out of the database, which the conductor looks up for the
caller (`object_class_action_versions`, nova/conductor/manager.py), and that a service is alive, which it writes there
(`object_action`). After `reading`, as in `load.py reading COUNT`, rounds go without the last; so do those of `parallel`, because greenlets of one
thread that write to sqlite at once wait for themselves.
"""

import os

if not os.environ.get("OS_NOVA_DISABLE_EVENTLET_PATCHING"):
    import eventlet

    eventlet.monkey_patch()

import itertools
import json
import sys
import threading
import time

import oslo_messaging
from nova import baserpc, config, context, objects
from nova.conductor import rpcapi
from nova.objects import base
from oslo_messaging._drivers import amqpdriver


class Impatient:
    """The module `time` for oslo.messaging 14.8 to 18.1, whose callers sleep half a second between two looks for their answer."""

    def sleep(self, seconds):
        time.sleep(min(seconds, 0.0002))

    def __getattr__(self, name):
        return getattr(time, name)


amqpdriver.time = Impatient()
config.parse_args(["load", "--config-file", "/nova/nova.conf", "--log-file", "/nova/load.log"])
objects.register_all()
admin = context.get_admin_context()
conductor = baserpc.BaseAPI(topic="conductor")
base.NovaObject.indirection_api = rpcapi.ConductorAPI()


def ping(timeout=None, caller=admin):
    answer = conductor.ping(caller, "hello", timeout=timeout)
    assert answer["arg"] == "hello", answer


def wait():
    end = time.monotonic() + 60
    while True:
        try:
            return ping(timeout=2)
        except oslo_messaging.MessagingException:
            if time.monotonic() > end:
                raise


def load(rounds, writes):
    took = []
    answered = {"ping": 0, "object_class_action_versions": 0}
    if writes:
        answered["object_action"] = 0
    for _ in rounds:
        began = time.perf_counter()
        ping()
        answered["ping"] += 1
        services = objects.ServiceList.get_all(admin)
        answered["object_class_action_versions"] += 1
        if writes:
            services[0].report_count += 1
            services[0].save()
            answered["object_action"] += 1
        took.append((time.perf_counter() - began) / len(answered))
    took.sort()
    print(json.dumps({"answered": answered, "median_ms": round(took[len(took) // 2] * 1000, 2)}), flush=True)


def parallel(count):
    callers = [context.get_admin_context() for _ in range(count)]
    requests = {caller.request_id: [] for caller in callers}
    together = threading.Barrier(count)

    def answer(caller):
        methods = requests[caller.request_id]
        together.wait()
        ping(caller=caller)
        methods.append("ping")
        objects.ServiceList.get_all(caller)
        methods.append("object_class_action_versions")

    threads = [threading.Thread(target=answer, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered = {method: sum(methods.count(method) for methods in requests.values()) for method in ("ping", "object_class_action_versions")}
    assert all(count == len(callers) for count in answered.values()), answered
    print(json.dumps({"answered": answered, "requests": requests}), flush=True)


match sys.argv[1:]:
    case ["ready"]:
        wait()
    case ["forever"]:
        load(itertools.count(), True)
    case ["parallel", count]:
        parallel(int(count))
    case ["reading", count]:
        load(range(int(count)), False)
    case [count]:
        load(range(int(count)), True)
