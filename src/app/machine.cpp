#include "sluice/app/machine.hpp"

#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/net/pipe.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace sluice {

namespace {

constexpr int patience_ms = 1000;

// Two ends of one TCP connection on loopback.
struct Pair {
    OwnedFd one;
    OwnedFd other;
};

std::optional<Pair> connect_pair() {
    const OwnedFd listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto any = SocketAddress::from_literal("127.0.0.1", 0);
    sockaddr_in bound{};
    socklen_t length = sizeof(bound);
    auto* address = reinterpret_cast<sockaddr*>(&bound);
    if (!any || !listening.valid() || ::bind(listening.get(), any->get(), any->length()) != 0 ||
        ::listen(listening.get(), 1) != 0 || ::getsockname(listening.get(), address, &length) != 0)
        return std::nullopt;
    Pair pair{OwnedFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), OwnedFd()};
    if (!pair.one.valid() || ::connect(pair.one.get(), address, length) != 0) return std::nullopt;
    pair.other = OwnedFd(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!pair.other.valid()) return std::nullopt;
    return pair;
}

bool readable(int fd) {
    pollfd question{fd, POLLIN, 0};
    return ::poll(&question, 1, patience_ms) == 1;
}

}  // namespace

std::optional<std::string> first_line_of(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    if (!std::getline(file, line)) return std::nullopt;
    return line;
}

std::optional<std::uint64_t> number_in(std::string_view text) {
    std::uint64_t number = 0;
    const std::size_t start = text.find_first_not_of(" \t");
    if (start == std::string_view::npos) return std::nullopt;
    const auto result = std::from_chars(text.data() + start, text.data() + text.size(), number);
    if (result.ec != std::errc{}) return std::nullopt;
    return number;
}

std::optional<std::uint64_t> number_in_file(const std::string& path) {
    const auto line = first_line_of(path);
    return line ? number_in(*line) : std::nullopt;
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> two_numbers_in(std::string_view text) {
    const auto first = number_in(text);
    const std::size_t digits = text.find_first_not_of(" \t");
    const std::size_t gap = text.find_first_of(" \t", digits == std::string_view::npos ? 0 : digits);
    if (!first || gap == std::string_view::npos) return std::nullopt;
    const auto second = number_in(text.substr(gap));
    if (!second) return std::nullopt;
    return std::pair(*first, *second);
}

std::optional<std::pair<unsigned, unsigned>> kernel_version_in(std::string_view release) {
    unsigned major = 0, minor = 0;
    const char* const start = release.data();
    const char* const end = start + release.size();
    const auto first = std::from_chars(start, end, major);
    if (first.ec != std::errc{} || first.ptr == end || *first.ptr != '.') return std::nullopt;
    if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc{}) return std::nullopt;
    return std::pair(major, minor);
}

std::optional<double> cpu_quota_in(std::string_view cpu_max) {
    const auto numbers = two_numbers_in(cpu_max);
    if (!numbers || numbers->second == 0) return std::nullopt;
    return static_cast<double>(numbers->first) / static_cast<double>(numbers->second);
}

std::optional<double> cpu_quota() {
    // In a container its own cgroup is the root of what it sees; outside, the quota stands along the path.
    std::filesystem::path folder = "/sys/fs/cgroup";
    if (const auto line = first_line_of("/proc/self/cgroup"); line && line->starts_with("0::/"))
        folder /= line->substr(4);
    std::optional<double> smallest;
    for (; folder != "/sys/fs" && folder.has_relative_path(); folder = folder.parent_path()) {
        const auto line = first_line_of((folder / "cpu.max").string());
        const auto quota = line ? cpu_quota_in(*line) : std::nullopt;
        if (quota && (!smallest || *quota < *smallest)) smallest = quota;
    }
    return smallest;
}

std::size_t cpus_allowed() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
    return static_cast<std::size_t>(CPU_COUNT(&set));
}

std::string try_splice() {
    const auto failed = [](const char* call) { return fmt::format("{}: {}", call, strerrordesc_np(errno)); };
    const auto from = connect_pair();
    const auto to = connect_pair();
    if (!from || !to) return failed("a TCP connection on 127.0.0.1");
    const auto pipe = Pipe::open(64 * 1024);
    if (!pipe) return failed("pipe2");
    constexpr std::string_view sent = "through the kernel";
    if (::send(from->one.get(), sent.data(), sent.size(), MSG_NOSIGNAL) < 0 || !readable(from->other.get()))
        return failed("send");
    const ssize_t in = ::splice(from->other.get(), nullptr, pipe->write_end(), nullptr, pipe->size(),
                                SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (in <= 0) return failed("splice from a socket");
    const ssize_t out = ::splice(pipe->read_end(), nullptr, to->other.get(), nullptr,
                                 static_cast<std::size_t>(in), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (out != in) return failed("splice to a socket");
    std::array<char, 64> received{};
    if (!readable(to->one.get())) return "splice: the bytes did not arrive";
    const ssize_t got = ::recv(to->one.get(), received.data(), received.size(), 0);
    const std::string_view arrived(received.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    return arrived == sent ? "" : "splice: other bytes arrived than were sent";
}

bool ipv6_works() {
    const OwnedFd socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto loopback = SocketAddress::from_literal("::1", 0);
    return socket.valid() && loopback && ::bind(socket.get(), loopback->get(), loopback->length()) == 0;
}

std::optional<bool> low_ports_granted(std::uint16_t first) {
    for (std::uint16_t tried = 1; tried <= 32 && tried < first; ++tried) {
        const OwnedFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const auto address =
            SocketAddress::from_literal("127.0.0.1", static_cast<std::uint16_t>(first - tried));
        if (!socket.valid() || !address) return std::nullopt;
        if (::bind(socket.get(), address->get(), address->length()) == 0) return true;
        if (errno != EADDRINUSE) return false;
    }
    return std::nullopt;
}

std::string congestion_controls_granted(std::string_view names) {
    const OwnedFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    std::string granted;
    while (!names.empty()) {
        const std::size_t end = std::min(names.find(' '), names.size());
        const std::string_view name = names.substr(0, end);
        if (!name.empty() && ::setsockopt(socket.get(), IPPROTO_TCP, TCP_CONGESTION, name.data(),
                                          static_cast<socklen_t>(name.size())) == 0)
            granted += (granted.empty() ? "" : " ") + std::string(name);
        names.remove_prefix(std::min(end + 1, names.size()));
    }
    return granted;
}

std::string container_kind() {
    if (std::getenv("KUBERNETES_SERVICE_HOST") != nullptr) return "kubernetes";
    std::error_code ignored;
    if (std::filesystem::exists("/.dockerenv", ignored)) return "docker";
    if (std::filesystem::exists("/run/.containerenv", ignored)) return "podman";
    // systemd-nspawn, lxc and others tell the first process.
    if (const char* kind = std::getenv("container"); kind != nullptr) return kind;
    return first_line_of("/run/systemd/container").value_or("");
}

}  // namespace sluice
