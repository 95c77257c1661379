#include "sluice/app/access_log.hpp"

#include "tests/support/folder.hpp"
#include "tests/support/waiting.hpp"
#include "tests/unit/app/slow_reader.hpp"

#include <doctest/doctest.h>
#include <spdlog/sinks/base_sink.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace sluice {
namespace {

// What the main log would have been told.
class Told final : public spdlog::sinks::base_sink<std::mutex> {
  public:
    std::vector<std::string> lines() {
        const std::lock_guard lock(mutex_);
        return lines_;
    }

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        lines_.emplace_back(message.payload.data(), message.payload.size());
    }
    void flush_() override {}

  private:
    std::vector<std::string> lines_;
};

config::AccessLog to_file(const std::string& path) {
    config::AccessLog settings;
    settings.output = {.kind = config::Output::Kind::file, .path = path};
    return settings;
}

std::uint64_t lines_in(const std::string& path) {
    return static_cast<std::uint64_t>(std::ranges::count(test::read_file(path), '\n'));
}

TEST_CASE("what was pushed before the stop is written, or lost, counted and told") {
    const test::TemporaryFolder folder;
    const auto told = std::make_shared<Told>();
    Records records(2, 64);
    constexpr std::uint64_t pushed = 2 * 100;
    const auto log = AccessLog::open(to_file(folder.file("log"))).value();
    for (std::uint64_t index = 0; index < pushed / 2; ++index)
        for (std::size_t worker = 0; worker < 2; ++worker) records.push(worker, SessionRecord{});
    log->start(records, std::make_shared<spdlog::logger>("", told));
    log->stop();
    CHECK(records.lost() == pushed - 2 * 64);
    CHECK(lines_in(folder.file("log")) == 2 * 64);
    REQUIRE(told->lines().size() == 1);
    CHECK(told->lines().front().starts_with("access log: 72 lines were lost, because sessions ended faster"));
}

TEST_CASE("losses are told while the load that causes them goes on, and all of them at the end") {
    const test::TemporaryFolder folder;
    const auto told = std::make_shared<Told>();
    // So many, and in the slower format, that a worker which loses its CPU for a moment does not let the
    // reader come to their end.
    Records records(2, 16'384);
    auto settings = to_file("/dev/null");
    settings.format = config::Format::json;
    const auto log = AccessLog::open(settings).value();
    log->start(records, std::make_shared<spdlog::logger>("", told));
    std::atomic<bool> enough{false};
    std::thread worker([&] {
        for (std::size_t ring = 0; !enough; ring = 1 - ring) records.push(ring, SessionRecord{});
    });
    CHECK(test::wait_until([&] { return !told->lines().empty(); }, Milliseconds(5000)));
    enough = true;
    worker.join();
    log->stop();
    std::uint64_t sum = 0;
    for (const std::string& line : told->lines()) sum += std::stoull(line.substr(line.find(':') + 1));
    CHECK(sum == records.lost());
}

TEST_CASE("a slow reader does not delay the end of the access log") {
    const test::TemporaryFolder folder;
    const SlowPipe pipe(folder.file("pipe"), Milliseconds(100));
    Records records(1, 8192);
    for (int index = 0; index < 8192; ++index) records.push(0, SessionRecord{});  // about 1 MiB
    const auto log = AccessLog::open(to_file(pipe.path())).value();
    log->start(records, std::make_shared<spdlog::logger>("", std::make_shared<Told>()));
    const Time start = Clock::now();
    log->stop();
    CHECK(Clock::now() - start < output_time_max);
    CHECK(log->lines_lost() > 0);
}

TEST_CASE("what the output refused is told with its reason") {
    const auto told = std::make_shared<Told>();
    Records records(1, 64);
    const auto log = AccessLog::open(to_file("/dev/full")).value();
    records.push(0, SessionRecord{});
    log->start(records, std::make_shared<spdlog::logger>("", told));
    log->stop();
    CHECK(log->lines_lost() == 1);
    REQUIRE(told->lines().size() == 1);
    CHECK(told->lines().front() ==
          "access log: 1 lines were lost, because the output refused them: No space left on device");
}

}  // namespace
}  // namespace sluice
