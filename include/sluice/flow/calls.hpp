#pragma once

#include "sluice/flow/transfer.hpp"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>

namespace sluice {

// One receive or send on a socket, which does not wait.
struct SocketCall {
    enum class Kind : std::uint8_t { receive, send } kind;
    int fd;
    std::byte* memory;  // a send only reads it
    std::uint32_t size;
    Transfer transfer{};  // the answer; of a send that was not made yet, the one that is hoped for
};

// How a worker calls its sockets: many receives or sends on different ones by one system call where the
// kernel has a way to do that. A small message that is relayed takes two, and a system call cost 1.1 us on
// the development machine, which is virtualized without hardware's help (docs/performance.md).
//
// All is over when make() returns: the kernel keeps neither memory nor a descriptor, and nothing is ever
// outstanding. That is what tells this from lending buffers to the kernel. One thread.
class Calls {
  public:
    // How many one make() may be asked for.
    static constexpr std::size_t calls_max = 64;

    virtual ~Calls() = default;

    // Makes them all, in order on each socket, and fills in their answers. Returns how many system calls it
    // took.
    // REQUIRES: calls.size() <= calls_max
    virtual std::size_t make(std::span<SocketCall> calls) noexcept = 0;

    virtual const char* name() const noexcept = 0;  // "io_uring", "aio", "one by one"
};

// By an io_uring of its own, of the calling thread, which must be the one to use it.
std::expected<std::unique_ptr<Calls>, std::string> open_uring_calls();

// By io_submit(2), which container runtimes allow where they forbid io_uring; one by one where even that is
// refused.
std::unique_ptr<Calls> open_aio_calls();

// By recv(2) and send(2).
std::unique_ptr<Calls> open_single_calls();

// The verdict for what recv(2) or send(2) answered: a count, or -errno.
//
// Transfer::emptied of a receive comes from a read that was shorter than its memory.
Transfer verdict_of(const SocketCall& call, std::ptrdiff_t result) noexcept;

}  // namespace sluice
