#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/net/owned_fd.hpp"

#include <sys/types.h>

#include <cstdint>
#include <vector>

namespace sluice::bench {

// What some processes have cost since they were started, up to now; the difference of two readings is the
// cost of what lies between.
struct Costs {
    // On a CPU, to the nanosecond: threads that have ended, io-wq threads and reaped children included.
    Nanoseconds cpu{0};
    // The same as the tick of the kernel sampled it (CONFIG_TICK_CPU_ACCOUNTING): good for their ratio only.
    Nanoseconds user{0};
    Nanoseconds system{0};
    // Ready to run, but others were on the CPU: of one thread alone on its CPU, the machine's disturbance.
    Nanoseconds waited{0};
    // Of the kernel's thread that does what an interrupt left over on the relay's CPU: the relay's work, in
    // bulk up to a tenth of it, though no process is charged for it.
    Nanoseconds softirq{0};
    std::uint64_t voluntary_switches = 0;
    std::uint64_t involuntary_switches = 0;
    std::uint64_t system_calls = 0;  // 0 unless counting was asked for
};

// The processes of a session (setsid(2)): whatever the relay has forked is among them.
class Processes {
  public:
    // Finds them. Those that are forked later count once they are reaped by one of these.
    Processes(pid_t session, int relay_cpu);

    // From now on counts their system calls too; false where the kernel does not let us
    // (raw_syscalls:sys_enter, by perf_event_open(2)).
    bool count_system_calls();

    // Some 0.1 ms for each thread; the CPU time is read first, as near to the call as can be.
    Costs costs() const;

    // What is theirs alone (Private of smaps_rollup), in bytes.
    std::uint64_t private_bytes() const;

    std::size_t process_count() const noexcept { return processes_.size(); }

  private:
    std::vector<pid_t> processes_;
    pid_t softirq_thread_ = 0;  // ksoftirqd of the relay's CPU
    std::vector<OwnedFd> counters_;
};

}  // namespace sluice::bench
