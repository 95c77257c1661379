// Datagrams through the real program: none changed, none merged, none given to another session.

#include "tests/support/datagrams.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace sluice::test {
namespace {

RelayProcess forward(RelayCase here, const std::string& listen, const std::vector<std::string>& targets,
                     RelayOptions options = {}) {
    return RelayProcess::forward(listen, targets, here.engine, std::move(options));
}

std::string udp(const std::string& address) {
    return "udp://" + address;
}

// With live sessions a drain takes as long as they do: a second signal ends it.
void stop_at_once(RelayProcess& relay) {
    relay.process().signal(SIGTERM);
    REQUIRE(relay.process().wait_for_text("draining"));
    relay.process().signal(SIGTERM);
    relay.expect_exit(0);
}

std::string on_free_port(const std::string& host) {
    return host + ":" + std::to_string(free_udp_port());
}

// --- integrity ---

// What a datagram says of itself, as far as it has room: whose it is, its number, and a sum over the rest.
struct Label {
    std::uint32_t client;
    std::uint32_t number;
    std::uint64_t sum;
};

std::uint64_t sum_of(std::string_view bytes) {
    std::uint64_t sum = 1469598103934665603ULL;  // FNV-1a, over words and then the rest
    std::size_t at = 0;
    for (; at + 8 <= bytes.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, 8);
        sum = (sum ^ word) * 1099511628211ULL;
    }
    for (; at < bytes.size(); ++at) sum = (sum ^ static_cast<unsigned char>(bytes[at])) * 1099511628211ULL;
    return sum ^ bytes.size();
}

// A datagram of this size; those that have no room for a label are their number's lowest byte, repeated.
std::string labelled(std::uint32_t client, std::uint32_t number, std::size_t size,
                     const std::string& material) {
    std::string bytes = material.substr((client * 977 + number * 131) % 4096, size);
    if (size < sizeof(Label)) return std::string(size, static_cast<char>(number));
    Label label{client, number, sum_of(std::string_view(bytes).substr(sizeof(Label)))};
    std::memcpy(bytes.data(), &label, sizeof(label));
    return bytes;
}

bool intact(std::string_view bytes, Label& label) {
    std::memcpy(&label, bytes.data(), sizeof(label));
    return label.sum == sum_of(bytes.substr(sizeof(Label)));
}

std::uint64_t datagrams_wanted() {
    const char* text = std::getenv("SLUICE_DATAGRAMS");
    return text != nullptr ? std::strtoull(text, nullptr, 10) : 20'000;
}

std::size_t random_size(std::mt19937_64& random) {
    switch (random() % 8) {
        case 0: return random() % 17;  // empty and almost
        case 1: return 65'507 - random() % 3;
        case 2: return random() % 65'508;
        case 3:
        case 4: return 1200;  // runs of one size
        default: return random() % 1500;
    }
}

// One client's share of the work: it sends a few datagrams, the backend sends each back, and all must come
// back in order and unchanged. UDP may lose some where a buffer is full, so only so many are on their way
// that none is; a loss then is a defect of the relay.
struct Echoed {
    std::uint64_t sent = 0;
    std::uint64_t returned = 0;
    std::string fault;
};

Echoed echo_client(std::uint32_t client, const std::string& target, std::uint64_t count, std::uint64_t seed,
                   const std::string& material) {
    std::mt19937_64 random(seed);
    DatagramSocket socket;
    socket.connect(target);
    Echoed result;
    std::uint32_t number = 0;
    while (result.sent < count) {
        std::vector<std::string> burst;
        std::size_t bytes = 0;
        const std::size_t burst_size = 1 + random() % 24;
        while (burst.size() < burst_size && bytes < 150'000) {
            burst.push_back(labelled(client, number++, random_size(random), material));
            bytes += burst.back().size() + 1000;
        }
        for (const std::string& datagram : burst) socket.send(datagram);
        result.sent += burst.size();
        for (const std::string& expected : burst) {
            const auto datagram = socket.receive();
            if (!datagram) {
                result.fault = "lost one of " + std::to_string(expected.size()) + " bytes";
                return result;
            }
            Label label{};
            if (datagram->bytes == expected) {
                ++result.returned;
                continue;
            }
            if (datagram->bytes.size() < sizeof(Label) || !intact(datagram->bytes, label))
                result.fault = "changed, merged or cut: " + std::to_string(datagram->bytes.size()) +
                               " bytes instead of " + std::to_string(expected.size());
            else if (label.client != client)
                result.fault = "another client's";
            else
                result.fault = "out of order: number " + std::to_string(label.number);
            return result;
        }
    }
    if (!socket.silent()) result.fault = "one too many";
    return result;
}

// Sends back what comes, to whom it came from, until told to stop.
class Echo {
  public:
    explicit Echo(const std::string& address = "127.0.0.1:0")
        : socket_(address, 64 << 20), address_(socket_.address()), thread_([this] { run(); }) {}
    ~Echo() {
        stop_ = true;
        thread_.join();
    }
    Echo(const Echo&) = delete;
    Echo& operator=(const Echo&) = delete;
    const std::string& address() const { return address_; }

  private:
    void run() {
        while (!stop_)
            if (const auto datagram = socket_.receive(Milliseconds(50)))
                socket_.try_send_to(datagram->sender, datagram->bytes);
    }
    DatagramSocket socket_;
    std::string address_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

ENGINE_TEST("datagrams of all sizes come back unchanged, unmerged, in order and to their own client") {
    const Echo backend;
    const std::string listen = on_free_port("127.0.0.1");
    RelayProcess relay = forward(here, udp(listen), {udp(backend.address())});
    constexpr std::uint32_t clients = 6;
    const std::string material = pattern(70'000, seed());
    std::vector<Echoed> results(clients);
    std::vector<std::thread> threads;
    for (std::uint32_t client = 0; client < clients; ++client)
        threads.emplace_back([&, client] {
            results[client] =
                echo_client(client, listen, datagrams_wanted() / clients, seed() + client, material);
        });
    for (std::thread& thread : threads) thread.join();
    std::uint64_t sent = 0;
    for (const Echoed& result : results) {
        CHECK_MESSAGE(result.fault.empty(), result.fault);
        CHECK(result.returned == result.sent);
        sent += result.sent;
    }
    stop_at_once(relay);
    const auto lines = relay.access_log();
    CHECK(lines.size() == clients);
    std::uint64_t logged = 0;
    for (const AccessLine& line : lines) {
        CHECK(line.path == "copy");
        CHECK(line.fields.at("why") == "datagrams");
        CHECK(line.fields.at("lost_datagrams") == "0");
        CHECK(line.fields.at("download_datagrams") == line.fields.at("upload_datagrams"));
        logged += std::stoull(line.fields.at("upload_datagrams"));
    }
    CHECK(logged == sent);
}

ENGINE_TEST("a burst of equal datagrams arrives whole, each by itself, in both directions") {
    DatagramSocket backend("127.0.0.1:0", 64 << 20);
    DatagramSocket client("127.0.0.1:0", 64 << 20);
    const std::string listen = on_free_port("127.0.0.1");
    RelayProcess relay = forward(here, udp(listen), {udp(backend.address())});
    std::string back;
    for (int round = 0; round < 20; ++round) {
        // The receive buffers that the relay gets without privileges hold as many.
        for (std::uint64_t number = 0; number < 100; ++number) client.send_to(listen, pattern(1200, number));
        for (std::uint64_t number = 0; number < 100; ++number) {
            const Datagram datagram = backend.expect();
            REQUIRE(datagram.bytes == pattern(1200, number));
            back = datagram.sender;
        }
        for (std::uint64_t number = 0; number < 100; ++number) backend.send_to(back, pattern(900, number));
        for (std::uint64_t number = 0; number < 100; ++number)
            REQUIRE(client.expect().bytes == pattern(900, number));
    }
    stop_at_once(relay);
}

// --- who gets what ---

void raise_descriptor_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

ENGINE_TEST("ten thousand clients at once, each gets its own replies, and all are gone after their timeout") {
    raise_descriptor_limit();
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const std::size_t clients = sanitized ? 1000 : 10'000;
    // A socket each here and in the relay, which keeps an eighth of its descriptors for those in passing.
    if (limit.rlim_cur < clients * 5 / 4 + 500)
        SLUICE_SKIP("the descriptor limit is " + std::to_string(limit.rlim_cur));
    constexpr std::size_t bytes_per_session_max = 1024;
    const Echo backend;
    const std::string listen = on_free_port("0.0.0.0");
    const std::string port = listen.substr(listen.rfind(':'));
    RelayOptions options;
    options.process.before_exec = raise_descriptor_limit;
    RelayProcess relay =
        RelayProcess::with_config("timeouts: {udp_idle: 8s}\nlisteners:\n  - {bind: \"" + udp(listen) +
                                      "\", to: \"" + udp(backend.address()) + "\"}\n",
                                  here.engine, std::move(options));
    const std::size_t descriptors_before = descriptors_open(relay.pid());
    {
        // What is set up once, for whichever session.
        DatagramSocket first;
        first.send_to("127.0.0.1" + port, "first");
        first.expect();
    }
    const Memory memory_before = memory_of(relay.pid());
    std::vector<std::unique_ptr<DatagramSocket>> sockets;
    for (std::size_t index = 0; index < clients; ++index)
        sockets.push_back(std::make_unique<DatagramSocket>(
            "127.2." + std::to_string(index / 250) + "." + std::to_string(index % 250 + 1) + ":0", 0));
    for (int round = 0; round < 2; ++round) {
        const auto question = [&](std::size_t index) {
            return "round " + std::to_string(round) + " of " + sockets[index]->address();
        };
        // A few at a time: the buffers in between are not meant to hold thousands.
        for (std::size_t first = 0; first < clients; first += 50) {
            const std::size_t last = std::min(first + 50, clients);
            for (std::size_t index = first; index < last; ++index)
                sockets[index]->send_to("127.0.0.1" + port, question(index));
            for (std::size_t index = first; index < last; ++index) {
                const Datagram answer = sockets[index]->expect();
                REQUIRE(answer.bytes == question(index));
                REQUIRE(answer.sender == "127.0.0.1" + port);
            }
        }
    }
    CHECK(descriptors_open(relay.pid()) >= descriptors_before + clients);
    const Memory memory_idle = memory_of(relay.pid());
    const std::size_t dirty =
        (memory_idle.private_dirty - std::min(memory_before.private_dirty, memory_idle.private_dirty)) /
        clients;
    std::printf("datagrams %s: %zu bytes of private memory per session\n", to_string(here.engine), dirty);
    if (!sanitized) CHECK(dirty <= bytes_per_session_max);
    for (auto& socket : sockets) REQUIRE(socket->silent(Milliseconds(0)));

    std::set<std::string> seen;
    for (const AccessLine& line : relay.access_log(clients + 1, Milliseconds(60'000))) {
        CHECK(line.end == "idle_timeout");
        if (line.fields.at("upload_datagrams") == "2") seen.insert(line.client);
    }
    CHECK(seen.size() == clients);
    CHECK(wait_until([&] { return descriptors_open(relay.pid()) == descriptors_before; }));
    relay.stop();
}

ENGINE_TEST("replies leave from the address that was reached, and two addresses are two sessions") {
    const Echo backend;
    const std::string port = ":" + std::to_string(free_udp_port());
    const bool v6 = ipv6_available();
    RelayProcess relay = forward(here, udp(v6 ? port : "0.0.0.0" + port), {udp(backend.address())});
    DatagramSocket client("0.0.0.0:0");
    for (const std::string host : {"127.0.0.1", "127.0.0.2", "127.77.0.9"}) {
        client.send_to(host + port, "to " + host);
        const Datagram answer = client.expect();
        CHECK(answer.bytes == "to " + host);
        CHECK(answer.sender == host + port);
        // Some programs insist on it.
        DatagramSocket strict;
        strict.connect(host + port);
        strict.send("strictly");
        CHECK(strict.expect().bytes == "strictly");
    }
    if (v6) {
        DatagramSocket six("[::1]:0");
        six.connect("[::1]" + port);
        six.send("six");
        CHECK(six.expect().bytes == "six");
    }
    stop_at_once(relay);
    std::map<std::string, int> reached;
    for (const AccessLine& line : relay.access_log()) ++reached[line.fields.at("reached")];
    std::map<std::string, int> expected;
    for (const std::string host : {"127.0.0.1", "127.0.0.2", "127.77.0.9"}) expected[host + port] = 2;
    if (v6) expected["[::1]" + port] = 1;
    CHECK(reached == expected);
}

ENGINE_TEST("empty datagrams are datagrams") {
    const Echo backend;
    const std::string listen = on_free_port("127.0.0.1");
    RelayProcess relay = forward(here, udp(listen), {udp(backend.address())});
    DatagramSocket client;
    client.connect(listen);
    for (const char* text : {"", "", "x", "", "xx", ""}) client.send(text);
    for (const char* text : {"", "", "x", "", "xx", ""}) CHECK(client.expect().bytes == text);
    CHECK(client.silent());
    stop_at_once(relay);
    CHECK(relay.access_log().back().fields.at("upload_datagrams") == "6");
    CHECK(relay.access_log().back().upload == 3);
}

// --- the start and the end ---

ENGINE_TEST("UDP and TCP are served on the same port number by one process") {
    const Echo datagrams;
    Listener streams;
    const std::string address = "127.0.0.1:" + std::to_string(free_port_of_both());
    RelayProcess relay = RelayProcess::with_config(
        "listeners:\n  - {name: d, bind: \"udp://" + address + "\", to: \"udp://" + datagrams.address() +
            "\"}\n  - {name: s, bind: \"" + address + "\", to: \"" + streams.address() + "\"}\n",
        here.engine);
    DatagramSocket client;
    client.connect(address);
    client.send("datagram");
    CHECK(client.expect().bytes == "datagram");
    Socket stream = connect_to(address);
    Socket upstream = streams.accept();
    stream.send_all("stream");
    CHECK(upstream.receive_exactly(6) == "stream");
    stream.shutdown_write();
    upstream.shutdown_write();
    CHECK(stream.receive_to_end().ending == Ending::fin);
    stop_at_once(relay);
    CHECK(relay.access_log().size() == 2);
}

ENGINE_TEST("a UDP port that somebody has is refused with the holder's name; a relay's own is, too") {
    const DatagramSocket other;
    RelayOptions options;
    options.wait_for_ready = false;
    RelayProcess refused = forward(here, udp(other.address()), {"udp://127.0.0.1:9"}, std::move(options));
    refused.expect_exit(1);
    CHECK(refused.log().contains("udp://" + other.address() + " is in use by pid " +
                                 std::to_string(::getpid())));

    const std::string listen = on_free_port("127.0.0.1");
    RelayProcess first = forward(here, udp(listen), {"udp://127.0.0.1:9"});
    RelayOptions again;
    again.wait_for_ready = false;
    RelayProcess second = forward(here, udp(listen), {"udp://127.0.0.1:9"}, std::move(again));
    second.expect_exit(1);
    CHECK(second.log().contains("in use by pid " + std::to_string(first.pid())));
    first.stop();
}

ENGINE_TEST("TERM ends a relay without sessions at once; with one, it is served until a second TERM") {
    const Echo backend;
    const std::string listen = on_free_port("127.0.0.1");
    {
        RelayProcess idle = forward(here, udp(listen), {udp(backend.address())});
        const auto start = TestClock::now();
        idle.stop();
        CHECK(TestClock::now() - start < Milliseconds(5000));
    }
    RelayProcess relay = forward(here, udp(listen), {udp(backend.address())});
    DatagramSocket client;
    client.connect(listen);
    client.send("before");
    CHECK(client.expect().bytes == "before");
    relay.process().signal(SIGTERM);
    REQUIRE(relay.process().wait_for_text("draining"));
    std::this_thread::sleep_for(glance);
    client.send("while draining");
    CHECK(client.expect().bytes == "while draining");
    relay.process().signal(SIGTERM);
    relay.expect_exit(0);
    CHECK(relay.access_log().back().end == "killed");
}

ENGINE_TEST("an idle relay with many datagram sessions does nothing at all") {
    const Echo backend;
    const std::string listen = on_free_port("127.0.0.1");
    RelayProcess relay = forward(here, udp(listen), {udp(backend.address())});
    std::vector<std::unique_ptr<DatagramSocket>> clients;
    for (int index = 0; index < 200; ++index) {
        clients.push_back(std::make_unique<DatagramSocket>());
        clients.back()->send_to(listen, "hello");
        CHECK(clients.back()->expect().bytes == "hello");
    }
    CHECK(cpu_share(relay.pid(), Milliseconds(500)) < 0.01);
    stop_at_once(relay);
}

// --- unix ---

void check_unix(RelayCase here, const std::string& listen, const std::string& target,
                const std::string& mine) {
    const std::uint64_t count = std::min<std::uint64_t>(datagrams_wanted() / 10, 20'000);
    DatagramSocket backend(target);
    RelayProcess relay = forward(here, listen, {target});
    DatagramSocket client(mine);
    std::mt19937_64 random(seed());
    std::vector<std::size_t> sizes;
    for (std::uint64_t number = 0; number < count; ++number)
        sizes.push_back(random() % 50 == 0 ? random() % 200'000 : random() % 3000);
    const std::string material = pattern(204'100, seed());
    const auto message = [&](std::uint64_t number) { return material.substr(number % 4096, sizes[number]); };

    // Nobody paces this: the queues are full all the time, and nothing may be lost or change places.
    std::string back;
    std::thread sender([&] {
        for (std::uint64_t number = 0; number < count; ++number) client.send_to(listen, message(number));
    });
    std::uint64_t wrong = 0;
    for (std::uint64_t number = 0; number < count; ++number) {
        const auto datagram = backend.receive();
        if (!datagram) break;
        if (datagram->bytes != message(number)) ++wrong;
        back = datagram->sender;
    }
    sender.join();
    CHECK(wrong == 0);
    CHECK(backend.silent());
    std::thread answerer([&] {
        for (std::uint64_t number = 0; number < count; ++number) backend.send_to(back, message(number));
    });
    std::uint64_t returned = 0;
    for (std::uint64_t number = 0; number < count; ++number) {
        const auto datagram = client.receive();
        if (!datagram) break;
        if (datagram->bytes == message(number) && datagram->sender == listen) ++returned;
    }
    answerer.join();
    CHECK(returned == count);
    CHECK(client.silent());
    stop_at_once(relay);
    const auto lines = relay.access_log();
    REQUIRE(lines.size() == 1);
    CHECK(lines.back().fields.at("lost_datagrams") == "0");
    CHECK(lines.back().fields.at("upload_datagrams") == std::to_string(count));
}

ENGINE_TEST("unix datagrams over paths: whole, in order, none lost, both ways") {
    const TemporaryFolder folder;
    const std::string base = "unix-dgram:" + folder.path().string();
    check_unix(here, base + "/listen", base + "/target", base + "/client");
    CHECK_FALSE(std::filesystem::exists(folder.path() / "listen"));
}

ENGINE_TEST("unix datagrams over abstract names: whole, in order, none lost, both ways") {
    const std::string tag = std::to_string(::getpid());
    check_unix(here, "unix-dgram:@sluice-sl-" + tag, "unix-dgram:@sluice-st-" + tag,
               "unix-dgram:@sluice-sc-" + tag);
}

ENGINE_TEST("a stale unix path is taken over, a living one is refused, and another file is left alone") {
    const TemporaryFolder folder;
    const std::string listen = "unix-dgram:" + (folder.path() / "listen").string();
    {
        const DatagramSocket stale(listen);
    }
    {
        RelayProcess relay = forward(here, listen, {"udp://127.0.0.1:9"});
        RelayOptions options;
        options.wait_for_ready = false;
        RelayProcess second = forward(here, listen, {"udp://127.0.0.1:9"}, std::move(options));
        second.expect_exit(1);
        CHECK(second.log().contains("is in use by pid " + std::to_string(relay.pid())));
        relay.stop();
    }
    CHECK_FALSE(std::filesystem::exists(folder.path() / "listen"));
    folder.write("listen", "somebody's file");
    RelayOptions options;
    options.wait_for_ready = false;
    RelayProcess refused = forward(here, listen, {"udp://127.0.0.1:9"}, std::move(options));
    refused.expect_exit(1);
    CHECK(std::filesystem::is_regular_file(folder.path() / "listen"));
}

ENGINE_TEST("descriptors that a unix client sends along are not kept") {
    const TemporaryFolder folder;
    DatagramSocket backend("unix-dgram:" + folder.file("back"));
    RelayProcess relay =
        RelayProcess::forward("unix-dgram:" + folder.file("front"), {backend.address()}, here.engine);
    DatagramSocket client("unix-dgram:" + folder.file("client"));
    client.connect("unix-dgram:" + folder.file("front"));
    client.send("first");
    CHECK(backend.expect().bytes == "first");
    const std::size_t before = descriptors_open(relay.pid());
    for (int round = 0; round < 20; ++round) {
        const std::array<int, 2> gifts = {client.descriptor(), backend.descriptor()};
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(gifts))> control{};
        char byte = 'x';
        iovec vector{.iov_base = &byte, .iov_len = 1};
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(gifts));
        std::memcpy(CMSG_DATA(header), gifts.data(), sizeof(gifts));
        REQUIRE(::sendmsg(client.descriptor(), &message, 0) == 1);
        CHECK(backend.expect().bytes == "x");
    }
    CHECK(descriptors_open(relay.pid()) == before);
    stop_at_once(relay);
}

ENGINE_TEST("a client whose path fills its address is answered") {
    const TemporaryFolder folder;
    DatagramSocket backend("unix-dgram:" + folder.file("back"));
    RelayProcess relay =
        RelayProcess::forward("unix-dgram:" + folder.file("front"), {backend.address()}, here.engine);
    // 108 bytes and no zero behind them: the kernel reports it longer than it is (unix(7), BUGS).
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const std::string begin = folder.file("c");
    REQUIRE(begin.size() < sizeof(name.sun_path));
    std::memset(name.sun_path, 'x', sizeof(name.sun_path));
    std::memcpy(name.sun_path, begin.data(), begin.size());
    const Socket client(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(client.descriptor(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0);
    sockaddr_un front{};
    front.sun_family = AF_UNIX;
    std::memcpy(front.sun_path, folder.file("front").c_str(), folder.file("front").size() + 1);
    REQUIRE(::sendto(client.descriptor(), "hello", 5, 0, reinterpret_cast<const sockaddr*>(&front),
                     sizeof(front)) == 5);
    const Datagram question = backend.expect();
    CHECK(question.bytes == "hello");
    backend.send_to(question.sender, "answer");
    pollfd entry{client.descriptor(), POLLIN, 0};
    CHECK(::poll(&entry, 1, static_cast<int>(patience.count())) == 1);
    stop_at_once(relay);
}

ENGINE_TEST("the ports of a range share their limit, and none of them starves") {
    DatagramSocket backend;
    std::uint16_t first = 0;
    while (first == 0 || first > 60'000) first = free_udp_port();
    const std::string range = std::to_string(first) + "-" + std::to_string(first + 1);
    RelayProcess relay = RelayProcess::with_config(
        "workers: 1\nlisteners:\n  - {name: front, bind: \"udp://127.0.0.1:" + range + "\", to: \"" +
            "udp://" + backend.address() + "\", sessions_max: 5}\n",
        here.engine);
    for (int port = 0; port < 2; ++port) {
        std::vector<DatagramSocket> clients(8);
        for (DatagramSocket& client : clients) {
            client.send_to("127.0.0.1:" + std::to_string(first + port), "hello");
            CHECK(backend.expect().bytes == "hello");
        }
    }
    stop_at_once(relay);
    std::map<std::string, int> reached;
    for (const AccessLine& line : relay.access_log()) ++reached[line.fields.at("reached")];
    CHECK(reached == std::map<std::string, int>{{"127.0.0.1:" + std::to_string(first), 8},
                                                {"127.0.0.1:" + std::to_string(first + 1), 8}});
}

}  // namespace
}  // namespace sluice::test
