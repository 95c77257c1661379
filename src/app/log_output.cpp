#include "sluice/app/log_output.hpp"

#include "sluice/base/check.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <string_view>
#include <thread>
#include <utility>

namespace sluice {

namespace {

constexpr std::size_t batch_bytes_max = 64 * 1024;
constexpr Milliseconds patience_max{1000};
constexpr Milliseconds look_interval{1000};  // at the path of a log file

// How long an output waits for its reader: a second, given anew whenever something was taken.
class Patience {
  public:
    // After a write that found no room: waits for some. False when no patience is left.
    bool wait_for_room(int fd) {
        if (left_ <= Nanoseconds(0)) return false;
        const Time start = Clock::now();
        pollfd question{fd, POLLOUT, 0};
        // A terminal may have room, but for less than the two places that a line break takes: not to spin.
        if (::poll(&question, 1, 0) == 1) std::this_thread::sleep_for(Milliseconds(1));
        const int left_ms = static_cast<int>(std::chrono::ceil<Milliseconds>(left_).count());
        const bool room = ::poll(&question, 1, left_ms) == 1;
        left_ -= Clock::now() - start;
        return room || left_ > Nanoseconds(0);  // else it was EINTR
    }
    void restore() noexcept { left_ = patience_max; }

  private:
    Nanoseconds left_ = patience_max;
};

bool is_regular(int fd) {
    struct stat status{};
    return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

// Not to wait where the path is a named pipe without a reader.
OwnedFd open_to_append(const std::string& path) {
    return OwnedFd(
        ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640));
}

// A descriptor that lines are written to, each whole: several outputs may append to one file or pipe.
class DescriptorOutput final : public LogOutput {
  public:
    // With the path of a regular file, the output follows the path: a file that was renamed or deleted
    // (logrotate) is left for the one that stands there then.
    DescriptorOutput(OwnedFd fd, LogPace pace, std::string path = "") : fd_(std::move(fd)), pace_(pace) {
        regular_ = is_regular(fd_.get());
        if (regular_) path_ = std::move(path);
        never_waits_ = regular_ || (::fcntl(fd_.get(), F_GETFL) & O_NONBLOCK) != 0;
    }

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        if (torn_ && buffer_.size() == 0) buffer_.push_back('\n');
        formatter_->format(message, buffer_);
        if (pace_ == LogPace::each_line || buffer_.size() >= batch_bytes_max) flush_();
    }

    void flush_() override {
        if (buffer_.size() == 0) return;
        follow_path();
        const std::string_view all(buffer_.data(), buffer_.size());
        const std::size_t written = missing_ == 0 ? write(all) : 0;
        const std::string_view left = all.substr(written);
        auto lost = static_cast<std::uint64_t>(std::ranges::count(left, '\n'));
        if (torn_ && written == 0 && lost > 0) --lost;  // that line was counted when it was torn
        if (written > 0) torn_ = all[written - 1] != '\n';
        lose(lost, missing_ != 0 ? missing_ : error_);
        buffer_.clear();
    }

  private:
    // How many bytes the descriptor took; if not all, error_ says why.
    std::size_t write(std::string_view text) {
        std::string_view left = text;
        while (!left.empty()) {
            errno = EAGAIN;
            ssize_t written = -1;
            if (never_waits_ || has_room())
                written = ::write(fd_.get(), left.data(), regular_ ? left.size() : piece(left));
            if (written > 0) {
                left.remove_prefix(static_cast<std::size_t>(written));
                if (!hurried()) patience_.restore();
                continue;
            }
            if (written < 0 && errno == EINTR) continue;
            error_ = errno;
            // Anything but EAGAIN: a full disk, a reader that is gone.
            if (error_ != EAGAIN || !patience_.wait_for_room(fd_.get())) break;
        }
        return text.size() - left.size();
    }

    // What a pipe takes in one piece (pipe(7): up to PIPE_BUF bytes), ended where a line ends.
    static std::size_t piece(std::string_view left) {
        if (left.size() <= PIPE_BUF) return left.size();
        const std::size_t line_end = left.substr(0, PIPE_BUF).rfind('\n');
        return line_end == std::string_view::npos ? PIPE_BUF : line_end + 1;
    }

    bool has_room() const {
        pollfd question{fd_.get(), POLLOUT, 0};
        return ::poll(&question, 1, 0) == 1;
    }

    // Where no new file can be made, the old one goes on to take the lines as long as it has a name: what is
    // written into a deleted file fills the disk, and nobody can read it.
    void follow_path() {
        const Time now = Clock::now();
        if (path_.empty() || now < next_look_) return;
        next_look_ = now + look_interval;
        missing_ = 0;
        struct stat ours{}, named{};
        if (::fstat(fd_.get(), &ours) != 0) return;
        if (::stat(path_.c_str(), &named) == 0 && ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
            return;
        OwnedFd fresh = open_to_append(path_);
        if (fresh.valid() && is_regular(fresh.get())) {
            fd_ = std::move(fresh);
            torn_ = false;
        } else if (ours.st_nlink == 0) {
            missing_ = fresh.valid() ? ENOENT : errno;
        }
    }

    OwnedFd fd_;
    LogPace pace_;
    std::string path_;          // empty: nothing is followed
    bool regular_ = false;      // a file: it takes what it is given, or has an error
    bool never_waits_ = false;  // a write finds room, or says EAGAIN
    bool torn_ = false;         // the last that was written did not end its line (a full disk)
    int error_ = 0;             // why the last write fell short
    int missing_ = 0;           // why there is no file to write to; 0: there is
    Time next_look_{};
    Patience patience_;
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

// A socket that sends to the daemon at this path; invalid, with errno, if nobody is there.
OwnedFd connect_datagrams(const std::string& path) {
    OwnedFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const SocketAddress address = SocketAddress::from_unix_path(path);
    if (socket.valid() && ::connect(socket.get(), address.get(), address.length()) == 0) return socket;
    const int error = errno;
    socket.close();
    errno = error;
    return {};
}

// A daemon that takes each line as a datagram.
class DatagramOutput final : public LogOutput {
  public:
    using Write = std::string (*)(spdlog::level::level_enum level, std::string_view line);

    DatagramOutput(OwnedFd socket, std::string path, Write write)
        : socket_(std::move(socket)), path_(std::move(path)), write_(write) {}

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        buffer_.clear();
        formatter_->format(message, buffer_);
        std::string_view line(buffer_.data(), buffer_.size());
        if (line.ends_with('\n')) line.remove_suffix(1);
        if (const int error = send(write_(message.level, line)); error != 0) lose(1, error);
    }
    void flush_() override {}

  private:
    int send(const std::string& datagram) {
        bool reconnected = false;
        while (::send(socket_.get(), datagram.data(), datagram.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            const int error = errno;
            if (error == EINTR) continue;
            if (error == EAGAIN) {
                // unix(7): a daemon's queue holds few datagrams (net.unix.max_dgram_qlen), a batch is more.
                if (!patience_.wait_for_room(socket_.get())) return error;
                continue;
            }
            // The daemon was started anew: its old socket refuses, the path leads to the new one.
            if (std::exchange(reconnected, true) || error == EMSGSIZE) return error;
            OwnedFd fresh = connect_datagrams(path_);
            if (!fresh.valid()) return errno;
            socket_ = std::move(fresh);
        }
        if (!hurried()) patience_.restore();
        return 0;
    }

    OwnedFd socket_;
    std::string path_;
    Write write_;
    Patience patience_;
    spdlog::memory_buf_t buffer_;
};

// As syslog(3) writes it (RFC 3164, section 4.1). Not by syslog(3): that waits for a stopped daemon without
// end, and drops lines in silence where there is none.
std::string write_syslog(spdlog::level::level_enum level, std::string_view line) {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    ::localtime_r(&now, &parts);
    std::array<char, 32> time{};
    const std::size_t length = std::strftime(time.data(), time.size(), "%b %e %T", &parts);
    return fmt::format("<{}>{} sluice[{}]: {}", LOG_DAEMON | syslog_priority(level),
                       std::string_view(time.data(), length), ::getpid(), line);
}

// systemd's native protocol: fields as NAME=value, and the message in the form that may hold any byte (name,
// line break, length as 64 bits little endian, value). https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
std::string write_journal(spdlog::level::level_enum level, std::string_view line) {
    std::string datagram =
        fmt::format("SYSLOG_IDENTIFIER=sluice\nPRIORITY={}\nMESSAGE\n", syslog_priority(level));
    for (unsigned shift = 0; shift < 64; shift += 8)
        datagram += static_cast<char>(static_cast<unsigned char>(std::uint64_t{line.size()} >> shift & 0xff));
    datagram += line;
    datagram += '\n';
    return datagram;
}

using Opened = std::expected<std::shared_ptr<LogOutput>, std::string>;

// The same pipe or terminal under a file description of our own, which may be non-blocking without the others
// who use it noticing (O_NONBLOCK belongs to the description, fcntl(2)). Files share theirs on purpose: it
// holds the place where the next of all writers writes. Invalid where that cannot be had: sockets, terminals
// of another user, no /proc.
OwnedFd own_description(int fd) {
    struct stat status{};
    if (::fstat(fd, &status) != 0 || (!S_ISFIFO(status.st_mode) && ::isatty(fd) == 0)) return {};
    return OwnedFd(::open(fmt::format("/proc/self/fd/{}", fd).c_str(),
                          O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
}

Opened open_standard(int fd, const char* name, LogPace pace) {
    OwnedFd copy = own_description(fd);
    if (!copy.valid()) copy = OwnedFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
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
    OwnedFd fd = open_to_append(path);
    if (!fd.valid()) {
        const int error = errno;
        return std::unexpected(fmt::format("cannot open the log file \"{}\": {} ({})", path,
                                           strerrordesc_np(error), advice_for_file(error)));
    }
    return std::make_shared<DescriptorOutput>(std::move(fd), pace, path);
}

}  // namespace

std::string LogOutput::why_lost() const {
    const int error = error_.load(std::memory_order_relaxed);
    if (error == 0 || error == EAGAIN) return "they came faster than the output took them";
    const char* text = strerrordesc_np(error);
    return fmt::format("the output refused them: {}", text != nullptr ? text : "unknown error");
}

void LogOutput::lose(std::uint64_t lines, int error) noexcept {
    if (lines == 0) return;
    error_.store(error, std::memory_order_relaxed);
    lost_.fetch_add(lines, std::memory_order_relaxed);
}

Opened open_syslog_output(const std::string& path) {
    OwnedFd socket = connect_datagrams(path);
    if (!socket.valid())
        return std::unexpected(
            fmt::format("cannot log to syslog: {}: {} (does a syslog daemon run here? else use "
                        "\"stderr\", \"journal\" or \"file:/path\")",
                        path, strerrordesc_np(errno)));
    return std::make_shared<DatagramOutput>(std::move(socket), path, write_syslog);
}

Opened open_journal_output(const std::string& path) {
    OwnedFd socket = connect_datagrams(path);
    if (!socket.valid())
        return std::unexpected(
            fmt::format("cannot log to the journal: {}: {} (does systemd run here? else use "
                        "\"stderr\", \"syslog\" or \"file:/path\")",
                        path, strerrordesc_np(errno)));
    return std::make_shared<DatagramOutput>(std::move(socket), path, write_journal);
}

Opened open_log_output(const config::Output& output, LogPace pace) {
    switch (output.kind) {
        case config::Output::Kind::standard_error: return open_standard(STDERR_FILENO, "stderr", pace);
        case config::Output::Kind::standard_output: return open_standard(STDOUT_FILENO, "stdout", pace);
        case config::Output::Kind::syslog: return open_syslog_output("/dev/log");
        case config::Output::Kind::journal: return open_journal_output("/run/systemd/journal/socket");
        case config::Output::Kind::file: return open_file(output.path, pace);
    }
    check_failed("a log output that cannot be opened");
}

bool keeps_time_and_level(const config::Output& output) noexcept {
    return output.kind == config::Output::Kind::syslog || output.kind == config::Output::Kind::journal;
}

}  // namespace sluice
