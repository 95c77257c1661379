#pragma once

#include "sluice/flow/calls.hpp"
#include "sluice/flow/transfer.hpp"
#include "sluice/net/pipe.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

// What one read for a copy asks for: beyond it splice is the better way.
inline constexpr std::size_t copy_bytes_max = 64 * 1024;
// The longest message that is relayed. Senders that leave their buffers as they are can send no more than
// about 208 KiB (net.core.wmem_default).
inline constexpr std::size_t message_bytes_max = 256 * 1024;

// The calls under the channels; those on sockets that may be made together are in calls.hpp.
// Descriptors are non-blocking; `memory` is lent for the call. Of a file only disks are waited for.
Transfer read_file(int source, std::span<std::byte> memory) noexcept;
Transfer write_file(int target, std::span<const std::byte> bytes) noexcept;
// One message of a socket that keeps their boundaries. An empty one is `moved` with 0 bytes; one that is
// longer than the memory is `broken` with EMSGSIZE, and lost. REQUIRES: prepare_for_messages(source)
Transfer receive_message(int source, std::span<std::byte> memory) noexcept;
// A message as a whole. EMSGSIZE: longer than the target's send buffer lets any message be.
Transfer send_message(int target, std::span<const std::byte> message) noexcept;
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
    // Sizes, so that a slow reader's last 100 bytes do not hold 64 KiB; the last one is for messages.
    static constexpr std::array<std::size_t, 4> sizes = {2048, 16384, copy_bytes_max, message_bytes_max};

    struct Block {
        std::unique_ptr<std::byte[]> memory;
        std::uint32_t size = 0;
    };

    BlockPool();

    // A block of at least `bytes`; one without memory when there is none. REQUIRES: bytes <=
    // message_bytes_max
    Block take(std::size_t bytes) noexcept;
    void give_back(Block block) noexcept;
    std::size_t taken_bytes() const noexcept { return taken_; }

  private:
    static constexpr std::array<std::size_t, sizes.size()> idle_max = {64, 64, 64, 8};
    std::array<std::vector<Block>, sizes.size()> idle_;
    std::size_t taken_ = 0;
};

// What the two channels in memory have in common.
//
// Within one turn the bytes lie in the worker's scratch memory, which all sessions share; only what the
// target did not take is moved to a block of its own (settle()). An idle session therefore owns no memory
// here.
class MemoryChannel {
  public:
    std::size_t held() const noexcept { return end_ - begin_; }

    // Before the turn ends: what is still held leaves the scratch memory for a block. False when there is no
    // memory for one: the bytes are lost, and the flow with them.
    [[nodiscard]] bool settle(BlockPool& blocks) noexcept;

    // Throws away what is held, and gives the block back if there is one.
    void clear(BlockPool& blocks) noexcept;

  protected:
    MemoryChannel() = default;
    Transfer adopt(Transfer transfer, std::span<std::byte> scratch) noexcept;
    std::span<const std::byte> bytes() const noexcept { return {bytes_ + begin_, held()}; }

    const std::byte* bytes_ = nullptr;  // in scratch memory, or in block_
    std::uint32_t begin_ = 0;
    std::uint32_t end_ = 0;
    BlockPool::Block block_;
};

// Bytes of one flow that rest in memory on their way.
class CopyChannel : public MemoryChannel {
  public:
    bool empty() const noexcept { return held() == 0; }

    // Reads from the source into the scratch memory, which is lent until settle() or until empty().
    // REQUIRES: empty()
    Transfer fill(Calls& calls, int source, std::span<std::byte> scratch) noexcept;
    Transfer fill_from_file(int source, std::span<std::byte> scratch) noexcept;

    // The same from a pipe that a target turned out not to take splices from.
    // REQUIRES: empty(), and the pipe holds bytes
    Transfer fill_from_pipe(int read_end, std::span<std::byte> scratch) noexcept;

    // REQUIRES: !empty()
    Transfer drain(Calls& calls, int target) noexcept;
    Transfer drain_to_file(int target) noexcept;

    // The same where the call is made for many channels at once: the receive that fill() makes, the send that
    // drain() makes, and what each answered.
    static SocketCall receive_call(int source, std::span<std::byte> scratch) noexcept;
    void received(const SocketCall& call) noexcept;
    SocketCall send_call(int target) const noexcept;
    void sent(const SocketCall& call) noexcept;
};

// One message on its way between two sockets that keep the boundaries of messages. It may be empty.
class MessageChannel : public MemoryChannel {
  public:
    bool empty() const noexcept { return !holds_message_; }

    // REQUIRES: empty(), and scratch memory of message_bytes_max
    Transfer fill(int source, std::span<std::byte> scratch) noexcept;

    // All of it or nothing. REQUIRES: !empty()
    Transfer drain(int target) noexcept;

    void clear(BlockPool& blocks) noexcept;

  private:
    bool holds_message_ = false;
};

}  // namespace sluice
