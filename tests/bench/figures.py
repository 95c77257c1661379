"""From what the load printed to figures, medians, ratios and verdicts. Only arithmetic: nothing here measures."""

from dataclasses import dataclass
from statistics import median

GIB = 2**30

# Figures of which more is better; of all others less is.
MORE_IS_BETTER = {"gib_per_s", "operations_per_s"}

# A peer is ahead when it is better by more than this.
MARGIN = 0.03


def per(cost, count):
    return cost / count if count else None


def figures_of(kind, run):
    """The figures of one run, None where there is none (no relay, so no cost). `run` is what bench-load printed."""
    figures = {}
    seconds = run["seconds"]
    relay = run.get("relay")
    if kind in ("bulk", "mix", "slow"):
        gib = run["bytes"] / GIB
        figures["gib_per_s"] = gib / seconds
        if relay and kind != "mix":
            figures |= shared_out(relay, gib, "ms_per_gib", 1e3)
    if kind in ("operations", "mix"):
        operations = run["operations"]
        figures["operations_per_s"] = operations / seconds
        latency = run["latency"]
        for name in ("p50_us", "p99_us", "p999_us"):
            figures[name] = latency.get(name)
        if relay and kind == "operations":
            figures |= shared_out(relay, operations, "us_per_operation", 1e6)
            switches = relay["voluntary_switches"] + relay["involuntary_switches"]
            # Those of processes that have ended went with them.
            figures["switches_per_operation"] = per(switches, operations) if switches >= 0 else None
    if relay:
        figures["relay_cpu_share"] = (relay["cpu_s"] + relay["softirq_s"]) / seconds
        if kind == "slow":
            figures["private_mib"] = relay["private_bytes"] / 2**20
    if kind != "idle":
        figures["load_idle_share"] = run["load_idle_share"]
    return figures


def shared_out(relay, count, unit, scale):
    """CPU for each unit of work, with the kernel's ksoftirqd on the relay's CPU. The tick says how it divides into user
    and system, the exact clock how much it is."""
    sampled = relay["user_s"] + relay["system_s"]
    whole = per((relay["cpu_s"] + relay["softirq_s"]) * scale, count)
    user = None if whole is None or not sampled else per(relay["cpu_s"] * relay["user_s"] / sampled * scale, count)
    return {f"cpu_{unit}": whole, f"user_{unit}": user, f"system_{unit}": None if user is None else whole - user}


def disturbed(kind, run, alone):
    """Why this run says little about the relay, or None. A rule, the same for all: the measurement is repeated.
    `alone`: the relay is a single thread, so it waits for its CPU only when something else is on it."""
    if kind == "idle":
        return None
    # The kernel's ksoftirqd of that CPU, which does the load's own work, takes up to a tenth in bulk.
    if run["load_cpu_share"] < 0.8:
        return "the load did not have its CPU for itself"
    relay = run.get("relay")
    if relay and alone and relay["waited_s"] - relay["softirq_s"] > 0.05 * run["seconds"]:
        return "the relay did not have its CPU for itself"
    # TCP's work on loopback is done on the CPU of whoever is behind (see traffic.cpp): a relay that waits for a load
    # that has no time left is not in the state that all others are measured in.
    if relay and kind == "bulk" and run["load_idle_share"] < 0.02 and relay["cpu_s"] < 0.9 * run["seconds"]:
        return "the load was the bottleneck"
    return None


def medians(figures_of_rounds):
    """Of each figure, over the rounds that have it."""
    names = {name for figures in figures_of_rounds for name in figures}
    result = {}
    for name in names:
        values = [figures[name] for figures in figures_of_rounds if figures.get(name) is not None]
        if values:
            result[name] = median(values)
    return result


def spread(values):
    """How far the rounds lie apart: highest less lowest, as a share of the median; None of fewer than two."""
    if len(values) < 2 or not median(values):
        return None
    return (max(values) - min(values)) / median(values)


def ratio(name, ours, theirs):
    """Ours to theirs, so that less than 1 is good for costs and more than 1 for rates; None if one is missing."""
    if ours.get(name) is None or not theirs.get(name):
        return None
    return ours[name] / theirs[name]


def paired_ratio(name, our_rounds, their_rounds):
    """The median of the ratios within each round: steadier than the ratio of medians where the machine drifts."""
    ratios = [ratio(name, ours, theirs) for ours, theirs in zip(our_rounds, their_rounds)]
    ratios = [value for value in ratios if value is not None]
    return median(ratios) if ratios else None


def best(name, results, peers):
    """The peer that is best in this figure and its value; (None, None) if none has it."""
    having = {peer: results[peer][name] for peer in peers if results.get(peer, {}).get(name) is not None}
    if not having:
        return None, None
    chosen = (max if name in MORE_IS_BETTER else min)(having, key=having.get)
    return chosen, having[chosen]


@dataclass(frozen=True)
class Target:
    """One line of the table of issue 4: a ratio of ours to a peer's that may not be passed, in each workload."""

    title: str
    workloads: tuple
    figures: tuple
    limit: float
    peers: tuple = ()  # by name; none: the best of all
    at_least: bool = False


BULK = ("upload-1", "upload-16", "upload-256", "download-16", "both-16")
TARGETS = (
    Target("bulk, CPU per GiB, against HAProxy with splice", BULK, ("cpu_ms_per_gib",), 0.60, ("haproxy-splice",)),
    Target("bulk, CPU per GiB, against the best peer", BULK, ("cpu_ms_per_gib",), 0.90),
    Target("bulk throughput against the best peer", BULK, ("gib_per_s",), 1.0, at_least=True),
    Target("64 B and 4 KiB, 64 connections, CPU per operation, against nginx", ("echo-64b-64", "echo-4k-64"),
           ("cpu_us_per_operation",), 0.92, ("nginx",)),
    Target("64 B and 4 KiB, 64 connections, CPU per operation, against HAProxy", ("echo-64b-64", "echo-4k-64"),
           ("cpu_us_per_operation",), 0.80, ("haproxy",)),
    Target("64 B, 1 connection, p50, against the best peer", ("echo-64b-1",), ("p50_us",), 0.95),
    Target("64 and 256 KiB, 64 connections, CPU per operation, against the best peer", ("echo-64k-64", "echo-256k-64"),
           ("cpu_us_per_operation",), 0.90),
    Target("connect, 64 B, close, CPU per operation, against the best peer", ("churn",), ("cpu_us_per_operation",),
           0.92),
    Target("mix, p99 and p99.9 of the chatty, against the best peer", ("mix",), ("p99_us", "p999_us"), 0.80),
    Target("user memory of an idle session against the best peer", ("idle",), ("user_bytes_per_session",), 0.15),
)


def judge_target(target, results, ours, peers):
    """The worst ratio of all that the target asks for: a dict with ratio, where, against and met; None if nothing of
    it was measured. `results` is workload -> relay -> medians."""
    worst = None
    for workload in target.workloads:
        of_workload = results.get(workload, {})
        for figure in target.figures:
            for peer in target.peers or (best(figure, of_workload, peers)[0],):
                value = ratio(figure, of_workload.get(ours, {}), of_workload.get(peer, {}))
                if value is None:
                    continue
                if worst is None or (value < worst["ratio"] if target.at_least else value > worst["ratio"]):
                    worst = {"ratio": value, "workload": workload, "figure": figure, "against": peer}
    if worst is not None:
        worst["met"] = worst["ratio"] >= target.limit if target.at_least else worst["ratio"] <= target.limit
    return worst


def judge_engines(results, judged, ours, other, limit=1.10):
    """The workload in which the other engine does worst against ours, in its costs and rates: as judge_target()."""
    worst = None
    for workload, of_workload in results.items():
        for figure in judged[workload]:
            value = ratio(figure, of_workload.get(other, {}), of_workload.get(ours, {}))
            if value is None:
                continue
            if figure in MORE_IS_BETTER:
                value = 1 / value if value else None
            if value is not None and (worst is None or value > worst["ratio"]):
                worst = {"ratio": value, "workload": workload, "figure": figure, "against": ours}
    if worst is not None:
        worst["met"] = worst["ratio"] <= limit
    return worst


def peers_ahead(results, judged, ours, peers):
    """Where a peer is better than we are by more than the margin: (workload, figure, peer, by how much)."""
    ahead = []
    for workload, of_workload in results.items():
        for figure in judged[workload]:
            peer, theirs = best(figure, of_workload, peers)
            mine = of_workload.get(ours, {}).get(figure)
            if peer is None or mine is None or not theirs:
                continue
            lead = theirs / mine - 1 if figure in MORE_IS_BETTER else mine / theirs - 1
            if lead > MARGIN:
                ahead.append((workload, figure, peer, lead))
    return ahead
