#pragma once

#include "sluice/reactor/reactor.hpp"

#include "tests/support/scripted_reactor.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace sluice::test {

// How unkind a simulated reactor is. Chances are in per mille of the occasions.
struct Unkindness {
    std::uint32_t delay_turns_max = 0;      // an answer waits for up to so many turns, and others overtake it
    std::uint32_t split = 0;                // readable and writable come as two answers
    std::uint32_t repeat = 0;               // an event that came before comes once more
    std::uint32_t lose_more = 0;            // an event is the last answer, as after a full completion queue
    std::uint32_t refuse_watch = 0;         // a watch is answered -ENOMEM
    std::uint32_t abort_accept = 0;         // accept ends with -ECONNABORTED
    std::uint32_t exhaust_accept = 0;       // accept ends with -EMFILE
    std::uint32_t last_gift = 0;            // an accepted descriptor is the last answer
    std::uint32_t events_after_cancel = 0;  // what was on its way still comes before the last answer

    static Unkindness drawn(std::mt19937_64& random);
};

// What a simulated reactor leaves behind for the test, which outlives it.
struct SimulationReport {
    QuestionLedger ledger;
    std::vector<Token> left_out;  // questions that were out when the reactor was destroyed
    std::uint64_t watches_refused = 0;
    std::uint64_t accepts_aborted = 0;
    std::uint64_t accepts_exhausted = 0;
    std::uint64_t more_lost = 0;
    std::uint64_t repeated = 0;
    std::uint64_t gifts_after_cancel = 0;
    std::uint64_t turns = 0;
};

// Real descriptors and the real kernel's events, told in an order and at a time that chance decides. The
// truth comes from an edge-triggered epoll inside, so nothing is told that a real engine could not have told,
// and an event that was told is not told again for the reader's convenience. The events of one question keep
// their order.
//
// The rest of the world, such as clients and backends, moves inside wait(): `meanwhile` is called at each one
// and answers whether anything moved. So relay and world share one thread, and one seed repeats a run, the
// kernel's own timers aside.
std::unique_ptr<Reactor> open_simulated_reactor(std::uint64_t seed, Unkindness unkindness,
                                                std::function<bool()> meanwhile,
                                                std::shared_ptr<SimulationReport> report);

}  // namespace sluice::test
