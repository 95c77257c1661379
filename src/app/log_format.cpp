#include "sluice/app/log_format.hpp"

#include "sluice/base/check.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <time.h>

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

class BareFormatter final : public spdlog::formatter {
  public:
    void format(const spdlog::details::log_msg& message, Line& line) override {
        append(line, view(message.payload));
        line.push_back('\n');
    }
    std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<BareFormatter>(); }
};

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
    for (const char letter : text) {
        const auto byte = static_cast<unsigned char>(letter);
        if (byte < 0x20 || byte == 0x7f)
            fmt::format_to(std::back_inserter(result), "\\x{:02x}", byte);
        else
            result += letter;
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

std::unique_ptr<spdlog::formatter> make_bare_formatter() {
    return std::make_unique<BareFormatter>();
}

}  // namespace sluice
