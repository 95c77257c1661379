#include "sluice/app/log_format.hpp"

#include "sluice/base/check.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <time.h>

#include <algorithm>
#include <iterator>

namespace sluice {

namespace {

using Line = spdlog::memory_buf_t;

void append(Line& line, std::string_view text) {
    line.append(text.data(), text.data() + text.size());
}

std::string_view view(spdlog::string_view_t text) {
    return {text.data(), text.size()};
}

// The words of the configuration (log.level), not spdlog's own.
std::string_view name_of(spdlog::level::level_enum level) {
    switch (level) {
        case spdlog::level::trace: return "trace";
        case spdlog::level::debug: return "debug";
        case spdlog::level::info: return "info";
        case spdlog::level::warn: return "warning";
        case spdlog::level::err: return "error";
        case spdlog::level::critical: return "critical";
        case spdlog::level::off: return "off";
        case spdlog::level::n_levels: break;
    }
    check_failed("a log level that has no name");
}

class TextFormatter final : public spdlog::formatter {
  public:
    void format(const spdlog::details::log_msg& message, Line& line) override {
        fmt::format_to(std::back_inserter(line), "{} {} {}\n", format_time(message.time),
                       name_of(message.level), without_control_characters(view(message.payload)));
    }
    std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<TextFormatter>(); }
};

class JsonFormatter final : public spdlog::formatter {
  public:
    void format(const spdlog::details::log_msg& message, Line& line) override {
        const nlohmann::ordered_json object = {{"time", format_time(message.time)},
                                               {"level", name_of(message.level)},
                                               {"message", view(message.payload)}};
        // Bytes that are no UTF-8 (a path may hold any) become U+FFFD instead of an exception.
        append(line, object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
        line.push_back('\n');
    }
    std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }
};

class MessageFormatter final : public spdlog::formatter {
  public:
    void format(const spdlog::details::log_msg& message, Line& line) override {
        append(line, without_control_characters(view(message.payload)));
        line.push_back('\n');
    }
    std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<MessageFormatter>(); }
};

class BareFormatter final : public spdlog::formatter {
  public:
    void format(const spdlog::details::log_msg& message, Line& line) override {
        append(line, view(message.payload));
        line.push_back('\n');
    }
    std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<BareFormatter>(); }
};

// The bytes of the character at the front if it may stand in a line: UTF-8 (table 3-7 of the Unicode
// standard) and no control character. Else 0.
std::size_t printable_bytes(std::string_view text) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const auto follows = [&](std::size_t at, unsigned low, unsigned high) {
        return at < text.size() && byte(at) >= low && byte(at) <= high;
    };
    const unsigned lead = byte(0);
    if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;
    if (lead >= 0xc2 && lead <= 0xdf) return follows(1, lead == 0xc2 ? 0xa0 : 0x80, 0xbf) ? 2 : 0;  // not C1
    if (lead >= 0xe0 && lead <= 0xef) {
        const bool second = follows(1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf);
        return second && follows(2, 0x80, 0xbf) ? 3 : 0;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        const bool second = follows(1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf);
        return second && follows(2, 0x80, 0xbf) && follows(3, 0x80, 0xbf) ? 4 : 0;
    }
    return 0;
}

}  // namespace

std::string format_time(std::chrono::system_clock::time_point time) {
    const auto whole = std::chrono::floor<std::chrono::seconds>(time);
    const auto rest = std::chrono::floor<std::chrono::milliseconds>(time - whole);
    const std::time_t seconds = std::chrono::system_clock::to_time_t(whole);
    std::tm parts{};
    ::gmtime_r(&seconds, &parts);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                       parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, rest.count());
}

std::string without_control_characters(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    while (!text.empty()) {
        const std::size_t bytes = printable_bytes(text);
        if (bytes > 0)
            result += text.substr(0, bytes);
        else
            fmt::format_to(std::back_inserter(result), "\\x{:02x}", static_cast<unsigned char>(text.front()));
        text.remove_prefix(std::max<std::size_t>(bytes, 1));
    }
    return result;
}

std::unique_ptr<spdlog::formatter> make_log_formatter(config::Format format) {
    switch (format) {
        case config::Format::text: return std::make_unique<TextFormatter>();
        case config::Format::json: return std::make_unique<JsonFormatter>();
    }
    check_failed("a format that has no formatter");
}

std::unique_ptr<spdlog::formatter> make_message_formatter() {
    return std::make_unique<MessageFormatter>();
}

std::unique_ptr<spdlog::formatter> make_bare_formatter() {
    return std::make_unique<BareFormatter>();
}

}  // namespace sluice
