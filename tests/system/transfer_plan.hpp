#pragma once

// What the two ends of one relayed session are to do to each other: drawn from a seed, so that both ends (and
// a second run) draw the same.

#include "tests/support/doctest.hpp"
#include "tests/support/sockets.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <string_view>

namespace sluice::test {

inline constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

// The first bytes of every upload: they tell the backend which session it has got.
struct TransferHeader {
    std::uint64_t magic = 0x736C756963652121u;
    std::uint64_t index = 0;
};

enum class ResetMoment : std::uint8_t {
    none,        // an orderly end
    before_fin,  // in the middle of its own stream, which must not look complete then
    after_fin,   // its own stream is whole; what it should still receive is cut off
};

// What one end does.
struct Conduct {
    std::uint64_t bytes = 0;        // what it sends, with the header
    std::uint64_t content = 0;      // where its bytes begin in the content
    std::uint64_t speak_after = 0;  // sends nothing before it has received so many bytes
    bool speak_after_end = false;   // sends nothing before it has received the other's FIN
    std::uint64_t fin_after = 0;    // says FIN not before it has received so many bytes
    ResetMoment reset = ResetMoment::none;
    std::uint64_t reset_sent = 0;      // resets once it has sent so many bytes
    std::uint64_t reset_received = 0;  // and received so many
    std::uint64_t tiny_writes = 0;     // so many bytes go one by one
    std::size_t write_max = 0;         // one send
    std::size_t read_max = 0;          // one recv
    std::uint32_t pauses = 0;          // rests so many times, each time after a recv
    std::uint32_t pause_ms = 0;
    Buffers buffers;
};

struct TransferPlan {
    Conduct client;
    Conduct upstream;
};

inline constexpr std::uint64_t transfer_bytes_max = 4 * 1024 * 1024;

// The bytes of all streams: each begins at a place of its own in one long table without repetition, so that
// sending needs no work and checking is a memcmp, and yet a hole, a repetition or bytes of another session
// show.
inline std::string_view transfer_content() {
    static const std::string table = pattern(3 * transfer_bytes_max, 1);
    return table;
}

inline TransferPlan draw_transfer(std::uint64_t seed, std::uint64_t index, bool resets) {
    std::mt19937_64 random(seed ^ (index * 0x9E3779B97F4A7C15u + 1));
    const auto below = [&](std::uint64_t end) { return end == 0 ? 0 : random() % end; };
    const auto chance = [&](std::uint64_t percent) { return below(100) < percent; };
    const auto size = [&]() -> std::uint64_t {
        if (chance(5)) return 0;
        // Log-uniform: as many transfers between 1 and 2 KiB as between 1 and 2 MiB.
        const double exponent =
            std::log(static_cast<double>(transfer_bytes_max)) * static_cast<double>(below(1'000'001)) / 1e6;
        return std::min(static_cast<std::uint64_t>(std::exp(exponent)), transfer_bytes_max);
    };
    const auto conduct = [&](std::uint64_t bytes) {
        Conduct result;
        result.bytes = bytes;
        result.content = below(2 * transfer_bytes_max);
        result.tiny_writes = chance(15) ? 1 + below(300) : 0;
        result.write_max = chance(25) ? 1 + below(3000) : std::size_t{128} * 1024;
        if (bytes > 512 * 1024) result.write_max = std::max<std::size_t>(result.write_max, 1000);
        result.read_max = chance(25) ? 500 + below(8000) : std::size_t{256} * 1024;
        if (chance(10)) {
            // One long rest until all buffers are full, or many short ones.
            result.pauses = chance(50) ? 1 : static_cast<std::uint32_t>(1 + below(50));
            result.pause_ms = result.pauses == 1 ? static_cast<std::uint32_t>(20 + below(150)) : 1;
        }
        if (bytes < 512 * 1024 && chance(20)) result.buffers.send = static_cast<int>(4096 + below(32 * 1024));
        if (chance(20)) result.buffers.receive = static_cast<int>(16 * 1024 + below(32 * 1024));
        return result;
    };
    TransferPlan plan{conduct(size() + sizeof(TransferHeader)), conduct(size())};
    // Into a window smaller than loopback's 64 KiB segments the sender sends one for each beat of its 200 ms
    // timer, so what goes there has to be short.
    if (plan.upstream.bytes > 128 * 1024) plan.client.buffers.receive = 0;
    if (plan.client.bytes > 128 * 1024) plan.upstream.buffers.receive = 0;
    if (resets && chance(25)) {
        const bool by_client = chance(50);
        Conduct& resetter = by_client ? plan.client : plan.upstream;
        const Conduct& other = by_client ? plan.upstream : plan.client;
        resetter.reset = chance(75) ? ResetMoment::before_fin : ResetMoment::after_fin;
        resetter.reset_sent =
            resetter.reset == ResetMoment::before_fin ? below(resetter.bytes + 1) : resetter.bytes;
        resetter.reset_received = chance(50) ? 0 : below(other.bytes + 1);
        // The backend must know the plan before it can follow it.
        if (!by_client) resetter.reset_received = std::max(resetter.reset_received, sizeof(TransferHeader));
        return plan;
    }
    // A conversation: at most one end waits for the other, or they would wait for ever.
    if (chance(30)) plan.upstream.speak_after = below(plan.client.bytes + 1);
    if (chance(15))
        plan.upstream.speak_after_end = true;  // a request ended by FIN, then the answer
    else if (chance(25))
        plan.client.fin_after = below(plan.upstream.bytes + 1);
    if (chance(25)) plan.upstream.fin_after = below(plan.client.bytes + 1);
    return plan;
}

}  // namespace sluice::test
