#include "sluice/app/record_format.hpp"

#include "sluice/app/log_format.hpp"
#include "sluice/base/check.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <string.h>

#include <cmath>
#include <iterator>
#include <string_view>

namespace sluice {

namespace {

const char* event_name(SessionRecord::Event event) {
    switch (event) {
        case SessionRecord::Event::accept: return "accept";
        case SessionRecord::Event::connect: return "connect";
        case SessionRecord::Event::periodic: return "periodic";
        case SessionRecord::Event::close: return "close";
    }
    check_failed("an event that has no name");
}

// Bytes and times: of a session that goes on, or that has ended.
bool tells_progress(const SessionRecord& record) {
    return record.event == SessionRecord::Event::periodic || record.event == SessionRecord::Event::close;
}

// A name as one word: the path of a unix socket may hold blanks, and readers split lines at them.
std::string word(std::string_view text) {
    std::string result;
    for (const char letter : without_control_characters(text))
        if (letter == ' ')
            result += "\\x20";
        else
            result += letter;
    return result;
}

std::string error_text(int error) {
    const char* text = strerrordesc_np(error);
    return text != nullptr ? text : fmt::format("error {}", error);
}

// Seconds with microseconds, in whole numbers: a session may live longer than a double is exact.
std::string seconds_text(Nanoseconds time) {
    const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
    return fmt::format("{}.{:06}s", microseconds / 1'000'000, microseconds % 1'000'000);
}

double seconds_number(Nanoseconds time) {
    return std::round(std::chrono::duration<double, std::micro>(time).count()) / 1e6;
}

// The address of ours that the client reached; empty: not known.
std::string reached(const SessionRecord& record) {
    const SocketAddress address = record.reached.address();
    if (address.family() == AF_INET || address.family() == AF_INET6) return to_string(address);
    return record.bind != nullptr && record.bind->is_unix() ? to_string(*record.bind) : "";
}

std::string as_text(const SessionRecord& record) {
    std::string line = fmt::format("{} {} {} -> {}/{}", format_time(record.time),
                                   record.listener != nullptr ? word(record.listener->name) : "-",
                                   word(to_string(record.client.address())),
                                   record.pool != nullptr ? word(record.pool->name) : "-",
                                   record.backend != nullptr ? word(record.backend->name) : "-");
    const std::string connect = record.connect < Nanoseconds(0) ? "-" : seconds_text(record.connect);
    auto end = std::back_inserter(line);
    const bool close = record.event == SessionRecord::Event::close;
    if (!close) fmt::format_to(end, " event={}", event_name(record.event));
    if (tells_progress(record)) {
        fmt::format_to(end, " upload={} download={} duration={} connect={} path={}", record.upload_bytes,
                       record.download_bytes, seconds_text(record.duration), connect, path_taken(record));
        if (close) fmt::format_to(end, " end={}", to_string(record.end));
        fmt::format_to(end, " why={}", to_string(record.path_reason));
        if (record.datagrams)
            fmt::format_to(end, " upload_datagrams={} download_datagrams={} lost_datagrams={}",
                           record.upload_datagrams, record.download_datagrams, record.lost_datagrams);
    } else if (record.connect >= Nanoseconds(0)) {
        fmt::format_to(end, " connect={}", connect);
    }
    if (const std::string address = reached(record); !address.empty())
        fmt::format_to(end, " reached={}", word(address));
    if (record.error != 0) fmt::format_to(end, " error=\"{}\"", error_text(record.error));
    return line;
}

std::string as_json(const SessionRecord& record) {
    nlohmann::ordered_json object = {{"time", format_time(record.time)},
                                     {"listener", nullptr},
                                     {"client", to_string(record.client.address())},
                                     {"pool", nullptr},
                                     {"backend", nullptr}};
    if (record.listener != nullptr) object["listener"] = record.listener->name;
    if (record.pool != nullptr) object["pool"] = record.pool->name;
    if (record.backend != nullptr) object["backend"] = record.backend->name;
    const bool close = record.event == SessionRecord::Event::close;
    if (!close) object["event"] = event_name(record.event);
    if (tells_progress(record)) {
        object["upload"] = record.upload_bytes;
        object["download"] = record.download_bytes;
        object["duration"] = seconds_number(record.duration);
    }
    object["connect"] = nullptr;
    if (record.connect >= Nanoseconds(0)) object["connect"] = seconds_number(record.connect);
    if (tells_progress(record)) {
        object["path"] = path_taken(record);
        if (close) object["end"] = to_string(record.end);
        object["why"] = to_string(record.path_reason);
    }
    if (tells_progress(record) && record.datagrams) {
        object["upload_datagrams"] = record.upload_datagrams;
        object["download_datagrams"] = record.download_datagrams;
        object["lost_datagrams"] = record.lost_datagrams;
    }
    object["reached"] = nullptr;
    if (const std::string address = reached(record); !address.empty()) object["reached"] = address;
    object["error"] = nullptr;
    if (record.error != 0) object["error"] = error_text(record.error);
    return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

std::string format_record(const SessionRecord& record, config::Format format) {
    switch (format) {
        case config::Format::text: return as_text(record);
        case config::Format::json: return as_json(record);
    }
    check_failed("a format that records cannot be written in");
}

const char* path_taken(const SessionRecord& record) noexcept {
    if (record.spliced_bytes == 0) return "copy";
    return record.spliced_bytes >= record.upload_bytes + record.download_bytes ? "splice" : "mixed";
}

}  // namespace sluice
