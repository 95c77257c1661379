#include "sluice/net/pipe.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace {

// Counts what this thread allocates, in the whole suite, because operator new can be replaced for all or
// nobody.
thread_local std::uint64_t allocations = 0;

}  // namespace

void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}
// Under a sanitizer the other forms are its own and must not be mixed with ours: this one is given back by
// ours.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    ++allocations;
    return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}

namespace sluice {
namespace {

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;

// pipe-user-pages-soft is shared with every other process of this user; when they have used it up there is
// nothing to be tested.
bool system_grants(std::size_t bytes) {
    std::vector<Pipe> pipes;
    for (std::size_t granted = 0; granted < bytes; granted += mib) {
        auto pipe = Pipe::open(std::min(bytes, mib));
        if (!pipe) return false;
        pipes.push_back(std::move(*pipe));
    }
    return true;
}

#define NEEDS_PIPES(bytes) \
    if (!system_grants(bytes)) SLUICE_SKIP("this user's pipe budget (pipe-user-pages-soft) is used up")

TEST_CASE("a pipe has the size that was asked for, and neither end blocks nor is inherited") {
    NEEDS_PIPES(mib);
    for (const std::size_t size : PipePool::sizes) {
        const auto pipe = Pipe::open(size);
        REQUIRE(pipe);
        CHECK(pipe->size() == size);
        CHECK(std::cmp_equal(::fcntl(pipe->write_end(), F_GETPIPE_SZ), size));
        for (const int end : {pipe->read_end(), pipe->write_end()}) {
            CHECK((::fcntl(end, F_GETFL) & O_NONBLOCK) != 0);
            CHECK((::fcntl(end, F_GETFD) & FD_CLOEXEC) != 0);
        }
        CHECK(::write(pipe->write_end(), "x", 1) == 1);
        char byte = 0;
        CHECK(::read(pipe->read_end(), &byte, 1) == 1);
        CHECK(byte == 'x');
    }
}

TEST_CASE("a pipe larger than the system grants is no pipe, and leaves no descriptor") {
    const int before = ::dup(0);
    CHECK(!Pipe::open(std::size_t{1} << 31));
    const int after = ::dup(0);
    CHECK(after == before + 1);
    ::close(before);
    ::close(after);
}

TEST_CASE("the budget of this system is some pages, and less than the user's whole") {
    const PipeBudget budget = PipeBudget::of_this_system();
    CHECK(budget.bytes > 0);
    if (budget.exempt) CHECK(budget.bytes >= std::size_t{1} << 30);
}

TEST_CASE("a pool without a budget has never a pipe") {
    PipePool pool(0);
    for (int count = 0; count < 3; ++count) CHECK(!pool.lease());
    CHECK(pool.refusals() == 3);
    CHECK(pool.leased_bytes() == 0);
}

TEST_CASE("the more is leased, the smaller the next pipe") {
    NEEDS_PIPES(8 * mib);
    PipePool pool(8 * mib);
    std::vector<Pipe> leased;
    std::vector<std::size_t> sizes;
    while (auto pipe = pool.lease()) {
        sizes.push_back(pipe->size());
        leased.push_back(std::move(*pipe));
    }
    // Half of the budget in large pipes, a quarter in middle ones, the rest in small ones.
    CHECK(std::ranges::count(sizes, mib) == 4);
    CHECK(std::ranges::count(sizes, 256 * kib) == 8);
    CHECK(std::ranges::count(sizes, 64 * kib) == 32);
    CHECK(std::ranges::is_sorted(sizes, std::greater<>()));
    CHECK(pool.leased_bytes() == 8 * mib);
    CHECK(pool.refusals() == 1);
    while (!leased.empty()) {
        pool.give_back(std::move(leased.back()));
        leased.pop_back();
    }
    CHECK(pool.leased_bytes() == 0);
    auto next = pool.lease();
    REQUIRE(next);
    CHECK(next->size() == mib);
    pool.forfeit(std::move(*next));
}

TEST_CASE("a pipe that is given back is the next one out; a forfeited one is never seen again") {
    NEEDS_PIPES(2 * mib);
    PipePool pool(4 * mib);
    auto pipe = pool.lease();
    REQUIRE(pipe);
    const int number = pipe->write_end();
    CHECK(pool.leased_bytes() == mib);
    pool.give_back(std::move(*pipe));
    CHECK(pool.leased_bytes() == 0);
    CHECK(pool.idle_bytes() == mib);

    pipe = pool.lease();
    REQUIRE(pipe);
    CHECK(pipe->write_end() == number);
    CHECK(pool.idle_bytes() == 0);
    CHECK(::write(pipe->write_end(), "secret", 6) == 6);
    pool.forfeit(std::move(*pipe));
    CHECK(pool.leased_bytes() == 0);
    CHECK(pool.idle_bytes() == 0);

    pipe = pool.lease();
    REQUIRE(pipe);
    char byte = 0;
    CHECK(::read(pipe->read_end(), &byte, 1) == -1);
    pool.give_back(std::move(*pipe));
}

TEST_CASE("idle pipes of another size make room for the size that is wanted") {
    NEEDS_PIPES(3 * mib);
    PipePool pool(2 * mib);
    std::vector<Pipe> leased;
    while (auto pipe = pool.lease()) leased.push_back(std::move(*pipe));
    // Only the small ones come back: idle, they fill most of what is not leased.
    while (leased.size() > 1) {
        pool.give_back(std::move(leased.back()));
        leased.pop_back();
    }
    CHECK(pool.leased_bytes() == mib);
    pool.give_back(std::move(leased.back()));
    CHECK(pool.leased_bytes() + pool.idle_bytes() <= 2 * mib);
    auto pipe = pool.lease();
    REQUIRE(pipe);
    CHECK(pipe->size() == mib);
    CHECK(pool.leased_bytes() + pool.idle_bytes() <= 2 * mib);
    pool.forfeit(std::move(*pipe));
}

TEST_CASE("giving back what was never leased is a broken promise") {
    NEEDS_PIPES(mib);
    const test::Death death = test::death_of([] {
        PipePool pool(mib);
        pool.give_back(std::move(*Pipe::open(64 * kib)));
    });
    CHECK(death.broke_promise("leased_ >= pipe.size()"));
}

TEST_CASE("leasing and giving back allocate nothing") {
    NEEDS_PIPES(4 * mib);
    PipePool pool(4 * mib);
    std::vector<Pipe> leased;
    leased.reserve(64);
    const std::uint64_t before = allocations;
    for (int round = 0; round < 3; ++round) {
        while (auto pipe = pool.lease()) leased.push_back(std::move(*pipe));
        while (!leased.empty()) {
            if (leased.size() % 3 == 0)
                pool.forfeit(std::move(leased.back()));
            else
                pool.give_back(std::move(leased.back()));
            leased.pop_back();
        }
    }
    CHECK(allocations == before);
    ::operator delete(::operator new(1));  // a call, where a new-expression might be elided
    CHECK(allocations > before);           // the counter counts
}

TEST_CASE("random leases keep to the budget, and the pool's numbers to the model's") {
    constexpr std::size_t budget = 5 * mib + 100 * kib;
    NEEDS_PIPES(6 * mib);
    auto random = test::generator("pipe pool");
    PipePool pool(budget);
    std::vector<Pipe> held;
    std::size_t held_bytes = 0;
    std::uint64_t refusals = 0;
    for (int step = 0; step < 20'000; ++step) {
        // Swings between mostly leasing and mostly giving back, so that both edges are met.
        const bool leasing = random() % 100 < (step / 1000 % 2 == 0 ? 70U : 30U);
        if (leasing || held.empty()) {
            std::size_t expected = 0;
            for (const auto& [size, share] :
                 {std::pair{mib, budget / 2}, std::pair{256 * kib, budget / 4 * 3},
                  std::pair{64 * kib, budget}}) {
                if (held_bytes + size > share) continue;
                expected = size;
                break;
            }
            auto pipe = pool.lease();
            const std::size_t got = pipe ? pipe->size() : 0;
            if (got != expected && !system_grants(2 * mib)) SLUICE_SKIP("the user's pipe budget is used up");
            REQUIRE(got == expected);
            if (pipe) {
                held_bytes += pipe->size();
                held.push_back(std::move(*pipe));
            } else {
                ++refusals;
            }
        } else {
            std::swap(held[random() % held.size()], held.back());
            held_bytes -= held.back().size();
            if (random() % 4 == 0)
                pool.forfeit(std::move(held.back()));
            else
                pool.give_back(std::move(held.back()));
            held.pop_back();
        }
        REQUIRE(pool.leased_bytes() == held_bytes);
        REQUIRE(pool.leased_bytes() + pool.idle_bytes() <= budget);
        REQUIRE(pool.refusals() == refusals);
    }
    CHECK(refusals > 0);
    for (Pipe& pipe : held) pool.give_back(std::move(pipe));
    CHECK(pool.leased_bytes() == 0);
}

}  // namespace
}  // namespace sluice
