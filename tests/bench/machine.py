"""What the bench needs of the machine: CPUs, a network of its own, free ports, and what to write down about it."""

import ctypes
import itertools
import os
import platform
import resource
import signal
import socket
import subprocess

CLONE_NEWNET = 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
libc = ctypes.CDLL(None, use_errno=True)


def choose_cpus():
    """The relay's and the load's, of those that we may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("bench: two CPUs are needed, one for the relay and one for the load")
    return cpus[0], cpus[1]


CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"


def enter_own_network(congestion):
    """A network namespace with nothing but loopback, so that nobody else's ports and connections are in the way
    and ours (many in TIME_WAIT) are in nobody's. False if we may not: then the machine's own loopback is used."""
    if libc.unshare(CLONE_NEWNET) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as file:
        file.write("1024 65000")  # above it are the ports that the bench listens on
    with open(CONGESTION, "w", encoding="ascii") as file:
        file.write(congestion)
    return True


_ports = itertools.cycle(range(65_001, 65_535))


def next_port():
    """A port to listen on that nothing uses, neither as a listener nor as a connection's own; the one that was
    given out last comes round last."""
    for port in itertools.islice(_ports, 534):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError("no port is free between 65001 and 65534")


def is_listening(port):
    """Looked up, not tried: a connection would already be a session of the relay."""
    local = f"0100007F:{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(line.split()[1] == local and line.split()[3] == "0A" for line in table if ":" in line.split()[0])


def tie_to_us(cpu):
    """For a child before its exec: on this CPU, with all descriptors that it may have, ended when we are."""

    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, {cpu})
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare


def processes_of(session):
    """The pids whose session (setsid) it is."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry))
    return found


def private_bytes(session):
    """User memory that belongs to these processes alone (Private_Clean and Private_Dirty of smaps_rollup)."""
    total = 0
    for process in processes_of(session):
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))
    return total


def kernel_bytes():
    """Memory of the whole kernel that sockets, files, pipes, threads and page tables grow."""
    wanted = ("Slab:", "KernelStack:", "PageTables:", "SecPageTables:")
    with open("/proc/meminfo", encoding="ascii") as file:
        meminfo = sum(int(line.split()[1]) * 1024 for line in file if line.startswith(wanted))
    return meminfo


def congestion():
    with open(CONGESTION, encoding="ascii") as file:
        return file.read().strip()


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else None


def description():
    model = None
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), None)
    return {
        "kernel": platform.release(),
        "congestion": congestion(),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "commit": first_line(["git", "describe", "--always", "--dirty"]),
        "versions": {
            "haproxy": first_line(["haproxy", "-v"]),
            "nginx": first_line(["nginx", "-v"]),
            "socat": (first_line(["sh", "-c", "socat -V | sed -n 2p"])),
            "go": first_line(["go", "version"]),
        },
    }
