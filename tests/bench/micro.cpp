// What the data structures under every event cost, without any kernel: scripts/bench --micro. Each is
// measured with few inhabitants (all in the nearest cache) and with many (an event finds its session cold).

#include "sluice/base/deadlines.hpp"
#include "sluice/base/slab.hpp"
#include "sluice/config/load.hpp"
#include "sluice/reactor/reactor.hpp"
#include "sluice/upstream/pool.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace sluice::bench {
namespace {

struct IdleTag {};

// As large as a session, about.
struct Inhabitant : DeadlineNode<IdleTag> {
    explicit Inhabitant(SlotName given) : name(given) {}
    SlotName name;
    std::uint64_t counter = 0;
    std::array<std::byte, 256> rest{};
};

// Everybody in a slab, and their names in an order that no cache foresees.
class Population {
  public:
    explicit Population(std::size_t count) : slab_(static_cast<std::uint32_t>(count)) {
        for (std::size_t number = 0; number < count; ++number) {
            const Inhabitant* const taken = slab_.take();
            SLUICE_CHECK(taken != nullptr);
            names_.push_back(taken->name);
        }
        std::mt19937 random(1);
        std::shuffle(names_.begin(), names_.end(), random);
    }
    ~Population() {
        slab_.for_each([this](Inhabitant& inhabitant) { slab_.retire(inhabitant.name); });
    }
    Population(const Population&) = delete;
    Population& operator=(const Population&) = delete;

    Slab<Inhabitant>& slab() { return slab_; }
    // As a worker does it: found, or nobody's.
    Inhabitant& at(SlotName name) {
        Inhabitant* const found = slab_.find(name);
        SLUICE_CHECK(found != nullptr);
        return *found;
    }
    SlotName next_name() {
        if (next_ == names_.size()) next_ = 0;
        return names_[next_++];
    }

  private:
    Slab<Inhabitant> slab_;
    std::vector<SlotName> names_;
    std::size_t next_ = 0;
};

void slab_find(benchmark::State& state) {
    Population population(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) ++population.at(population.next_name()).counter;
}
BENCHMARK(slab_find)->Arg(64)->Arg(9'000)->Arg(100'000);

void slab_take_and_retire(benchmark::State& state) {
    Slab<Inhabitant> slab(64);
    for (auto _ : state) {
        Inhabitant* const inhabitant = slab.take();
        SLUICE_CHECK(inhabitant != nullptr);
        slab.retire(inhabitant->name);
    }
}
BENCHMARK(slab_take_and_retire);

// A token goes to the kernel and comes back as the name of a session.
void token_to_session(benchmark::State& state) {
    Population population(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        std::uint64_t raw = Token(Question::watch_client, population.next_name()).raw();
        benchmark::DoNotOptimize(raw);
        ++population.at(Token(raw).name()).counter;
    }
}
BENCHMARK(token_to_session)->Arg(64)->Arg(9'000);

// Each event of a session shows that it lives; the clock stands still, as within a turn, or moves on.
void deadline_touch(benchmark::State& state) {
    Population population(static_cast<std::size_t>(state.range(0)));
    Deadlines<Inhabitant, IdleTag> deadlines;
    const std::uint32_t hour = deadlines.class_of(std::chrono::hours(1));
    Time now = Clock::now();
    population.slab().for_each([&](Inhabitant& inhabitant) { deadlines.start(inhabitant, hour, now); });
    for (auto _ : state) {
        now += Nanoseconds(state.range(1));
        deadlines.touch(population.at(population.next_name()), now);
    }
    population.slab().for_each([&](Inhabitant& inhabitant) { deadlines.stop(inhabitant); });
}
BENCHMARK(deadline_touch)->Args({64, 10'000})->Args({9'000, 10'000})->Args({9'000, 1'000'000'000});

void deadline_next(benchmark::State& state) {
    Population population(9'000);
    Deadlines<Inhabitant, IdleTag> deadlines;
    const std::uint32_t classes[] = {deadlines.class_of(std::chrono::hours(1)),
                                     deadlines.class_of(std::chrono::minutes(5)),
                                     deadlines.class_of(std::chrono::seconds(5))};
    const Time now = Clock::now();
    std::size_t number = 0;
    population.slab().for_each(
        [&](Inhabitant& inhabitant) { deadlines.start(inhabitant, classes[number++ % 3], now); });
    for (auto _ : state) benchmark::DoNotOptimize(deadlines.next());
    population.slab().for_each([&](Inhabitant& inhabitant) { deadlines.stop(inhabitant); });
}
BENCHMARK(deadline_next);

std::string with_backends(std::int64_t count) {
    std::string text = "listeners: [{bind: '127.0.0.1:1', pool: p}]\npools:\n  p:\n    backends:\n";
    for (std::int64_t number = 0; number < count; ++number)
        text += "      - 127.0.0.1:" + std::to_string(2000 + number) + "\n";
    return text;
}

// What a new session looks up: the next backend of its pool.
void pool_choose(benchmark::State& state) {
    const auto loaded = config::load_text(with_backends(state.range(0)), "bench.yaml");
    if (!loaded) return state.SkipWithError("the configuration is not accepted");
    Pool pool(loaded->pools.front());
    for (auto _ : state) {
        Pool::Attempt attempt;
        benchmark::DoNotOptimize(pool.choose(attempt));
    }
}
BENCHMARK(pool_choose)->Arg(1)->Arg(100);

// A reload: a file with a hundred backends.
void config_load(benchmark::State& state) {
    const std::string text = with_backends(100);
    for (auto _ : state) benchmark::DoNotOptimize(config::load_text(text, "bench.yaml"));
}
BENCHMARK(config_load);

}  // namespace
}  // namespace sluice::bench

BENCHMARK_MAIN();
