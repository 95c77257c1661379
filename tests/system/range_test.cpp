// Ranges of ports: each port of a listener's range to the same one of the backend's range, or all to one
// port.

#include "tests/support/datagrams.hpp"
#include "tests/system/ends.hpp"

#include <string>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::uint16_t range_size = 20;

// The first of so many neighbouring ports that were free a moment ago.
std::uint16_t free_range() {
    for (int attempt = 0; attempt < 100; ++attempt) {
        const std::uint16_t first = free_port();
        if (first > 60'000) continue;
        try {
            std::vector<Listener> all;
            for (std::uint16_t offset = 0; offset < range_size; ++offset)
                all.emplace_back("127.0.0.1:" + std::to_string(first + offset));
            return first;
        } catch (const std::runtime_error&) {
            continue;
        }
    }
    throw std::runtime_error("free_range: no range is free");
}

std::string range_at(std::uint16_t first) {
    return "127.0.0.1:" + std::to_string(first) + "-" + std::to_string(first + range_size - 1);
}

ENGINE_TEST("each port of a range leads to the same place in the backend's range") {
    const std::uint16_t back = free_range();
    std::vector<Listener> backends;
    for (std::uint16_t offset = 0; offset < range_size; ++offset)
        backends.emplace_back("127.0.0.1:" + std::to_string(back + offset));
    const std::uint16_t front = free_range();
    RelayProcess relay = RelayProcess::forward(range_at(front), {range_at(back)}, here.engine);
    for (std::uint16_t offset = 0; offset < range_size; ++offset) {
        Socket client = connect_to("127.0.0.1:" + std::to_string(front + offset));
        Socket upstream = backends[offset].accept();
        CHECK(pass(client, upstream, "to port " + std::to_string(offset)) ==
              "to port " + std::to_string(offset));
        client.close();
        upstream.close();
    }
    relay.stop();
}

ENGINE_TEST("a range may lead to one port") {
    Listener backend;
    const std::uint16_t front = free_range();
    RelayProcess relay = RelayProcess::forward(range_at(front), {backend.address()}, here.engine);
    for (std::uint16_t offset = 0; offset < range_size; ++offset) {
        Socket client = connect_to("127.0.0.1:" + std::to_string(front + offset));
        Socket upstream = backend.accept();
        CHECK(pass(upstream, client, "served") == "served");
    }
    relay.stop();
}

ENGINE_TEST("a range of UDP ports leads to the same places, and answers come from where they were asked") {
    const std::uint16_t back = free_range();
    std::vector<DatagramSocket> backends;
    for (std::uint16_t offset = 0; offset < range_size; ++offset)
        backends.emplace_back("127.0.0.1:" + std::to_string(back + offset));
    const std::uint16_t front = free_range();
    RelayProcess relay =
        RelayProcess::forward("udp://" + range_at(front), {"udp://" + range_at(back)}, here.engine);
    DatagramSocket client;
    for (std::uint16_t offset = 0; offset < range_size; ++offset) {
        const std::string address = "127.0.0.1:" + std::to_string(front + offset);
        client.send_to(address, "question");
        const Datagram question = backends[offset].expect();
        CHECK(question.bytes == "question");
        backends[offset].send_to(question.sender, "answer");
        CHECK(client.expect().sender == address);
    }
    relay.stop();
}

ENGINE_TEST("a port of a range that is in use is named") {
    const std::uint16_t front = free_range();
    const Listener holder("127.0.0.1:" + std::to_string(front + 7));
    RelayOptions options;
    options.wait_for_ready = false;
    RelayProcess relay = RelayProcess::forward(range_at(front), {"127.0.0.1:1"}, here.engine, options);
    relay.expect_exit(1);
    CHECK(relay.log().find("127.0.0.1:" + std::to_string(front + 7) + " is in use") != std::string::npos);
}

}  // namespace
}  // namespace sluice::test
