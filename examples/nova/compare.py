"""Holds what pystap saw of nova-conductor against what nova-conductor and its caller wrote down, and fails where they differ.

    compare.py SINCE EVENTS TRUTH LOAD...

What began before SINCE, in nanoseconds since the Unix epoch, is left out. EVENTS is a recording as JSON (`pystap export -f json`) of `_do_dispatch` with the fields `method` and `request` and of
`do_execute` with the field `sql`; TRUTH the directory that truth.py wrote; each LOAD what load.py printed.
"""

import collections
import json
import pathlib
import statistics
import sys

# How far medians may be apart: a twentieth, or what nova's own clock, what pystap does at a call, and the moments at which the
# kernel or the GIL lets another thread run in between, take of a call that is over in less than half a millisecond.
TOLERANCE = 0.05
TOLERANCE_NS = 20_000
FIELD_LIMIT = 4096  # bytes of a text that a field has


def seen(path, since):
    """What pystap saw since then: calls as (method, request, ns) and statements as (statement, request, ns)."""
    calls, statements = [], []
    running = {}  # the requests whose calls are open, by process and thread or greenlet
    for line in open(path):
        event = json.loads(line)
        kind = event["event"]
        if kind == "summary":
            whole = not any(event[name] for name in ("lost", "skipped", "unparsed", "unpaired"))
            check(whole, "pystap lost nothing", json.dumps(event))
        if kind not in ("call", "return"):
            continue
        fields = event.get("fields", {})
        late = event["ts"] - event.get("duration_ns", 0) >= since
        place = event["pid"], event.get("context") or event["tid"]
        requests = running.setdefault(place, [])
        if event["function"] == "_do_dispatch":
            if kind == "call":
                requests.append(fields["request"])
            else:
                requests.pop()
                if late:
                    calls.append((fields["method"], fields["request"], event["duration_ns"]))
        elif event["function"] == "do_execute" and kind == "return" and late:
            # The request that this thread or greenlet answers, which no field of do_execute tells.
            statements.append((fields["sql"], requests[-1] if requests else None, event["duration_ns"]))
    return calls, statements


def written(directory, since):
    """What nova-conductor wrote down since then, by kind."""
    lines = collections.defaultdict(list)
    for path in pathlib.Path(directory).glob("*.jsonl"):
        for line in path.read_text().splitlines():
            line = json.loads(line)
            if "statement" in line:
                line["statement"] = line["statement"].encode()[:FIELD_LIMIT].decode(errors="ignore")
            if line["ts"] >= since:
                lines[line["kind"]].append(line)
    return lines


failed = []


def check(right, what, detail=""):
    print(f"{'same  ' if right else 'DIFFER'}  {what}{'' if right else ': ' + detail}")
    if not right:
        failed.append(what)


def same(what, ours, theirs):
    """The same things, each as often."""
    ours, theirs = collections.Counter(ours), collections.Counter(theirs)
    differ = [f"{thing}: pystap {ours[thing]}, nova {theirs[thing]}" for thing in ours | theirs if ours[thing] != theirs[thing]]
    check(not differ, f"{what}: {sum(theirs.values())}, {len(theirs)} different", "; ".join(differ[:3])[:500])


def same_times(ours, theirs):
    """For each name the medians of its times, within the tolerance."""
    times = [collections.defaultdict(list), collections.defaultdict(list)]
    for lists, pairs in zip(times, (ours, theirs)):
        for name, ns in pairs:
            lists[name].append(ns)
    for name in sorted(times[1], key=lambda name: -sum(times[1][name])):
        if not times[0][name]:
            check(False, f"time of {name}", "pystap saw none")
            continue
        our, their = (statistics.median(lists[name]) for lists in times)
        title = " ".join(name.split())
        title = title if len(title) <= 60 else title[:44] + " … " + title[-13:]
        near = abs(our - their) <= max(their * TOLERANCE, TOLERANCE_NS)
        check(near, f"median of {title}: pystap {our / 1e6:.3f} ms, nova {their / 1e6:.3f} ms", f"more than {TOLERANCE:.0%}")


def main(since, events, truth, *loads):
    calls, statements = seen(events, int(since))
    lines = written(truth, int(since))
    answered = collections.Counter()
    requests = []
    for path in loads:
        load = json.loads(pathlib.Path(path).read_text())
        answered.update(load["answered"])
        requests += [(method, request) for request, methods in load.get("requests", {}).items() for method in methods]
    same("remote calls by method, as the caller counted them", [method for method, _, _ in calls], list(answered.elements()))
    same(
        "remote calls by method and request, as nova wrote them down",
        [(method, request) for method, request, _ in calls],
        [(line["method"], line["request"]) for line in lines["call"]],
    )
    parallel = {request for _, request in requests}
    same(
        "parallel calls by method and request, as the caller made them",
        [(method, request) for method, request, _ in calls if request in parallel],
        requests,
    )
    same("statements, as SQLAlchemy's events told them", [statement for statement, _, _ in statements], [line["statement"] for line in lines["statement"]])
    same(
        "statements by request",
        [(statement, request) for statement, request, _ in statements],
        [(line["statement"], line["request"]) for line in lines["statement"]],
    )
    same_times([(method, ns) for method, _, ns in calls], [(line["method"], line["ns"]) for line in lines["call"]])
    same_times([(statement, ns) for statement, _, ns in statements], [(line["statement"], line["ns"]) for line in lines["execute"]])
    return 1 if failed else 0


sys.exit(main(*sys.argv[1:]))
