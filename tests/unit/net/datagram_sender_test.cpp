#include "sluice/net/datagram_sender.hpp"

#include "sluice/net/address.hpp"
#include "sluice/net/datagram_socket.hpp"

#include "tests/support/datagrams.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/sockets.hpp"

#include <memory>
#include <random>
#include <string>
#include <vector>

namespace sluice {
namespace {

using WhenFull = DatagramSender::WhenFull;

struct Sending {
    explicit Sending(const SocketAddress& target)
        : socket(std::move(open_datagram_upstream(target, {}).value())) {}

    // `segment` 0: the message is one datagram.
    void add(const std::string& bytes, std::uint32_t segment = 0) {
        texts.push_back(std::make_unique<std::string>(bytes));
        DatagramMessage message;
        message.bytes = std::as_bytes(std::span(*texts.back()));
        message.segment = segment == 0 ? static_cast<std::uint32_t>(bytes.size()) : segment;
        messages.push_back(message);
    }

    DatagramSender::Outcome send(WhenFull when_full = WhenFull::lose) {
        return sender.send(socket.get(), messages, {}, when_full, segment_max);
    }

    OwnedFd socket;
    DatagramSender sender;
    std::uint16_t segment_max = DatagramSender::segment_unlimited;
    std::vector<std::unique_ptr<std::string>> texts;
    std::vector<DatagramMessage> messages;
};

TEST_CASE("sixty-four datagrams of one size are one system call, and arrive as sixty-four") {
    test::DatagramSocket target;
    Sending sending(local_address_of(target.descriptor()));
    for (std::uint64_t index = 0; index < 64; ++index) sending.add(test::pattern(1000, index));
    const auto outcome = sending.send();
    CHECK(outcome.sent == 64);
    CHECK(outcome.sent_bytes == 64'000);
    CHECK(outcome.calls == 1);
    CHECK(outcome.messages_done == 64);
    for (std::uint64_t index = 0; index < 64; ++index)
        CHECK(target.expect().bytes == test::pattern(1000, index));
    CHECK(target.silent());
}

// With and without the kernel's help: in sizes that repeat often enough for runs, the last of a run shorter.
void check_any_sizes(std::uint16_t segment_max) {
    std::mt19937_64 random = test::generator("datagram sender, any sizes");
    const std::vector<std::size_t> sizes = {0,   0,  1,    7,    7,    7,    100,    100,
                                            100, 99, 1200, 1200, 1200, 9000, 40'000, 65'507};
    for (int round = 0; round < 60; ++round) {
        test::DatagramSocket target("127.0.0.1:0", 64 << 20);
        Sending sending(local_address_of(target.descriptor()));
        sending.segment_max = segment_max;
        std::vector<std::string> expected;
        const std::size_t count = 1 + random() % DatagramBatch::messages_max;
        std::size_t size = 0;
        for (std::size_t index = 0; index < count; ++index) {
            if (random() % 3 == 0) size = sizes[random() % sizes.size()];
            if (size > 0 && size <= 1200 && random() % 4 == 0) {
                // As UDP_GRO gives them: several behind each other.
                const std::size_t total = 1 + random() % std::min<std::size_t>(size * 64, 65'000);
                const std::string bytes = test::pattern(total, random());
                for (std::size_t at = 0; at < total; at += size) expected.push_back(bytes.substr(at, size));
                sending.add(bytes, static_cast<std::uint32_t>(std::min(size, total)));
            } else {
                expected.push_back(test::pattern(size, random()));
                sending.add(expected.back());
            }
        }
        const auto outcome = sending.send();
        CHECK(outcome.sent == expected.size());
        CHECK(outcome.lost == 0);
        for (std::size_t index = 0; index < expected.size(); ++index) {
            const auto datagram = target.receive();
            REQUIRE(datagram);
            REQUIRE(datagram->bytes == expected[index]);
        }
        REQUIRE(target.silent(test::Milliseconds(0)));
    }
}

TEST_CASE("datagrams of any sizes arrive as they were, in their order") {
    check_any_sizes(DatagramSender::segment_unlimited);
}

TEST_CASE("datagrams of any sizes arrive as they were where the kernel cuts up nothing") {
    check_any_sizes(0);
}

TEST_CASE("a kernel that refuses to cut up a run is asked once, and the datagrams go singly") {
    test::DatagramSocket target;
    Sending sending(local_address_of(target.descriptor()));
    // Without checksums there is no segmentation (udp_send_skb: EIO).
    const int on = 1;
    REQUIRE(::setsockopt(sending.socket.get(), SOL_SOCKET, SO_NO_CHECK, &on, sizeof(on)) == 0);
    for (std::uint64_t index = 0; index < 10; ++index) sending.add(test::pattern(500, index));
    auto outcome = sending.send();
    CHECK(outcome.sent == 10);
    CHECK(outcome.lost == 0);
    CHECK(outcome.calls == 2);
    CHECK(sending.segment_max < 500);
    for (std::uint64_t index = 0; index < 10; ++index)
        CHECK(target.expect().bytes == test::pattern(500, index));
    CHECK(sending.send().calls == 1);
}

TEST_CASE("a datagram that is too long is lost alone, and counted") {
    test::DatagramSocket target;
    Sending sending(local_address_of(target.descriptor()));
    sending.add("before");
    sending.add(test::pattern(65'508, 1));
    sending.add("after");
    const auto outcome = sending.send();
    CHECK(outcome.sent == 2);
    CHECK(outcome.lost == 1);
    CHECK(outcome.oversized == 1);
    CHECK(target.expect().bytes == "before");
    CHECK(target.expect().bytes == "after");
    CHECK(target.silent());
}

TEST_CASE("an error about an earlier datagram is consumed, and does not eat the next one") {
    auto target = std::make_unique<test::DatagramSocket>();
    const std::string address = target->address();
    Sending sending(local_address_of(target->descriptor()));
    target.reset();
    sending.add("nobody is there");
    auto outcome = sending.send();
    CHECK(outcome.sent == 1);
    test::DatagramSocket again(address);
    outcome = sending.send();  // the error waits for this one
    CHECK(outcome.refused == 1);
    CHECK(outcome.error == ECONNREFUSED);
    CHECK(outcome.sent == 1);
    CHECK(outcome.lost == 0);
    CHECK(again.expect().bytes == "nobody is there");
}

TEST_CASE("a reply leaves from the address that it is told") {
    test::DatagramSocket client;
    auto listener = open_datagram_listener(*SocketAddress::from_literal("0.0.0.0", 0), {});
    REQUIRE(listener);
    const SocketAddress to = local_address_of(client.descriptor());
    DatagramTarget target{to.get(), to.length(), {}};
    target.from.host.s6_addr[10] = target.from.host.s6_addr[11] = 0xff;
    target.from.host.s6_addr[12] = 127;
    target.from.host.s6_addr[15] = 77;
    DatagramSender sender;
    std::uint16_t segment_max = DatagramSender::segment_unlimited;
    const std::string text = "ab";
    const DatagramMessage message{.bytes = std::as_bytes(std::span(text)),
                                  .segment = 1,
                                  .truncated = false,
                                  .sender = {},
                                  .reached = {}};
    CHECK(sender.send(listener->get(), {&message, 1}, target, WhenFull::lose, segment_max).sent == 2);
    for (const char* expected : {"a", "b"}) {
        const test::Datagram datagram = client.expect();
        CHECK(datagram.bytes == expected);
        CHECK(datagram.sender.starts_with("127.0.0.77:"));
    }
}

TEST_CASE("a target that must wait stops the sender in front of what it could not take") {
    const test::TemporaryFolder folder;
    test::DatagramSocket target("unix-dgram:" + folder.path().string() + "/target");
    Sending sending(SocketAddress::from_unix_path(folder.path().string() + "/target"));
    sending.segment_max = 0;
    sending.add("x");
    std::size_t taken = 0;
    while (sending.send(WhenFull::stop).messages_done == 1) REQUIRE(++taken < 100'000);
    const auto lost = sending.send(WhenFull::lose);
    CHECK(lost.lost == 1);
    CHECK(lost.messages_done == 1);
    for (std::size_t index = 0; index < taken; ++index) target.expect();
    CHECK(target.silent());
    CHECK(sending.send(WhenFull::stop).messages_done == 1);
}

}  // namespace
}  // namespace sluice
