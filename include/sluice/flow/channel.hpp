#pragma once

#include "sluice/net/pipe.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

// What one call on a descriptor brought.
struct Transfer {
    enum class Outcome : std::uint8_t {
        moved,       // `bytes` were moved, more than zero
        blocked,     // nothing now: wait for the descriptor
        ended,       // the source said FIN (or was closed by a unix peer): nothing will ever follow
        broken,      // the descriptor's connection is gone; `error` says how
        unsuitable,  // this pair of descriptors cannot be spliced (EINVAL); nothing was consumed
    } outcome;
    std::size_t bytes = 0;
    int error = 0;
    // receive() from TCP only: the kernel says that not a byte and no FIN is left (TCP_INQ). What comes later
    // brings an event of its own, so the read that would only be answered EAGAIN can be saved. A short read
    // alone proves nothing: reads also stop at urgent data, and at a FIN.
    bool emptied = false;
};

// The calls under the channels, with the verdict for each errno in one place.
// Descriptors are non-blocking; `memory` is lent for the call.
Transfer receive(int source, std::span<std::byte> memory) noexcept;
Transfer send(int target, std::span<const std::byte> bytes) noexcept;
// Whether the kernel calls the source readable, whatever a call that reads would bring.
bool readable_now(int source) noexcept;
bool writable_now(int target) noexcept;
// Whether bytes, an end or an error wait in the source, without consuming any byte.
Transfer peek(int source) noexcept;

// Bytes of one flow that rest in a kernel pipe on their way. Holds a leased pipe.
class SpliceChannel {
  public:
    explicit SpliceChannel(Pipe pipe) noexcept : pipe_(std::move(pipe)) {}

    bool empty() const noexcept { return held_ == 0; }
    std::size_t held() const noexcept { return held_; }

    // Moves up to `bytes_max` from the source into the pipe. A pipe has slots, one for each fragment and not
    // for each byte, so only an empty one makes EAGAIN mean "the source has nothing".
    // REQUIRES: empty()
    Transfer fill(int source, std::size_t bytes_max) noexcept;

    // Moves what the pipe holds to the target, as much as it takes.
    // REQUIRES: !empty()
    Transfer drain(int target) noexcept;

    // The pipe, to be given back (if empty()) or forfeited.
    Pipe take_pipe() && noexcept { return std::move(pipe_); }

  private:
    Pipe pipe_;
    std::size_t held_ = 0;  // exactly what the pipe holds
};

// Memory blocks for bytes whose target is slow, recycled so that steady traffic allocates nothing. One
// thread.
class BlockPool {
  public:
    // Three sizes, so that a slow reader's last 100 bytes do not hold 64 KiB.
    static constexpr std::size_t sizes[] = {2048, 16384, 65536};
    static constexpr std::size_t size_max = sizes[2];

    struct Block {
        std::unique_ptr<std::byte[]> memory;
        std::uint32_t size = 0;
    };

    BlockPool();

    // A block of at least `bytes`; one without memory when there is none. REQUIRES: bytes <= size_max
    Block take(std::size_t bytes) noexcept;
    void give_back(Block block) noexcept;
    std::size_t taken_bytes() const noexcept { return taken_; }

  private:
    static constexpr std::size_t idle_max_of_a_size = 64;
    std::vector<Block> idle_[3];
    std::size_t taken_ = 0;
};

// Bytes of one flow that rest in memory on their way.
//
// Within one turn they lie in the worker's scratch memory, which all sessions share; only what the target did
// not take is moved to a block of its own (settle()). An idle session therefore owns no memory here.
class CopyChannel {
  public:
    bool empty() const noexcept { return begin_ == end_; }
    std::size_t held() const noexcept { return end_ - begin_; }

    // Reads from the source into the scratch memory, which is lent until settle() or until empty().
    // REQUIRES: empty()
    Transfer fill(int source, std::span<std::byte> scratch) noexcept;

    // The same from a pipe that a target turned out not to take splices from.
    // REQUIRES: empty(), and the pipe holds bytes
    Transfer fill_from_pipe(int read_end, std::span<std::byte> scratch) noexcept;

    // REQUIRES: !empty()
    Transfer drain(int target) noexcept;

    // Before the turn ends: what is still held leaves the scratch memory for a block. False when there is no
    // memory for one: the bytes are lost, and the flow with them.
    [[nodiscard]] bool settle(BlockPool& blocks) noexcept;

    // Throws away what is held, and gives the block back if there is one.
    void clear(BlockPool& blocks) noexcept;

  private:
    Transfer adopt(Transfer transfer, std::span<std::byte> scratch) noexcept;

    const std::byte* bytes_ = nullptr;  // in scratch memory, or in block_
    std::uint32_t begin_ = 0;
    std::uint32_t end_ = 0;
    BlockPool::Block block_;
};

}  // namespace sluice
