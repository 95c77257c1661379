// The load of the bench: plays one workload against one relay and prints what it saw as a line of JSON. The
// relay's costs are read here, at both ends of the measured window, so that they belong to it exactly.
//
// With `idle` it prints {"ready": ...} once all connections are made, waits for a line on its standard input,
// and then goes on; the connections do nothing meanwhile, and nor does the load.

#include "tests/bench/churn.hpp"
#include "tests/bench/costs.hpp"
#include "tests/bench/options.hpp"
#include "tests/bench/traffic.hpp"

#include <nlohmann/json.hpp>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>

namespace sluice::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr Nanoseconds settling_patience = std::chrono::seconds(5);
// Whatever happens, the load ends. Longer than the longest phases together.
constexpr unsigned life_max_s = 600;

struct Reading {
    Time time;
    Nanoseconds own_cpu;
    Tally tally;
    Costs costs;
};

double seconds(Nanoseconds duration) {
    return static_cast<double>(duration.count()) / 1e9;
}
double microseconds(Nanoseconds duration) {
    return static_cast<double>(duration.count()) / 1e3;
}

void run_until(Load& load, Time end) {
    for (Time now = Clock::now(); now < end; now = Clock::now()) load.timed_turn(now);
}

Reading read(const Load& load, const Processes& processes) {
    Reading reading;
    reading.time = Clock::now();
    timespec own{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    reading.own_cpu = std::chrono::seconds(own.tv_sec) + Nanoseconds(own.tv_nsec);
    reading.tally = load.tally();
    reading.costs = processes.costs();
    return reading;
}

Json relay_report(const Costs& begin, const Costs& end, bool counts_system_calls) {
    Json report{
        {"cpu_s", seconds(end.cpu - begin.cpu)},
        {"user_s", seconds(end.user - begin.user)},
        {"system_s", seconds(end.system - begin.system)},
        {"softirq_s", seconds(end.softirq - begin.softirq)},
        {"waited_s", seconds(end.waited - begin.waited)},
        // Less than none where processes have ended meanwhile.
        {"voluntary_switches", static_cast<std::int64_t>(end.voluntary_switches - begin.voluntary_switches)},
        {"involuntary_switches",
         static_cast<std::int64_t>(end.involuntary_switches - begin.involuntary_switches)},
    };
    if (counts_system_calls) report["system_calls"] = end.system_calls - begin.system_calls;
    return report;
}

Json latency_report(const Latencies& latencies) {
    Json report{{"count", latencies.count()}};
    if (latencies.count() == 0) return report;
    report["p50_us"] = microseconds(latencies.percentile(0.5));
    report["p99_us"] = microseconds(latencies.percentile(0.99));
    report["p999_us"] = microseconds(latencies.percentile(0.999));
    report["max_us"] = microseconds(latencies.percentile(1));
    return report;
}

// Opens, warms up, measures, lets everything arrive, and says what was seen.
Json measure(Load& load, const Options& options) {
    Json report{{"workload", options.workload_name},
                {"connections", options.connections},
                {"message_bytes", options.message_bytes}};
    if (options.workload == Workload::mix) report["streams"] = options.streams;
    if (load.open()) {
        if (options.workload == Workload::idle) {
            std::cout << Json{{"ready", options.connections}}.dump() << std::endl;
            std::string line;
            std::getline(std::cin, line);
        }
        load.start();
        run_until(load, Clock::now() + options.warm_up);
        Processes processes(options.session, options.relay_cpu);
        const bool counts_system_calls = options.count_system_calls && processes.count_system_calls();
        const Reading begin = read(load, processes);
        load.count_latencies();
        run_until(load, begin.time + options.duration);
        const Reading end = read(load, processes);
        report["seconds"] = seconds(end.time - begin.time);
        report["bytes"] = end.tally.bytes - begin.tally.bytes;
        report["refills"] = end.tally.refills - begin.tally.refills;
        report["operations"] = end.tally.operations - begin.tally.operations;
        report["latency"] = latency_report(load.latencies());
        report["load_idle_share"] =
            seconds(end.tally.idle - begin.tally.idle) / seconds(end.time - begin.time);
        // It never sleeps, so what is missing to 1 was taken from it by others on its CPU.
        report["load_cpu_share"] = seconds(end.own_cpu - begin.own_cpu) / seconds(end.time - begin.time);
        if (processes.process_count() > 0) {
            report["relay"] = relay_report(begin.costs, end.costs, counts_system_calls);
            report["relay"]["processes"] = processes.process_count();
            report["relay"]["private_bytes"] = processes.private_bytes();
        }
        load.stop();
        const Time deadline = Clock::now() + settling_patience;
        while (!load.settled() && Clock::now() < deadline) load.turn();
        if (!load.settled()) load.fail("not everything that was sent has arrived");
    }
    report["failures"] = load.tally().failures;
    if (load.tally().failures > 0) report["failure"] = load.failure();
    return report;
}

// Two sockets for each connection: the soft limit of descriptors is made the hard one.
void prepare_process(const Options& options) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::alarm(life_max_s);
    std::signal(SIGPIPE, SIG_IGN);  // sendfile(2) has no MSG_NOSIGNAL
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (options.cpu < 0) return;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(static_cast<std::size_t>(options.cpu), &cpus);
    if (::sched_setaffinity(0, sizeof(cpus), &cpus) != 0) std::perror("bench-load: cannot be pinned");
}

}  // namespace
}  // namespace sluice::bench

int main(int argument_count, char** arguments) {
    using namespace sluice::bench;
    const auto options = parse_options(argument_count, arguments);
    if (!options) {
        std::fprintf(options.error().exit_code == 0 ? stdout : stderr, "%s\n", options.error().text.c_str());
        return options.error().exit_code;
    }
    prepare_process(*options);
    std::unique_ptr<Load> load;
    if (options->workload == Workload::churn)
        load = std::make_unique<Churn>(*options);
    else
        load = std::make_unique<Traffic>(*options);
    const Json report = measure(*load, *options);
    std::cout << report.dump() << std::endl;
    return report["failures"] == 0 ? 0 : 1;
}
