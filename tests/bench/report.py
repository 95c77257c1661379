"""The bench's artefacts: DATE.json with everything, DATE.md with tables and verdicts, DATE.svg with ratios."""

import json
import os

import figures
import machine
import plot
from relays import PEERS

COLUMNS = {
    "bulk": (("gib_per_s", "GiB/s", 2), ("cpu_ms_per_gib", "CPU ms/GiB", 0), ("user_ms_per_gib", "user", 0),
             ("system_ms_per_gib", "system", 0)),
    "operations": (("operations_per_s", "operations/s", 0), ("cpu_us_per_operation", "CPU us each", 2),
                   ("user_us_per_operation", "user", 2), ("system_us_per_operation", "system", 2), ("p50_us", "p50 us", 1),
                   ("p99_us", "p99 us", 1), ("p999_us", "p99.9 us", 1), ("switches_per_operation", "switches each", 3)),
    "mix": (("p50_us", "p50 us", 0), ("p99_us", "p99 us", 0), ("p999_us", "p99.9 us", 0),
            ("operations_per_s", "operations/s", 0), ("gib_per_s", "bulk GiB/s", 2)),
    "slow": (("gib_per_s", "GiB/s", 2), ("cpu_ms_per_gib", "CPU ms/GiB", 0), ("private_mib", "user MiB", 1)),
    "idle": (("user_bytes_per_session", "user B each", 0), ("kernel_bytes_per_session", "kernel B each", 0),
             ("idle_cpu_percent", "CPU %", 2)),
}
SATURATION = (("relay_cpu_share", "relay busy"), ("load_idle_share", "load idle"))


class Summary:
    def __init__(self, bench, own_network, now):
        self.bench = bench
        self.now = now
        self.own_network = own_network
        self.ours = bench.labels[0]
        self.rounds = bench.summarize()
        self.medians = {workload: {relay: figures.medians(rounds) for relay, rounds in of_relays.items()}
                        for workload, of_relays in self.rounds.items()}
        self.judged = {name: workload.judged for name, workload in bench.workloads.items()}
        self.peers = [relay for relay in PEERS if any(relay in of_relays for of_relays in self.medians.values())]
        self.verdicts = [(target.title, target.limit, target.at_least,
                          figures.judge_target(target, self.medians, self.ours, self.peers))
                         for target in figures.TARGETS]
        self.verdicts.append(("epoll engine against the io_uring engine, any workload", 1.10, False,
                              figures.judge_engines(self.medians, self.judged, self.ours, f"{self.ours}-epoll")))
        self.ahead = figures.peers_ahead(self.medians, self.judged, self.ours, self.peers)
        self.text = "\n".join(self.markdown())
        self.paths = []

    def complete(self):
        """Whether every measurement succeeded."""
        return not self.failures()

    def failures(self):
        return [f"{workload} {relay}: {run['failures']}: {run.get('failure')}"
                for workload, of_relays in self.bench.results.items()
                for relay, runs in of_relays.items() for run in runs if run["failures"]]

    # --- Markdown

    def markdown(self):
        bench, about = self.bench, machine.description()
        yield f"# Bench of {self.now:%Y-%m-%d %H:%M}"
        yield ""
        yield (f"Commit {about['commit']}, kernel {about['kernel']}, TCP {about['congestion']}, {about['cpu']}, relay on CPU {bench.relay_cpu}, "
               f"load on CPU {bench.load_cpu}; {bench.rounds_done} rounds of {bench.rounds}, {bench.took:.0f} s; "
               f"{bench.repeated} disturbed measurements repeated; "
               f"{'a network namespace of its own' if self.own_network else 'the loopback of the machine'}.")
        yield "Peers: " + "; ".join(version for version in about["versions"].values() if version) + "."
        yield ""
        yield (f"Medians. *to {self.ours}*: {self.ours}'s value divided by this relay's, of the first figure that is "
               "judged; *paired*: the median of that ratio within each round. *spread*: of that figure, highest less "
               "lowest round, as a share of the median. A relay that is not busy was not what limited the run.")
        for workload in bench.plan_workloads:
            if workload.name in self.medians:
                yield from self.table(workload)
        yield from self.targets()
        yield from self.remarks()

    def table(self, workload):
        judged = workload.judged[0]
        columns = COLUMNS[workload.kind]
        saturation = () if workload.kind == "idle" else SATURATION
        calls = self.bench.system_calls.get(workload.name, {})
        of_relays = self.medians[workload.name]
        head = ["relay", *(title for _, title, _ in columns)]
        if calls:
            head.append("system calls/GiB" if workload.kind == "bulk" else "system calls each")
        head += [f"to {self.ours}", "paired", "spread", *(title for _, title in saturation)]
        yield ""
        yield f"## {workload.title} (`{workload.name}`)"
        yield ""
        yield "| " + " | ".join(head) + " |"
        yield "|---" + "|--:" * (len(head) - 1) + "|"
        our_rounds = self.rounds[workload.name].get(self.ours, [])
        for relay in self.bench.relays:
            if not of_relays.get(relay) or (workload.kind == "idle" and relay == "none"):
                continue
            own = of_relays[relay]
            rounds = self.rounds[workload.name][relay]
            cells = [relay, *(number(own.get(name), digits) for name, _, digits in columns)]
            if calls:
                cells.append(number(calls.get(relay), 0 if workload.kind == "bulk" else 2))
            values = [of_round[judged] for of_round in rounds if of_round.get(judged) is not None]
            cells += [number(figures.ratio(judged, of_relays.get(self.ours, {}), own), 2),
                      number(figures.paired_ratio(judged, our_rounds, rounds), 2), percent(figures.spread(values)),
                      *(percent(own.get(name)) for name, _ in saturation)]
            yield "| " + " | ".join(cells) + " |"

    def targets(self):
        if not self.peers and all(verdict is None for *_, verdict in self.verdicts):
            return
        yield ""
        yield "## Targets of issue 4"
        yield ""
        yield "| target | wanted | measured (worst) | paired | where | |"
        yield "|---|--:|--:|--:|---|---|"
        for title, limit, at_least, verdict in self.verdicts:
            wanted = f"{'at least' if at_least else 'at most'} {limit:.2f}"
            if verdict is None:
                yield f"| {title} | {wanted} | | | not measured | |"
            else:
                where = f"{verdict['workload']}, {verdict['figure']}, against {verdict['against']}"
                rounds = self.rounds[verdict["workload"]]
                relay = f"{self.ours}-epoll" if verdict["against"] == self.ours else self.ours
                paired = figures.paired_ratio(verdict["figure"], rounds[relay], rounds[verdict["against"]])
                yield (f"| {title} | {wanted} | {verdict['ratio']:.2f} | {number(paired, 2)} | {where} | "
                       f"{'met' if verdict['met'] else '**not met**'} |")
        yield ""
        ahead = [f"{workload} ({figure}: {peer} by {100 * lead:.0f} %)" for workload, figure, peer, lead in self.ahead]
        yield "Workloads in which a peer is ahead by more than 3 %: " + ("; ".join(ahead) if ahead else "none") + "."

    def remarks(self):
        notes = [f"{relay}: not run: {reason}." for relay, reason in self.bench.not_run.items()]
        notes += [f"{workload} {relay}: {len(reasons)} rounds stayed disturbed: {', '.join(sorted(set(reasons)))}."
                  for workload, relay, reasons in self.disturbances()]
        notes += [f"FAILED: {failure}" for failure in self.failures()]
        if notes:
            yield ""
            yield "## Remarks"
            yield ""
            yield from (f"- {note}" for note in notes)

    def disturbances(self):
        for workload, of_relays in self.bench.results.items():
            for relay, runs in of_relays.items():
                reasons = [run["disturbed"] for run in runs if run.get("disturbed")]
                if reasons and relay != "none":
                    yield workload, relay, reasons

    # --- Files

    def write(self, folder):
        os.makedirs(folder, exist_ok=True)
        stem = os.path.join(folder, f"{self.now:%Y-%m-%d-%H%M%S}")
        everything = {
            "date": self.now.isoformat(timespec="seconds"),
            "machine": machine.description(),
            "own_network": self.own_network,
            "rounds": self.bench.rounds_done,
            "seconds": self.bench.took,
            "disturbed_and_repeated": self.bench.repeated,
            "runs": self.bench.results,
            "figures": self.rounds,
            "medians": self.medians,
            "system_calls": self.bench.system_calls,
            "targets": [{"target": title, "limit": limit, "at_least": at_least, "verdict": verdict}
                        for title, limit, at_least, verdict in self.verdicts],
            "peers_ahead": self.ahead,
            "not_run": self.bench.not_run,
        }
        self.put(f"{stem}.json", json.dumps(everything, indent=1) + "\n")
        self.put(f"{stem}.md", self.text + "\n")
        self.put(f"{stem}.svg", plot.ratios_svg(self.medians, self.judged, self.ours, list(self.bench.relays)))

    def put(self, path, text):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self.paths.append(os.path.relpath(path))


def number(value, digits):
    return "" if value is None else f"{value:,.{digits}f}"


def percent(value):
    return "" if value is None else f"{100 * value:.0f} %"
