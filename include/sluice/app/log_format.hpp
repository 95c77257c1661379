#pragma once

#include "sluice/config/config.hpp"

#include <spdlog/formatter.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

namespace sluice {

// RFC 3339 in UTC with milliseconds: `2026-11-21T13:09:58.123Z`.
std::string format_time(std::chrono::system_clock::time_point time);

// The text with every control character (C0, C1, DEL) and every byte that is no UTF-8 written as `\xNN`, so
// that whatever a name or message holds, one line of the log stays one line and no terminal obeys it.
std::string without_control_characters(std::string_view text);

// How a line of the main log reads: `time level message`, or a JSON object with these names.
std::unique_ptr<spdlog::formatter> make_log_formatter(config::Format format);

// The message, without control characters: for outputs that keep time and level themselves (syslog, the
// journal).
std::unique_ptr<spdlog::formatter> make_message_formatter();

// The message as it is: for lines that are complete already.
std::unique_ptr<spdlog::formatter> make_bare_formatter();

}  // namespace sluice
