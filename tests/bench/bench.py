"""The bench: every relay under every workload, in interleaved rounds. scripts/bench prepares and starts it.

In each round each workload meets all relays, one after the other, in an order that is turned by one place from round
to round. A relay is started anew for each measurement."""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import figures
import machine
import relays
import report
import workloads

TRIES_MAX = 2  # of one measurement, when it was disturbed
QUICK_RELAYS = ("sluice", "sluice-epoll", "haproxy-splice", "nginx")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer workloads, relays and rounds: under 2 minutes")
    parser.add_argument("--only", metavar="WORKLOADS", help="names or beginnings of names, with commas: echo-64b,churn")
    parser.add_argument("--relays", metavar="RELAYS", help="names, with commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="the measured window of each run")
    parser.add_argument("--sluice", action="append", default=[], metavar="[LABEL=]PATH",
                        help="a sluice to measure, may be repeated; LABEL-epoll is it on the epoll engine. "
                             "Without --relays only these are compared (on io_uring)")
    parser.add_argument("--idle-sessions", type=int, default=9_000)
    parser.add_argument("--minutes", type=float, default=14.5, help="no round is begun that would end later")
    parser.add_argument("--congestion", default="cubic", help="TCP's congestion control for all (where we are root)")
    parser.add_argument("--list", action="store_true", help="names of workloads and relays")
    parser.add_argument("--load", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--sluice-default", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--output", required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(names, wanted, what):
    """Those of `names` that are wanted; of workloads, what names none is the beginning of several."""
    selected = set()
    for text in wanted:
        matching = {name for name in names if name == text}
        if not matching and what == "workload":
            matching = {name for name in names if name.startswith(text)}
        if not matching:
            raise SystemExit(f"bench: no {what} is called {text}; there are: {' '.join(names)}")
        selected |= matching
    return [name for name in names if name in selected]


class Bench:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.relay_cpu, self.load_cpu = machine.choose_cpus()
        sluices = []
        for text in arguments.sluice:
            label, equals, path = text.rpartition("=")
            sluices.append((label if equals else "sluice", path))
        go_source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.go")
        self.relays = relays.all_relays(folder, sluices or [("sluice", arguments.sluice_default)], go_source)
        self.labels = [label for label, _ in sluices] or ["sluice"]
        self.workloads = workloads.all_workloads(arguments.idle_sessions)
        self.results = {}  # workload -> relay -> [what each round saw]
        self.system_calls = {}  # workload -> relay -> calls for each operation or GiB
        self.not_run = {}  # relay -> why, or (workload, relay) -> why
        self.repeated = 0

    # --- One measurement

    def load(self, workload, relay, extra=(), seconds=None):
        """Runs the workload once against the relay, which is started and ended here."""
        backend_port = machine.next_port()
        port = relay.start(self.relay_cpu, backend_port)
        try:
            command = [self.arguments.load, *workload.load, "--relay", f"127.0.0.1:{port}",
                       "--backend", f"127.0.0.1:{backend_port}", "--cpu", str(self.load_cpu),
                       "--session", str(relay.session), "--relay-cpu", str(self.relay_cpu), "--warm-up", workload.warm_up,
                       "--seconds", str(seconds or self.arguments.seconds or workload.seconds), *extra]
            if workload.kind == "idle":
                return self.hold_idle(command, relay, workload.connections)
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                                  preexec_fn=machine.tie_to_us(self.load_cpu))
            return parsed(done.stdout, done.stderr)
        finally:
            relay.stop()

    def hold_idle(self, command, relay, sessions):
        """Reads the memory before and while the sessions are there."""
        time.sleep(0.2)  # let what the last measurement left be freed
        kernel_before = machine.kernel_bytes()
        user_before = machine.private_bytes(relay.session) if relay.session else 0
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              preexec_fn=machine.tie_to_us(self.load_cpu)) as load:
            try:
                first = load.stdout.readline()
                if not first.startswith('{"ready"'):
                    return parsed(first, "")
                time.sleep(0.3)  # nothing is waited for: what the relay puts off shall be in its memory
                kernel_grown = machine.kernel_bytes() - kernel_before
                user_grown = machine.private_bytes(relay.session) - user_before if relay.session else 0
                rest, _ = load.communicate("go on\n", timeout=60)
            finally:
                load.kill()
        run = parsed(rest, "")
        run["user_bytes_per_session"] = user_grown / sessions
        run["kernel_and_load_bytes_per_session"] = kernel_grown / sessions
        return run

    def measure(self, workload, relay):
        """Once more if something disturbed it; the last one counts whatever it was, with the reason kept."""
        for attempt in range(TRIES_MAX):
            run = self.load(workload, relay)
            if "seconds" not in run:
                break
            run["disturbed"] = figures.disturbed(workload.kind, run, relay.alone)
            if run["disturbed"] is None:
                break
            self.repeated += attempt < TRIES_MAX - 1
        return run

    # --- All of them

    def plan(self):
        arguments = self.arguments
        if arguments.only:
            names = chosen(self.workloads, arguments.only.split(","), "workload")
        else:
            names = [name for name, workload in self.workloads.items() if workload.quick or not arguments.quick]
        if arguments.relays:
            relay_names = chosen(self.relays, arguments.relays.split(","), "relay")
        elif arguments.sluice:
            relay_names = self.labels
        elif arguments.quick:
            relay_names = list(QUICK_RELAYS)
        else:
            relay_names = list(self.relays)
        self.plan_workloads = [self.workloads[name] for name in names]
        self.plan_relays = []
        for name in relay_names:
            reason = self.relays[name].missing()
            if reason:
                self.not_run[name] = reason
            else:
                self.plan_relays.append(self.relays[name])
        # What an idle session costs the kernel is known only beside a run without any relay.
        if "idle" in names and "none" not in relay_names and not arguments.quick and not arguments.sluice:
            self.plan_relays.append(self.relays["none"])
        self.rounds = arguments.rounds or (2 if arguments.quick else 3)

    def run(self):
        self.plan()
        begin = time.monotonic()
        self.rounds_done = 0
        for number in range(self.rounds):
            round_begin = time.monotonic()
            for workload in self.plan_workloads:
                self.run_workload(workload, number)
            self.rounds_done = number + 1
            took = time.monotonic() - round_begin
            if time.monotonic() - begin + took > self.arguments.minutes * 60:
                break
        for workload in self.plan_workloads:
            if workload.counts_system_calls and not self.arguments.quick:
                self.count_system_calls(workload)
        self.took = time.monotonic() - begin

    def run_workload(self, workload, number):
        turned = self.plan_relays[number % len(self.plan_relays):] + self.plan_relays[:number % len(self.plan_relays)]
        for relay in turned:
            if workload.connections > relay.connections_max:
                self.not_run[f"{workload.name} {relay.name}"] = relay.limit
                continue
            if number > 0 and relay.once and workload.kind != "idle":
                continue
            try:
                run = self.measure(workload, relay)
            except (RuntimeError, subprocess.TimeoutExpired, OSError) as error:
                run = {"failures": 1, "failure": str(error)}
            self.results.setdefault(workload.name, {}).setdefault(relay.name, []).append(run)
            if sys.stderr.isatty() or run["failures"]:
                print(f"{number + 1}/{self.rounds} {workload.name} {relay.name}: {summary(workload, run)}",
                      file=sys.stderr, flush=True)

    def count_system_calls(self, workload):
        """In a run of its own, because the counting slows down what it counts."""
        for relay in self.plan_relays:
            if relay.once or workload.connections > relay.connections_max:
                continue
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired, OSError):
                run = self.load(workload, relay, ("--system-calls",), seconds=0.3)
                calls = run.get("relay", {}).get("system_calls")
                work = run["bytes"] / figures.GIB if workload.kind == "bulk" else run["operations"]
                if calls and work:
                    self.system_calls.setdefault(workload.name, {})[relay.name] = calls / work

    # --- What came of it

    def summarize(self):
        """workload -> relay -> figures of each round; none of a round that failed, so that rounds stay side by side."""
        rounds = {}
        for name, of_relays in self.results.items():
            kind = self.workloads[name].kind
            for relay, runs in of_relays.items():
                rounds.setdefault(name, {})[relay] = [of_run(kind, run) for run in runs]
        if "idle" in rounds:
            share_out_kernel(rounds["idle"])
        return rounds


def of_run(kind, run):
    if "seconds" not in run:
        return {}
    return idle_figures(run) if kind == "idle" else figures.figures_of(kind, run)


def idle_figures(run):
    relay = run.get("relay")
    return {
        "user_bytes_per_session": run["user_bytes_per_session"] if relay else None,
        "kernel_and_load_bytes_per_session": run["kernel_and_load_bytes_per_session"],
        "idle_cpu_percent": 100 * relay["cpu_s"] / run["seconds"] if relay else None,
    }


def share_out_kernel(of_relays):
    """The kernel memory of the load's own sockets is what grew without a relay; what is more is the relay's."""
    without = figures.medians(of_relays.get("none", [])).get("kernel_and_load_bytes_per_session")
    for relay, rounds in of_relays.items():
        for of_round in rounds:
            if without is not None and relay != "none" and of_round:
                of_round["kernel_bytes_per_session"] = of_round["kernel_and_load_bytes_per_session"] - without


def parsed(output, errors):
    """The last line of the load's output; a failure of its own if there is none."""
    lines = output.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return {"failures": 1, "failure": f"the load said nothing: {errors.strip()[-300:]}"}


def summary(workload, run):
    if "seconds" not in run:
        return f"FAILED: {run.get('failure')}"
    if workload.kind == "idle":
        text = ", ".join(f"{name} {value:.1f}" for name, value in idle_figures(run).items() if value is not None)
    else:
        own = figures.figures_of(workload.kind, run)
        text = ", ".join(f"{name} {own[name]:.1f}" for name in workload.judged if own.get(name) is not None)
    if run["failures"]:
        text += f"; {run['failures']} FAILURES: {run['failure']}"
    return text + (f" ({run['disturbed']})" if run.get("disturbed") else "")


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the relays are ended, as after Ctrl-C
    folder = tempfile.mkdtemp(prefix="sluice-bench-")
    try:
        bench = Bench(arguments, folder)
        if arguments.list:
            print("workloads:", *bench.workloads, "\nrelays:", *bench.relays)
            return 0
        own_network = machine.enter_own_network(arguments.congestion)
        bench.run()
        summary_of_all = report.Summary(bench, own_network, datetime.datetime.now())
        summary_of_all.write(arguments.output)
        print(summary_of_all.text)
        print("written:", *summary_of_all.paths)
        return 0 if summary_of_all.complete() else 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
