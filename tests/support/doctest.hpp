#pragma once

// What every test file includes instead of doctest itself: doctest, and the few words that we add to it.

#include <doctest/doctest.h>

#include <cstdint>
#include <random>
#include <string>

namespace sluice::test {

// The seed of this run, printed when the suite starts: SLUICE_SEED from the environment, else a random one.
std::uint64_t seed();

// A generator for one test case: equal seeds and equal names give equal numbers, whatever else ran before.
std::mt19937_64 generator(const std::string& name);

// Marks the running test case as skipped, and says why. Use SLUICE_SKIP, which also leaves the test case.
void mark_skipped(const std::string& reason);

// True when a check of the running test case has failed, or an exception is on its way out of it.
bool failing();

}  // namespace sluice::test

// Leaves the test case (or a function of type void called by it) because this machine lacks what it needs.
// It is counted as skipped, and not as passed.
#define SLUICE_SKIP(reason)                   \
    do {                                      \
        ::sluice::test::mark_skipped(reason); \
        return;                               \
    } while (false)
