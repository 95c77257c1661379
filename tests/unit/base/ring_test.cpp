#include "sluice/base/ring.hpp"

#include "tests/support/doctest.hpp"

#include <thread>

namespace sluice {
namespace {

TEST_CASE("items leave a ring in the order in which they came") {
    Ring<int> ring(4);
    int item = 0;
    CHECK(!ring.pop(item));
    for (int round = 0; round < 10; ++round) {
        CHECK(ring.push(2 * round));
        CHECK(ring.push(2 * round + 1));
        REQUIRE(ring.pop(item));
        CHECK(item == 2 * round);
        REQUIRE(ring.pop(item));
        CHECK(item == 2 * round + 1);
    }
    CHECK(!ring.pop(item));
    CHECK(ring.lost() == 0);
}

TEST_CASE("a full ring refuses, counts the loss and keeps what it has") {
    Ring<int> ring(3);  // rounded up to 4
    for (int item = 0; item < 4; ++item) CHECK(ring.push(item));
    CHECK(!ring.push(4));
    CHECK(!ring.push(5));
    CHECK(ring.lost() == 2);
    int item = -1;
    REQUIRE(ring.pop(item));
    CHECK(item == 0);
    CHECK(ring.push(6));
    for (const int expected : {1, 2, 3, 6}) {
        REQUIRE(ring.pop(item));
        CHECK(item == expected);
    }
    CHECK(!ring.pop(item));
    CHECK(ring.lost() == 2);
}

TEST_CASE("between two threads every item arrives once and in order, or is counted as lost") {
    struct Item {
        std::uint64_t number;
        std::uint64_t check;
    };
    constexpr std::uint64_t items = 200'000;
    Ring<Item> ring(64);
    std::atomic<bool> finished = false;
    std::thread sender([&] {
        for (std::uint64_t number = 1; number <= items; ++number) ring.push({number, ~number});
        finished = true;
    });
    std::uint64_t arrived = 0;
    std::uint64_t last = 0;
    bool in_order = true;
    bool whole = true;
    for (bool end = false; !end;) {
        end = finished;  // before the ring is looked at: what was pushed until then is seen below
        for (Item item{}; ring.pop(item);) {
            ++arrived;
            in_order &= item.number > last;
            whole &= item.check == ~item.number;
            last = item.number;
        }
    }
    sender.join();
    CHECK(in_order);
    CHECK(whole);
    CHECK(arrived + ring.lost() == items);
    CHECK(arrived > 0);
}

}  // namespace
}  // namespace sluice
