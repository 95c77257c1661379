#include "sluice/app/signals.hpp"

#include <ctime>

namespace sluice {

void ignore_signals_of_writes() noexcept {
    struct sigaction ignore{};
    ignore.sa_handler = SIG_IGN;
    for (const int number : {SIGPIPE, SIGXFSZ}) ::sigaction(number, &ignore, nullptr);
}

Signals::Signals() {
    ::sigemptyset(&set_);
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) ::sigaddset(&set_, number);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    ignore_signals_of_writes();
}

int Signals::wait() const {
    int number = -1;
    // EINTR: a debugger, or the process was stopped and continued.
    while ((number = ::sigwaitinfo(&set_, nullptr)) < 0) {
    }
    return number;
}

std::optional<int> Signals::poll() const {
    const timespec at_once{};
    const int number = ::sigtimedwait(&set_, nullptr, &at_once);
    return number > 0 ? std::optional(number) : std::nullopt;
}

}  // namespace sluice
