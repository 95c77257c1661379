#include "sluice/relay/relay.hpp"

#include "sluice/config/socket_options.hpp"
#include "sluice/net/bound_address.hpp"
#include "sluice/net/pipe.hpp"
#include "sluice/reactor/reactor.hpp"
#include "sluice/relay/worker.hpp"
#include "sluice/upstream/resolver.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <system_error>
#include <thread>

namespace sluice {

namespace {

// Records that wait for the access log, of each worker: about 2 MiB.
constexpr std::size_t records_max_of_a_worker = 16384;

std::vector<int> allowed_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> cpus;
    if (::sched_getaffinity(0, sizeof(set), &set) == 0)
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
    if (cpus.empty()) cpus.push_back(-1);
    return cpus;
}

std::uint64_t descriptors_open() {
    std::error_code ignored;
    const std::filesystem::directory_iterator entries("/proc/self/fd", ignored);
    return static_cast<std::uint64_t>(std::distance(begin(entries), end(entries)));
}

// As many as the descriptors allow: two for each, after what is open, what the workers need, a share for
// leased pipes and a reserve, so that a full relay can still open a log or answer its operator. Sessions of
// datagrams have one socket; but those that were just ended for a newer one hold theirs a moment longer.
std::uint32_t sessions_by_descriptors(std::size_t workers, bool datagrams_only) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = 1024;
    const std::uint64_t descriptors = std::min<std::uint64_t>(limit.rlim_cur, 16'000'000);
    const std::uint64_t reserved =
        descriptors_open() + workers * 4 + descriptors / 32 + std::min<std::uint64_t>(64, descriptors / 8);
    const std::uint64_t left = descriptors > reserved ? descriptors - reserved : 0;
    const std::uint64_t possible = datagrams_only ? left - left / 8 : left / 2;
    return static_cast<std::uint32_t>(std::max<std::uint64_t>(possible, 1));
}

struct ChosenEngine {
    bool uring;
    std::string reason;
};

std::expected<ChosenEngine, std::string> choose_engine(config::Engine wanted) {
    if (wanted == config::Engine::epoll) return ChosenEngine{false, "asked for by the configuration"};
    auto probed = probe_uring();
    if (const auto calls = open_uring_calls(); probed && !calls) probed = std::unexpected(calls.error());
    if (probed) return ChosenEngine{true, "tried, and it works"};
    if (wanted == config::Engine::automatic) return ChosenEngine{false, probed.error()};
    return std::unexpected(fmt::format(
        "engine io_uring was asked for, but {}; use engine: auto (or epoll), or grant what is missing",
        probed.error()));
}

// Which threads serve a listener. Disks are slow without saying so: sessions with files have threads of their
// own, so that nobody else waits for a disk.
enum class Crew : std::uint8_t { sockets, files };

// A range with a port in use has usually more of them; the first ones tell enough.
constexpr std::size_t bind_errors_max = 20;

class RunningRelay final : public Relay {
  public:
    explicit RunningRelay(std::shared_ptr<const config::Config> config) : config_(std::move(config)) {}
    ~RunningRelay() override;
    RunningRelay(const RunningRelay&) = delete;
    RunningRelay& operator=(const RunningRelay&) = delete;

    std::vector<std::string> prepare();
    std::expected<void, std::string> start() override;
    void drain(Time deadline) override;
    void kill() override;
    bool wait_until_idle(Time deadline) override;

    const char* engine() const noexcept override { return engine_.uring ? "io_uring" : "epoll"; }
    const std::string& engine_reason() const noexcept override { return engine_.reason; }
    std::uint32_t workers() const noexcept override { return crew_size_; }
    std::uint32_t sessions_max() const noexcept override { return sessions_max_; }
    const std::vector<SocketAddress>& addresses() const noexcept override { return addresses_; }
    RelayCounters counters() const noexcept override;
    Records& records() noexcept override { return *records_; }

  private:
    struct Bound {
        std::size_t listener;  // index in the configuration
        Transport transport;
        std::uint16_t port_offset;  // in the range of ports of its bind
        const Endpoint* bind;       // in the configuration
        BoundAddress address;
    };

    struct Wanted {
        std::size_t listener;
        std::uint16_t port_offset;
        const Endpoint* bind;
        Endpoint endpoint;  // one port
    };

    std::vector<std::string> bind_all(std::uint32_t worker_count);
    std::vector<Wanted> wanted_addresses(std::vector<std::string>& errors) const;
    std::expected<void, std::string> open_workers(const std::vector<int>& cpus, std::uint32_t worker_count);
    std::expected<void, std::string> open_worker(Crew crew, std::uint32_t index, int cpu,
                                                 std::size_t pipe_budget);
    std::size_t pool_index(const std::string& name) const;
    Crew crew_of(const config::Listener& listener) const;
    bool listens_on_ephemeral_ports() const;
    bool has_crew(Crew crew) const;
    std::expected<void, std::string> start_resolver();
    void run_worker(Worker& worker, std::promise<std::expected<void, std::string>> started);

    // In the order in which they are needed: what comes later is gone first.
    std::shared_ptr<const config::Config> config_;
    std::uint32_t sessions_max_ = 0;
    std::uint32_t crew_size_ = 0;  // workers of each crew
    ChosenEngine engine_{};
    alignas(64) Seat::Count sessions_{0};
    DatagramWishes wishes_;
    std::vector<std::unique_ptr<Seat::Count>> listener_sessions_;
    std::vector<std::unique_ptr<Seat::Count>> listener_wanted_;  // see DatagramListener::wanted
    std::unique_ptr<Records> records_;
    std::vector<Bound> bound_;
    std::vector<SocketAddress> addresses_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::unique_ptr<Resolver> resolver_;
    std::vector<std::thread> threads_;

    std::mutex finished_mutex_;
    std::condition_variable finished_changed_;
    std::size_t running_ = 0;  // worker threads; under finished_mutex_
};

std::vector<std::string> RunningRelay::prepare() {
    const std::vector<int> cpus = allowed_cpus();
    const auto worker_count =
        config_->workers > 0 ? config_->workers : static_cast<std::uint32_t>(cpus.size());
    crew_size_ = worker_count;
    auto engine = choose_engine(config_->engine);
    if (!engine) return {engine.error()};
    engine_ = std::move(*engine);
    for (std::size_t index = 0; index < config_->listeners.size(); ++index) {
        listener_sessions_.push_back(std::make_unique<Seat::Count>(0));
        listener_wanted_.push_back(std::make_unique<Seat::Count>(0));
    }
    if (auto errors = bind_all(worker_count); !errors.empty()) return errors;

    const std::uint32_t threads =
        has_crew(Crew::files) && has_crew(Crew::sockets) ? worker_count * 2 : worker_count;
    const bool datagrams_only = std::ranges::all_of(
        bound_, [](const Bound& bound) { return bound.transport == Transport::datagram; });
    const std::uint32_t possible =
        std::min(sessions_by_descriptors(threads, datagrams_only), Token::slots_max - 1);
    sessions_max_ = config_->sessions_max > 0 ? std::min(config_->sessions_max, possible) : possible;
    if (config_->sessions_max > possible)
        spdlog::warn(
            "sessions_max is {}, but the limit of open files suffices for {}: {} it is; raise the limit "
            "(ulimit -n, LimitNOFILE=)",
            config_->sessions_max, possible, possible);
    records_ = std::make_unique<Records>(threads, records_max_of_a_worker);
    if (auto opened = open_workers(cpus, worker_count); !opened) return {opened.error()};
    return {};
}

std::vector<std::string> RunningRelay::bind_all(std::uint32_t worker_count) {
    std::vector<std::string> errors;
    std::vector<Wanted> wanted = wanted_addresses(errors);
    if (!errors.empty()) return errors;
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
        wanted.size() * worker_count + descriptors_open() >= limit.rlim_cur)
        return {fmt::format(
            "{} addresses for {} workers need {} descriptors, but the limit of open files is {}; raise "
            "it (ulimit -n, LimitNOFILE=)",
            wanted.size(), worker_count, wanted.size() * worker_count, limit.rlim_cur)};
    for (const Wanted& each : wanted) {
        const config::Listener& listener = config_->listeners[each.listener];
        auto bound = BoundAddress::open(each.endpoint, config::socket_options(listener.tcp), worker_count);
        if (!bound) {
            errors.push_back(fmt::format("listener {}: {}", listener.name, bound.error()));
            if (errors.size() < bind_errors_max) continue;
            break;
        }
        if (each.port_offset == 0) addresses_.push_back(bound->address());
        bound_.push_back(
            {each.listener, each.endpoint.transport(), each.port_offset, each.bind, std::move(*bound)});
    }
    return errors;
}

// Every address that is to be bound, a range by its ports; those for which there is room.
std::vector<RunningRelay::Wanted> RunningRelay::wanted_addresses(std::vector<std::string>& errors) const {
    const Time deadline = Clock::now() + BoundAddress::departure_max;
    std::vector<Wanted> wanted;
    for (std::size_t index = 0; index < config_->listeners.size(); ++index) {
        for (const Endpoint& bind : config_->listeners[index].bind) {
            for (std::uint32_t offset = 0; offset < bind.ports(); ++offset) {
                Endpoint one = bind;
                one.port = static_cast<std::uint16_t>(bind.port + offset);
                one.port_last = 0;
                if (auto room = BoundAddress::make_room(one, deadline); !room) {
                    errors.push_back(
                        fmt::format("listener {}: {}", config_->listeners[index].name, room.error()));
                    if (errors.size() < bind_errors_max) continue;
                    errors.emplace_back("perhaps more addresses are in use: the rest was not tried");
                    return wanted;
                } else {
                    wanted.push_back({index, static_cast<std::uint16_t>(offset), &bind, std::move(one)});
                }
            }
        }
    }
    return wanted;
}

std::expected<void, std::string> RunningRelay::open_workers(const std::vector<int>& cpus,
                                                            std::uint32_t worker_count) {
    const bool files = has_crew(Crew::files);
    const bool sockets = has_crew(Crew::sockets);
    // The budget is of the process; a worker that needs more than its share copies.
    const std::size_t pipe_budget =
        PipeBudget::of_this_system().bytes / (files && sockets ? worker_count * 2 : worker_count);
    for (std::uint32_t index = 0; sockets && index < worker_count; ++index) {
        // Bound to CPUs only where there is exactly one worker for each: a smaller number is meant to move
        // about.
        const int cpu = worker_count == cpus.size() ? cpus[index] : -1;
        if (auto opened = open_worker(Crew::sockets, index, cpu, pipe_budget); !opened) return opened;
    }
    for (std::uint32_t index = 0; files && index < worker_count; ++index)
        if (auto opened = open_worker(Crew::files, index, -1, pipe_budget); !opened) return opened;
    return {};
}

// The index-th worker of its crew.
std::expected<void, std::string> RunningRelay::open_worker(Crew crew, std::uint32_t index, int cpu,
                                                           std::size_t pipe_budget) {
    Worker::Plan plan;
    plan.index = workers_.size();
    plan.name = crew == Crew::files ? "files" : "worker";
    plan.cpu = cpu;
    plan.config = config_.get();
    plan.open_reactor = [uring = engine_.uring, sockets = sessions_max_ * 2] {
        return uring ? open_uring_reactor(sockets) : open_epoll_reactor(sockets);
    };
    plan.open_calls = [uring = engine_.uring]() -> std::expected<std::unique_ptr<Calls>, std::string> {
        if (uring) return open_uring_calls();
        return open_aio_calls();
    };
    for (Bound& bound : bound_) {
        const config::Listener& listener = config_->listeners[bound.listener];
        if (crew_of(listener) != crew) continue;
        Worker::Listening listening{bound.address.take_socket(index),
                                    &listener,
                                    pool_index(listener.pool),
                                    listener_sessions_[bound.listener].get(),
                                    bound.transport == Transport::seqpacket ? SOCK_SEQPACKET : SOCK_STREAM,
                                    bound.port_offset,
                                    bound.bind};
        if (bound.transport != Transport::datagram)
            plan.listening.push_back(std::move(listening));
        else if (listening.socket.valid())  // a unix path has one reader
            plan.datagrams.push_back({std::move(listening), listener_wanted_[bound.listener].get()});
    }
    plan.listens_on_ephemeral_ports = listens_on_ephemeral_ports();
    plan.workers = crew_size_;
    plan.sessions_max = sessions_max_;
    plan.sessions = &sessions_;
    plan.wishes = &wishes_;
    plan.pipe_budget = pipe_budget;
    plan.records = records_.get();
    auto worker = Worker::open(std::move(plan));
    if (!worker) return std::unexpected(worker.error());
    workers_.push_back(std::move(*worker));
    return {};
}

bool RunningRelay::listens_on_ephemeral_ports() const {
    std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    if (!(file >> first >> last)) return true;
    return std::ranges::any_of(config_->listeners, [&](const config::Listener& listener) {
        return std::ranges::any_of(listener.bind, [&](const Endpoint& bind) {
            return bind.kind == Endpoint::Kind::tcp && bind.port + bind.ports() > first && bind.port <= last;
        });
    });
}

Crew RunningRelay::crew_of(const config::Listener& listener) const {
    const config::Pool& pool = config_->pools[pool_index(listener.pool)];
    const bool files = std::ranges::any_of(pool.backends, [](const config::Backend& backend) {
        return backend.address.transport() == Transport::file;
    });
    return files ? Crew::files : Crew::sockets;
}

bool RunningRelay::has_crew(Crew crew) const {
    return std::ranges::any_of(config_->listeners,
                               [&](const config::Listener& listener) { return crew_of(listener) == crew; });
}

std::size_t RunningRelay::pool_index(const std::string& name) const {
    const auto found = std::ranges::find(config_->pools, name, &config::Pool::name);
    SLUICE_CHECK(found != config_->pools.end());  // the configuration was checked
    return static_cast<std::size_t>(found - config_->pools.begin());
}

std::expected<void, std::string> RunningRelay::start() {
    SLUICE_CHECK(threads_.empty());
    std::vector<std::future<std::expected<void, std::string>>> answers;
    {
        const std::lock_guard lock(finished_mutex_);
        running_ = workers_.size();
    }
    std::string failure;
    for (auto& worker : workers_) {
        std::promise<std::expected<void, std::string>> started;
        auto answer = started.get_future();
        try {
            threads_.emplace_back([this, &worker = *worker, promise = std::move(started)]() mutable {
                run_worker(worker, std::move(promise));
            });
        } catch (const std::system_error& error) {
            failure = fmt::format("no thread for worker {}: {} (a limit of pids or of processes?)",
                                  threads_.size(), error.what());
            const std::lock_guard lock(finished_mutex_);
            running_ -= workers_.size() - threads_.size();
            break;
        }
        answers.push_back(std::move(answer));
    }
    for (auto& answer : answers)
        if (const auto started = answer.get(); !started) failure = started.error();
    if (!failure.empty()) return std::unexpected(failure);
    return start_resolver();
}

void RunningRelay::run_worker(Worker& worker, std::promise<std::expected<void, std::string>> started) {
    worker.run(std::move(started));
    const std::lock_guard lock(finished_mutex_);
    --running_;
    finished_changed_.notify_all();
}

std::expected<void, std::string> RunningRelay::start_resolver() {
    struct Place {
        std::size_t pool;
        std::uint32_t backend;
    };
    std::vector<Resolver::Name> names;
    std::vector<Place> places;
    for (std::size_t pool = 0; pool < config_->pools.size(); ++pool) {
        const auto& backends = config_->pools[pool].backends;
        for (std::uint32_t backend = 0; backend < backends.size(); ++backend) {
            if (!backends[backend].address.is_name()) continue;
            names.push_back({backends[backend].address.host, backends[backend].address.port});
            places.push_back({pool, backend});
        }
    }
    if (names.empty()) return {};
    auto resolver = Resolver::start(
        config_->dns, std::move(names),
        [this, places = std::move(places)](std::size_t name, const AddressList& addresses) {
            for (auto& worker : workers_)
                worker->post(Worker::LearnAddresses{places[name].pool, places[name].backend, addresses});
        });
    if (!resolver) return std::unexpected(resolver.error());
    resolver_ = std::move(*resolver);
    return {};
}

void RunningRelay::drain(Time deadline) {
    for (auto& worker : workers_) worker->post(Worker::Drain{deadline});
}

void RunningRelay::kill() {
    for (auto& worker : workers_) worker->post(Worker::Kill{});
}

bool RunningRelay::wait_until_idle(Time deadline) {
    std::unique_lock lock(finished_mutex_);
    const auto idle = [this] { return running_ == 0; };
    if (deadline == time_never) {
        finished_changed_.wait(lock, idle);
        return true;
    }
    return finished_changed_.wait_until(lock, deadline, idle);
}

RunningRelay::~RunningRelay() {
    resolver_.reset();
    if (!threads_.empty()) kill();
    for (std::thread& thread : threads_) thread.join();
}

RelayCounters RunningRelay::counters() const noexcept {
    RelayCounters sum;
    for (const auto& worker : workers_) {
        const WorkerCounters& counters = worker->counters();
        sum.sessions += counters.sessions.get();
        sum.sessions_now += counters.sessions_now.get();
        for (std::size_t end = 0; end < ends_count; ++end) sum.ends[end] += counters.ends[end].get();
        sum.spliced_bytes += counters.spliced_bytes.get();
        sum.copied_bytes += counters.copied_bytes.get();
        sum.stale_completions += counters.stale_completions.get();
        sum.accept_pauses += counters.accept_pauses.get();
        sum.pipe_refusals += counters.pipe_refusals.get();
        sum.system_calls += counters.system_calls.get();
        sum.pipe_bytes += counters.pipe_bytes.get();
        sum.datagrams_received += counters.datagrams_received.get();
        sum.datagrams_sent += counters.datagrams_sent.get();
        for (std::size_t loss = 0; loss < losses_count; ++loss)
            sum.datagrams_lost[loss] += counters.datagrams_lost[loss].get();
    }
    sum.records_lost = records_->lost();
    return sum;
}

}  // namespace

std::expected<std::unique_ptr<Relay>, std::vector<std::string>> Relay::open(
    std::shared_ptr<const config::Config> config) {
    auto relay = std::make_unique<RunningRelay>(std::move(config));
    if (auto errors = relay->prepare(); !errors.empty()) return std::unexpected(std::move(errors));
    return relay;
}

}  // namespace sluice
