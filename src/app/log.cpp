#include "sluice/app/log.hpp"

#include "sluice/app/log_format.hpp"
#include "sluice/app/log_output.hpp"
#include "sluice/base/check.hpp"
#include "sluice/base/clock.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/async.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <utility>

namespace sluice {

namespace {

spdlog::level::level_enum level_of(config::Level level) {
    switch (level) {
        case config::Level::trace: return spdlog::level::trace;
        case config::Level::debug: return spdlog::level::debug;
        case config::Level::info: return spdlog::level::info;
        case config::Level::warning: return spdlog::level::warn;
        case config::Level::error: return spdlog::level::err;
    }
    check_failed("a level that spdlog does not have");
}

// Passes lines on to the output, and adds one about lost lines. Lines are lost only while others wait in the
// queue, so the writing of those is the time to look: no timer is needed.
class TellingLosses final : public spdlog::sinks::sink {
  public:
    // REQUIRES: only the queue's own thread logs here. It is joined before the queue dies, so the queue is
    // there. (A weak_ptr, locked, could be the last to hold it when the log ends just then: the queue would
    // be destroyed by its own thread, which cannot join itself, and the process would abort.)
    TellingLosses(std::shared_ptr<LogOutput> output, spdlog::details::thread_pool& queue)
        : output_(std::move(output)), queue_(queue) {}

    void log(const spdlog::details::log_msg& message) override {
        output_->log(message);
        const Time now = Clock::now();
        if (now < next_telling_) return;
        const std::uint64_t refused = output_->lines_lost();
        const std::uint64_t lost = refused + queue_.overrun_counter();
        if (lost == told_) return;
        const std::string text =
            fmt::format("log: {} lines were lost, because {}", lost - told_,
                        refused > 0 ? output_->why_lost() : "they came faster than the output took them");
        told_ = lost;
        next_telling_ = now + std::chrono::seconds(1);
        output_->log(spdlog::details::log_msg(message.logger_name, spdlog::level::warn, text));
    }
    void flush() override { output_->flush(); }
    void set_pattern(const std::string& pattern) override { output_->set_pattern(pattern); }
    void set_formatter(std::unique_ptr<spdlog::formatter> formatter) override {
        output_->set_formatter(std::move(formatter));
    }

  private:
    std::shared_ptr<LogOutput> output_;
    spdlog::details::thread_pool& queue_;
    std::uint64_t told_ = 0;
    Time next_telling_{};
};

}  // namespace

std::expected<std::unique_ptr<Log>, std::string> Log::open(const config::Log& settings) {
    auto output = open_log_output(settings.output, LogPace::each_line);
    if (!output) return std::unexpected(std::move(output.error()));
    return std::unique_ptr<Log>(new Log(settings, std::move(*output)));
}

Log::Log(const config::Log& settings, std::shared_ptr<LogOutput> output) : output_(std::move(output)) {
    const bool bare = settings.format == config::Format::text && keeps_time_and_level(settings.output);
    output_->set_formatter(bare ? make_message_formatter() : make_log_formatter(settings.format));
    queue_ = std::make_shared<spdlog::details::thread_pool>(
        lines_max, 1, [] { ::pthread_setname_np(::pthread_self(), "sluice-log"); });
    logger_ =
        std::make_shared<spdlog::async_logger>("sluice", std::make_shared<TellingLosses>(output_, *queue_),
                                               queue_, spdlog::async_overflow_policy::overrun_oldest);
    logger_->set_level(level_of(settings.level));
    spdlog::set_default_logger(logger_);
}

Log::~Log() {
    // A late word of another thread goes nowhere instead of to a queue that is gone.
    spdlog::set_default_logger(
        std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::null_sink_mt>()));
    logger_.reset();
    output_->hurry();
    queue_.reset();  // joins its thread, which writes all that is queued first
}

std::uint64_t Log::lines_lost() const {
    return queue_->overrun_counter() + output_->lines_lost();
}

}  // namespace sluice
