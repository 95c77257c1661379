"""What the relays are loaded with, and which figures of each workload are held against the peers."""

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    kind: str  # bulk, operations, mix, slow or idle: which figures it has
    load: tuple  # arguments for bench-load
    connections: int
    judged: tuple  # its figures in which a peer may not be ahead
    seconds: float = 0.35  # the measured window
    warm_up: str = "0.15"  # seconds before it
    quick: bool = False  # also a part of --quick
    counts_system_calls: bool = False  # in a pass of its own


def bulk(name, title, *load, streams, quick=False):
    return Workload(name, title, "bulk", (*load, "--connections", str(streams)), streams,
                    ("cpu_ms_per_gib", "gib_per_s"), seconds=0.7, warm_up="0.3", quick=quick, counts_system_calls=streams == 16)


def size_name(size):
    return f"{size // KIB}k" if size >= KIB else f"{size}b"


def echo(size, connections):
    in_targets = (size, connections) in {(64, 1), (64, 64), (4 * KIB, 64), (64 * KIB, 64), (256 * KIB, 64)}
    judged = ("cpu_us_per_operation", "operations_per_s") if connections > 1 else ("cpu_us_per_operation", "p50_us")
    title = f"{f'{size // KIB} KiB' if size >= KIB else f'{size} B'} request and response, {connections:,} connection"
    slow = connections == 1000 and size >= 64 * KIB  # an answer takes most of a second
    return Workload(f"echo-{size_name(size)}-{connections}", title + ("s" if connections > 1 else ""), "operations",
                    ("echo", "--connections", str(connections), "--bytes", str(size)), connections, judged,
                    seconds=1.5 if slow else 0.7 if in_targets else 0.3, warm_up="1.0" if slow else "0.15", quick=in_targets and size in (64, 64 * KIB), counts_system_calls=in_targets)


def all_workloads(idle_sessions):
    workloads = [
        bulk("upload-1", "bulk upload, 1 stream", "upload", streams=1),
        bulk("upload-16", "bulk upload, 16 streams", "upload", streams=16, quick=True),
        bulk("upload-256", "bulk upload, 256 streams", "upload", streams=256),
        bulk("download-16", "bulk download, 16 streams", "download", streams=16, quick=True),
        bulk("both-16", "bulk both ways at once, 16 streams", "both", streams=16),
    ]
    for connections in (1, 64, 1000):
        for size in (64, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB):
            workloads.append(echo(size, connections))
    workloads += [
        Workload("churn", "connect, 64 B request and response, close; 16 under way", "operations",
                 ("churn", "--connections", "16"), 16, ("cpu_us_per_operation", "operations_per_s"), seconds=0.8,
                 quick=True, counts_system_calls=True),
        Workload("mix", "64 chatty sessions (64 B, 4 ms between) beside 16 bulk streams", "mix",
                 ("mix", "--connections", "64", "--streams", "16"), 80, ("p99_us", "p999_us"), seconds=1.2, quick=True),
        Workload("slow", "64 readers that take 64 KiB every 10 ms", "slow", ("slow", "--connections", "64"), 64,
                 ("cpu_ms_per_gib",), seconds=0.8),
        Workload("idle", f"{idle_sessions:,} idle sessions", "idle",
                 ("idle", "--connections", str(idle_sessions)), idle_sessions, ("user_bytes_per_session",), seconds=0.5,
                 quick=True),
    ]
    return {workload.name: workload for workload in workloads}
