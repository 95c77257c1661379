#include "sluice/datagram/index.hpp"

#include "sluice/base/slab.hpp"

#include "tests/support/doctest.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace sluice {
namespace {

// Clients by number, and what a session needs to exist.
struct World {
    explicit World(std::uint32_t sessions_max) : slab(sessions_max), index(sessions_max) {
        listeners[1].index = 1;
    }
    ~World() {
        slab.for_each([&](DatagramSession& session) { slab.retire(session.name); });
    }

    static SocketAddress address(std::uint32_t client) {
        sockaddr_in v4{};
        v4.sin_family = AF_INET;
        v4.sin_port = htons(static_cast<std::uint16_t>(client & 0xff));
        v4.sin_addr.s_addr = htonl(0x7f000000U + (client >> 8));
        return SocketAddress::from(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
    }
    static DatagramKey key(const SocketAddress& client, std::uint32_t listener, std::uint8_t reached) {
        DatagramKey result{listener, {reinterpret_cast<const std::byte*>(client.get()), client.length()}, {}};
        result.reached.host.s6_addr[15] = reached;
        return result;
    }

    DatagramSession* find(std::uint32_t client, std::uint32_t listener = 0, std::uint8_t reached = 1) {
        const SocketAddress name = address(client);
        const DatagramKey wanted = key(name, listener, reached);
        return index.find(wanted, index.hash(wanted));
    }
    DatagramSession& add(std::uint32_t client, std::uint32_t listener = 0, std::uint8_t reached = 1) {
        DatagramSession* session =
            slab.take(listeners[listener], Seat(seats, UINT32_MAX, seats, UINT32_MAX), Time());
        REQUIRE(session != nullptr);
        session->client = address(client);
        session->reached.host.s6_addr[15] = reached;
        session->hash = index.hash(key(session->client, listener, reached));
        index.insert(*session);
        return *session;
    }

    Seat::Count seats{0};
    DatagramListener listeners[2];
    Slab<DatagramSession> slab;
    DatagramIndex index;
};

TEST_CASE("a session is found by client, listener and reached address, and by nothing less") {
    World world(16);
    const DatagramSession& one = world.add(1, 0, 1);
    CHECK(world.find(1, 0, 1) == &one);
    CHECK(world.find(2, 0, 1) == nullptr);
    CHECK(world.find(1, 1, 1) == nullptr);
    CHECK(world.find(1, 0, 2) == nullptr);
    const DatagramSession& other_listener = world.add(1, 1, 1);
    const DatagramSession& other_address = world.add(1, 0, 2);
    CHECK(world.find(1, 0, 1) == &one);
    CHECK(world.find(1, 1, 1) == &other_listener);
    CHECK(world.find(1, 0, 2) == &other_address);
}

TEST_CASE("the index agrees with a map, whatever comes and goes, and also when it is full") {
    std::mt19937_64 random = test::generator("datagram index");
    constexpr std::uint32_t sessions_max = 3000;
    World world(sessions_max);
    std::map<std::uint32_t, DatagramSession*> model;
    for (int step = 0; step < 60'000; ++step) {
        // Grows, then shrinks, then grows again.
        const bool growing = step / 15'000 % 2 == 0;
        const auto client = static_cast<std::uint32_t>(random() % 5000);
        const auto found = model.find(client);
        REQUIRE(world.find(client) == (found == model.end() ? nullptr : found->second));
        if (found == model.end() && model.size() < sessions_max && random() % 10 < (growing ? 9 : 2)) {
            model[client] = &world.add(client);
        } else if (found != model.end() && random() % 10 < (growing ? 1 : 8)) {
            world.index.erase(*found->second);
            world.slab.retire(found->second->name);
            model.erase(found);
        }
        REQUIRE(world.index.size() == model.size());
    }
    for (std::uint32_t client = 0; client < 5000; ++client)
        CHECK((world.find(client) != nullptr) == model.contains(client));
}

TEST_CASE("the hash spreads clients that differ in little") {
    World world(1 << 16);
    std::vector<std::uint32_t> counts(1024);
    for (std::uint32_t client = 0; client < 65'536; ++client) {
        const SocketAddress name = World::address(client);
        ++counts[world.index.hash(World::key(name, 0, 1)) % counts.size()];
    }
    // 64 each are expected, give or take 8: ten of these would be an accident indeed.
    for (const std::uint32_t count : counts) CHECK(count < 64 + 80);
    World other(16);
    const SocketAddress name = World::address(1);
    CHECK(world.index.hash(World::key(name, 0, 1)) != other.index.hash(World::key(name, 0, 1)));
}

}  // namespace
}  // namespace sluice
