#include "sluice/net/bound_address.hpp"

#include "sluice/base/clock.hpp"
#include "sluice/base/errors.hpp"
#include "sluice/net/datagram_socket.hpp"
#include "sluice/net/holder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

namespace sluice {

namespace {

bool ipv6_works() {
    const OwnedFd fd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return fd.valid();
}

// ":80" is every interface: one socket for both families where the machine has IPv6.
std::optional<SocketAddress> address_of(const Endpoint& endpoint) {
    if (endpoint.is_unix()) return SocketAddress::from_unix_path(endpoint.path);
    if (!endpoint.host.empty()) return SocketAddress::from_literal(endpoint.host, endpoint.port);
    return SocketAddress::from_literal(ipv6_works() ? "::" : "0.0.0.0", endpoint.port);
}

int first_unprivileged_port() {
    std::ifstream file("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    int port = 1024;
    file >> port;
    return port;
}

std::string explain(const SocketAddress& address, const SystemError& error) {
    const std::string where = to_string(address);
    const bool local = address.family() == AF_UNIX;
    switch (error.number) {
        case EADDRINUSE:
            return fmt::format("{} is in use by {}; stop it or choose another address", where,
                               describe_holder(address));
        case EACCES:
        case EPERM:
            if (local)
                return fmt::format(
                    "{}: no permission to make a socket there; the folder must be writable for uid {}", where,
                    ::geteuid());
            return fmt::format(
                "{}: ports below {} need the capability CAP_NET_BIND_SERVICE, which uid {} lacks; grant it "
                "(`setcap "
                "cap_net_bind_service+ep`, AmbientCapabilities= in systemd), lower "
                "net.ipv4.ip_unprivileged_port_start, or choose a higher port",
                where, first_unprivileged_port(), ::geteuid());
        case EADDRNOTAVAIL:
            return fmt::format("{}: no interface of this machine has this address (`ip address` lists them)",
                               where);
        case EAFNOSUPPORT:
            return fmt::format("{}: this machine has no such address family (IPv6 is off?)", where);
        case ENOENT:
        case ENOTDIR: return fmt::format("{}: the folder does not exist; make it first", where);
        default: return fmt::format("{}: {}: {}", where, error.call, explain_errno(error.number));
    }
}

// A process that was killed a moment ago may still hold the address: io_uring lets its listening sockets go
// some milliseconds after the process. Such a holder is nobody in /proc any more, and worth waiting for.
//
// 0, or why the address cannot be had.
int probe_patiently(const SocketAddress& address, int type, Time deadline) {
    while (true) {
        const int error = probe_listening_address(address, type);
        if (error != EADDRINUSE || Clock::now() >= deadline || find_holder(address)) return error;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
}

int probe_datagrams_patiently(const SocketAddress& address, Time deadline) {
    while (true) {
        const int error = probe_datagram_address(address);
        if (error != EADDRINUSE || Clock::now() >= deadline || find_datagram_holder(address)) return error;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
}

int type_of(const Endpoint& endpoint) {
    switch (endpoint.transport()) {
        case Transport::seqpacket: return SOCK_SEQPACKET;
        case Transport::datagram: return SOCK_DGRAM;
        case Transport::stream:
        case Transport::file: break;
    }
    return SOCK_STREAM;
}

// Makes room at a unix path: nothing there, or the socket of somebody who is gone.
std::expected<void, std::string> clear_path(const std::string& path, const SocketAddress& address, int type,
                                            Time deadline) {
    struct stat found{};
    if (::lstat(path.c_str(), &found) != 0) return {};  // bind will say what is wrong, if anything is
    if (!S_ISSOCK(found.st_mode))
        return std::unexpected(fmt::format(
            "unix:{}: there is a file that is no socket; move it away or choose another path", path));
    if (const int error = probe_patiently(address, type, deadline); error != 0)
        return std::unexpected(explain(address, {"connect", error}));
    if (::unlink(path.c_str()) != 0)
        return std::unexpected(
            fmt::format("unix:{}: a stale socket that cannot be removed: {}", path, std::strerror(errno)));
    return {};
}

}  // namespace

std::expected<void, std::string> BoundAddress::make_room(const Endpoint& endpoint, Time deadline) {
    const auto wanted = address_of(endpoint);
    if (!wanted)
        return std::unexpected(fmt::format("{}: not an address of this machine", to_string(endpoint)));
    const int type = type_of(endpoint);
    if (endpoint.is_unix() && !endpoint.is_abstract())
        return clear_path(endpoint.path, *wanted, type, deadline);
    if (type == SOCK_DGRAM) {
        if (wanted->family() == AF_UNIX) return {};  // bind says it
        const int error = probe_datagrams_patiently(*wanted, deadline);
        if (error == EADDRINUSE)
            return std::unexpected(fmt::format("udp://{} is in use by {}; stop it or choose another address",
                                               to_string(*wanted), describe_datagram_holder(*wanted)));
        if (error != 0) return std::unexpected(explain(*wanted, {"bind", error}));
        return {};
    }
    if (const int error = probe_patiently(*wanted, type, deadline); error != 0)
        return std::unexpected(explain(*wanted, {"bind", error}));
    return {};
}

std::expected<BoundAddress, std::string> BoundAddress::open(const Endpoint& endpoint,
                                                            const SocketOptions& options,
                                                            std::uint32_t workers) {
    const auto wanted = address_of(endpoint);
    if (!wanted)
        return std::unexpected(fmt::format("{}: not an address of this machine", to_string(endpoint)));
    if (endpoint.transport() == Transport::datagram)
        return open_datagrams(endpoint, *wanted, options, workers);
    BoundAddress bound;
    bound.address_ = *wanted;
    const int type = type_of(endpoint);
    const bool local = wanted->family() == AF_UNIX;
    const bool has_path = local && !endpoint.is_abstract();
    for (std::uint32_t worker = 0; worker < workers; ++worker) {
        if (local && worker > 0) {
            OwnedFd duplicate(::fcntl(bound.sockets_.front().get(), F_DUPFD_CLOEXEC, 0));
            if (!duplicate.valid()) return std::unexpected(explain(*wanted, {"dup", errno}));
            bound.sockets_.push_back(std::move(duplicate));
            continue;
        }
        auto socket = open_listening_socket(bound.address_, type, options);
        if (!socket) return std::unexpected(explain(bound.address_, socket.error()));
        // Port 0: the others join the port that the first one was given.
        if (!local && worker == 0) bound.address_ = local_address_of(socket->get());
        bound.sockets_.push_back(std::move(*socket));
        if (has_path) {
            struct stat made{};
            if (::lstat(endpoint.path.c_str(), &made) == 0) {
                bound.made_path_ = std::filesystem::absolute(endpoint.path).string();
                bound.made_device_ = made.st_dev;
                bound.made_inode_ = made.st_ino;
            }
        }
    }
    return bound;
}

// UDP workers share the address by SO_REUSEPORT, and the kernel gives all datagrams of one client to the
// same. A unix name has one socket and one worker to read it: several would disturb the order.
std::expected<BoundAddress, std::string> BoundAddress::open_datagrams(const Endpoint& endpoint,
                                                                      const SocketAddress& wanted,
                                                                      const SocketOptions& options,
                                                                      std::uint32_t workers) {
    BoundAddress bound;
    bound.address_ = wanted;
    bound.sockets_.resize(workers);
    const bool local = wanted.family() == AF_UNIX;
    const bool has_path = local && !endpoint.is_abstract();
    for (std::uint32_t worker = 0; worker < (local ? 1 : workers); ++worker) {
        auto socket = open_datagram_listener(bound.address_, options);
        if (!socket) return std::unexpected(explain(bound.address_, socket.error()));
        // Port 0: the others join the port that the first one was given.
        if (!local && worker == 0) bound.address_ = local_address_of(socket->get());
        bound.sockets_[worker] = std::move(*socket);
    }
    struct stat made{};
    if (has_path && ::lstat(endpoint.path.c_str(), &made) == 0) {
        bound.made_path_ = std::filesystem::absolute(endpoint.path).string();
        bound.made_device_ = made.st_dev;
        bound.made_inode_ = made.st_ino;
    }
    return bound;
}

BoundAddress::BoundAddress(BoundAddress&& other) noexcept
    : address_(other.address_),
      sockets_(std::move(other.sockets_)),
      made_path_(std::exchange(other.made_path_, {})),
      made_device_(other.made_device_),
      made_inode_(other.made_inode_) {}

BoundAddress::~BoundAddress() {
    if (made_path_.empty()) return;
    struct stat found{};
    if (::lstat(made_path_.c_str(), &found) != 0) return;
    if (found.st_dev == made_device_ && found.st_ino == made_inode_) ::unlink(made_path_.c_str());
}

}  // namespace sluice
