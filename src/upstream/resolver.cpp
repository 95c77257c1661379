#include "sluice/upstream/resolver.hpp"

#include "sluice/base/errors.hpp"
#include "sluice/base/units.hpp"
#include "sluice/net/owned_fd.hpp"

#include <ares.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netdb.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

namespace sluice {

namespace {

constexpr Milliseconds retry_min = std::chrono::seconds(1);
constexpr Milliseconds retry_max = std::chrono::seconds(30);

class AresResolver final : public Resolver {
  public:
    AresResolver(const config::Dns& settings, std::vector<Name> names, OnAnswer on_answer, OwnedFd stop)
        : settings_(settings), on_answer_(std::move(on_answer)), stop_(std::move(stop)) {
        entries_.reserve(names.size());  // their addresses are known to c-ares: they must not move
        for (std::size_t index = 0; index < names.size(); ++index)
            entries_.emplace_back(this, index, std::move(names[index]));
    }

    ~AresResolver() override {
        const std::uint64_t one = 1;
        if (thread_.joinable()) {
            // Only a full counter could refuse, and nobody else writes it.
            if (::write(stop_.get(), &one, sizeof(one)) == sizeof(one)) thread_.join();
        }
        if (channel_ != nullptr) ::ares_destroy(channel_);
        if (library_) ::ares_library_cleanup();
    }
    AresResolver(const AresResolver&) = delete;
    AresResolver& operator=(const AresResolver&) = delete;

    std::expected<void, std::string> start() {
        if (const int status = ::ares_library_init(ARES_LIB_INIT_ALL); status != ARES_SUCCESS)
            return std::unexpected(fmt::format("c-ares: {}", ::ares_strerror(status)));
        library_ = true;
        ares_options options{};
        options.timeout = static_cast<int>(settings_.timeout.count());
        options.tries = 2;
        if (const int status = ::ares_init_options(&channel_, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES);
            status != ARES_SUCCESS)
            return std::unexpected(fmt::format("c-ares: {}", ::ares_strerror(status)));
        if (!settings_.servers.empty()) {
            const std::string servers = fmt::format("{}", fmt::join(settings_.servers, ","));
            if (const int status = ::ares_set_servers_ports_csv(channel_, servers.c_str());
                status != ARES_SUCCESS)
                return std::unexpected(fmt::format("dns servers {}: {}", servers, ::ares_strerror(status)));
        }
        try {
            thread_ = std::thread([this] { run(); });
        } catch (const std::system_error& error) {
            return std::unexpected(fmt::format("no thread for the resolver: {}", error.what()));
        }
        return {};
    }

  private:
    struct Entry {
        Entry(AresResolver* owner, std::size_t number, Name wanted)
            : resolver(owner), index(number), name(std::move(wanted)) {}
        AresResolver* resolver;
        std::size_t index;
        Name name;
        Time due{};  // the next question; time_never while one is under way
        Milliseconds retry = retry_min;
        AddressList addresses;
        bool failing = false;  // said so in the log
        bool told = false;
        bool from_file = false;  // while c-ares answers without having asked a server
    };

    void run() {
        ::pthread_setname_np(::pthread_self(), "sluice-dns");
        while (true) {
            ask_what_is_due();
            if (!wait()) break;
        }
        ::ares_cancel(channel_);
    }

    void ask_what_is_due() {
        const Time now = Clock::now();
        for (Entry& entry : entries_) {
            if (entry.due > now) continue;
            entry.due = time_never;
            entry.from_file = true;
            ares_addrinfo_hints hints{};
            hints.ai_family = AF_UNSPEC;
            hints.ai_socktype = SOCK_STREAM;
            const std::string port = std::to_string(entry.name.port);
            ::ares_getaddrinfo(channel_, entry.name.host.c_str(), port.c_str(), &hints, &on_reply, &entry);
            // An answer within the call came from /etc/hosts (c-ares calls its TTL 0): no server was asked.
            entry.from_file = false;
        }
    }

    // False when it is time to stop.
    bool wait() {
        ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
        const unsigned wanted = static_cast<unsigned>(::ares_getsock(channel_, sockets, ARES_GETSOCK_MAXNUM));
        pollfd polled[ARES_GETSOCK_MAXNUM + 1] = {{stop_.get(), POLLIN, 0}};
        nfds_t count = 1;
        for (unsigned index = 0; index < ARES_GETSOCK_MAXNUM; ++index) {
            short events = 0;
            if (ARES_GETSOCK_READABLE(wanted, index)) events = static_cast<short>(events | POLLIN);
            if (ARES_GETSOCK_WRITABLE(wanted, index)) events = static_cast<short>(events | POLLOUT);
            if (events != 0) polled[count++] = {sockets[index], events, 0};
        }
        ::poll(polled, count, timeout_ms());
        if (polled[0].revents != 0) return false;
        for (nfds_t index = 1; index < count; ++index) {
            const short events = polled[index].revents;
            const ares_socket_t fd = polled[index].fd;
            ::ares_process_fd(channel_, (events & (POLLIN | POLLERR | POLLHUP)) != 0 ? fd : ARES_SOCKET_BAD,
                              (events & POLLOUT) != 0 ? fd : ARES_SOCKET_BAD);
        }
        ::ares_process_fd(channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);  // its own timeouts
        return true;
    }

    int timeout_ms() {
        Time earliest = time_never;
        for (const Entry& entry : entries_) earliest = std::min(earliest, entry.due);
        timeval most{3600, 0};
        if (earliest != time_never) {
            const auto left =
                std::clamp<Milliseconds>(std::chrono::ceil<Milliseconds>(earliest - Clock::now()),
                                         Milliseconds(0), std::chrono::hours(1));
            most = {left.count() / 1000, left.count() % 1000 * 1000};
        }
        timeval storage{};
        const timeval* sooner = ::ares_timeout(channel_, &most, &storage);
        return static_cast<int>(sooner->tv_sec * 1000 + (sooner->tv_usec + 999) / 1000);
    }

    static void on_reply(void* argument, int status, int, ares_addrinfo* reply) {
        auto& entry = *static_cast<Entry*>(argument);
        const std::unique_ptr<ares_addrinfo, decltype(&::ares_freeaddrinfo)> owner(reply,
                                                                                   &::ares_freeaddrinfo);
        if (status == ARES_EDESTRUCTION || status == ARES_ECANCELLED) return;
        if (status == ARES_SUCCESS)
            entry.resolver->succeeded(entry, *reply);
        else
            entry.resolver->failed(entry, status);
    }

    void succeeded(Entry& entry, const ares_addrinfo& reply) {
        auto found = std::make_shared<std::vector<SocketAddress>>();
        Milliseconds ttl = settings_.ttl_max;
        for (const ares_addrinfo_node* node = reply.nodes; node != nullptr; node = node->ai_next) {
            const SocketAddress address = SocketAddress::from(node->ai_addr, node->ai_addrlen);
            if (std::ranges::find(*found, address) == found->end()) found->push_back(address);
            if (!entry.from_file) ttl = std::min<Milliseconds>(ttl, std::chrono::seconds(node->ai_ttl));
        }
        if (found->empty()) return failed(entry, ARES_ENODATA);
        entry.due = Clock::now() + std::clamp(ttl, settings_.ttl_min, settings_.ttl_max);
        entry.retry = retry_min;
        if (entry.failing) spdlog::info("dns: {} resolves again", entry.name.host);
        entry.failing = false;
        if (entry.told && same_set(entry.addresses, *found)) return;
        spdlog::debug("dns: {} has {} address(es), first {}", entry.name.host, found->size(),
                      to_string(found->front()));
        entry.addresses = std::move(found);
        tell(entry);
    }

    void failed(Entry& entry, int status) {
        if (!entry.failing) {
            spdlog::warn("dns: {}: {}; {}, asking again from {} to {} apart", entry.name.host,
                         ::ares_strerror(status),
                         entry.addresses != nullptr ? "keeping the last good answer"
                                                    : "sessions to it are refused until it resolves",
                         format_duration(retry_min), format_duration(retry_max));
        }
        entry.failing = true;
        entry.due = Clock::now() + entry.retry;
        entry.retry = std::min(entry.retry * 2, retry_max);
        if (!entry.told) tell(entry);
    }

    void tell(Entry& entry) {
        entry.told = true;
        on_answer_(entry.index, entry.addresses);
    }

    // Servers rotate the order of their answers; that is no news.
    static bool same_set(const AddressList& known, const std::vector<SocketAddress>& found) {
        return known != nullptr && known->size() == found.size() &&
               std::ranges::is_permutation(*known, found);
    }

    config::Dns settings_;
    OnAnswer on_answer_;
    OwnedFd stop_;
    std::vector<Entry> entries_;
    ares_channel channel_ = nullptr;
    bool library_ = false;
    std::thread thread_;
};

}  // namespace

std::expected<std::unique_ptr<Resolver>, std::string> Resolver::start(const config::Dns& settings,
                                                                      std::vector<Name> names,
                                                                      OnAnswer on_answer) {
    OwnedFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop.valid()) return std::unexpected(fmt::format("eventfd: {}", explain_errno(errno)));
    auto resolver =
        std::make_unique<AresResolver>(settings, std::move(names), std::move(on_answer), std::move(stop));
    if (auto started = resolver->start(); !started) return std::unexpected(started.error());
    return resolver;
}

}  // namespace sluice
