#include "sluice/app/log_output.hpp"

#include "sluice/base/check.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>

namespace sluice {

namespace {

constexpr std::size_t batch_bytes_max = 64 * 1024;
constexpr int patience_ms = 1000;

// A descriptor that lines are written to, each whole: several outputs may append to one file or pipe.
class DescriptorOutput final : public LogOutput {
  public:
    DescriptorOutput(OwnedFd fd, LogPace pace) : fd_(std::move(fd)), pace_(pace) {
        struct stat status{};
        regular_ = ::fstat(fd_.get(), &status) == 0 && S_ISREG(status.st_mode);
    }

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        formatter_->format(message, buffer_);
        if (pace_ == LogPace::each_line || buffer_.size() >= batch_bytes_max) flush_();
    }

    void flush_() override {
        std::string_view left(buffer_.data(), buffer_.size());
        while (!left.empty() && writable()) {
            const ssize_t written = ::write(fd_.get(), left.data(), regular_ ? left.size() : piece(left));
            if (written >= 0)
                left.remove_prefix(static_cast<std::size_t>(written));
            else if (errno != EINTR && errno != EAGAIN)
                break;  // a full disk, a reader that is gone
        }
        if (!left.empty()) lose(static_cast<std::uint64_t>(std::ranges::count(left, '\n')));
        buffer_.clear();
    }

  private:
    // What a pipe takes in one piece (pipe(7): up to PIPE_BUF bytes), ended where a line ends.
    static std::size_t piece(std::string_view left) {
        if (left.size() <= PIPE_BUF) return left.size();
        const std::size_t line_end = left.substr(0, PIPE_BUF).rfind('\n');
        return line_end == std::string_view::npos ? PIPE_BUF : line_end + 1;
    }

    // A reader that used up its second once is not waited for again until it reads.
    bool writable() {
        if (regular_) return true;
        pollfd question{fd_.get(), POLLOUT, 0};
        stuck_ = ::poll(&question, 1, stuck_ ? 0 : patience_ms) <= 0 && errno != EINTR;
        return !stuck_;
    }

    OwnedFd fd_;
    LogPace pace_;
    bool regular_ = false;
    bool stuck_ = false;
    spdlog::memory_buf_t buffer_;
};

int syslog_priority(spdlog::level::level_enum level) {
    switch (level) {
        case spdlog::level::trace:
        case spdlog::level::debug: return LOG_DEBUG;
        case spdlog::level::warn: return LOG_WARNING;
        case spdlog::level::err: return LOG_ERR;
        case spdlog::level::critical: return LOG_CRIT;
        case spdlog::level::info:
        case spdlog::level::off:
        case spdlog::level::n_levels: break;
    }
    return LOG_INFO;
}

// The formatter's line without its line break.
std::string_view line_in(const spdlog::memory_buf_t& buffer) {
    std::string_view line(buffer.data(), buffer.size());
    if (line.ends_with('\n')) line.remove_suffix(1);
    return line;
}

class SyslogOutput final : public LogOutput {
  public:
    SyslogOutput() { ::openlog("sluice", LOG_PID | LOG_NDELAY, LOG_DAEMON); }

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        spdlog::memory_buf_t buffer;
        formatter_->format(message, buffer);
        const std::string_view line = line_in(buffer);
        ::syslog(syslog_priority(message.level), "%.*s",
                 static_cast<int>(std::min<std::size_t>(line.size(), INT_MAX)), line.data());
    }
    void flush_() override {}
};

constexpr const char* journal_path = "/run/systemd/journal/socket";

// systemd's native protocol, one datagram a line: fields as NAME=value, and the message in the form that may
// hold any byte (name, line break, length as 64 bits little endian, value).
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
class JournalOutput final : public LogOutput {
  public:
    explicit JournalOutput(OwnedFd socket) : socket_(std::move(socket)) {}

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        spdlog::memory_buf_t buffer;
        formatter_->format(message, buffer);
        const std::string_view line = line_in(buffer);
        std::string datagram =
            fmt::format("SYSLOG_IDENTIFIER=sluice\nPRIORITY={}\nMESSAGE\n", syslog_priority(message.level));
        for (unsigned shift = 0; shift < 64; shift += 8)
            datagram +=
                static_cast<char>(static_cast<unsigned char>(std::uint64_t{line.size()} >> shift & 0xff));
        datagram += line;
        datagram += '\n';
        if (::send(socket_.get(), datagram.data(), datagram.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) lose(1);
    }
    void flush_() override {}

  private:
    OwnedFd socket_;
};

using Opened = std::expected<std::shared_ptr<LogOutput>, std::string>;

Opened open_standard(int fd, const char* name, LogPace pace) {
    OwnedFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy.valid())
        return std::unexpected(
            fmt::format("cannot log to {}: {} (it was closed by whoever started this; use "
                        "\"file:/path\" or \"syslog\")",
                        name, strerrordesc_np(errno)));
    return std::make_shared<DescriptorOutput>(std::move(copy), pace);
}

std::string advice_for_file(int error) {
    switch (error) {
        case ENOENT: return "create the folder first, or choose another path";
        case EACCES:
        case EPERM: return "give the user that runs sluice the right to write there, or choose another path";
        case EROFS: return "the file system is read-only: choose another path";
        case EISDIR: return "it is a folder: name a file in it";
        case ENXIO: return "it is a pipe that nobody reads: start its reader first";
        default: return "choose another path";
    }
}

Opened open_file(const std::string& path, LogPace pace) {
    // Not to wait where the path is a named pipe without a reader.
    OwnedFd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640));
    if (!fd.valid()) {
        const int error = errno;
        return std::unexpected(fmt::format("cannot open the log file \"{}\": {} ({})", path,
                                           strerrordesc_np(error), advice_for_file(error)));
    }
    return std::make_shared<DescriptorOutput>(std::move(fd), pace);
}

Opened open_journal() {
    OwnedFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const SocketAddress address = SocketAddress::from_unix_path(journal_path);
    if (!socket.valid() || ::connect(socket.get(), address.get(), address.length()) != 0)
        return std::unexpected(
            fmt::format("cannot log to the journal: {}: {} (does systemd run here? else use "
                        "\"stderr\", \"syslog\" or \"file:/path\")",
                        journal_path, strerrordesc_np(errno)));
    return std::make_shared<JournalOutput>(std::move(socket));
}

}  // namespace

Opened open_log_output(const config::Output& output, LogPace pace) {
    switch (output.kind) {
        case config::Output::Kind::standard_error: return open_standard(STDERR_FILENO, "stderr", pace);
        case config::Output::Kind::standard_output: return open_standard(STDOUT_FILENO, "stdout", pace);
        case config::Output::Kind::syslog: return std::make_shared<SyslogOutput>();
        case config::Output::Kind::journal: return open_journal();
        case config::Output::Kind::file: return open_file(output.path, pace);
    }
    check_failed("a log output that cannot be opened");
}

bool keeps_time_and_level(const config::Output& output) noexcept {
    return output.kind == config::Output::Kind::syslog || output.kind == config::Output::Kind::journal;
}

}  // namespace sluice
