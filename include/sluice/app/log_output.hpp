#pragma once

#include "sluice/config/config.hpp"

#include <spdlog/sinks/base_sink.h>

#include <atomic>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <string>

namespace sluice {

// A place where lines go, as a sink of spdlog. Its formatter ends each line with a line break.
//
// No output waits for its reader for longer than a second: lines that cannot be delivered are dropped and
// counted, so that a full disk or a stopped terminal can delay neither the relay nor its end.
class LogOutput : public spdlog::sinks::base_sink<std::mutex> {
  public:
    std::uint64_t lines_lost() const noexcept { return lost_.load(std::memory_order_relaxed); }

  protected:
    void lose(std::uint64_t lines) noexcept { lost_.fetch_add(lines, std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> lost_{0};
};

// When a line leaves: at once, or with the batch that flush() ends (or that has grown large).
enum class LogPace { each_line, batches };

// stderr, stdout, syslog (facility daemon), systemd's journal by its socket, or a file that is appended to.
// The error is a sentence that names the output and what to do.
std::expected<std::shared_ptr<LogOutput>, std::string> open_log_output(const config::Output& output,
                                                                       LogPace pace);

// Whether readers of this output see the time and the level of a line without our writing them.
bool keeps_time_and_level(const config::Output& output) noexcept;

}  // namespace sluice
