#pragma once

#include "tests/support/waiting.hpp"

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::test {

struct ProcessOptions {
    std::vector<std::string> environment;  // "NAME=value", added to ours (a later one wins)
    std::string folder;                    // where it starts; empty = where we are
    std::string input;                     // its stdin, at most 64 KiB; empty = /dev/null
    // Runs in the child between fork and exec: limits, filters. Only async-signal-safe calls.
    std::function<void()> before_exec;
};

// How a process ended.
struct Exit {
    bool ended = false;  // false: the deadline came first, it still runs
    int code = -1;       // what it returned; -1 when a signal ended it
    int signal = 0;      // the signal that ended it
    bool success() const { return ended && code == 0; }
};
std::string to_string(const Exit& exit);

// A child process whose stdout and stderr are read into memory as it writes them. It is in a process group of
// its own, dies when the thread that started it dies, and is killed (with its group) and reaped at the latest
// when the object goes.
class Process {
  public:
    // argv[0] is looked up in PATH. Throws when it cannot be started.
    explicit Process(std::vector<std::string> argv, ProcessOptions options = {});
    ~Process();
    Process(Process&&) noexcept;
    Process& operator=(Process&&) noexcept;

    pid_t pid() const;
    bool running();
    void signal(int number);
    // Waits for the end; afterwards out() and error() are complete.
    Exit wait(Milliseconds deadline = patience);
    Exit kill();

    // What was written until now.
    std::string out() const;
    std::string error() const;
    // True once `text` stands in stdout or stderr; false at the deadline or when the process ended without
    // it.
    bool wait_for_text(std::string_view text, Milliseconds deadline = patience);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

struct Output {
    Exit exit;
    std::string out;
    std::string error;
};

// Runs to the end; killed at the deadline (then exit.signal is SIGKILL).
Output run(std::vector<std::string> argv, Milliseconds deadline = patience, ProcessOptions options = {});

// True when a program of this name stands in PATH.
bool program_available(const std::string& name);

// What /proc says about a process; all throw when it is gone.
std::size_t descriptors_open(pid_t pid);
// By all threads since the start, in user and kernel mode.
std::chrono::nanoseconds cpu_time(pid_t pid);
// The part of one CPU that it used while we watched: 0.01 is one per cent.
double cpu_share(pid_t pid, Milliseconds duration);

struct Memory {
    std::size_t resident = 0;       // bytes
    std::size_t private_dirty = 0;  // bytes: what it costs that no other process shares
};
Memory memory_of(pid_t pid);

}  // namespace sluice::test
