#pragma once

#include <csignal>
#include <optional>

namespace sluice {

// The signals that are orders: TERM, INT, HUP and USR2. From its making on no thread is interrupted by them
// (threads inherit that, so make it before any other thread); whoever is ready to obey asks for them here.
// SIGPIPE is ignored: splice(2) into a dead socket raises it, and knows no MSG_NOSIGNAL.
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
