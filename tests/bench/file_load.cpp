// What it costs to serve a file to clients, and to take files from them: the relay against plain loops that
// stand in the same place, on the same CPU, before the same clients. Rounds go by turns, and the table gives
// medians.
//
//     build/release/tests/file-load --relay build/release/src/sluice --folder /dev/shm --mib 512 --rounds 5
//     build/release/tests/file-load --take ...
//
// Whoever serves or takes has CPU 0 to itself, the clients have CPU 1. Clients throw away what comes
// (MSG_TRUNC), and send out of page cache (sendfile from a memfd): they are not what is measured. The cost is
// the CPU time of all threads of the server's process by /proc/PID/task/*/schedstat, from before the first
// client connects until the last one saw the end. Nothing of what TCP on loopback does in the receiver's
// place can be told apart from it: the sender's CPU time includes the receiver's softirq. --listen and
// --client-netns put a veth between them.

#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"

#include <CLI/CLI.hpp>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace sluice;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;
constexpr double gib = 1024.0 * 1024 * 1024;
constexpr int server_cpu = 0;
constexpr int client_cpu = 1;
constexpr std::chrono::seconds round_max{120};

struct Plan {
    bool take = false;
    std::string folder = "/dev/shm";
    std::size_t bytes = 256 * mib;  // of each stream
    std::size_t clients = 8;
    int rounds = 5;
    std::string relay;
    std::string engine = "auto";
    std::string listen = "127.0.0.1";
    std::string client_netns;
    std::string only;
    std::string congestion;
};

[[noreturn]] void fail(const std::string& what) {
    throw std::runtime_error(what + ": " + std::strerror(errno));
}

class Fd {
  public:
    explicit Fd(int fd = -1) noexcept : fd_(fd) {}
    ~Fd() {
        if (fd_ >= 0) ::close(fd_);
    }
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    int get() const noexcept { return fd_; }

  private:
    int fd_;
};

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    if (::sched_setaffinity(0, sizeof(set), &set) != 0) fail("sched_setaffinity");
}

sockaddr_in address_of(const std::string& ip, std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (::inet_pton(AF_INET, ip.c_str(), &address.sin_addr) != 1) throw std::runtime_error("no IPv4: " + ip);
    return address;
}

struct Listening {
    Fd fd;
    std::uint16_t port = 0;
};

// On a listener: for what it accepts. All sides have the same, as it decides how often the sender's timers
// run.
void use_congestion_control(int fd, const std::string& name) {
    if (name.empty()) return;
    if (::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.c_str(), static_cast<socklen_t>(name.size())) != 0)
        fail("congestion control " + name);
}

Listening listen_on(const std::string& ip) {
    Listening result{Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), 0};
    sockaddr_in address = address_of(ip, 0);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(result.fd.get(), generic, size) != 0) fail("bind");
    if (::listen(result.fd.get(), 64) != 0) fail("listen");
    if (::getsockname(result.fd.get(), generic, &size) != 0) fail("getsockname");
    result.port = ntohs(address.sin_port);
    return result;
}

Fd open_file(const std::string& path, int flags) {
    Fd file(::open(path.c_str(), flags | O_CLOEXEC, 0600));
    if (file.get() < 0) fail("open " + path);
    return file;
}

// --- the loops ---

// One stream in the hands of a loop: its socket, its file, and what a loop keeps between two wake-ups.
struct Stream {
    Fd socket;
    Fd file;
    std::unique_ptr<char[]> buffer;
    Fd pipe_read;
    Fd pipe_write;
    std::size_t begin = 0;  // of what the buffer holds
    std::size_t held = 0;   // in the buffer or the pipe
};

enum class Step { blocked, ended };

// Moves until the socket would block, or to the end of the stream.
using Loop = std::function<Step(Stream&)>;

bool would_block(ssize_t result) {
    if (result >= 0) return false;
    if (errno != EAGAIN) fail("moving bytes");
    return true;
}

Step serve_by_write(Stream& stream, std::size_t size) {
    while (true) {
        if (stream.held == 0) {
            const ssize_t got = ::read(stream.file.get(), stream.buffer.get(), size);
            if (got < 0) fail("read");
            if (got == 0) return Step::ended;
            stream.begin = 0;
            stream.held = static_cast<std::size_t>(got);
        }
        const ssize_t sent =
            ::send(stream.socket.get(), stream.buffer.get() + stream.begin, stream.held, MSG_NOSIGNAL);
        if (would_block(sent)) return Step::blocked;
        stream.begin += static_cast<std::size_t>(sent);
        stream.held -= static_cast<std::size_t>(sent);
    }
}

Step serve_by_sendfile(Stream& stream) {
    while (true) {
        const ssize_t sent = ::sendfile(stream.socket.get(), stream.file.get(), nullptr, 0x7ffff000);
        if (would_block(sent)) return Step::blocked;
        if (sent == 0) return Step::ended;
    }
}

Step serve_by_splice(Stream& stream, std::size_t size) {
    while (true) {
        if (stream.held == 0) {
            const ssize_t got =
                ::splice(stream.file.get(), nullptr, stream.pipe_write.get(), nullptr, size, 0);
            if (got < 0) fail("splice from the file");
            if (got == 0) return Step::ended;
            stream.held = static_cast<std::size_t>(got);
        }
        const ssize_t sent = ::splice(stream.pipe_read.get(), nullptr, stream.socket.get(), nullptr,
                                      stream.held, SPLICE_F_NONBLOCK);
        if (would_block(sent)) return Step::blocked;
        stream.held -= static_cast<std::size_t>(sent);
    }
}

Step take_by_read(Stream& stream, std::size_t size) {
    while (true) {
        const ssize_t got = ::recv(stream.socket.get(), stream.buffer.get(), size, 0);
        if (would_block(got)) return Step::blocked;
        if (got == 0) return Step::ended;
        for (ssize_t written = 0; written < got;) {
            const ssize_t result = ::write(stream.file.get(), stream.buffer.get() + written,
                                           static_cast<std::size_t>(got - written));
            if (result <= 0) fail("write");
            written += result;
        }
    }
}

Step take_by_splice(Stream& stream, std::size_t size) {
    while (true) {
        ssize_t got =
            ::splice(stream.socket.get(), nullptr, stream.pipe_write.get(), nullptr, size, SPLICE_F_NONBLOCK);
        if (would_block(got)) return Step::blocked;
        if (got == 0) return Step::ended;
        while (got > 0) {
            const ssize_t result = ::splice(stream.pipe_read.get(), nullptr, stream.file.get(), nullptr,
                                            static_cast<std::size_t>(got), 0);
            if (result <= 0) fail("splice to the file");
            got -= result;
        }
    }
}

enum class Needs { nothing, buffer, pipe };

struct Candidate {
    std::string name;
    Loop loop;  // none: the relay
    Needs needs = Needs::nothing;
    std::size_t size = 0;
    std::vector<double> costs = {};   // CPU ms for each GiB
    std::vector<double> speeds = {};  // GiB/s
};

std::string name_of(std::size_t bytes) {
    return bytes < mib ? std::to_string(bytes / kib) + " KiB" : std::to_string(bytes / mib) + " MiB";
}

std::vector<Candidate> candidates(const Plan& plan) {
    std::vector<Candidate> all;
    for (const std::size_t size : {8 * kib, 16 * kib, 32 * kib, 64 * kib, 256 * kib}) {
        const auto loop = plan.take ? take_by_read : serve_by_write;
        all.push_back({"read/write " + name_of(size), [loop, size](Stream& s) { return loop(s, size); },
                       Needs::buffer, size});
    }
    for (const std::size_t size : {64 * kib, 256 * kib, mib}) {
        const auto loop = plan.take ? take_by_splice : serve_by_splice;
        all.push_back({"splice " + name_of(size), [loop, size](Stream& s) { return loop(s, size); },
                       Needs::pipe, size});
    }
    if (!plan.take) all.push_back({"sendfile", serve_by_sendfile});
    if (!plan.relay.empty()) all.push_back({"relay", nullptr});
    if (!plan.only.empty())
        std::erase_if(all, [&](const Candidate& each) {
            return each.name.find(plan.only) == std::string::npos && each.loop != nullptr;
        });
    return all;
}

void run_loop(const Candidate& candidate, const Plan& plan, const Fd& listener,
              const std::vector<std::string>& paths) {
    std::vector<Stream> streams(plan.clients);
    const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    for (std::size_t index = 0; index < plan.clients; ++index) {
        Stream& stream = streams[index];
        stream.socket = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        stream.file = open_file(paths[plan.take ? index : 0], plan.take ? O_WRONLY | O_CREAT : O_RDONLY);
        if (candidate.needs == Needs::buffer) stream.buffer.reset(new char[candidate.size]);
        if (candidate.needs == Needs::pipe) {
            int ends[2];
            if (::pipe2(ends, O_CLOEXEC) != 0) fail("pipe2");
            stream.pipe_read = Fd(ends[0]);
            stream.pipe_write = Fd(ends[1]);
            if (::fcntl(ends[0], F_SETPIPE_SZ, static_cast<int>(candidate.size)) < 0) fail("F_SETPIPE_SZ");
        }
        epoll_event event{};
        event.events = plan.take ? EPOLLIN : EPOLLOUT;
        event.data.u64 = index;
        if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stream.socket.get(), &event) != 0) fail("epoll_ctl");
    }
    for (std::size_t open = plan.clients; open > 0;) {
        epoll_event events[64];
        const int count = ::epoll_wait(epoll.get(), events, 64, -1);
        for (int index = 0; index < count; ++index) {
            Stream& stream = streams[events[index].data.u64];
            if (candidate.loop(stream) == Step::blocked) continue;
            stream.socket = Fd();  // its FIN says that all of it was moved
            --open;
        }
    }
}

// --- the processes ---

std::uint64_t cpu_ns(pid_t pid) {
    std::uint64_t sum = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
        std::ifstream file(task.path() / "schedstat");
        std::uint64_t ran = 0;
        file >> ran;
        sum += ran;
    }
    return sum;
}

// A loop in a process of its own, which stays after its work until it is told to go, so that it can be
// measured.
class LoopProcess {
  public:
    LoopProcess(const Candidate& candidate, const Plan& plan, const std::vector<std::string>& paths) {
        Listening listener = listen_on(plan.listen);
        use_congestion_control(listener.fd.get(), plan.congestion);
        port_ = listener.port;
        pid_ = ::fork();
        if (pid_ < 0) fail("fork");
        if (pid_ > 0) return;
        int status = 0;
        try {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            pin_to(server_cpu);
            run_loop(candidate, plan, listener.fd, paths);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s: %s\n", candidate.name.c_str(), error.what());
            status = 1;
        }
        if (status == 0) ::pause();
        ::_exit(status);
    }
    ~LoopProcess() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    LoopProcess(const LoopProcess&) = delete;
    LoopProcess& operator=(const LoopProcess&) = delete;
    pid_t pid() const { return pid_; }
    std::vector<std::uint16_t> ports(const Plan& plan) const {
        return std::vector<std::uint16_t>(plan.clients, port_);
    }

  private:
    pid_t pid_ = -1;
    std::uint16_t port_ = 0;
};

// Served: one listener for all. Taken: a file takes from one session at a time, so each has a listener.
class RelayProcess {
  public:
    RelayProcess(const Plan& plan, const std::vector<std::string>& paths) {
        std::string listeners = "listeners:\n";
        std::string pools = "pools:\n";
        const std::size_t count = plan.take ? plan.clients : 1;
        std::vector<Listening> held;  // until all are chosen, so that they differ
        for (std::size_t index = 0; index < count; ++index) {
            held.push_back(listen_on(plan.listen));
            ports_.push_back(held.back().port);
            const std::string number = std::to_string(index);
            listeners += "  - {bind: \"" + plan.listen + ":" + std::to_string(ports_.back()) + "\", pool: p" +
                         number + ", tcp: {congestion: \"" + plan.congestion + "\"}}\n";
            pools += "  p" + number + ": {backends: [\"file:" + paths[index] + (plan.take ? "?create" : "") +
                     "\"]}\n";
        }
        held.clear();
        ports_.resize(plan.clients, ports_.front());
        const std::string config = folder_.write(
            "sluice.yaml", "workers: 1\nengine: " + plan.engine +
                               "\naccess_log: {output: stderr, events: [close]}\n" + listeners + pools);
        sluice::test::ProcessOptions options;
        options.before_exec = [] { pin_to(server_cpu); };
        process_ = std::make_unique<sluice::test::Process>(
            std::vector<std::string>{plan.relay, "run", "-c", config}, options);
        if (!process_->wait_for_text("ready")) throw std::runtime_error("the relay: " + process_->error());
    }
    pid_t pid() const { return process_->pid(); }
    const std::vector<std::uint16_t>& ports() const { return ports_; }
    std::string log() const { return process_->error(); }

  private:
    sluice::test::TemporaryFolder folder_;
    std::vector<std::uint16_t> ports_;
    std::unique_ptr<sluice::test::Process> process_;
};

// --- the clients ---

struct Client {
    Fd socket;
    off_t sent = 0;
    std::size_t received = 0;
};

// All clients in one thread, to the end of the last one.
void run_clients(const Plan& plan, const std::vector<std::uint16_t>& ports, int source) {
    pin_to(client_cpu);
    if (!plan.client_netns.empty()) {
        const Fd netns = open_file("/run/netns/" + plan.client_netns, O_RDONLY);
        if (::setns(netns.get(), CLONE_NEWNET) != 0) fail("setns");
    }
    std::vector<char> sink(mib);  // its length counts: MSG_TRUNC copies nothing
    std::vector<Client> clients(plan.clients);
    const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    for (std::size_t index = 0; index < plan.clients; ++index) {
        Client& client = clients[index];
        client.socket = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        use_congestion_control(client.socket.get(), plan.congestion);
        const sockaddr_in address = address_of(plan.listen, ports[index]);
        if (::connect(client.socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
            fail("connect");
        ::fcntl(client.socket.get(), F_SETFL, O_NONBLOCK);
        epoll_event event{};
        event.events = plan.take ? EPOLLOUT : EPOLLIN;
        event.data.u64 = index;
        if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, client.socket.get(), &event) != 0) fail("epoll_ctl");
    }
    const auto until = std::chrono::steady_clock::now() + round_max;
    for (std::size_t open = plan.clients; open > 0;) {
        epoll_event events[64];
        const int count = ::epoll_wait(epoll.get(), events, 64, 1000);
        if (std::chrono::steady_clock::now() > until) throw std::runtime_error("a round takes too long");
        for (int index = 0; index < count; ++index) {
            Client& client = clients[events[index].data.u64];
            const int fd = client.socket.get();
            const auto left = static_cast<off_t>(plan.bytes) - client.sent;
            if (plan.take && left > 0) {
                would_block(::sendfile(fd, source, &client.sent, static_cast<std::size_t>(left)));
                if (client.sent < static_cast<off_t>(plan.bytes)) continue;
                ::shutdown(fd, SHUT_WR);
                epoll_event event{};
                event.events = EPOLLIN;
                event.data.u64 = events[index].data.u64;
                if (::epoll_ctl(epoll.get(), EPOLL_CTL_MOD, fd, &event) != 0) fail("epoll_ctl");
                continue;
            }
            const ssize_t got = ::recv(fd, sink.data(), sink.size(), MSG_TRUNC);
            if (would_block(got)) continue;
            client.received += static_cast<std::size_t>(got);
            if (got > 0) continue;
            if (!plan.take && client.received != plan.bytes)
                throw std::runtime_error("a file came cut short");
            client.socket = Fd();
            --open;
        }
    }
}

struct Cost {
    double cpu_ms_per_gib;
    double gib_per_s;
};

Cost measure(pid_t pid, const Plan& plan, const std::vector<std::uint16_t>& ports, int source) {
    const std::uint64_t before = cpu_ns(pid);
    const auto started = std::chrono::steady_clock::now();
    std::exception_ptr trouble;
    std::thread clients([&] {
        try {
            run_clients(plan, ports, source);
        } catch (...) {
            trouble = std::current_exception();
        }
    });
    clients.join();
    if (trouble) std::rethrow_exception(trouble);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    const double amount = static_cast<double>(plan.bytes) * static_cast<double>(plan.clients) / gib;
    return {static_cast<double>(cpu_ns(pid) - before) / 1e6 / amount, amount / took.count()};
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

void fill_with_noise(int fd, std::size_t bytes) {
    std::vector<std::uint64_t> block(mib / sizeof(std::uint64_t));
    std::uint64_t state = 0x9e3779b97f4a7c15;
    for (std::uint64_t& word : block) word = state = state * 6364136223846793005U + 1442695040888963407U;
    for (std::size_t done = 0; done < bytes; done += mib)
        if (::write(fd, block.data(), mib) != static_cast<ssize_t>(mib)) fail("writing the test file");
}

void run(const Plan& plan) {
    std::vector<Candidate> all = candidates(plan);
    // The files stand in a folder of their own below the one that was named, and go with it.
    const std::string place = plan.folder + "/file-load." + std::to_string(::getpid());
    std::filesystem::create_directory(place);
    const auto remove = [&](const char*) { std::filesystem::remove_all(place); };
    const std::unique_ptr<const char, decltype(remove)> cleaner(place.c_str(), remove);
    std::vector<std::string> paths;
    for (std::size_t index = 0; index < plan.clients; ++index)
        paths.push_back(place + "/" + std::to_string(index));
    const Fd source(::memfd_create("source", MFD_CLOEXEC));
    if (plan.take)
        fill_with_noise(source.get(), plan.bytes);
    else
        fill_with_noise(open_file(paths[0], O_WRONLY | O_CREAT).get(), plan.bytes);

    // Round 0 does not count: in a virtual machine the first use of memory is dear (it made taking three
    // times as dear as later), and whoever comes first would pay for it.
    for (int round = 0; round <= plan.rounds; ++round)
        for (Candidate& candidate : all) {
            Cost cost{};
            if (candidate.loop) {
                const LoopProcess server(candidate, plan, paths);
                cost = measure(server.pid(), plan, server.ports(plan), source.get());
            } else {
                const RelayProcess server(plan, paths);
                cost = measure(server.pid(), plan, server.ports(), source.get());
                if (server.log().find("path=copy") != std::string::npos)
                    throw std::runtime_error("the relay copied:\n" + server.log());
            }
            if (round > 0) {
                candidate.costs.push_back(cost.cpu_ms_per_gib);
                candidate.speeds.push_back(cost.gib_per_s);
            }
            if (!plan.take) continue;
            for (const std::string& path : paths) {
                if (std::filesystem::file_size(path) != plan.bytes)
                    throw std::runtime_error(path + " is not whole");
                std::filesystem::remove(path);
            }
        }

    double relay = 0;
    for (const Candidate& each : all)
        if (!each.loop) relay = median(each.costs);
    std::printf("%s, %zu clients x %zu MiB, %s, %d rounds\n", plan.take ? "taking" : "serving", plan.clients,
                plan.bytes / mib, plan.folder.c_str(), plan.rounds);
    std::printf("%-20s %12s %8s %8s %8s %12s\n", "who", "CPU ms/GiB", "least", "most", "GiB/s", "relay / it");
    for (const Candidate& each : all) {
        const double cost = median(each.costs);
        const auto [least, most] = std::minmax_element(each.costs.begin(), each.costs.end());
        std::printf("%-20s %12.1f %8.1f %8.1f %8.2f", each.name.c_str(), cost, *least, *most,
                    median(each.speeds));
        if (relay > 0) std::printf(" %12.2f", relay / cost);
        std::printf("\n");
    }
}

}  // namespace

int main(int count, char** arguments) {
    Plan plan;
    std::size_t size_mib = plan.bytes / mib;
    CLI::App app("files: the relay against plain loops");
    app.add_flag("--take", plan.take, "clients send into files; else they are served one");
    app.add_option("--folder", plan.folder, "where the files stand: tmpfs or a disk");
    app.add_option("--mib", size_mib, "of each stream");
    app.add_option("--clients", plan.clients)->check(CLI::Range(1, 64));
    app.add_option("--rounds", plan.rounds)->check(CLI::Range(1, 100));
    app.add_option("--relay", plan.relay, "the sluice binary; none: the loops alone");
    app.add_option("--engine", plan.engine);
    app.add_option("--only", plan.only, "the loops whose name contains this (and the relay)");
    app.add_option("--congestion", plan.congestion,
                   "for all; none: the system's (bbr paces by timers, even on loopback)");
    app.add_option("--listen", plan.listen, "an IPv4 address of this network namespace");
    app.add_option("--client-netns", plan.client_netns, "where the clients are (ip netns)");
    CLI11_PARSE(app, count, arguments);
    plan.bytes = size_mib * mib;
    ::signal(SIGPIPE, SIG_IGN);
    try {
        run(plan);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "file-load: %s\n", error.what());
        return 1;
    }
    return 0;
}
