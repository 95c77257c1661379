#include "sluice/base/slab.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace sluice {
namespace {

struct Tenant {
    explicit Tenant(SlotName own_name, int some_value = 0, int* counter = nullptr)
        : name(own_name), value(some_value), alive(counter) {
        if (alive != nullptr) ++*alive;
    }
    ~Tenant() {
        if (alive != nullptr) --*alive;
    }
    Tenant(const Tenant&) = delete;
    Tenant& operator=(const Tenant&) = delete;

    SlotName name;
    int value;
    int* alive;
};

// A new tenant, in a slab that has room.
Tenant& take_in(Slab<Tenant>& slab, int value = 0) {
    Tenant* tenant = slab.take(value);
    REQUIRE(tenant != nullptr);
    return *tenant;
}

void retire_all(Slab<Tenant>& slab) {
    slab.for_each([&](Tenant& tenant) { slab.retire(tenant.name); });
}

TEST_CASE("a tenant learns its own name and is found by it") {
    Slab<Tenant> slab(4);
    Tenant* tenant = slab.take(42);
    REQUIRE(tenant != nullptr);
    CHECK(tenant->value == 42);
    CHECK(slab.find(tenant->name) == tenant);
    CHECK(slab.size() == 1);
    slab.retire(tenant->name);
    CHECK(slab.size() == 0);
}

TEST_CASE("a name outlives its tenant without meaning the next one in the same place") {
    Slab<Tenant> slab(1);
    const SlotName first = take_in(slab).name;
    slab.retire(first);
    CHECK(slab.find(first) == nullptr);
    Tenant* next = slab.take();
    REQUIRE(next != nullptr);
    CHECK(next->name.slot == first.slot);
    CHECK(next->name.generation != first.generation);
    CHECK(slab.find(first) == nullptr);
    CHECK(slab.find(next->name) == next);
    slab.retire(next->name);
}

TEST_CASE("names that were never given out find nothing") {
    Slab<Tenant> slab(4);
    CHECK(slab.find(SlotName{}) == nullptr);
    CHECK(slab.find(SlotName{0, 1}) == nullptr);
    const SlotName name = take_in(slab).name;
    CHECK(slab.find(SlotName{name.slot, 0}) == nullptr);
    CHECK(slab.find(SlotName{name.slot, 2}) == nullptr);
    CHECK(slab.find(SlotName{3, 1}) == nullptr);
    CHECK(slab.find(SlotName{4, 1}) == nullptr);
    CHECK(slab.find(SlotName{UINT32_MAX, UINT32_MAX}) == nullptr);
    slab.retire(name);
}

TEST_CASE("a full slab says so and goes on when a place is free again") {
    Slab<Tenant> slab(3);
    std::vector<SlotName> names;
    for (int count = 0; count < 3; ++count) names.push_back(take_in(slab).name);
    CHECK(slab.take() == nullptr);
    CHECK(slab.size() == slab.capacity());
    slab.retire(names[1]);
    Tenant* tenant = slab.take();
    REQUIRE(tenant != nullptr);
    CHECK(tenant->name.slot == names[1].slot);
    retire_all(slab);
}

TEST_CASE("a slab without places takes nobody") {
    Slab<Tenant> slab(0);
    CHECK(slab.take() == nullptr);
    CHECK(slab.find(SlotName{0, 1}) == nullptr);
}

TEST_CASE("the place that was freed last is taken first") {
    Slab<Tenant> slab(8);
    std::vector<SlotName> names;
    for (int count = 0; count < 4; ++count) names.push_back(take_in(slab).name);
    slab.retire(names[0]);
    slab.retire(names[2]);
    CHECK(take_in(slab).name.slot == names[2].slot);
    CHECK(take_in(slab).name.slot == names[0].slot);
    CHECK(take_in(slab).name.slot == 4);
    retire_all(slab);
}

TEST_CASE("retiring destroys the tenant at once") {
    int alive = 0;
    Slab<Tenant> slab(2);
    Tenant* tenant = slab.take(1, &alive);
    REQUIRE(tenant != nullptr);
    CHECK(alive == 1);
    slab.retire(tenant->name);
    CHECK(alive == 0);
}

TEST_CASE("a walk in steps sees each tenant once, and begins anew after the end") {
    Slab<Tenant> slab(16);
    for (int value = 0; value < 10; ++value) take_in(slab, value);
    std::uint32_t slot = 0;
    for (int round = 0; round < 2; ++round) {
        std::multiset<int> seen;
        int steps = 1;
        while (!slab.visit_next(slot, 4, [&](Tenant& tenant) { seen.insert(tenant.value); })) ++steps;
        CHECK(steps == 3);
        CHECK(seen.size() == 10);
        CHECK(slot == 0);
    }
    retire_all(slab);
    slot = 12;  // of a walk that others have overtaken
    Slab<Tenant> empty(4);
    CHECK(empty.visit_next(slot, 4, [](Tenant&) { FAIL_CHECK("nobody is there"); }));
    CHECK(slot == 0);
}

TEST_CASE("a visit sees each tenant once and may retire the one it is given") {
    Slab<Tenant> slab(16);
    std::vector<SlotName> names;
    for (int value = 0; value < 10; ++value) names.push_back(take_in(slab, value).name);
    slab.retire(names[0]);
    slab.retire(names[9]);
    std::multiset<int> seen;
    slab.for_each([&](Tenant& tenant) {
        seen.insert(tenant.value);
        if (tenant.value % 2 == 0) slab.retire(tenant.name);
    });
    CHECK(seen == std::multiset<int>{1, 2, 3, 4, 5, 6, 7, 8});
    CHECK(slab.size() == 4);
    retire_all(slab);
    CHECK(slab.size() == 0);
}

TEST_CASE("a large capacity costs nothing until it is used") {
    struct Large {
        explicit Large(SlotName) {}
        std::byte bytes[4096];
    };
    Slab<Large> slab(1'000'000);  // 4 GB of address space
    CHECK(slab.capacity() == 1'000'000);
    Large* large = slab.take();
    REQUIRE(large != nullptr);
    slab.retire(SlotName{0, 1});
}

TEST_CASE("retiring a name that is over is a broken promise") {
    Slab<Tenant> slab(1);
    const SlotName name = take_in(slab).name;
    slab.retire(name);
    CHECK(test::death_of([&] { slab.retire(name); }).broke_promise("object != nullptr"));
}

TEST_CASE("a slab that dies with a tenant is a broken promise") {
    const test::Death death = test::death_of([] {
        Slab<Tenant> slab(1);
        slab.take();
    });
    CHECK(death.broke_promise("size_ == 0"));
}

TEST_CASE("after any number of random comings and goings each name finds its own tenant or nobody") {
    std::mt19937_64 random = test::generator("slab");
    Slab<Tenant> slab(32);
    std::vector<std::pair<SlotName, int>> living;
    std::vector<SlotName> over;
    for (int step = 0; step < 20'000; ++step) {
        if (random() % 2 == 0) {
            Tenant* tenant = slab.take(step);
            REQUIRE((tenant == nullptr) == (living.size() == slab.capacity()));
            if (tenant != nullptr) living.emplace_back(tenant->name, step);
        } else if (!living.empty()) {
            const std::size_t index = random() % living.size();
            slab.retire(living[index].first);
            over.push_back(living[index].first);
            living.erase(living.begin() + static_cast<std::ptrdiff_t>(index));
        }
        REQUIRE(slab.size() == living.size());
    }
    for (const auto& [name, value] : living) {
        Tenant* tenant = slab.find(name);
        REQUIRE(tenant != nullptr);
        CHECK(tenant->value == value);
    }
    for (const SlotName& name : over) REQUIRE(slab.find(name) == nullptr);
    retire_all(slab);
}

}  // namespace
}  // namespace sluice
