#pragma once

#include "sluice/account/record.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/config/config.hpp"

#include <spdlog/logger.h>

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <thread>

namespace sluice {

class LogOutput;

// The thread that turns the workers' records into lines. It sleeps while no session has anything to tell.
class AccessLog {
  public:
    // Opens the output; the thread begins with start(). The error is a sentence about the output.
    static std::expected<std::unique_ptr<AccessLog>, std::string> open(const config::AccessLog& settings);

    ~AccessLog();  // as stop()
    AccessLog(const AccessLog&) = delete;
    AccessLog& operator=(const AccessLog&) = delete;

    // REQUIRES: both outlive stop(), and nobody else reads the records.
    void start(Records& records, std::shared_ptr<spdlog::logger> losses);

    // Writes every record there is, and ends the thread.
    void stop();

    // Lines that the output had no room for.
    std::uint64_t lines_lost() const noexcept;

  private:
    AccessLog(config::Format format, std::shared_ptr<LogOutput> output);
    void read(Records& records, spdlog::logger& losses);
    bool write_batch(Records& records);  // false: there are no more
    void tell_losses(const Records& records, spdlog::logger& losses, bool at_once);

    config::Format format_;
    std::shared_ptr<LogOutput> output_;
    spdlog::logger lines_;
    Records* records_ = nullptr;  // while the thread runs
    std::thread thread_;
    std::uint64_t losses_told_ = 0;
    std::uint64_t refusals_told_ = 0;  // of them, what the output refused
    Time next_telling_{};
};

}  // namespace sluice
