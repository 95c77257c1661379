#include "tests/support/death.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <stdexcept>

namespace sluice::test {

bool Death::broke_promise(const std::string& promise) const {
    return signal == SIGABRT && error.find("broken promise: " + promise) != std::string::npos;
}

Death death_of(const std::function<void()>& body) {
    std::array<int, 2> pipe{};
    if (::pipe(pipe.data()) != 0) throw std::runtime_error("death_of: no pipe to be had");
    const pid_t child = ::fork();
    if (child < 0) throw std::runtime_error("death_of: cannot fork");
    if (child == 0) {
        // doctest's handler would report the signal as the crash of a test case, and there would be a core.
        ::signal(SIGABRT, SIG_DFL);
        ::signal(SIGSEGV, SIG_DFL);
        const rlimit no_core{0, 0};
        ::setrlimit(RLIMIT_CORE, &no_core);
        ::dup2(pipe[1], STDERR_FILENO);
        ::close(pipe[0]);
        ::close(pipe[1]);
        body();
        ::_exit(0);
    }
    ::close(pipe[1]);
    Death death;
    std::array<char, 4096> buffer{};
    for (ssize_t size; (size = ::read(pipe[0], buffer.data(), buffer.size())) > 0;)
        death.error.append(buffer.data(), static_cast<std::size_t>(size));
    ::close(pipe[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) death.signal = WTERMSIG(status);
    return death;
}

}  // namespace sluice::test
