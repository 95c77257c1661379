// A load of datagrams at a fixed rate through a UDP relay, for comparing relays: clients and backend in one
// process on one CPU, which spins, so that the relay's CPU carries the relay only. Bounded by --seconds.
//
// The clients send in turn, one datagram each, which is the hardest order for a relay that batches. Each
// datagram has its client and its number, and both are checked at the backend (and, with --answers, at the
// client again). The last line is one JSON object; the relay's CPU is what the scheduler charged to --pid
// meanwhile.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::size_t batch_max = 64;
constexpr int buffer_bytes = 64 << 20;
// Behind schedule it sends faster, but never so many at once that no relay's buffer could hold them.
constexpr std::uint64_t burst_max = 32;
constexpr Seconds settling{0.5};  // after the last datagram was sent: what is still on its way
constexpr std::size_t bytes_max = 1500;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "udp-load: %s: %s\n", what.c_str(), std::strerror(errno));
    std::exit(1);
}

struct Options {
    std::uint16_t relay_port = 0;
    std::uint16_t backend_port = 0;
    std::size_t clients = 1;
    double rate = 50'000;  // datagrams a second, of all clients
    double seconds = 2;
    std::size_t size = 1200;
    bool answers = false;  // the backend sends each datagram back
    int cpu = -1;
    int pid = 0;  // whose CPU is counted
};

Options options_of(int count, char** words) {
    Options options;
    for (int index = 1; index < count; ++index) {
        const std::string_view name = words[index];
        if (name == "--answers") {
            options.answers = true;
            continue;
        }
        if (++index == count) fail("no value for " + std::string(name));
        const double value = std::atof(words[index]);
        if (name == "--relay-port")
            options.relay_port = static_cast<std::uint16_t>(value);
        else if (name == "--backend-port")
            options.backend_port = static_cast<std::uint16_t>(value);
        else if (name == "--clients")
            options.clients = static_cast<std::size_t>(value);
        else if (name == "--rate")
            options.rate = value;
        else if (name == "--seconds")
            options.seconds = value;
        else if (name == "--size")
            options.size = static_cast<std::size_t>(value);
        else if (name == "--cpu")
            options.cpu = static_cast<int>(value);
        else if (name == "--pid")
            options.pid = static_cast<int>(value);
        else
            fail("unknown option " + std::string(name));
    }
    if (options.clients == 0 || options.size < 16 || options.size > bytes_max || options.seconds > 60)
        fail("out of bounds");
    return options;
}

sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int open_socket() {
    const int descriptor = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) fail("socket");
    if (::setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof(buffer_bytes)) != 0)
        ::setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof(buffer_bytes));
    return descriptor;
}

// Run time of all threads of the process, from the scheduler.
std::uint64_t cpu_nanoseconds(int pid) {
    if (pid == 0) return 0;
    std::uint64_t sum = 0;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
        std::uint64_t running = 0;
        std::ifstream(thread.path() / "schedstat") >> running;
        sum += running;
    }
    return sum;
}

struct Label {
    std::uint64_t client;
    std::uint64_t number;
};

// Counts what comes, and what is not as it was sent.
struct Sink {
    std::vector<std::uint64_t> next;  // for each client, the number that is to come
    std::uint64_t received = 0;
    std::uint64_t wrong = 0;  // changed in size or label, twice, or out of order

    void take(const std::byte* bytes, std::size_t size, std::size_t size_sent) {
        Label label{};
        std::memcpy(&label, bytes, sizeof(label));
        ++received;
        if (size != size_sent || label.client >= next.size() || label.number < next[label.client]) {
            ++wrong;
            return;
        }
        next[label.client] = label.number + 1;
    }
};

class Load {
  public:
    explicit Load(const Options& options) : options_(options) {
        backend_ = open_socket();
        const sockaddr_in own = loopback(options_.backend_port);
        if (::bind(backend_, reinterpret_cast<const sockaddr*>(&own), sizeof(own)) != 0) fail("bind");
        poll_ = ::epoll_create1(EPOLL_CLOEXEC);
        for (std::size_t client = 0; client < options_.clients; ++client) {
            clients_.push_back(open_socket());
            const sockaddr_in relay = loopback(options_.relay_port);
            if (::connect(clients_.back(), reinterpret_cast<const sockaddr*>(&relay), sizeof(relay)) != 0)
                fail("connect");
            epoll_event event{};
            event.events = EPOLLIN;
            event.data.u64 = client;
            ::epoll_ctl(poll_, EPOLL_CTL_ADD, clients_.back(), &event);
        }
        upload_.next.resize(options_.clients);
        download_.next.resize(options_.clients);
        numbers_.resize(options_.clients);
        for (std::size_t index = 0; index < batch_max; ++index) {
            pieces_[index] = {memory_[index].data(), bytes_max};
            headers_[index].msg_hdr.msg_iov = &pieces_[index];
            headers_[index].msg_hdr.msg_iovlen = 1;
        }
    }

    void run() {
        // One datagram each first: that sessions are begun is another workload.
        for (std::size_t client = 0; client < options_.clients; ++client) {
            send_next();
            for (const auto end = Clock::now() + std::chrono::milliseconds(20);
                 upload_.received <= client && Clock::now() < end;)
                receive();
        }
        const Sink begun = upload_;
        const std::uint64_t answered = download_.received;
        const std::uint64_t cpu = cpu_nanoseconds(options_.pid);
        const std::uint64_t first = sent_;
        const auto start = Clock::now();
        double elapsed = 0;
        while ((elapsed = Seconds(Clock::now() - start).count()) < options_.seconds) {
            const auto due = static_cast<std::uint64_t>(elapsed * options_.rate);
            for (std::uint64_t burst = 0; burst < burst_max && sent_ - first < due; ++burst) send_next();
            receive();
        }
        const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(settling);
        while (Clock::now() < end) receive();
        const std::uint64_t spent = cpu_nanoseconds(options_.pid) - cpu;

        const std::uint64_t offered = sent_ - first;
        const std::uint64_t delivered = upload_.received - begun.received;
        const std::uint64_t returned = download_.received - answered;
        std::printf(
            "{\"clients\": %zu, \"rate\": %.0f, \"answers\": %s, \"offered\": %llu, \"offered_per_s\": %.0f, "
            "\"delivered\": %llu, \"returned\": %llu, \"wrong\": %llu, \"loss\": %.6f, \"cpu_ms\": %.1f, "
            "\"us_per_offered\": %.3f, \"us_per_delivered\": %.3f}\n",
            options_.clients, options_.rate, options_.answers ? "true" : "false", as_printed(offered),
            static_cast<double>(offered) / elapsed, as_printed(delivered), as_printed(returned),
            as_printed(upload_.wrong + download_.wrong),
            1 - static_cast<double>(options_.answers ? returned : delivered) / static_cast<double>(offered),
            static_cast<double>(spent) / 1e6, static_cast<double>(spent) / 1e3 / static_cast<double>(offered),
            static_cast<double>(spent) / 1e3 / static_cast<double>(delivered));
    }

  private:
    static unsigned long long as_printed(std::uint64_t number) { return number; }

    void send_next() {
        const std::size_t client = turn_;
        turn_ = (turn_ + 1) % clients_.size();
        const Label label{client, numbers_[client]++};
        std::memcpy(out_.data(), &label, sizeof(label));
        // What its own kernel refuses was not offered.
        if (::send(clients_[client], out_.data(), options_.size, 0) >= 0) ++sent_;
    }

    void receive() {
        receive_at(backend_, upload_, options_.answers);
        if (!options_.answers) return;
        std::array<epoll_event, batch_max> events;
        const int ready = ::epoll_wait(poll_, events.data(), static_cast<int>(events.size()), 0);
        for (int index = 0; index < ready; ++index)
            receive_at(clients_[events[static_cast<std::size_t>(index)].data.u64], download_, false);
    }

    void receive_at(int descriptor, Sink& sink, bool answer) {
        for (std::size_t index = 0; index < batch_max; ++index) {
            headers_[index].msg_hdr.msg_name = answer ? &senders_[index] : nullptr;
            headers_[index].msg_hdr.msg_namelen = answer ? sizeof(sockaddr_in) : 0;
            pieces_[index].iov_len = bytes_max;
        }
        const int count = ::recvmmsg(descriptor, headers_.data(), batch_max, MSG_DONTWAIT, nullptr);
        for (int index = 0; index < count; ++index) {
            const auto place = static_cast<std::size_t>(index);
            sink.take(memory_[place].data(), headers_[place].msg_len, options_.size);
            pieces_[place].iov_len = headers_[place].msg_len;
        }
        if (answer && count > 0) ::sendmmsg(descriptor, headers_.data(), static_cast<unsigned>(count), 0);
    }

    Options options_;
    int backend_ = -1;
    int poll_ = -1;
    std::vector<int> clients_;
    std::vector<std::uint64_t> numbers_;
    std::size_t turn_ = 0;
    std::uint64_t sent_ = 0;
    Sink upload_;
    Sink download_;
    std::array<std::byte, bytes_max> out_{};
    std::array<std::array<std::byte, bytes_max>, batch_max> memory_;
    std::array<sockaddr_in, batch_max> senders_{};
    std::array<iovec, batch_max> pieces_{};
    std::array<mmsghdr, batch_max> headers_{};
};

}  // namespace

int main(int count, char** words) {
    const Options options = options_of(count, words);
    if (options.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(static_cast<std::size_t>(options.cpu), &set);
        if (::sched_setaffinity(0, sizeof(set), &set) != 0) fail("sched_setaffinity");
    }
    Load load(options);
    load.run();
    return 0;
}
