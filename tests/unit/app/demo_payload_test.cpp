#include "sluice/app/demo_payload.hpp"

#include "sluice/app/demo_backend.hpp"
#include "sluice/net/socket.hpp"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <thread>

namespace sluice {
namespace {

struct Client {
    OwnedFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    explicit Client(std::uint16_t port) {
        const auto address = SocketAddress::from_literal("127.0.0.1", port);
        REQUIRE(::connect(socket.get(), address->get(), address->length()) == 0);
        set_demo_patience(socket.get());
    }
};

TEST_CASE("a stream from the source arrives intact, and its count agrees") {
    const auto payload = DemoPayload::make().value();
    std::uint64_t received = 0;
    auto backend = DemoBackend::start(payload).value();
    {
        const Client client(backend->source_port());
        DemoReader reader(payload);
        while (reader.position() < (std::uint64_t{40} << 20))
            REQUIRE(reader.receive(client.socket.get()) > 0);
        ::shutdown(client.socket.get(), SHUT_WR);
        ssize_t last = 0;
        while ((last = reader.receive(client.socket.get())) > 0) {
        }
        CHECK(last == 0);
        CHECK(reader.intact());
        received = reader.position();
    }
    while (backend->sent() == 0) std::this_thread::yield();
    CHECK(backend->sent() == received);
}

TEST_CASE("a byte that was changed on the way is noticed") {
    const auto payload = DemoPayload::make().value();
    auto backend = DemoBackend::start(payload).value();
    {
        const Client client(backend->sink_port());
        std::vector<std::uint8_t> bytes(payload.bytes().begin(), payload.bytes().begin() + 1000);
        bytes[500] ^= 1;
        REQUIRE(::send(client.socket.get(), bytes.data(), bytes.size(), 0) == 1000);
        ::shutdown(client.socket.get(), SHUT_WR);
        std::uint64_t arrived = 0;
        REQUIRE(receive_exactly(client.socket.get(), &arrived, sizeof(arrived)));
        CHECK(arrived == 1000);
    }
    CHECK_FALSE(backend->intact());
}

}  // namespace
}  // namespace sluice
