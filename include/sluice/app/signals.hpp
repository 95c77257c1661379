#pragma once

#include <csignal>
#include <optional>

namespace sluice {

// Ignores the signals that would end the process where a write could say why it failed: SIGPIPE (splice(2)
// and sendfile(2) into a dead socket raise it, and know no MSG_NOSIGNAL) and SIGXFSZ (a log file that reached
// RLIMIT_FSIZE).
void ignore_signals_of_writes() noexcept;

// The signals that are orders: TERM, INT, HUP and USR2; and USR1, which is none here, but to others means
// "open the logs anew" and would end us. From its making on no thread is interrupted by them (threads inherit
// that, so make it before any other thread); whoever is ready to obey asks for them here. Those of writes are
// ignored.
class Signals {
  public:
    Signals();
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;

    // Sleeps until one comes.
    int wait() const;

    // One that has come already.
    std::optional<int> poll() const;

  private:
    sigset_t set_;
};

}  // namespace sluice
