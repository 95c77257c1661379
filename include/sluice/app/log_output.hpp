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
// counted, so that neither a full disk nor a stopped terminal can delay the relay. (The one exception: a
// terminal of another user, where we may not have a description of our own.)
class LogOutput : public spdlog::sinks::base_sink<std::mutex> {
  public:
    std::uint64_t lines_lost() const noexcept { return lost_.load(std::memory_order_relaxed); }

    // Why the last of them were, as the end of a sentence.
    std::string why_lost() const;

    // Anybody's: the end is near. From now on it waits for no longer than a second in all, so that a reader
    // who is slow, and takes a line now and then, cannot delay that either.
    void hurry() noexcept { hurried_.store(true, std::memory_order_relaxed); }

  protected:
    bool hurried() const noexcept { return hurried_.load(std::memory_order_relaxed); }

    // `error` is the errno; EAGAIN: no room in time.
    void lose(std::uint64_t lines, int error) noexcept;

  private:
    std::atomic<std::uint64_t> lost_{0};
    std::atomic<int> error_{0};
    std::atomic<bool> hurried_{false};
};

// When a line leaves: at once, or with the batch that flush() ends (or that has grown large).
enum class LogPace { each_line, batches };

// stderr, stdout, syslog (facility daemon), systemd's journal by its socket, or a file that is appended to. A
// file is followed by its path: once it was renamed or deleted, lines go to a new one there, a second later
// at most, and no signal is needed to rotate it. The error is a sentence that names the output and what to
// do.
std::expected<std::shared_ptr<LogOutput>, std::string> open_log_output(const config::Output& output,
                                                                       LogPace pace);

// The daemons by the path of their socket, /dev/log and /run/systemd/journal/socket but in tests.
std::expected<std::shared_ptr<LogOutput>, std::string> open_syslog_output(const std::string& path);
std::expected<std::shared_ptr<LogOutput>, std::string> open_journal_output(const std::string& path);

// Whether readers of this output see the time and the level of a line without our writing them.
bool keeps_time_and_level(const config::Output& output) noexcept;

}  // namespace sluice
