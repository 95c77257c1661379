#include "sluice/app/demo_command.hpp"

#include "sluice/app/complain.hpp"
#include "sluice/app/demo_backend.hpp"
#include "sluice/app/demo_payload.hpp"
#include "sluice/app/demo_traffic.hpp"
#include "sluice/app/descriptors.hpp"
#include "sluice/app/exit_code.hpp"
#include "sluice/app/log.hpp"
#include "sluice/app/record_format.hpp"
#include "sluice/app/signals.hpp"
#include "sluice/app/thread_costs.hpp"
#include "sluice/config/load.hpp"
#include "sluice/relay/relay.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace sluice {

namespace {

constexpr std::size_t streams = 4;              // downloads, and as many uploads
constexpr std::size_t round_trip_sessions = 4;  // at once
constexpr double gib = 1024.0 * 1024.0 * 1024.0;
constexpr Milliseconds end_patience{15'000};

// What has happened until one moment.
struct Reading {
    Time time{};
    std::uint64_t bytes = 0;  // both ways, at their receivers
    std::uint64_t round_trips = 0;
    std::optional<Nanoseconds> cpu_time;  // of the relay's workers
    std::uint64_t system_calls = 0;       // of the workers, to wait and to move bytes
};

// What happened between two.
struct Span {
    double seconds = 0;
    double gibibytes = 0;
    double round_trips = 0;
    std::optional<double> cpu_ms;
    double system_calls = 0;
};

Span between(const Reading& start, const Reading& end) {
    Span span;
    span.seconds = std::max(std::chrono::duration<double>(end.time - start.time).count(), 1e-9);
    span.gibibytes = static_cast<double>(end.bytes - start.bytes) / gib;
    span.round_trips = static_cast<double>(end.round_trips - start.round_trips);
    if (start.cpu_time && end.cpu_time)
        span.cpu_ms = std::chrono::duration<double, std::milli>(*end.cpu_time - *start.cpu_time).count();
    span.system_calls = static_cast<double>(end.system_calls - start.system_calls);
    return span;
}

// The paths of some sessions, for people: each word and how many sessions it fits.
struct Paths {
    std::uint64_t splice = 0;
    std::uint64_t copy = 0;
    std::uint64_t mixed = 0;
    std::uint64_t bytes = 0;
    std::uint64_t spliced_bytes = 0;

    void add(const SessionRecord& record) {
        const std::string_view path = path_taken(record);
        ++(path == "splice" ? splice : path == "copy" ? copy : mixed);
        bytes += record.upload_bytes + record.download_bytes;
        spliced_bytes += record.spliced_bytes;
    }
    const char* word() const {
        if (mixed == 0 && copy == 0 && splice > 0) return "splice";
        return mixed == 0 && splice == 0 ? "copy" : "mixed";
    }
    double spliced_percent() const {
        return bytes == 0 ? 0 : 100.0 * static_cast<double>(spliced_bytes) / static_cast<double>(bytes);
    }
};

struct Result {
    std::string engine;
    std::string engine_reason;
    std::uint32_t workers = 0;
    Span bulk;
    Span round_trips;
    Latencies latencies;
    Paths bulk_paths;
    Paths round_trip_paths;
    bool relay_ended = false;
    std::vector<std::string> failures;
};

// The whole scene. Its members die in the reverse order: traffic, relay, backend, payload.
class Demo {
  public:
    explicit Demo(const DemoOptions& options) : options_(options) {}

    // Empty, or what could not be started.
    std::vector<std::string> start();
    Result run();

  private:
    std::expected<config::Config, std::string> make_config() const;
    Reading read() const;
    Span watch(const char* phase, Milliseconds duration);
    void show(const char* phase, const Span& span);
    void end(Result& result);

    const DemoOptions options_;
    const bool live_ = ::isatty(STDOUT_FILENO) == 1;
    std::unique_ptr<DemoPayload> payload_;
    std::unique_ptr<DemoBackend> backend_;
    std::unique_ptr<Relay> relay_;
    std::unique_ptr<DemoTraffic> bulk_;
    std::unique_ptr<DemoTraffic> round_trips_;
    std::vector<pid_t> workers_;
    Time begun_{};
};

std::expected<config::Config, std::string> Demo::make_config() const {
    const std::string text = fmt::format(
        "listeners:\n"
        "  - {{name: source, bind: \"127.0.0.1:0\", to: \"127.0.0.1:{}\"}}\n"
        "  - {{name: sink, bind: \"127.0.0.1:0\", to: \"127.0.0.1:{}\"}}\n"
        "  - {{name: echo, bind: \"127.0.0.1:0\", to: \"127.0.0.1:{}\"}}\n",
        backend_->source_port(), backend_->sink_port(), backend_->echo_port());
    auto config = config::load_text(text, "demo");
    if (!config) return std::unexpected(to_string(config.error().front()));
    config->engine = options_.engine;
    return *config;
}

std::vector<std::string> Demo::start() {
    auto payload = DemoPayload::make();
    if (!payload) return {payload.error()};
    payload_ = std::make_unique<DemoPayload>(std::move(*payload));
    auto backend = DemoBackend::start(*payload_);
    if (!backend) return {backend.error()};
    backend_ = std::move(*backend);
    auto config = make_config();
    if (!config) return {config.error()};
    auto relay = Relay::open(std::make_shared<const config::Config>(std::move(*config)));
    if (!relay) return relay.error();
    relay_ = std::move(*relay);
    if (const auto started = relay_->start(); !started) return {started.error()};

    workers_ = threads_named("sluice-worker");
    bulk_ = std::make_unique<DemoTraffic>(*payload_);
    round_trips_ = std::make_unique<DemoTraffic>(*payload_);
    return {};
}

Reading Demo::read() const {
    Reading reading;
    reading.time = Clock::now();
    reading.bytes = bulk_->downloaded() + backend_->received();
    reading.round_trips = round_trips_->round_trips();
    if (!workers_.empty()) reading.cpu_time = cpu_time_of(workers_);
    reading.system_calls = relay_->counters().system_calls;
    return reading;
}

std::string number(const std::optional<double>& value, const char* format, double per) {
    if (!value || per <= 0) return "-";
    return fmt::format(fmt::runtime(format), value.value_or(0) / per);
}

void Demo::show(const char* phase, const Span& span) {
    if (options_.json) return;
    const bool moved = span.gibibytes > 0;
    fmt::print(
        "{}{:>4.1f}s  {:<11}  {:>6}  {:>10}  {:>9}  {:>8}{}", live_ ? "\r" : "",
        std::chrono::duration<double>(Clock::now() - begun_).count(), phase,
        number(span.gibibytes, "{:.2f}", moved ? span.seconds : 0),
        number(span.cpu_ms, "{:.0f}", span.gibibytes), number(span.system_calls, "{:.0f}", span.gibibytes),
        number(span.round_trips, "{:.0f}", span.round_trips > 0 ? span.seconds : 0), live_ ? "  " : "\n");
    std::fflush(stdout);
}

// Lets the traffic run, with a row of the table each second.
Span Demo::watch(const char* phase, Milliseconds duration) {
    const Reading start = read();
    Reading last = start;
    for (const Time deadline = start.time + duration; last.time < deadline;) {
        std::this_thread::sleep_until(std::min(deadline, last.time + std::chrono::seconds(1)));
        const Reading now = read();
        show(phase, between(last, now));
        last = now;
    }
    if (live_ && !options_.json) fmt::print("\n");
    return between(start, last);
}

Result Demo::run() {
    Result result;
    result.engine = relay_->engine();
    result.engine_reason = relay_->engine_reason();
    result.workers = relay_->workers();
    begun_ = Clock::now();
    if (!options_.json)
        fmt::print("engine {}: {}; {} worker{}\n{:>5}  {:<11}  {:>6}  {:>10}  {:>9}  {:>8}\n", result.engine,
                   result.engine_reason, result.workers, result.workers == 1 ? "" : "s", "time", "traffic",
                   "GiB/s", "CPU ms/GiB", "calls/GiB", "trips/s");
    const Milliseconds whole = std::chrono::seconds(options_.seconds);
    const auto& addresses = relay_->addresses();
    bulk_->start_downloads(addresses[0], streams);
    bulk_->start_uploads(addresses[1], streams);
    result.bulk = watch("bulk", whole * 3 / 5);
    bulk_->stop();
    round_trips_->start_round_trips(addresses[2], round_trip_sessions);
    result.round_trips = watch("round trips", whole - whole * 3 / 5);
    round_trips_->stop();
    end(result);
    return result;
}

// Stops the relay, and holds what the three of them counted against each other.
void Demo::end(Result& result) {
    for (const DemoTraffic* traffic : {bulk_.get(), round_trips_.get()})
        result.failures.insert(result.failures.end(), traffic->failures().begin(), traffic->failures().end());
    result.latencies = round_trips_->latencies();
    relay_->drain(Clock::now() + end_patience / 3);
    result.relay_ended = relay_->wait_until_idle(Clock::now() + end_patience);
    if (!result.relay_ended) result.failures.emplace_back("the relay did not end");

    std::uint64_t uploaded = 0, downloaded = 0, records = 0;
    SessionRecord record;
    while (relay_->records().pop(record)) {
        if (record.event != SessionRecord::Event::close) continue;
        ++records;
        const std::string& listener = record.listener->name;
        (listener == "echo" ? result.round_trip_paths : result.bulk_paths).add(record);
        if (listener == "sink") uploaded += record.upload_bytes;
        if (listener == "source") downloaded += record.download_bytes;
        if (!orderly(record.end))
            result.failures.push_back(
                fmt::format("a session of {} ended with {}", listener, to_string(record.end)));
    }
    if (!backend_->intact()) result.failures.emplace_back("an upload brought other bytes than were sent");
    const auto compare = [&](const char* what, std::uint64_t counted, std::uint64_t expected) {
        if (counted != expected)
            result.failures.push_back(fmt::format("{}: {} counted, {} expected", what, counted, expected));
    };
    compare("sessions in the relay's records", records, streams * 2 + round_trip_sessions);
    compare("uploaded bytes in the relay's records", uploaded, bulk_->uploaded());
    compare("downloaded bytes in the relay's records", downloaded, bulk_->downloaded());
    compare("downloaded bytes at their clients", bulk_->downloaded(), backend_->sent());
    compare("stale completions", relay_->counters().stale_completions, 0);
}

void print_result(const Result& result) {
    fmt::print("\nbulk: {:.2f} GiB/s, {} CPU ms/GiB in the relay's workers, {} system calls/GiB\n",
               result.bulk.gibibytes / result.bulk.seconds,
               result.bulk.cpu_ms ? number(result.bulk.cpu_ms, "{:.0f}", result.bulk.gibibytes) : "n/a",
               number(result.bulk.system_calls, "{:.0f}", result.bulk.gibibytes));
    fmt::print("      path {}: {:.2f} % of {:.2f} GiB spliced, in {} sessions\n", result.bulk_paths.word(),
               result.bulk_paths.spliced_percent(), static_cast<double>(result.bulk_paths.bytes) / gib,
               streams * 2);
    const auto micros = [&](double share) {
        return std::chrono::duration<double, std::micro>(result.latencies.percentile(share)).count();
    };
    fmt::print(
        "round trips of {} bytes, {} sessions at once: p50 {:.0f} us, p99 {:.0f} us, p99.9 {:.0f} us, "
        "{:.0f}/s, {} CPU us each, path {}\n",
        demo_message_bytes, round_trip_sessions, micros(0.5), micros(0.99), micros(0.999),
        result.round_trips.round_trips / result.round_trips.seconds,
        number(result.round_trips.cpu_ms, "{:.1f}", result.round_trips.round_trips / 1000),
        result.round_trip_paths.word());
    if (result.failures.empty()) fmt::print("every byte arrived, and every session ended in order\n");
}

nlohmann::ordered_json or_null(const std::optional<double>& value, double per) {
    if (!value || per <= 0) return nullptr;
    return value.value_or(0) / per;
}

void print_json(const Result& result) {
    using Json = nlohmann::ordered_json;
    const auto micros = [&](double share) {
        return std::chrono::duration<double, std::micro>(result.latencies.percentile(share)).count();
    };
    Json answer = {
        {"engine", result.engine},
        {"engine_reason", result.engine_reason},
        {"workers", result.workers},
        {"bulk",
         {{"seconds", result.bulk.seconds},
          {"gib_per_second", result.bulk.gibibytes / result.bulk.seconds},
          {"cpu_ms_per_gib", or_null(result.bulk.cpu_ms, result.bulk.gibibytes)},
          {"system_calls_per_gib", or_null(result.bulk.system_calls, result.bulk.gibibytes)},
          {"path", result.bulk_paths.word()},
          {"spliced_percent", result.bulk_paths.spliced_percent()}}},
        {"round_trips",
         {{"per_second", result.round_trips.round_trips / result.round_trips.seconds},
          {"p50_us", micros(0.5)},
          {"p99_us", micros(0.99)},
          {"p999_us", micros(0.999)},
          {"cpu_us_each", or_null(result.round_trips.cpu_ms, result.round_trips.round_trips / 1000)},
          {"path", result.round_trip_paths.word()}}},
        {"intact", result.failures.empty()},
        {"failures", result.failures}};
    fmt::print("{}\n", answer.dump(2, ' ', false, Json::error_handler_t::replace));
}

int failed(const std::vector<std::string>& errors) {
    for (const std::string& error : errors) complain("demo: " + error);
    return errors.empty() ? exit_success : exit_failure;
}

}  // namespace

int demo_command(const DemoOptions& options) {
    ignore_signals_of_writes();
    raise_descriptor_limit();
    const auto log =
        Log::open({.level = config::Level::warning, .format = config::Format::text, .output = {}});
    if (!log) return failed({log.error()});
    Demo demo(options);
    if (const auto errors = demo.start(); !errors.empty()) return failed(errors);
    const Result result = demo.run();
    if (options.json)
        print_json(result);
    else
        print_result(result);
    const int exit_code = failed(result.failures);
    if (result.relay_ended) return exit_code;
    std::fflush(stdout);
    std::_Exit(exit_code);  // joining its workers would never return
}

}  // namespace sluice
