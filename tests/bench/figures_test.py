"""The arithmetic of the bench: python3 tests/bench/figures_test.py. Its last line counts as a suite's does."""

import copy
import sys
import unittest

import bench
import figures

RUN = {
    "seconds": 2.0, "bytes": 3 * figures.GIB, "operations": 1000, "load_idle_share": 0.3, "load_cpu_share": 0.999,
    "latency": {"count": 1000, "p50_us": 10.0, "p99_us": 20.0, "p999_us": 30.0},
    "relay": {"cpu_s": 1.5, "user_s": 0.5, "system_s": 1.5, "softirq_s": 0.0, "waited_s": 0.0, "voluntary_switches": 400,
              "involuntary_switches": 100, "private_bytes": 2**20},
}


def run_with(**changes):
    run = copy.deepcopy(RUN)
    for name, value in changes.items():
        (run["relay"] if name in run["relay"] else run)[name] = value
    return run


class Figures(unittest.TestCase):
    def test_bulk_costs_are_for_each_gib_and_divided_as_the_tick_saw_them(self):
        of_run = figures.figures_of("bulk", RUN)
        self.assertAlmostEqual(of_run["gib_per_s"], 1.5)
        self.assertAlmostEqual(of_run["cpu_ms_per_gib"], 500)
        self.assertAlmostEqual(of_run["user_ms_per_gib"], 125)
        self.assertAlmostEqual(of_run["system_ms_per_gib"], 375)

    def test_ksoftirqd_is_the_relays_system_time(self):
        of_run = figures.figures_of("bulk", run_with(softirq_s=0.3))
        self.assertAlmostEqual(of_run["cpu_ms_per_gib"], 600)
        self.assertAlmostEqual(of_run["user_ms_per_gib"], 125)

    def test_operations_have_rates_costs_latencies_and_switches(self):
        of_run = figures.figures_of("operations", RUN)
        self.assertAlmostEqual(of_run["operations_per_s"], 500)
        self.assertAlmostEqual(of_run["cpu_us_per_operation"], 1500)
        self.assertAlmostEqual(of_run["switches_per_operation"], 0.5)
        self.assertEqual(of_run["p999_us"], 30.0)

    def test_switches_of_processes_that_have_ended_are_not_known(self):
        run = run_with(voluntary_switches=-500)
        self.assertIsNone(figures.figures_of("operations", run)["switches_per_operation"])

    def test_a_run_without_a_relay_has_no_costs_and_one_without_work_divides_by_nothing(self):
        direct = {name: value for name, value in RUN.items() if name != "relay"}
        self.assertNotIn("cpu_us_per_operation", figures.figures_of("operations", direct))
        self.assertIsNone(figures.figures_of("operations", run_with(operations=0))["cpu_us_per_operation"])


class Disturbances(unittest.TestCase):
    def test_a_quiet_run_is_not_disturbed(self):
        self.assertIsNone(figures.disturbed("bulk", RUN, alone=True))

    def test_a_load_or_a_relay_that_had_to_wait_for_its_cpu_is(self):
        self.assertIn("load", figures.disturbed("bulk", run_with(load_cpu_share=0.5), alone=True))
        self.assertIn("relay", figures.disturbed("bulk", run_with(waited_s=0.5), alone=True))
        self.assertIsNone(figures.disturbed("bulk", run_with(waited_s=0.5), alone=False))

    def test_a_relay_that_waits_for_a_busy_load_was_not_measured(self):
        self.assertIn("bottleneck", figures.disturbed("bulk", run_with(load_idle_share=0.0), alone=True))
        self.assertIsNone(figures.disturbed("bulk", run_with(load_idle_share=0.0, cpu_s=1.95), alone=True))


class Comparisons(unittest.TestCase):
    def test_a_median_is_of_the_rounds_that_have_the_figure(self):
        rounds = [{"p50_us": 3.0}, {"p50_us": None}, {"p50_us": 1.0}, {"p50_us": 9.0}, {}]
        self.assertEqual(figures.medians(rounds), {"p50_us": 3.0})

    def test_spread_is_relative_and_needs_two_rounds(self):
        self.assertAlmostEqual(figures.spread([90, 100, 120]), 0.3)
        self.assertIsNone(figures.spread([100]))

    def test_paired_ratios_do_not_feel_a_machine_that_slows_down(self):
        ours = [{"x": 1.0}, {"x": 2.0}, {"x": 8.0}]
        theirs = [{"x": 2.0}, {"x": 4.0}, {"x": 16.0}]
        self.assertAlmostEqual(figures.paired_ratio("x", ours, theirs), 0.5)
        self.assertIsNone(figures.paired_ratio("x", ours, [{}, {}, {}]))

    def test_the_best_peer_has_the_least_cost_or_the_highest_rate(self):
        of_relays = {"a": {"gib_per_s": 1.0, "p50_us": 5.0}, "b": {"gib_per_s": 2.0, "p50_us": 9.0}, "c": {}}
        self.assertEqual(figures.best("gib_per_s", of_relays, ("a", "b", "c")), ("b", 2.0))
        self.assertEqual(figures.best("p50_us", of_relays, ("a", "b", "c", "absent")), ("a", 5.0))
        self.assertEqual(figures.best("p99_us", of_relays, ("a", "b")), (None, None))


class Verdicts(unittest.TestCase):
    cost = figures.Target("cost", ("one", "two"), ("cpu_ms_per_gib",), 0.9)
    rate = figures.Target("rate", ("one", "two"), ("gib_per_s",), 1.0, at_least=True)
    results = {
        "one": {"us": {"cpu_ms_per_gib": 80, "gib_per_s": 2.0}, "peer": {"cpu_ms_per_gib": 100, "gib_per_s": 1.0}},
        "two": {"us": {"cpu_ms_per_gib": 95, "gib_per_s": 0.9}, "peer": {"cpu_ms_per_gib": 100, "gib_per_s": 1.0}},
    }

    def test_the_worst_workload_decides(self):
        verdict = figures.judge_target(self.cost, self.results, "us", ("peer",))
        self.assertEqual((verdict["workload"], verdict["met"]), ("two", False))
        self.assertAlmostEqual(verdict["ratio"], 0.95)
        verdict = figures.judge_target(self.rate, self.results, "us", ("peer",))
        self.assertEqual((verdict["workload"], verdict["met"]), ("two", False))

    def test_a_target_is_met_at_its_limit_and_unknown_without_a_measurement(self):
        only_one = {"one": {"us": {"cpu_ms_per_gib": 90}, "peer": {"cpu_ms_per_gib": 100}}}
        self.assertTrue(figures.judge_target(self.cost, only_one, "us", ("peer",))["met"])
        self.assertIsNone(figures.judge_target(self.cost, {}, "us", ("peer",)))
        self.assertIsNone(figures.judge_target(self.cost, {"one": {"us": {}, "peer": {}}}, "us", ("peer",)))

    def test_a_peer_is_ahead_only_beyond_the_margin(self):
        judged = {"one": ("cpu_ms_per_gib", "gib_per_s"), "two": ("cpu_ms_per_gib", "gib_per_s")}
        ahead = figures.peers_ahead(self.results, judged, "us", ("peer",))
        self.assertEqual([(workload, figure) for workload, figure, _, _ in ahead], [("two", "gib_per_s")])
        self.assertAlmostEqual(ahead[0][3], 1 / 0.9 - 1)
        close = {"one": {"us": {"p50_us": 1.029}, "peer": {"p50_us": 1.0}}}
        self.assertEqual(figures.peers_ahead(close, {"one": ("p50_us",)}, "us", ("peer",)), [])

    def test_the_engines_are_compared_as_costs_both_ways(self):
        results = {"w": {"us": {"gib_per_s": 2.0}, "us-epoll": {"gib_per_s": 1.0}}}
        verdict = figures.judge_engines(results, {"w": ("gib_per_s",)}, "us", "us-epoll")
        self.assertAlmostEqual(verdict["ratio"], 2.0)
        self.assertFalse(verdict["met"])


class Output(unittest.TestCase):
    def test_the_last_line_of_the_load_counts_and_silence_is_a_failure(self):
        self.assertEqual(bench.parsed('{"ready":1}\n{"failures":0}\n', ""), {"failures": 0})
        self.assertEqual(bench.parsed("", "why")["failures"], 1)
        self.assertIn("why", bench.parsed("no json", "why")["failure"])

    def test_the_kernel_memory_of_the_load_itself_is_taken_off(self):
        of_relays = {"none": [{"kernel_and_load_bytes_per_session": 10}],
                     "us": [{"kernel_and_load_bytes_per_session": 25}]}
        bench.share_out_kernel(of_relays)
        self.assertEqual(of_relays["us"][0]["kernel_bytes_per_session"], 15)

    def test_names_are_chosen_by_their_beginning_for_workloads_only(self):
        names = ["echo-64b-1", "echo-64b-1000", "churn"]
        self.assertEqual(bench.chosen(names, ["churn", "echo-64b"], "workload"), names)
        self.assertEqual(bench.chosen(names, ["echo-64b-1"], "workload"), names[:1])
        with self.assertRaises(SystemExit):
            bench.chosen(names, ["chur"], "relay")


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    bad = len(result.failures) + len(result.errors)
    print(f"suite bench: {result.testsRun - bad - len(result.skipped)} passed, {bad} failed, "
          f"{len(result.skipped)} skipped")
    sys.exit(bad > 0)
