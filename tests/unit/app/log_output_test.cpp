#include "sluice/app/log_output.hpp"

#include "sluice/app/log_format.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"

#include "tests/support/folder.hpp"
#include "tests/support/waiting.hpp"
#include "tests/unit/app/slow_reader.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>

namespace sluice {
namespace {

using Output = std::shared_ptr<LogOutput>;

Output opened(std::expected<Output, std::string> output) {
    REQUIRE_MESSAGE(output.has_value(), output.error());
    (*output)->set_formatter(make_bare_formatter());
    return std::move(*output);
}

Output open_file(const std::string& path) {
    return opened(open_log_output({.kind = config::Output::Kind::file, .path = path}, LogPace::each_line));
}

void say(const Output& output, const std::string& line) {
    output->log(spdlog::details::log_msg("", spdlog::level::warn, line));
}

TEST_CASE("a terminal that nobody reads costs a second, and its lines are lost and counted") {
    const OwnedFd terminal(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(terminal.valid());
    REQUIRE(::grantpt(terminal.get()) == 0);
    REQUIRE(::unlockpt(terminal.get()) == 0);
    const OwnedFd ours(::open(::ptsname(terminal.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(ours.valid());
    const Output output = [&] {
        const OwnedFd saved(::dup(STDERR_FILENO));
        ::dup2(ours.get(), STDERR_FILENO);
        auto result =
            open_log_output({.kind = config::Output::Kind::standard_error, .path = ""}, LogPace::batches);
        ::dup2(saved.get(), STDERR_FILENO);
        return opened(std::move(result));
    }();
    CHECK((::fcntl(ours.get(), F_GETFL) & O_NONBLOCK) == 0);  // it is not only ours
    const SlowReader reader(terminal.get(), 0, Milliseconds(10));
    const Time start = Clock::now();
    const std::string line(99, 'x');
    for (int index = 0; index < 5000; ++index) say(output, line);
    output->flush();
    CHECK(Clock::now() - start < output_time_max);
    CHECK(output->lines_lost() > 0);
    CHECK(output->why_lost() == "they came faster than the output took them");
}

TEST_CASE("a reader that is slow, but not gone, is waited for, and at the end for a second in all") {
    const test::TemporaryFolder folder;
    const SlowPipe pipe(folder.file("pipe"), Milliseconds(100));
    const Output output = open_file(pipe.path());
    const std::string line(1023, 'x');
    for (int index = 0; index < 80; ++index) say(output, line);  // 64 fit at once
    CHECK(output->lines_lost() == 0);
    output->hurry();
    const Time start = Clock::now();
    for (int index = 0; index < 1000; ++index) say(output, line);
    CHECK(Clock::now() - start < output_time_max);
    CHECK(output->lines_lost() > 0);
}

TEST_CASE("a file that was renamed or deleted is left for the one at its path") {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("log");
    const Output output = open_file(path);
    say(output, "first");
    std::filesystem::rename(path, folder.file("log.1"));
    CHECK(test::wait_until([&] {
        say(output, "second");
        return std::filesystem::exists(path);
    }));
    CHECK(test::read_file(folder.file("log.1")).starts_with("first\n"));
    CHECK(test::read_file(path) == "second\n");
    std::filesystem::remove(path);
    CHECK(test::wait_until([&] {
        say(output, "third");
        return std::filesystem::exists(path);
    }));
    CHECK(test::read_file(path) == "third\n");
    CHECK(output->lines_lost() == 0);
}

TEST_CASE("lines for a deleted file that cannot be made anew are lost, counted and explained") {
    const test::TemporaryFolder folder;
    std::filesystem::create_directory(folder.file("logs"));
    const Output output = open_file(folder.file("logs/log"));
    say(output, "first");
    std::filesystem::remove_all(folder.file("logs"));
    CHECK(test::wait_until([&] {
        say(output, "second");
        return output->lines_lost() > 0;
    }));
    CHECK(output->why_lost() == "the output refused them: No such file or directory");
    // And as soon as it can be made, it is.
    std::filesystem::create_directory(folder.file("logs"));
    CHECK(test::wait_until([&] {
        say(output, "third");
        return std::filesystem::exists(folder.file("logs/log"));
    }));
    CHECK(test::read_file(folder.file("logs/log")) == "third\n");
}

TEST_CASE("a full disk loses lines, counts each once, and joins no two of them") {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("log");
    const Output output = open_file(path);
    // The limit of a file's size stands for the disk; its signal is ignored, as the program does.
    const auto handler = ::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const rlimit full{100, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &full) == 0);
    constexpr std::uint64_t lines = 20;
    for (std::uint64_t index = 0; index < lines; ++index) say(output, std::string(29, 'x'));
    const std::uint64_t lost = output->lines_lost();
    const std::string why = output->why_lost();
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    ::signal(SIGXFSZ, handler);
    say(output, "after");
    CHECK(lost == lines - 3);  // 100 bytes hold three, and a third of the fourth
    CHECK(output->lines_lost() == lost);
    CHECK(why == "the output refused them: File too large");
    CHECK(test::read_file(path).ends_with("x\nxxxxxxxxxx\nafter\n"));
}

// A daemon that takes datagrams at a path.
struct Daemon {
    explicit Daemon(const std::string& path) : socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        const SocketAddress address = SocketAddress::from_unix_path(path);
        ::unlink(path.c_str());
        REQUIRE(::bind(socket.get(), address.get(), address.length()) == 0);
    }
    // Empty when nothing comes.
    std::string take() const {
        pollfd question{socket.get(), POLLIN, 0};
        if (::poll(&question, 1, 200) != 1) return "";
        std::string datagram(4096, '\0');
        const ssize_t size = ::recv(socket.get(), datagram.data(), datagram.size(), 0);
        datagram.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
        return datagram;
    }
    OwnedFd socket;
};

TEST_CASE("a line for syslog has priority, time, program and process, and finds a restarted daemon") {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("log");
    const auto missing = open_syslog_output(path);
    REQUIRE_FALSE(missing.has_value());
    CHECK(missing.error().find("does a syslog daemon run here?") != std::string::npos);

    auto daemon = std::make_unique<Daemon>(path);
    const Output output = opened(open_syslog_output(path));
    say(output, "first");
    const std::string line = daemon->take();
    CHECK(line.starts_with("<28>"));  // daemon 3 * 8 + warning 4
    CHECK(line.ends_with(" sluice[" + std::to_string(::getpid()) + "]: first"));
    CHECK(line.size() ==
          std::string("<28>Nov 21 15:00:00 sluice[]: first").size() + std::to_string(::getpid()).size());
    daemon.reset();
    say(output, "nobody is there");
    CHECK(output->lines_lost() == 1);
    CHECK(output->why_lost() == "the output refused them: Connection refused");
    daemon = std::make_unique<Daemon>(path);
    say(output, "second");
    CHECK(daemon->take().ends_with(": second"));
    CHECK(output->lines_lost() == 1);
}

TEST_CASE("a stopped daemon costs a second, and one that reads gets every line of a burst") {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("log");
    for (const bool journal : {false, true}) {
        const Daemon daemon(path);
        const Output output = opened(journal ? open_journal_output(path) : open_syslog_output(path));
        constexpr std::uint64_t lines = 3000;  // far more than net.unix.max_dgram_qlen
        const Time start = Clock::now();
        for (std::uint64_t index = 0; index < lines; ++index) say(output, "nobody reads");
        CHECK(Clock::now() - start < output_time_max);
        std::uint64_t arrived = 0;
        while (!daemon.take().empty()) ++arrived;
        CHECK(arrived + output->lines_lost() == lines);
        CHECK(arrived > 0);

        const std::uint64_t lost = output->lines_lost();
        std::uint64_t read = 0;
        std::thread reader([&] {
            while (read < lines && !daemon.take().empty()) ++read;
        });
        for (std::uint64_t index = 0; index < lines; ++index) say(output, "somebody reads");
        reader.join();
        CHECK(read == lines);
        CHECK(output->lines_lost() == lost);
    }
}

}  // namespace
}  // namespace sluice
