#pragma once

#include "sluice/config/config.hpp"

#include <spdlog/logger.h>

#include <cstdint>
#include <expected>
#include <memory>
#include <string>

namespace spdlog::details {
class thread_pool;
}

namespace sluice {

class LogOutput;

// The main log. Lines go into a bounded queue, from which a thread writes them: nobody who logs waits for the
// output. When the queue is full the oldest line is lost, counted, and the loss told at most once a second.
//
// While it lives it is also spdlog's default logger, which is how the lower floors say something.
class Log {
  public:
    static constexpr std::size_t lines_max = 8192;  // in the queue

    // The error is a sentence about the output that could not be opened.
    static std::expected<std::unique_ptr<Log>, std::string> open(const config::Log& settings);

    // Writes what is queued.
    ~Log();
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    spdlog::logger& operator*() const noexcept { return *logger_; }
    spdlog::logger* operator->() const noexcept { return logger_.get(); }

    // For threads that may log as long as it lives.
    const std::shared_ptr<spdlog::logger>& share() const noexcept { return logger_; }

    // Lines that were never written: the queue or the output had no room.
    std::uint64_t lines_lost() const;

  private:
    Log(const config::Log& settings, std::shared_ptr<LogOutput> output);

    std::shared_ptr<LogOutput> output_;
    std::shared_ptr<spdlog::details::thread_pool> queue_;
    std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace sluice
