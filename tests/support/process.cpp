#include "tests/support/process.hpp"

#include "tests/support/folder.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

namespace sluice::test {
namespace {

struct Pipe {
    int read = -1;
    int write = -1;

    Pipe() {
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("no pipe to be had");
        read = ends[0];
        write = ends[1];
    }
    ~Pipe() {
        close_read();
        close_write();
    }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;

    void close_read() {
        if (read >= 0) ::close(std::exchange(read, -1));
    }
    void close_write() {
        if (write >= 0) ::close(std::exchange(write, -1));
    }
};

// Ours, with the given ones put over it.
std::vector<std::string> merged_environment(const std::vector<std::string>& given) {
    std::vector<std::string> result;
    for (char** entry = environ; *entry != nullptr; ++entry) result.emplace_back(*entry);
    for (const std::string& entry : given) {
        const std::string name = entry.substr(0, entry.find('=') + 1);
        std::erase_if(result, [&](const std::string& other) { return other.starts_with(name); });
        result.push_back(entry);
    }
    return result;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
    std::vector<char*> result;
    for (std::string& text : texts) result.push_back(text.data());
    result.push_back(nullptr);
    return result;
}

}  // namespace

struct Process::State {
    pid_t pid = -1;
    int pidfd = -1;
    Exit exit;
    Pipe out_pipe;
    Pipe error_pipe;
    Pipe stop_pipe;  // closed by us: the reader takes what is there and ends
    std::thread reader;
    mutable std::mutex mutex;
    std::string out;    // guarded by mutex
    std::string error;  // guarded by mutex

    ~State() {
        if (pid > 0) {
            ::kill(-pid, SIGKILL);
            finish(Milliseconds(-1));
        }
        finish_reading();
        if (pidfd >= 0) ::close(pidfd);
    }

    // Takes what one pipe holds; false at its end.
    bool take(int descriptor, std::string& text) {
        std::array<char, 65'536> buffer;
        for (;;) {
            const ssize_t size = ::read(descriptor, buffer.data(), buffer.size());
            if (size > 0) {
                const std::lock_guard lock(mutex);
                text.append(buffer.data(), static_cast<std::size_t>(size));
            } else if (size == 0) {
                return false;
            } else if (errno != EINTR) {
                return errno == EAGAIN;
            }
        }
    }

    void read_all() {
        std::array<pollfd, 3> entries{
            {{out_pipe.read, POLLIN, 0}, {error_pipe.read, POLLIN, 0}, {stop_pipe.read, POLLIN, 0}}};
        while (entries[0].fd >= 0 || entries[1].fd >= 0) {
            if (::poll(entries.data(), entries.size(), -1) < 0) continue;  // EINTR
            const bool stopping = entries[2].revents != 0;
            // A grandchild may hold the pipe open for ever, so after the child's end we do not wait for EOF:
            // all that the child wrote is in the pipe by then.
            if (entries[0].fd >= 0 && !take(out_pipe.read, out)) entries[0].fd = -1;
            if (entries[1].fd >= 0 && !take(error_pipe.read, error)) entries[1].fd = -1;
            if (stopping) return;
        }
    }

    void finish_reading() {
        stop_pipe.close_write();
        if (reader.joinable()) reader.join();
    }

    // Waits for the end and reaps; a negative deadline waits without one.
    bool finish(Milliseconds deadline) {
        if (exit.ended) return true;
        pollfd entry{pidfd, POLLIN, 0};
        const auto end = TestClock::now() + deadline;
        for (;;) {
            int left = -1;
            if (deadline >= Milliseconds(0))
                left = static_cast<int>(
                    std::max(std::chrono::ceil<Milliseconds>(end - TestClock::now()), Milliseconds(0))
                        .count());
            const int ready = ::poll(&entry, 1, left);
            if (ready > 0) break;
            if (ready == 0) return false;
        }
        int status = 0;
        if (::waitpid(pid, &status, 0) != pid)
            throw std::runtime_error("waitpid: somebody else reaped the child");
        exit.ended = true;
        if (WIFEXITED(status)) exit.code = WEXITSTATUS(status);
        if (WIFSIGNALED(status)) exit.signal = WTERMSIG(status);
        ::kill(-pid, SIGKILL);  // what it may have left in its group
        pid = -pid;             // no signal of ours may reach a later process of the same number
        finish_reading();
        return true;
    }
};

Process::Process(std::vector<std::string> argv, ProcessOptions options) : state_(std::make_unique<State>()) {
    if (argv.empty()) throw std::runtime_error("Process: nothing to start");
    State& state = *state_;
    std::vector<std::string> environment = merged_environment(options.environment);
    const std::vector<char*> argument_pointers = pointers_to(argv);
    const std::vector<char*> environment_pointers = pointers_to(environment);
    Pipe failure;  // carries errno when exec fails, and closes when it works
    Pipe input;
    if (options.input.size() > 65'536) throw std::runtime_error("Process: more input than a pipe holds");
    if (::write(input.write, options.input.data(), options.input.size()) < 0)
        throw std::runtime_error("Process: cannot write the input");
    input.close_write();
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);

    const pid_t parent = ::getpid();
    const pid_t child = ::fork();
    if (child < 0) throw std::runtime_error("Process: cannot fork");
    if (child == 0) {
        // Only async-signal-safe calls from here on: other threads' locks may be held for ever in this copy.
        ::setpgid(0, 0);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(127);  // it died before we asked to die with it
        ::signal(SIGPIPE, SIG_DFL);               // we ignore it, and exec would pass that on
        sigset_t none;
        sigemptyset(&none);
        ::sigprocmask(SIG_SETMASK, &none, nullptr);
        ::dup2(options.input.empty() ? nothing : input.read, STDIN_FILENO);
        ::dup2(state.out_pipe.write, STDOUT_FILENO);
        ::dup2(state.error_pipe.write, STDERR_FILENO);
        if (!options.folder.empty() && ::chdir(options.folder.c_str()) != 0) ::_exit(127);
        // What this process itself was started with is none of the child's business, and would be counted as
        // its.
        ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
        if (options.before_exec) options.before_exec();
        ::execvpe(argv[0].c_str(), argument_pointers.data(), environment_pointers.data());
        const int error = errno;
        [[maybe_unused]] const ssize_t told = ::write(failure.write, &error, sizeof error);
        ::_exit(127);
    }
    if (nothing >= 0) ::close(nothing);
    ::setpgid(child, child);  // both sides do it, so that it is done whoever runs first
    state.pid = child;
    state.pidfd = static_cast<int>(::syscall(SYS_pidfd_open, child, 0));
    failure.close_write();
    state.out_pipe.close_write();
    state.error_pipe.close_write();
    int error = 0;
    const bool failed = ::read(failure.read, &error, sizeof error) == sizeof error;
    ::fcntl(state.out_pipe.read, F_SETFL, O_NONBLOCK);
    ::fcntl(state.error_pipe.read, F_SETFL, O_NONBLOCK);
    state.reader = std::thread([&state] { state.read_all(); });
    if (failed) {
        state.finish(Milliseconds(-1));
        throw std::runtime_error("cannot start " + argv[0] + ": " + std::strerror(error));
    }
}

Process::~Process() = default;
Process::Process(Process&&) noexcept = default;
Process& Process::operator=(Process&&) noexcept = default;

pid_t Process::pid() const {
    return state_->pid > 0 ? state_->pid : -state_->pid;
}

bool Process::running() {
    return !state_->finish(Milliseconds(0));
}

void Process::signal(int number) {
    if (state_->pid > 0) ::kill(state_->pid, number);
}

Exit Process::wait(Milliseconds deadline) {
    state_->finish(deadline);
    return state_->exit;
}

Exit Process::kill() {
    if (state_->pid > 0) ::kill(-state_->pid, SIGKILL);
    state_->finish(Milliseconds(-1));
    return state_->exit;
}

std::string Process::out() const {
    const std::lock_guard lock(state_->mutex);
    return state_->out;
}

std::string Process::error() const {
    const std::lock_guard lock(state_->mutex);
    return state_->error;
}

bool Process::wait_for_text(std::string_view text, Milliseconds deadline) {
    const auto written = [&] {
        const std::lock_guard lock(state_->mutex);
        return state_->out.find(text) != std::string::npos || state_->error.find(text) != std::string::npos;
    };
    bool ended = false;
    wait_until(
        [&] {
            ended = !running();  // asked before looking: what it wrote last counts
            return written() || ended;
        },
        deadline);
    return written();
}

std::string to_string(const Exit& exit) {
    if (!exit.ended) return "still running";
    if (exit.signal != 0) return "ended by signal " + std::to_string(exit.signal);
    return "exit code " + std::to_string(exit.code);
}

Output run(std::vector<std::string> argv, Milliseconds deadline, ProcessOptions options) {
    Process process(std::move(argv), std::move(options));
    Exit exit = process.wait(deadline);
    if (!exit.ended) exit = process.kill();
    return {exit, process.out(), process.error()};
}

bool program_available(const std::string& name) {
    const char* path = std::getenv("PATH");
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');)
        if (::access((folder + "/" + name).c_str(), X_OK) == 0) return true;
    return false;
}

namespace {

std::filesystem::path process_folder(pid_t pid) {
    return "/proc/" + std::to_string(pid);
}

}  // namespace

std::size_t descriptors_open(pid_t pid) {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(process_folder(pid) / "fd")) {
        static_cast<void>(entry);
        ++count;
    }
    // Looking at our own descriptors takes one.
    return pid == ::getpid() ? count - 1 : count;
}

std::chrono::nanoseconds cpu_time(pid_t pid) {
    const std::string text = read_file(process_folder(pid) / "stat");
    const std::size_t name_end = text.rfind(')');
    if (name_end == std::string::npos)
        throw std::runtime_error("cpu_time: no process " + std::to_string(pid));
    // After the name come the state and ten more fields, then utime and stime in ticks (proc(5)). They count
    // every thread, also those that have ended.
    std::istringstream fields(text.substr(name_end + 1));
    std::string skipped;
    for (int field = 0; field < 11; ++field) fields >> skipped;
    std::int64_t user = 0;
    std::int64_t system = 0;
    fields >> user >> system;
    return std::chrono::nanoseconds((user + system) * (1'000'000'000 / ::sysconf(_SC_CLK_TCK)));
}

namespace {

// Nanoseconds on a CPU of all threads that live now (schedstat's first number). Not utime and stime: those
// count 10 ms for whoever runs at a tick, and a timer of 5 ms runs at every other one.
std::chrono::nanoseconds exact_cpu_time(pid_t pid) {
    std::chrono::nanoseconds sum{0};
    for (const auto& thread : std::filesystem::directory_iterator(process_folder(pid) / "task"))
        sum += std::chrono::nanoseconds(std::stoll("0" + read_file(thread.path() / "schedstat")));
    return sum;
}

}  // namespace

double cpu_share(pid_t pid, Milliseconds duration) {
    const auto start = TestClock::now();
    const auto before = exact_cpu_time(pid);
    std::this_thread::sleep_for(duration);
    const std::chrono::duration<double> used = exact_cpu_time(pid) - before;
    const std::chrono::duration<double> elapsed = TestClock::now() - start;
    return used / elapsed;
}

Memory memory_of(pid_t pid) {
    const std::string text = read_file(process_folder(pid) / "smaps_rollup");
    if (text.empty()) throw std::runtime_error("memory_of: no process " + std::to_string(pid));
    const auto bytes_of = [&](const std::string& name) {
        const std::size_t at = text.find("\n" + name + ":");
        if (at == std::string::npos) throw std::runtime_error("memory_of: no " + name);
        return std::stoull(text.substr(at + name.size() + 2)) * 1024;
    };
    return {bytes_of("Rss"), bytes_of("Private_Dirty")};
}

}  // namespace sluice::test
