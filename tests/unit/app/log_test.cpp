#include "sluice/app/log.hpp"

#include "sluice/app/log_format.hpp"
#include "sluice/app/log_output.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/net/owned_fd.hpp"

#include "tests/support/folder.hpp"
#include "tests/unit/app/slow_reader.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

namespace sluice {
namespace {

config::Log to_file(const std::string& path, config::Format format = config::Format::text) {
    return {.level = config::Level::info,
            .format = format,
            .output = {.kind = config::Output::Kind::file, .path = path}};
}

TEST_CASE("a time is RFC 3339 in UTC with milliseconds, also before 1970") {
    using std::chrono::system_clock;
    CHECK(format_time(system_clock::time_point{}) == "1970-01-01T00:00:00.000Z");
    CHECK(format_time(system_clock::time_point(std::chrono::milliseconds(-1))) == "1969-12-31T23:59:59.999Z");
}

TEST_CASE("lines are written when the log ends, with level, and what is below the level is left out") {
    const test::TemporaryFolder folder;
    {
        const auto log = Log::open(to_file(folder.file("log"))).value();
        (*log)->debug("too small");
        (*log)->warn("two\nlines");
        spdlog::error("from a lower floor");
        CHECK(log->lines_lost() == 0);
    }
    const std::string text = test::read_file(folder.file("log"));
    CHECK(text.find("Z warning two\\x0alines\n") != std::string::npos);
    CHECK(text.find("Z error from a lower floor\n") != std::string::npos);
    CHECK(std::ranges::count(text, '\n') == 2);
}

TEST_CASE("no control character and no byte that is no UTF-8 reaches a line of text") {
    CHECK(without_control_characters("plain, \"quoted\" and \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80") ==
          "plain, \"quoted\" and \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK(without_control_characters("\x1b[2J\r\x7f") == "\\x1b[2J\\x0d\\x7f");
    CHECK(without_control_characters("\xc2\x9b"
                                     "2J") == "\\xc2\\x9b2J");  // CSI as one character
    CHECK(without_control_characters("\x9b"
                                     "2J") == "\\x9b2J");    // and as one byte
    CHECK(without_control_characters("a\xc3") == "a\\xc3");  // cut off
    CHECK(without_control_characters("\xed\xa0\x80\xc0\x8a") == "\\xed\\xa0\\x80\\xc0\\x8a");
    spdlog::memory_buf_t line;
    make_message_formatter()->format(spdlog::details::log_msg("", spdlog::level::info, "two\nlines"), line);
    CHECK(std::string(line.data(), line.size()) == "two\\x0alines\n");
}

TEST_CASE("a log may end while its thread writes, any number of times") {
    // Its thread must not be the last that holds its queue: it cannot join itself, and the process would end.
    for (int round = 0; round < 2000; ++round) {
        const auto log = Log::open(to_file("/dev/null")).value();
        (*log)->info("last");
        (*log)->info("words");
    }
}

TEST_CASE("a slow reader does not delay the end of a log") {
    const test::TemporaryFolder folder;
    const SlowPipe pipe(folder.file("pipe"), Milliseconds(100));
    auto log = Log::open(to_file(pipe.path())).value();
    for (int index = 0; index < 1000; ++index) (*log)->info(std::string(1000, 'x'));
    const Time start = Clock::now();
    log.reset();
    CHECK(Clock::now() - start < output_time_max);
}

TEST_CASE("a file is appended to") {
    const test::TemporaryFolder folder;
    const std::string path = folder.write("log", "before\n");
    Log::open(to_file(path)).value()->share()->info("after");
    CHECK(test::read_file(path).starts_with("before\n"));
    CHECK(test::read_file(path).ends_with(" info after\n"));
}

TEST_CASE("each line of a JSON log is an object, whatever the message holds") {
    const test::TemporaryFolder folder;
    const std::string message = "a \"quoted\"\nline";
    {
        const auto log = Log::open(to_file(folder.file("log"), config::Format::json)).value();
        (*log)->info(message);
        (*log)->info(std::string("\xff"));
    }
    std::istringstream lines(test::read_file(folder.file("log")));
    std::string line;
    std::getline(lines, line);
    CHECK(nlohmann::json::parse(line)["message"] == message);
    CHECK(nlohmann::json::parse(line)["level"] == "info");
    std::getline(lines, line);
    CHECK(nlohmann::json::parse(line)["message"] == "\xef\xbf\xbd");
}

TEST_CASE("a file that cannot be opened is named, with what to do") {
    const auto log = Log::open(to_file("/nonexistent/folder/log"));
    REQUIRE_FALSE(log.has_value());
    CHECK(log.error() ==
          "cannot open the log file \"/nonexistent/folder/log\": No such file or directory "
          "(create the folder first, or choose another path)");
}

TEST_CASE("a named pipe that nobody reads is refused at once, and one that is full loses lines and no time") {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("pipe");
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    const config::Output output{.kind = config::Output::Kind::file, .path = path};
    CHECK_FALSE(open_log_output(output, LogPace::each_line).has_value());

    const OwnedFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    const auto opened = open_log_output(output, LogPace::each_line);
    REQUIRE(opened.has_value());
    (*opened)->set_formatter(make_bare_formatter());
    const std::string line(1023, 'x');
    const Time start = Clock::now();
    constexpr std::uint64_t lines = 1000;  // a pipe holds 64 of them
    for (std::uint64_t index = 0; index < lines; ++index)
        (*opened)->log(spdlog::details::log_msg("", spdlog::level::info, line));
    CHECK((*opened)->lines_lost() > 0);
    CHECK(Clock::now() - start < std::chrono::seconds(5));

    std::uint64_t arrived = 0;
    std::string buffer(64 * 1024, '\0');
    for (ssize_t count = 0; (count = ::read(reader.get(), buffer.data(), buffer.size())) > 0;)
        arrived += static_cast<std::uint64_t>(std::count(buffer.begin(), buffer.begin() + count, '\n'));
    CHECK(arrived + (*opened)->lines_lost() == lines);
}

}  // namespace
}  // namespace sluice
