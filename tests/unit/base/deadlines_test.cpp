#include "sluice/base/deadlines.hpp"

#include "tests/support/doctest.hpp"

#include <array>
#include <map>
#include <random>
#include <vector>

namespace sluice {
namespace {

struct IdleTag {};

struct Thing : DeadlineNode<IdleTag> {};

using Things = Deadlines<Thing, IdleTag>;

constexpr Time start_of_time{};

Time at(Nanoseconds since) {
    return start_of_time + since;
}

constexpr auto second = std::chrono::seconds(1);

TEST_CASE("a deadline passes no earlier than asked and at most 1/128 later") {
    Things deadlines;
    Thing thing;
    deadlines.start(thing, deadlines.class_of(128 * second), at(10 * second));
    CHECK(deadlines.expired(at(138 * second) - Nanoseconds(1)) == nullptr);
    CHECK(deadlines.next() >= at(138 * second));
    CHECK(deadlines.next() <= at(139 * second));
    CHECK(deadlines.expired(at(139 * second)) == &thing);
}

TEST_CASE("what has expired is taken out and told once") {
    Things deadlines;
    Thing thing;
    deadlines.start(thing, deadlines.class_of(second), at(Nanoseconds(0)));
    CHECK(deadlines.expired(at(5 * second)) == &thing);
    CHECK(deadlines.expired(at(5 * second)) == nullptr);
    CHECK(!thing.linked());
    CHECK(deadlines.next() == time_never);
}

TEST_CASE("a duration of 0 never passes, however often it is touched") {
    Things deadlines;
    Thing thing;
    deadlines.start(thing, deadlines.class_of(Nanoseconds(0)), at(second));
    deadlines.touch(thing, at(2 * second));
    CHECK(deadlines.next() == time_never);
    CHECK(deadlines.expired(time_never) == nullptr);
}

TEST_CASE("a touch puts the deadline off; many touches in a short time, too") {
    Things deadlines;
    Thing thing;
    const auto minute = deadlines.class_of(60 * second);
    deadlines.start(thing, minute, at(Nanoseconds(0)));
    // Each touch alone is too close to the one before it to be worth a move.
    for (auto now = Nanoseconds(0); now <= 50 * second; now += Milliseconds(100))
        deadlines.touch(thing, at(now));
    CHECK(deadlines.expired(at(110 * second) - Nanoseconds(1)) == nullptr);
    CHECK(deadlines.expired(at(111 * second)) == &thing);
}

TEST_CASE("the first of a class passes first, and a touched one gets behind the others") {
    Things deadlines;
    std::array<Thing, 3> things;
    const auto ten = deadlines.class_of(10 * second);
    for (std::size_t index = 0; index < things.size(); ++index)
        deadlines.start(things[index], ten, at(static_cast<int>(index) * second));
    deadlines.touch(things[0], at(3 * second));
    CHECK(deadlines.expired(at(30 * second)) == &things[1]);
    CHECK(deadlines.expired(at(30 * second)) == &things[2]);
    CHECK(deadlines.expired(at(30 * second)) == &things[0]);
    CHECK(deadlines.expired(at(30 * second)) == nullptr);
}

TEST_CASE("an object that starts anew in another class leaves the first one") {
    Things deadlines;
    Thing thing;
    deadlines.start(thing, deadlines.class_of(second), at(Nanoseconds(0)));
    deadlines.start(thing, deadlines.class_of(100 * second), at(Nanoseconds(0)));
    CHECK(deadlines.expired(at(50 * second)) == nullptr);
    CHECK(deadlines.expired(at(101 * second)) == &thing);
}

TEST_CASE("a stopped deadline does not pass, nor that of an object that is gone") {
    Things deadlines;
    Thing thing;
    const auto one = deadlines.class_of(second);
    deadlines.start(thing, one, at(Nanoseconds(0)));
    deadlines.stop(thing);
    deadlines.touch(thing, at(second));  // no revival
    {
        Thing gone;
        deadlines.start(gone, one, at(Nanoseconds(0)));
    }
    CHECK(deadlines.next() == time_never);
    CHECK(deadlines.expired(at(100 * second)) == nullptr);
}

TEST_CASE("equal durations share a class") {
    Things deadlines;
    CHECK(deadlines.class_of(second) == deadlines.class_of(Milliseconds(1000)));
    CHECK(deadlines.class_of(second) != deadlines.class_of(Milliseconds(1001)));
}

TEST_CASE("random touches: each deadline passes within its window and none is forgotten") {
    auto random = test::generator("deadlines");
    Things deadlines;
    const std::array<Nanoseconds, 3> durations = {Milliseconds(700), Milliseconds(5000), Milliseconds(20000)};
    std::array<std::uint32_t, 3> classes{};
    for (std::size_t index = 0; index < durations.size(); ++index)
        classes[index] = deadlines.class_of(durations[index]);
    std::vector<Thing> things(50);
    struct Expected {
        Nanoseconds duration;
        Time last_touch;
    };
    std::map<Thing*, Expected> expected;
    Time now = start_of_time;
    int passed = 0;
    for (int step = 0; step < 20'000; ++step) {
        now += Milliseconds(random() % 20);
        Thing& thing = things[random() % things.size()];
        if (!expected.contains(&thing) || random() % 200 == 0) {
            const std::size_t kind = random() % durations.size();
            deadlines.start(thing, classes[kind], now);
            expected[&thing] = {durations[kind], now};
        } else {
            deadlines.touch(thing, now);
            expected[&thing].last_touch = now;
        }
        while (Thing* late = deadlines.expired(now)) {
            REQUIRE(expected.contains(late));
            const auto [duration, last_touch] = expected[late];
            REQUIRE(now >= last_touch + duration);
            expected.erase(late);
            ++passed;
        }
        for (const auto& [each, fate] : expected)
            REQUIRE(now <= fate.last_touch + fate.duration + fate.duration / 128);
        REQUIRE((deadlines.next() == time_never) == expected.empty());
    }
    CHECK(passed > 20);
}

}  // namespace
}  // namespace sluice
