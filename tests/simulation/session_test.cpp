// Whole lives of sessions in a simulated reactor: the real worker over real loopback sockets, with clients,
// backends, operator and the order of all answers drawn from one seed. Whoever plays in it moves inside the
// reactor's wait(), so that a run is one thread and its seed repeats it.

#include "sluice/relay/worker.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/simulated_reactor.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();
constexpr std::size_t stream_max = 2 * 1024 * 1024;
const Milliseconds stuck_after = sanitized ? Milliseconds(60'000) : Milliseconds(8'000);

std::size_t descriptors() {
    const std::filesystem::directory_iterator entries("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

// The bytes of all streams. Each stream begins with the number of who sends it, so that its reader knows whom
// it was connected to, and goes on at a place of the table that no other stream begins at.
const std::string& table() {
    static const std::string bytes = pattern(stream_max + 1024 * 1024, 1);
    return bytes;
}
constexpr std::size_t number_size = sizeof(std::uint32_t);

// One end of a session, played by the test.
struct Player {
    std::uint32_t number = 0;
    Socket socket;

    // What it means to do.
    std::size_t size = 0;  // 0, or at least number_size
    std::size_t write_max = 1;
    std::size_t read_max = 1;
    std::uint32_t laziness = 0;    // per mille of its turns in which it does nothing
    bool fin_after_end = false;    // says FIN only after it was told FIN
    bool speak_after_end = false;  // says nothing before
    bool mute = false;             // never says FIN: somebody else must end this
    std::uint64_t reset_at_sent = never;
    std::uint64_t reset_at_received = 0;

    // What it did and saw.
    std::size_t sent = 0;
    std::size_t received = 0;
    bool said_fin = false;
    bool did_reset = false;
    bool send_failed = false;
    std::optional<Ending> ending;
    std::uint32_t from = 0;  // who it was connected to, once number_size bytes have come
    std::array<char, number_size> head{};
    std::string wrong;  // the first thing that must not happen

    bool over() const {
        return did_reset || (ending && (said_fin || send_failed || *ending == Ending::reset));
    }
};

std::size_t place_of(std::uint32_t number) {
    return number * 4099U % (1024 * 1024);
}

void draw_conduct(Player& player, std::mt19937_64& random) {
    const auto below = [&](std::uint64_t end) { return random() % end; };
    switch (below(10)) {
        case 0: player.size = 0; break;
        case 1:
        case 2:
        case 3:
        case 4: player.size = number_size + below(300); break;
        case 5:
        case 6: player.size = number_size + below(20'000); break;
        case 7:
        case 8: player.size = number_size + below(300'000); break;
        default: player.size = number_size + below(stream_max - number_size); break;
    }

    const bool large = player.size > 20'000;
    // Single bytes only in short streams: each costs a round of the whole world.
    const bool tiny = player.size < 400 && below(3) == 0;
    player.write_max = large ? 4096 + below(stream_max) : tiny ? 1 + below(3) : 100 + below(20'000);
    player.read_max = below(3) == 0 ? 2000 + below(6000) : 512 * 1024;
    player.laziness = below(3) == 0 ? static_cast<std::uint32_t>(below(950)) : 0;
    if (below(5) == 0) {
        player.reset_at_sent = below(3) == 0 ? player.size : below(player.size + 1);
        player.reset_at_received = below(2) == 0 ? 0 : below(50'000);
    }
}

void check_bytes(Player& player, const char* bytes, std::size_t count) {
    std::size_t at = 0;
    for (; at < count && player.received < number_size; ++at) player.head[player.received++] = bytes[at];
    if (player.received >= number_size && player.from == 0)
        std::memcpy(&player.from, player.head.data(), number_size);
    if (at == count) return;
    const std::size_t place = place_of(player.from) + player.received;
    if (place + (count - at) > table().size() ||
        std::memcmp(table().data() + place, bytes + at, count - at) != 0)
        player.wrong = "received bytes that were not sent to it";
    player.received += count - at;
}

bool receive_some(Player& player, std::vector<char>& buffer) {
    if (player.ending) {
        // Told FIN and saying none itself, all it can still learn is that the session was broken off. After a
        // FIN recv goes on to say 0, whatever comes.
        int error = 0;
        socklen_t length = sizeof(error);
        if (player.mute) ::getsockopt(player.socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length);
        player.send_failed = player.send_failed || error != 0;
        return error != 0;
    }
    const ssize_t count = ::recv(player.socket.descriptor(), buffer.data(), player.read_max, 0);
    if (count > 0) {
        check_bytes(player, buffer.data(), static_cast<std::size_t>(count));
        return true;
    }
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    // A send that was answered with the reset leaves none for recv, which then says 0.
    player.ending = count == 0 && !player.send_failed ? Ending::fin : Ending::reset;
    return true;
}

bool send_some(Player& player) {
    if (player.said_fin || player.send_failed || (player.speak_after_end && !player.ending)) return false;
    const std::size_t most = std::min(player.write_max, player.size - player.sent);
    if (most > 0) {
        std::string head;
        const char* bytes = table().data() + place_of(player.number) + player.sent;
        std::size_t count = most;
        if (player.sent < number_size) {
            head.assign(reinterpret_cast<const char*>(&player.number), number_size);
            bytes = head.data() + player.sent;
            count = std::min(most, number_size - player.sent);
        }
        const ssize_t sent = ::send(player.socket.descriptor(), bytes, count, MSG_NOSIGNAL);
        if (sent >= 0) {
            player.sent += static_cast<std::size_t>(sent);
            return sent > 0;
        }
        if (errno == EAGAIN || errno == EINTR) return false;
        player.send_failed = true;
        return true;
    }
    if (player.mute || (player.fin_after_end && !player.ending)) return false;
    player.send_failed = ::shutdown(player.socket.descriptor(), SHUT_WR) != 0;
    player.said_fin = !player.send_failed;
    return true;
}

bool step(Player& player, std::vector<char>& buffer) {
    if (player.over()) {
        if (!player.socket.open()) return false;
        player.socket.close();
        return true;
    }
    if (player.sent >= player.reset_at_sent && player.received >= player.reset_at_received) {
        player.did_reset = true;
        player.socket.reset();
        return true;
    }
    const bool received = receive_some(player, buffer);
    return send_some(player) || received;
}

struct Scenario {
    std::size_t clients = 0;
    std::size_t live_backends = 0;
    std::size_t dead_backends = 0;
    bool named = false;  // the live backends are names, resolved late
    bool never_resolved = false;
    std::uint32_t sessions_max = 0;
    std::uint32_t listener_max = 0;
    std::size_t pipe_budget = 0;
    std::uint64_t kill_at = never;  // of the world's rounds
    std::uint64_t drain_at = never;
    Milliseconds drain_time{0};
    config::Timeouts timeouts;
    bool short_timeouts = false;
    // So much fits into the kernel's buffers that a flow's turn ends by its budget and not by a full target.
    Buffers buffers;
    bool clients_wait = false;  // who of the two waits for the other's end

    static Scenario drawn(std::mt19937_64& random) {
        const auto below = [&](std::uint64_t end) { return random() % end; };
        Scenario drawn;
        drawn.clients = 1 + below(12);
        drawn.live_backends = below(12) == 0 ? 0 : 1 + below(2);
        drawn.dead_backends = drawn.live_backends == 0 ? 1 + below(3) : below(3);
        drawn.named = drawn.live_backends > 0 && below(4) == 0;
        drawn.never_resolved = drawn.named && below(4) == 0;
        drawn.sessions_max = below(4) == 0 ? static_cast<std::uint32_t>(1 + below(4)) : 64;
        drawn.listener_max = below(6) == 0 ? static_cast<std::uint32_t>(1 + below(4)) : 0;
        const std::array<std::size_t, 4> budgets = {0, 64 * 1024, 1024 * 1024, 64 * 1024 * 1024};
        drawn.pipe_budget = budgets[below(8) < 5 ? 3 : below(3)];
        if (below(8) == 0) drawn.kill_at = below(300);
        if (below(5) == 0) {
            drawn.drain_at = below(300);
            drawn.drain_time = below(2) == 0 ? Milliseconds(5000) : Milliseconds(below(20));
        }
        drawn.timeouts.idle = drawn.timeouts.half_closed = Milliseconds(60'000);
        drawn.short_timeouts = below(25) == 0;
        if (drawn.short_timeouts) {
            drawn.timeouts.idle = Milliseconds(30 + below(20));
            drawn.timeouts.half_closed = Milliseconds(10 + below(20));
            if (below(2) == 0) drawn.timeouts.max_age = Milliseconds(10 + below(40));
        }
        drawn.clients_wait = below(2) == 0;
        if (below(3) == 0) drawn.buffers = {4 * 1024 * 1024, 4 * 1024 * 1024};
        return drawn;
    }
};

// A port that refuses for as long as this lives: bound, and nobody listens.
Socket refusing_socket() {
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::bind(socket.descriptor(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
        throw std::runtime_error("bind");
    return socket;
}

// Where the client of this number comes from, so that a record can be told to be its own.
std::uint32_t host_of(std::size_t client) {
    return 0x7f010001U + static_cast<std::uint32_t>(client);
}

class Simulation {
  public:
    explicit Simulation(std::uint64_t seed)
        : seed_(seed),
          random_(seed),
          scenario_(Scenario::drawn(random_)),
          unkindness_(Unkindness::drawn(random_)),
          records_(1, 4096),
          buffer_(512 * 1024) {}

    // Everything that was wrong, a sentence each.
    std::vector<std::string> run();
    std::uint64_t bytes_spliced() const { return spliced_; }

  private:
    void configure();
    bool meanwhile();
    bool connect_client();
    bool accept_upstreams();
    void operate();
    void watch_for_standstill();
    void finish_players();
    void gather_records();
    void judge();
    void judge_session(const Player& client, const Player* upstream, const SessionRecord& record);
    void judge_ending(const Player& player, const Player* other, const char* who);
    bool end_allowed(End end, const Player& client, const Player* upstream) const;
    const Player* upstream_of(const Player& client) const;
    void judge_counters();
    void wrong(const std::string& what) { wrong_.push_back("seed " + std::to_string(seed_) + ": " + what); }
    std::uint64_t below(std::uint64_t end) { return random_() % end; }
    bool everything_is_over() const;

    std::uint64_t seed_;
    std::mt19937_64 random_;
    Scenario scenario_;
    Unkindness unkindness_;
    config::Config config_;
    Records records_;
    Seat::Count sessions_{0};
    Seat::Count listener_sessions_{0};
    std::vector<Listener> live_;
    std::vector<Socket> dead_;
    std::uint16_t port_ = 0;
    std::unique_ptr<Worker> worker_;
    std::shared_ptr<SimulationReport> report_ = std::make_shared<SimulationReport>();
    std::vector<std::unique_ptr<Player>> clients_;    // numbers from 1
    std::vector<std::unique_ptr<Player>> upstreams_;  // numbers from 1001
    std::vector<char> buffer_;
    std::uint64_t round_ = 0;
    bool listening_ = true;
    bool killed_ = false;
    bool drained_ = false;
    Time began_ = Clock::now();
    bool stuck_ = false;
    std::uint64_t names_told_at_ = 0;
    std::vector<std::optional<SessionRecord>> records_of_;  // close records, by client
    std::vector<SessionRecord> nameless_;  // of clients that had gone before anyone asked who they were
    std::uint64_t accept_records_ = 0;
    std::uint64_t spliced_ = 0;
    std::vector<std::string> wrong_;
};

void Simulation::configure() {
    config::Pool pool;
    pool.name = "back";
    for (std::size_t index = 0; index < scenario_.live_backends; ++index)
        live_.emplace_back("127.0.0.1:0", scenario_.buffers);
    for (std::size_t index = 0; index < scenario_.dead_backends; ++index) dead_.push_back(refusing_socket());
    for (const Socket& socket : dead_)
        pool.backends.push_back({"dead", parse_endpoint(socket.local_address()).value(), {}});
    for (const Listener& listener : live_) {
        const std::string address =
            scenario_.named ? "late.test:" + std::to_string(listener.port()) : listener.address();
        const auto at = static_cast<std::ptrdiff_t>(below(pool.backends.size() + 1));
        pool.backends.insert(pool.backends.begin() + at, {"live", parse_endpoint(address).value(), {}});
    }
    pool.tcp.send_buffer = static_cast<std::uint64_t>(scenario_.buffers.send);
    pool.tcp.receive_buffer = static_cast<std::uint64_t>(scenario_.buffers.receive);
    pool.retries = below(4) == 0 ? 0 : 5;
    config::Listener listener;
    listener.name = "front";
    listener.pool = pool.name;
    listener.timeouts = scenario_.timeouts;
    listener.sessions_max = scenario_.listener_max;
    config_.listeners.push_back(listener);
    config_.pools.push_back(pool);
    config_.access_log.events = {true, true, true};
    names_told_at_ = below(200);
}

bool Simulation::everything_is_over() const {
    const auto over = [](const auto& player) { return player->over(); };
    return clients_.size() == scenario_.clients && std::ranges::all_of(clients_, over) &&
           std::ranges::all_of(upstreams_, over);
}

// One client more, from an address of its own.
bool Simulation::connect_client() {
    if (!listening_ || clients_.size() == scenario_.clients || below(4) != 0) return false;
    auto client = std::make_unique<Player>();
    client->number = static_cast<std::uint32_t>(clients_.size() + 1);
    client->socket = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    client->socket.set_buffers(scenario_.buffers);
    const int fd = client->socket.descriptor();
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(host_of(clients_.size()));
    sockaddr_in relay{};
    relay.sin_family = AF_INET;
    relay.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    relay.sin_port = htons(port_);
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&own), sizeof(own)) != 0)
        throw std::runtime_error("bind");
    // On loopback the handshake is done when connect returns.
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&relay), sizeof(relay)) != 0) {
        listening_ = false;
        scenario_.clients = clients_.size();
        return true;
    }
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
    draw_conduct(*client, random_);
    if (scenario_.short_timeouts && below(2) == 0) client->mute = true;
    if (scenario_.clients_wait) {
        client->fin_after_end = below(2) == 0;
        client->speak_after_end = client->fin_after_end && below(3) == 0;
    }
    clients_.push_back(std::move(client));
    return true;
}

bool Simulation::accept_upstreams() {
    bool any = false;
    for (Listener& listener : live_) {
        if (below(3) != 0) continue;
        Socket socket(::accept4(listener.descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (!socket.open()) continue;
        auto upstream = std::make_unique<Player>();
        upstream->number = static_cast<std::uint32_t>(upstreams_.size() + 1001);
        upstream->socket = std::move(socket);
        draw_conduct(*upstream, random_);
        if (scenario_.short_timeouts && below(2) == 0) upstream->mute = true;
        if (!scenario_.clients_wait) {
            upstream->fin_after_end = below(2) == 0;
            upstream->speak_after_end = upstream->fin_after_end && below(3) == 0;
        }
        upstreams_.push_back(std::move(upstream));
        any = true;
    }
    return any;
}

void Simulation::operate() {
    if (scenario_.named && round_ == names_told_at_) {
        const auto& backends = config_.pools.front().backends;
        for (std::uint32_t index = 0; index < backends.size(); ++index) {
            if (!backends[index].address.is_name()) continue;
            AddressList addresses;
            if (!scenario_.never_resolved)
                addresses = std::make_shared<const std::vector<SocketAddress>>(
                    1, *SocketAddress::from_literal("127.0.0.1", backends[index].address.port));
            worker_->post(Worker::LearnAddresses{0, index, std::move(addresses)});
        }
    }
    if (round_ == scenario_.drain_at) {
        drained_ = true;
        worker_->post(Worker::Drain{Clock::now() + scenario_.drain_time});
    }
    if (round_ == scenario_.kill_at) {
        killed_ = true;
        listening_ = false;
        scenario_.clients = clients_.size();
        worker_->post(Worker::Kill{});
    }
    if (everything_is_over() && below(4) == 0 && !killed_ && !drained_) {
        drained_ = true;
        listening_ = false;
        worker_->post(Worker::Drain{Clock::now() + std::chrono::seconds(60)});
    }
}

// A worker that does not end cannot be taken apart either: say what stands still, then kill, then give up.
void Simulation::watch_for_standstill() {
    const auto took = Clock::now() - began_;
    if (took > stuck_after && !stuck_) {
        stuck_ = true;
        killed_ = true;
        std::string what = "it stands still;";
        for (const auto& players : {&clients_, &upstreams_})
            for (const auto& player : *players)
                if (!player->over())
                    what += " player " + std::to_string(player->number) + " (from " +
                            std::to_string(player->from) + "): sent " + std::to_string(player->sent) +
                            " of " + std::to_string(player->size) + (player->said_fin ? " and FIN" : "") +
                            ", received " + std::to_string(player->received) +
                            (player->ending ? " and the end;" : ";");
        wrong(what);
        listening_ = false;
        scenario_.clients = clients_.size();
        worker_->post(Worker::Kill{});
    }
    if (took > stuck_after * 2) {
        for (const std::string& each : wrong_) std::fprintf(stderr, "%s\n", each.c_str());
        std::fprintf(stderr, "seed %llu: the worker does not end\n", static_cast<unsigned long long>(seed_));
        std::abort();
    }
}

bool Simulation::meanwhile() {
    operate();
    watch_for_standstill();
    ++round_;
    bool moved = connect_client();
    moved = accept_upstreams() || moved;
    for (auto* players : {&clients_, &upstreams_})
        for (auto& player : *players)
            // Laziness takes turns and not time: as long as somebody could still move, no clock is waited
            // for.
            moved =
                below(1000) < player->laziness ? moved || !player->over() : step(*player, buffer_) || moved;
    return moved;
}

// After the worker is gone: what its end means to those who are still there.
void Simulation::finish_players() {
    const Time deadline = Clock::now() + std::chrono::seconds(5);
    do {
        bool moved = false;
        for (auto* players : {&clients_, &upstreams_})
            for (auto& player : *players) moved = step(*player, buffer_) || moved;
        moved = accept_upstreams() || moved;
        if (!moved) std::this_thread::yield();
    } while (Clock::now() < deadline &&
             !(everything_is_over() &&
               std::ranges::none_of(live_, [](const Listener& each) { return each.waiting(); })));
    for (auto* players : {&clients_, &upstreams_})
        for (auto& player : *players)
            if (!player->over()) wrong("player " + std::to_string(player->number) + " never saw an end");
}

void Simulation::gather_records() {
    records_of_.resize(clients_.size());
    SessionRecord record;
    while (records_.pop(record)) {
        if (record.event == SessionRecord::Event::accept) ++accept_records_;
        if (record.event != SessionRecord::Event::close) continue;
        const SocketAddress client = record.client.address();
        if (client.family() != AF_INET) {
            nameless_.push_back(record);
            continue;
        }
        const std::uint32_t host = ntohl(reinterpret_cast<const sockaddr_in*>(client.get())->sin_addr.s_addr);
        const std::size_t index = host - host_of(0);
        if (index >= clients_.size())
            wrong("a record of a client that was never there");
        else if (records_of_[index])
            wrong("a second close record of client " + std::to_string(index + 1));
        else
            records_of_[index] = record;
    }
}

const Player* Simulation::upstream_of(const Player& client) const {
    for (const auto& upstream : upstreams_)
        if (upstream->from == client.number || client.from == upstream->number) return upstream.get();
    return nullptr;
}

// A FIN is a promise that the stream is whole, whoever gives it.
void Simulation::judge_ending(const Player& player, const Player* other, const char* who) {
    const std::string name = std::string(who) + " " + std::to_string(player.number);
    if (!player.wrong.empty()) wrong(name + " " + player.wrong);
    if (other != nullptr && player.received > other->sent) wrong(name + " received more than was sent");
    if (player.ending != Ending::fin) return;
    if (player.received > 0 && other == nullptr) wrong(name + " saw a FIN after a few bytes of nobody");
    if (other != nullptr && (!other->said_fin || player.received != other->size))
        wrong(name + " saw a FIN after " + std::to_string(player.received) + " bytes, but " +
              std::to_string(other->number) +
              (other->said_fin ? " said its own after " : " said none after ") + std::to_string(other->sent) +
              " of " + std::to_string(other->size));
}

bool Simulation::end_allowed(End end, const Player& client, const Player* upstream) const {
    const bool upstream_reset =
        upstream != nullptr
            ? upstream->did_reset
            : std::ranges::any_of(upstreams_, [](const auto& each) { return each->did_reset; });
    switch (end) {
        case End::client_fin:
        case End::upstream_fin: return true;
        case End::client_reset: return client.did_reset;
        case End::upstream_reset: return upstream_reset;
        case End::client_lost:
        case End::upstream_lost:
        case End::connect_timeout: return false;
        case End::idle_timeout:
        case End::half_closed_timeout: return scenario_.short_timeouts;
        case End::max_age: return scenario_.timeouts.max_age > Milliseconds(0);
        case End::connect_failed: return scenario_.dead_backends > 0;
        case End::no_backend: return scenario_.never_resolved;
        case End::limit: return scenario_.listener_max > 0 || scenario_.sessions_max < scenario_.clients;
        case End::file_failed:
        case End::oversized:
        case End::answered:
        case End::evicted: return false;  // nothing of these kinds takes part
        case End::exhausted: return report_->watches_refused > 0;
        case End::drained: return drained_;
        case End::killed: return killed_;
    }
    return false;
}

void Simulation::judge_session(const Player& client, const Player* upstream, const SessionRecord& record) {
    const std::string name =
        "the session of client " + std::to_string(client.number) + " (" + to_string(record.end) + ")";
    if (!end_allowed(record.end, client, upstream)) wrong(name + " cannot have ended so");
    if (record.spliced_bytes > record.upload_bytes + record.download_bytes)
        wrong(name + " spliced more than it moved");
    if (record.upload_bytes > client.sent) wrong(name + " has a record of more bytes than the client sent");
    if (client.received > record.download_bytes)
        wrong(name + " has a record of fewer bytes than the client received");
    if (upstream != nullptr && upstream->received > record.upload_bytes)
        wrong(name + " has a record of fewer bytes than the upstream received");
    if (upstream != nullptr && record.download_bytes > upstream->sent)
        wrong(name + " has a record of more bytes than the upstream sent");
    if (!orderly(record.end)) {
        // A side that has not been told FIN before must see that this is no orderly end.
        if (!client.did_reset && !client.ending) wrong(name + ": the client saw no end");
        const bool seen = client.did_reset || client.ending == Ending::reset || client.send_failed ||
                          (upstream != nullptr && (upstream->did_reset || upstream->ending == Ending::reset ||
                                                   upstream->send_failed)) ||
                          (client.ending == Ending::fin && (upstream == nullptr || upstream->said_fin));
        if (!seen) wrong(name + ": nobody saw that it broke");
        // A reset is passed on behind what came before it, and does not throw it away.
        if (record.end == End::upstream_reset && !client.did_reset &&
            client.received != record.download_bytes)
            wrong(name + ": the reset overtook bytes on their way to the client");
        if (record.end == End::client_reset && upstream != nullptr && !upstream->did_reset &&
            upstream->received != record.upload_bytes)
            wrong(name + ": the reset overtook bytes on their way to the upstream");
        return;
    }
    if (!client.said_fin || record.upload_bytes != client.size)
        wrong(name + " counts as orderly, but its upload is not whole");
    if (!client.did_reset && client.ending != Ending::fin)
        wrong(name + " is orderly, but the client saw a reset");
    if (upstream == nullptr) {
        if (record.upload_bytes + record.download_bytes != 0) wrong(name + " moved bytes of nobody");
        return;
    }
    if (!upstream->said_fin || record.download_bytes != upstream->size)
        wrong(name + " counts as orderly, but its download is not whole");
    if (!upstream->did_reset && upstream->ending != Ending::fin)
        wrong(name + " is orderly, but the upstream saw a reset");
}

void Simulation::judge() {
    for (const auto& client : clients_) judge_ending(*client, upstream_of(*client), "client");
    std::size_t without_record = 0;
    for (std::size_t index = 0; index < clients_.size(); ++index) {
        const Player& client = *clients_[index];
        if (records_of_[index]) {
            judge_session(client, upstream_of(client), *records_of_[index]);
        } else if (client.did_reset) {
            ++without_record;
        } else {
            wrong("client " + std::to_string(client.number) + " has no record");
        }
    }
    if (nameless_.size() != without_record)
        wrong(std::to_string(without_record) +
              " clients had gone before they were asked for their address, and " +
              std::to_string(nameless_.size()) + " records are of such");
    for (const auto& upstream : upstreams_) {
        const Player* client = nullptr;
        for (const auto& each : clients_)
            if (upstream_of(*each) == upstream.get()) client = each.get();
        judge_ending(*upstream, client, "upstream");
    }
}

void Simulation::judge_counters() {
    const WorkerCounters& counters = worker_->counters();
    std::uint64_t ends = 0;
    for (const Counter& end : counters.ends) ends += end.get();
    const auto ended = [&](End end) { return counters.ends[static_cast<std::size_t>(end)].get(); };
    std::uint64_t records = nameless_.size();
    std::uint64_t bytes = 0;
    std::uint64_t spliced = 0;
    const auto add = [&](const SessionRecord& record) {
        bytes += record.upload_bytes + record.download_bytes;
        spliced += record.spliced_bytes;
    };
    for (const auto& record : nameless_) add(record);
    for (const auto& record : records_of_) {
        if (!record) continue;
        ++records;
        add(*record);
    }
    const auto expect = [this](bool holds, const char* what) {
        if (!holds) wrong(std::string("this does not hold: ") + what);
    };
    // Who is turned away at the door was never a session: beyond a limit, or when the end has begun.
    const std::uint64_t refused = ends - counters.sessions.get();
    expect(ended(End::limit) <= refused &&
               refused <= ended(End::limit) + ended(End::killed) + ended(End::drained),
           "ends == sessions + refusals");
    expect(records == ends, "a close record for every end");
    expect(accept_records_ == counters.sessions.get(), "an accept record for every session");
    expect(spliced == counters.spliced_bytes.get(), "spliced bytes of the records == counted");
    expect(bytes == counters.spliced_bytes.get() + counters.copied_bytes.get(),
           "bytes of the records == counted");
    expect(counters.stale_completions.get() == 0, "no stale completion");
    expect(counters.sessions_now.get() == 0, "no session left");
    expect(counters.pipe_bytes.get() == 0, "no pipe left on lease");
    expect(ended(End::exhausted) <= report_->watches_refused, "exhausted only where a watch was refused");
    expect(counters.accept_pauses.get() <= report_->accepts_exhausted, "paused only for want of descriptors");
    expect(records_.lost() == 0, "no record lost");
    expect(sessions_ == 0 && listener_sessions_ == 0, "every seat is free again");
    spliced_ = spliced;
}

std::vector<std::string> Simulation::run() {
    configure();
    SocketOptions options;
    options.receive_buffer = scenario_.buffers.receive;
    options.send_buffer = scenario_.buffers.send;
    auto listening =
        open_listening_socket(*SocketAddress::from_literal("127.0.0.1", 0), SOCK_STREAM, options);
    if (!listening) throw std::runtime_error("no listening socket");
    port_ = local_address_of(listening->get()).port();
    Worker::Plan plan;
    plan.config = &config_;
    plan.open_reactor = [this] {
        return open_simulated_reactor(seed_, unkindness_, [this] { return meanwhile(); }, report_);
    };
    plan.listening.push_back({std::move(*listening), &config_.listeners.front(), 0, &listener_sessions_});
    plan.sessions_max = scenario_.sessions_max;
    plan.sessions = &sessions_;
    plan.pipe_budget = scenario_.pipe_budget;
    plan.records = &records_;
    worker_ = Worker::open(std::move(plan)).value();
    std::thread thread([this] { worker_->run({}); });
    thread.join();

    listening_ = false;
    scenario_.clients = clients_.size();
    finish_players();
    gather_records();
    judge();
    judge_counters();
    worker_.reset();
    for (const std::string& promise : report_->ledger.broken_promises()) wrong(promise);
    for (const Token token : report_->left_out)
        if (token.question() != Question::doorbell) wrong("still out at the end: " + to_string(token));
    return wrong_;
}

struct Outcome {
    std::vector<std::string> wrong;
    std::uint64_t spliced = 0;
};

Outcome simulate(std::uint64_t seed) {
    Simulation simulation(seed);
    Outcome outcome;
    outcome.wrong = simulation.run();
    outcome.spliced = simulation.bytes_spliced();
    return outcome;
}

// Several at once, because they mostly wait for the kernel's timers. Each is a world of its own.
std::vector<Outcome> simulate_all(const std::vector<std::uint64_t>& seeds) {
    const TestClock::time_point enough = TestClock::now() + std::chrono::seconds(sanitized ? 60 : 15);
    std::vector<Outcome> outcomes;
    std::mutex mutex;
    std::size_t next = 0;
    std::size_t failed = 0;
    std::vector<std::thread> threads;
    for (int index = 0; index < 6; ++index)
        threads.emplace_back([&] {
            std::unique_lock lock(mutex);
            while (next < seeds.size() && failed < 3 && TestClock::now() < enough) {
                const std::uint64_t seed = seeds[next++];
                lock.unlock();
                Outcome outcome = simulate(seed);
                lock.lock();
                if (!outcome.wrong.empty()) ++failed;
                outcomes.push_back(std::move(outcome));
            }
        });
    for (std::thread& thread : threads) thread.join();
    return outcomes;
}

// SLUICE_SEED repeats the whole; SLUICE_SIMULATION runs one simulation alone, by the number its failure
// names.
TEST_CASE("sessions end as they must, whatever order the answers come in") {
    std::vector<std::uint64_t> seeds(400);
    std::ranges::generate(seeds, generator("sessions"));
    if (const char* only = std::getenv("SLUICE_SIMULATION"); only != nullptr && *only != '\0')
        seeds = {std::strtoull(only, nullptr, 0)};
    table();
    const std::size_t before = descriptors();
    const std::vector<Outcome> outcomes = simulate_all(seeds);
    CHECK(descriptors() == before);
    std::uint64_t spliced = 0;
    for (const Outcome& outcome : outcomes) {
        for (const std::string& wrong : outcome.wrong) FAIL_CHECK(wrong);
        spliced += outcome.spliced;
    }
    std::printf("simulated %zu lives of a worker, %llu MiB spliced\n", outcomes.size(),
                static_cast<unsigned long long>(spliced / (1024 * 1024)));
    if (seeds.size() > 1) CHECK(spliced > 0);
}

}  // namespace
}  // namespace sluice::test
