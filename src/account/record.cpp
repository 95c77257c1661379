#include "sluice/account/record.hpp"

#include "sluice/base/check.hpp"

namespace sluice {

const char* to_string(PathReason reason) noexcept {
    switch (reason) {
        case PathReason::bulk: return "bulk";
        case PathReason::small_reads: return "small_reads";
        case PathReason::unix_socket: return "unix_socket";
        case PathReason::messages: return "messages";
        case PathReason::datagrams: return "datagrams";
        case PathReason::no_pipe: return "no_pipe";
        case PathReason::not_spliceable: return "not_spliceable";
    }
    check_failed("a PathReason that has no name");
}

Records::Records(std::size_t workers, std::size_t records_max_of_a_worker) {
    for (std::size_t index = 0; index < workers; ++index)
        rings_.push_back(std::make_unique<Ring<SessionRecord>>(records_max_of_a_worker));
}

void Records::push(std::size_t worker, const SessionRecord& record) noexcept {
    rings_[worker]->push(record);
    // Against the fence-like store in wait(): without it the look at the bell may overtake the push, the
    // reader lowers the bell and finds the ring empty, and the record lies there until the next one (seen 5
    // times in 14,219).
    std::atomic_thread_fence(std::memory_order_seq_cst);
    // Rung once for a batch: while the reader is awake the bell is up and this is one load.
    if (bell_.load(std::memory_order_seq_cst) == 0 && bell_.exchange(1, std::memory_order_seq_cst) == 0)
        bell_.notify_one();
}

void Records::wait() noexcept {
    if (!stopped()) bell_.wait(0, std::memory_order_seq_cst);
    // Lowered before the rings are read: what is pushed later rings again.
    bell_.store(0, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

bool Records::pop(SessionRecord& record) noexcept {
    for (std::size_t tried = 0; tried < rings_.size(); ++tried) {
        Ring<SessionRecord>& ring = *rings_[next_];
        next_ = (next_ + 1) % rings_.size();
        if (ring.pop(record)) return true;
    }
    return false;
}

void Records::stop() noexcept {
    stopped_.store(true, std::memory_order_release);
    bell_.store(1, std::memory_order_seq_cst);
    bell_.notify_all();
}

std::uint64_t Records::lost() const noexcept {
    std::uint64_t lost = 0;
    for (const auto& ring : rings_) lost += ring->lost();
    return lost;
}

}  // namespace sluice
