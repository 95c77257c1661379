#include "sluice/upstream/resolver.hpp"

#include "sluice/net/owned_fd.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/waiting.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

// A DNS server on 127.0.0.1 that says what the test wants it to say (RFC 1035, section 4). Names that it was
// told nothing about do not exist.
class FakeDns {
  public:
    FakeDns() : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_in here{};
        here.sin_family = AF_INET;
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof(here);
        if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&here), length) != 0 ||
            ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&here), &length) != 0)
            throw std::runtime_error("FakeDns: no UDP socket on 127.0.0.1");
        port_ = ntohs(here.sin_port);
        thread_ = std::thread([this] { run(); });
    }
    ~FakeDns() {
        ::eventfd_write(stop_.get(), 1);
        thread_.join();
    }
    FakeDns(const FakeDns&) = delete;
    FakeDns& operator=(const FakeDns&) = delete;

    std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

    // From now on `name` has these IPv4 addresses, for so many seconds.
    void says(const std::string& name, std::vector<std::string> addresses, std::uint32_t ttl_s = 1) {
        const std::scoped_lock lock(mutex_);
        known_[name] = {std::move(addresses), ttl_s};
    }
    void forgets(const std::string& name) {
        const std::scoped_lock lock(mutex_);
        known_.erase(name);
    }
    void falls_silent() { silent_ = true; }
    int asked() const { return asked_; }  // questions so far

  private:
    struct Answer {
        std::vector<std::string> addresses;
        std::uint32_t ttl_s;
    };

    void run() {
        while (true) {
            std::array<pollfd, 2> polled = {{{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                                             {.fd = socket_.get(), .events = POLLIN, .revents = 0}}};
            ::poll(polled.data(), polled.size(), -1);
            if (polled[0].revents != 0) return;
            std::string question(1500, '\0');
            sockaddr_in from{};
            socklen_t length = sizeof(from);
            const ssize_t size = ::recvfrom(socket_.get(), question.data(), question.size(), 0,
                                            reinterpret_cast<sockaddr*>(&from), &length);
            if (size < 17) continue;
            question.resize(static_cast<std::size_t>(size));
            const std::string reply = answer(question);
            if (!silent_)
                ::sendto(socket_.get(), reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&from),
                         length);
            ++asked_;
        }
    }

    static void put16(std::string& message, std::uint32_t value) {
        message += static_cast<char>(value >> 8 & 0xff);
        message += static_cast<char>(value & 0xff);
    }

    std::string answer(const std::string& question) {
        // The header has 12 bytes; then come the labels of the name, each after its length; type and class.
        std::string name;
        std::size_t place = 12;
        while (place < question.size() && question[place] != '\0') {
            const auto label = static_cast<std::size_t>(question[place]);
            if (!name.empty()) name += '.';
            name += question.substr(place + 1, label);
            place += label + 1;
        }
        std::ranges::transform(name, name.begin(), [](char letter) {
            return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + ('a' - 'A')) : letter;
        });
        const bool for_v4 = question.substr(place + 1, 2) == std::string("\0\1", 2);
        const std::scoped_lock lock(mutex_);
        const auto found = known_.find(name);
        const bool exists = found != known_.end();
        const std::vector<std::string> none;
        const auto& addresses = exists && for_v4 ? found->second.addresses : none;

        std::string reply = question.substr(0, 2);
        put16(reply, exists ? 0x8180 : 0x8183);  // a recursive server's answer; 3 = NXDOMAIN
        put16(reply, 1);
        put16(reply, static_cast<std::uint32_t>(addresses.size()));
        put16(reply, 0);
        put16(reply, 0);
        reply += question.substr(12, place + 5 - 12);
        for (const std::string& text : addresses) {
            put16(reply, 0xc00c);  // the name in the question
            put16(reply, 1);       // A
            put16(reply, 1);       // IN
            put16(reply, found->second.ttl_s >> 16);
            put16(reply, found->second.ttl_s & 0xffff);
            put16(reply, 4);
            in_addr address{};
            ::inet_pton(AF_INET, text.c_str(), &address);
            reply.append(reinterpret_cast<const char*>(&address), 4);
        }
        return reply;
    }

    OwnedFd socket_;
    OwnedFd stop_{::eventfd(0, EFD_CLOEXEC)};
    std::uint16_t port_ = 0;
    std::atomic<bool> silent_ = false;
    std::atomic<int> asked_ = 0;
    std::mutex mutex_;
    std::map<std::string, Answer> known_;
    std::thread thread_;
};

// What the resolver has told, as text: "10.0.0.1:80 10.0.0.2:80", or "null".
class News {
  public:
    Resolver::OnAnswer listener() {
        return [this](std::size_t name, const AddressList& addresses) {
            std::string text;
            if (addresses == nullptr) text = "null";
            if (addresses != nullptr)
                for (const SocketAddress& address : *addresses)
                    text += (text.empty() ? "" : " ") + to_string(address);
            const std::scoped_lock lock(mutex_);
            told_[name].push_back(text);
        };
    }
    std::vector<std::string> of(std::size_t name) {
        const std::scoped_lock lock(mutex_);
        return told_[name];
    }
    bool comes(std::size_t count, std::size_t name = 0) {
        return test::wait_until([&] { return of(name).size() >= count; });
    }

  private:
    std::mutex mutex_;
    std::map<std::size_t, std::vector<std::string>> told_;
};

config::Dns asking(const FakeDns& server) {
    config::Dns settings;
    settings.servers = {server.address()};
    settings.ttl_min = std::chrono::milliseconds(20);
    settings.timeout = std::chrono::milliseconds(2000);
    return settings;
}

std::unique_ptr<Resolver> started(const config::Dns& settings, std::vector<Resolver::Name> names,
                                  News& news) {
    auto resolver = Resolver::start(settings, std::move(names), news.listener());
    REQUIRE_MESSAGE(resolver, (resolver ? "" : resolver.error()));
    return std::move(*resolver);
}

using Lines = std::vector<std::string>;

TEST_CASE("a name from /etc/hosts needs no server") {
    FakeDns server;
    News news;
    const auto resolver = started(asking(server), {{"localhost", 80}}, news);
    REQUIRE(news.comes(1));
    CHECK(news.of(0)[0].find("127.0.0.1:80") != std::string::npos);
    CHECK(server.asked() == 0);
}

TEST_CASE("each name is answered by its number and with its own port") {
    FakeDns server;
    server.says("one.test", {"127.1.0.1"});
    server.says("two.test", {"127.2.0.1", "127.2.0.2"});
    News news;
    const auto resolver =
        started(asking(server), {{"one.test", 80}, {"two.test", 443}, {"x.invalid", 1}}, news);
    REQUIRE(news.comes(1, 0));
    REQUIRE(news.comes(1, 1));
    REQUIRE(news.comes(1, 2));
    CHECK(news.of(0) == Lines{"127.1.0.1:80"});
    const std::string both = news.of(1)[0];
    CHECK((both == "127.2.0.1:443 127.2.0.2:443" || both == "127.2.0.2:443 127.2.0.1:443"));
    CHECK(news.of(2) == Lines{"null"});
}

TEST_CASE("when the TTL is over the name is asked for again, and a change is told") {
    FakeDns server;
    server.says("db.test", {"127.1.0.1"}, 1);
    News news;
    const auto begin = Clock::now();
    const auto resolver = started(asking(server), {{"db.test", 80}}, news);
    REQUIRE(news.comes(1));
    server.says("db.test", {"127.1.0.2"}, 1);
    REQUIRE(news.comes(2));
    CHECK(Clock::now() - begin >= std::chrono::seconds(1));
    CHECK(news.of(0) == Lines{"127.1.0.1:80", "127.1.0.2:80"});
}

TEST_CASE("a TTL below ttl_min and one above ttl_max are brought to them") {
    for (const std::uint32_t ttl_s : {0U, 3600U}) {
        CAPTURE(ttl_s);
        FakeDns server;
        server.says("db.test", {"127.1.0.1"}, ttl_s);
        config::Dns settings = asking(server);
        settings.ttl_max = std::chrono::milliseconds(50);
        News news;
        const auto resolver = started(settings, {{"db.test", 80}}, news);
        REQUIRE(news.comes(1));
        server.says("db.test", {"127.1.0.2"}, ttl_s);
        CHECK(news.comes(2));
    }
}

TEST_CASE("the same addresses in another order are no news") {
    FakeDns server;
    server.says("db.test", {"127.1.0.1", "127.1.0.2"}, 0);
    News news;
    const auto resolver = started(asking(server), {{"db.test", 80}}, news);
    REQUIRE(news.comes(1));
    server.says("db.test", {"127.1.0.2", "127.1.0.1"}, 0);
    const int before = server.asked();
    REQUIRE(test::wait_until([&] { return server.asked() >= before + 6; }));
    CHECK(news.of(0).size() == 1);
    server.says("db.test", {"127.1.0.2"}, 0);
    REQUIRE(news.comes(2));
    CHECK(news.of(0)[1] == "127.1.0.2:80");
}

TEST_CASE("a name that does not exist yet is told as null, once, and is found when it does") {
    FakeDns server;
    News news;
    const auto resolver = started(asking(server), {{"late.test", 80}}, news);
    REQUIRE(news.comes(1));
    CHECK(news.of(0) == Lines{"null"});
    server.says("late.test", {"127.1.0.1"});
    REQUIRE(news.comes(2));
    CHECK(news.of(0) == Lines{"null", "127.1.0.1:80"});
}

TEST_CASE("the last good answer stays in force while the name is gone") {
    FakeDns server;
    server.says("db.test", {"127.1.0.1"}, 0);
    News news;
    const auto resolver = started(asking(server), {{"db.test", 80}}, news);
    REQUIRE(news.comes(1));
    server.forgets("db.test");
    const int before = server.asked();
    REQUIRE(test::wait_until([&] { return server.asked() >= before + 4; }));
    CHECK(news.of(0) == Lines{"127.1.0.1:80"});
    server.says("db.test", {"127.1.0.7"}, 0);
    REQUIRE(news.comes(2));
    CHECK(news.of(0) == Lines{"127.1.0.1:80", "127.1.0.7:80"});
}

TEST_CASE("a silent server is as good as none, after the timeout") {
    FakeDns server;
    server.says("db.test", {"127.1.0.1"});
    server.falls_silent();
    config::Dns settings = asking(server);
    settings.timeout = std::chrono::milliseconds(50);
    News news;
    const auto resolver = started(settings, {{"db.test", 80}}, news);
    REQUIRE(news.comes(1));
    CHECK(news.of(0) == Lines{"null"});
    CHECK(server.asked() > 0);
}

TEST_CASE("a resolver stops at once while a question is out, and tells nothing more") {
    FakeDns server;
    server.falls_silent();
    config::Dns settings = asking(server);
    settings.timeout = std::chrono::minutes(5);
    News news;
    auto resolver = started(settings, {{"db.test", 80}}, news);
    REQUIRE(test::wait_until([&] { return server.asked() > 0; }));
    const auto begin = Clock::now();
    resolver.reset();
    CHECK(Clock::now() - begin < std::chrono::seconds(5));
    CHECK(news.of(0).empty());
}

TEST_CASE("a resolver without names starts and stops, and a server that is no address is refused") {
    News news;
    config::Dns settings;
    CHECK(started(settings, {}, news) != nullptr);
    settings.servers = {"not an address"};
    const auto resolver = Resolver::start(settings, {{"db.test", 80}}, news.listener());
    REQUIRE(!resolver);
    CHECK(resolver.error().find("not an address") != std::string::npos);
}

}  // namespace
}  // namespace sluice
