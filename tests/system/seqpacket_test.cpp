// Sequenced packets: messages with their boundaries, both ways, with ends like a stream's.

#include "tests/system/ends.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {
namespace {

void send_message(Socket& socket, std::string_view message) {
    const auto end = TestClock::now() + patience;
    while (::send(socket.descriptor(), message.data(), message.size(), MSG_NOSIGNAL) < 0) {
        if (errno != EAGAIN || TestClock::now() > end) throw std::runtime_error("send of a message failed");
        pollfd entry{socket.descriptor(), POLLOUT, 0};
        ::poll(&entry, 1, 100);
    }
}

// The next message, which may be empty; nothing at the end. Needs SO_TIMESTAMP to tell the two apart.
std::optional<std::string> receive_message(Socket& socket) {
    const int on = 1;
    ::setsockopt(socket.descriptor(), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on));
    REQUIRE(readable(socket));
    std::string message(512 * 1024, '\0');
    std::array<char, 128> control{};
    iovec vector{message.data(), message.size()};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t size = ::recvmsg(socket.descriptor(), &header, MSG_DONTWAIT);
    REQUIRE(size >= 0);
    if (size == 0 && header.msg_controllen == 0) return std::nullopt;
    message.resize(static_cast<std::size_t>(size));
    return message;
}

// Before the first empty message: an end without a time would look like one, so the option must be on in
// time.
Ends timed_session(RelayWithBackend& relay) {
    Ends ends = relay.session();
    const int on = 1;
    for (Socket* socket : {&ends.near, &ends.far})
        REQUIRE(::setsockopt(socket->descriptor(), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)) == 0);
    return ends;
}

RelayLayout seqpacket_layout(const TemporaryFolder& folder, bool abstract) {
    RelayLayout layout;
    const std::string name = "@sluice-seqpacket-" + std::to_string(::getpid());
    layout.listen = "unix-seqpacket:" + (abstract ? name + "-front" : folder.file("front"));
    layout.backend = "unix-seqpacket:" + (abstract ? name + "-back" : folder.file("back"));
    return layout;
}

RELAY_TEST("sequenced packets keep their boundaries, also empty ones, and end with a half-close each way") {
    for (const bool abstract : {false, true}) {
        CAPTURE(abstract);
        const TemporaryFolder folder;
        RelayWithBackend relay(here, seqpacket_layout(folder, abstract));
        Ends ends = timed_session(relay);
        const std::vector<std::string> messages = {
            "one", "", "two", std::string(1, '\0'), pattern(200'000, 3), "", "x"};
        std::size_t bytes = 0;
        for (const std::string& message : messages) {
            send_message(ends.near, message);
            bytes += message.size();
        }
        ends.near.shutdown_write();
        for (const std::string& message : messages) CHECK((receive_message(ends.far) == message));
        CHECK_FALSE(receive_message(ends.far).has_value());
        // The other direction stays open.
        for (const std::string& message : messages) send_message(ends.far, message);
        ends.far.close();
        for (const std::string& message : messages) CHECK((receive_message(ends.near) == message));
        CHECK_FALSE(receive_message(ends.near).has_value());
        const AccessLine line = relay.access_log(1).back();
        CHECK(line.end == relay.near_end("fin"));
        CHECK(line.path == "copy");
        CHECK(line.fields.at("why") == "messages");
        CHECK(relay.near_to_far(line) == bytes);
        CHECK(relay.far_to_near(line) == bytes);
        relay.stop();
        if (!abstract) CHECK_FALSE(std::filesystem::exists(folder.file("front")));
    }
}

RELAY_TEST("sequenced packets of random sizes arrive whole and in order past a slow reader") {
    const TemporaryFolder folder;
    RelayWithBackend relay(here, seqpacket_layout(folder, false));
    Ends ends = timed_session(relay);
    constexpr std::size_t count = 3'000;
    const auto message_of = [](std::size_t number) {
        std::mt19937_64 random(number * 7919 + 17);
        return pattern(random() % (number % 50 == 0 ? 150'000 : 2'000), number);
    };
    std::thread sender([&] {
        try {
            for (std::size_t number = 0; number < count; ++number)
                send_message(ends.near, message_of(number));
            ends.near.shutdown_write();
        } catch (const std::runtime_error& error) {
            FAIL_CHECK(error.what());
        }
    });
    std::size_t wrong = 0;
    for (std::size_t number = 0; number < count; ++number) {
        if (number % 500 == 0) std::this_thread::sleep_for(glance);
        if (receive_message(ends.far) != message_of(number)) ++wrong;
    }
    sender.join();
    CHECK(wrong == 0);
    CHECK_FALSE(receive_message(ends.far).has_value());
    relay.relay().abandon();
}

RELAY_TEST("a message that is too long ends its session as oversized, and is not cut") {
    const TemporaryFolder folder;
    RelayWithBackend relay(here, seqpacket_layout(folder, false));
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    Ends ends = timed_session(relay);
    ends.near.set_buffers({.receive = 0, .send = 1024 * 1024});
    const std::string big = pattern(400'000, 4);
    if (::send(ends.near.descriptor(), big.data(), big.size(), MSG_NOSIGNAL) < 0)
        SLUICE_SKIP("net.core.wmem_max does not allow a message of 400,000 bytes");
    CHECK_FALSE(receive_message(ends.far).has_value());
    CHECK(relay.access_log(1).back().end == "oversized");
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

RELAY_TEST("messages that came before a peer closed with something unread all arrive") {
    const TemporaryFolder folder;
    RelayWithBackend relay(here, seqpacket_layout(folder, false));
    constexpr std::size_t sessions = 40;
    for (std::size_t session = 0; session < sessions; ++session) {
        Ends ends = timed_session(relay);
        send_message(ends.far, "never read");
        REQUIRE(readable(ends.near));
        constexpr int count = 20;
        for (int number = 0; number < count; ++number) send_message(ends.near, std::to_string(number));
        ends.near.close();
        int arrived = 0;
        while (const auto message = receive_message(ends.far)) CHECK(*message == std::to_string(arrived++));
        CHECK(arrived == count);
    }
    for (const AccessLine& line : relay.access_log(sessions)) CHECK(line.end == relay.near_end("reset"));
    relay.stop();
}

ENGINE_TEST("a session of empty messages is not idle") {
    const TemporaryFolder folder;
    RelayLayout layout = seqpacket_layout(folder, false);
    layout.settings = "timeouts: {idle: 1s}\n";
    RelayWithBackend relay(here, layout);
    Ends ends = timed_session(relay);
    for (int round = 0; round < 20; ++round) {
        send_message(ends.near, "");
        CHECK(receive_message(ends.far) == "");
        std::this_thread::sleep_for(glance);
    }
    ends.near.close();
    ends.far.close();
    CHECK(relay.access_log(1).back().end == "client_fin");
    relay.stop();
}

}  // namespace
}  // namespace sluice::test
