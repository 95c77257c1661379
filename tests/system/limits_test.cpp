// At the limits load is shed and nothing breaks: what is served goes on, what is refused is told so, and when
// there is room again there is service again.

#include "tests/system/ends.hpp"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

namespace sluice::test {
namespace {

// A backend that the test plays: takes whoever comes, without waiting for them.
std::vector<Socket> accept_all(Listener& backend, std::size_t count) {
    std::vector<Socket> upstreams;
    while (upstreams.size() < count) upstreams.push_back(backend.accept());
    return upstreams;
}

// Clients sorted by what became of them: reset or still there.
struct Fates {
    std::vector<Socket> served;
    std::size_t refused = 0;
};

Fates connect_burst(const std::string& address, std::size_t count, std::size_t served_max) {
    std::vector<Socket> clients;
    Fates fates;
    for (std::size_t client = 0; client < count; ++client) {
        clients.push_back(connect_or_reset(address));
        if (clients.back().open()) continue;
        clients.pop_back();
        ++fates.refused;
    }
    const auto sort_out = [&] {
        std::erase_if(clients, [&](Socket& client) {
            if (client.silent(Milliseconds(0))) return false;
            CHECK(client.receive_to_end().ending == Ending::reset);
            ++fates.refused;
            return true;
        });
        return clients.size() <= served_max;
    };
    CHECK(wait_until(sort_out, soon));
    // Not one more either.
    for (const Socket& client : clients) CHECK(client.silent(Milliseconds(0)));
    fates.served = std::move(clients);
    return fates;
}

constexpr std::size_t burst = 300;

void check_sessions_max(RelayCase here, const RelayLayout& layout, std::size_t sessions_max) {
    RelayWithBackend relay(here, layout);
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    Fates fates = connect_burst(relay.address(), burst, sessions_max);
    CHECK(fates.served.size() == sessions_max);
    CHECK(fates.refused == burst - sessions_max);
    std::vector<Socket> upstreams = accept_all(relay.backend(), sessions_max);
    CHECK_FALSE(relay.backend().waiting(glance));
    CHECK(relay.relay().process().wait_for_text("limit", soon));

    // The served ones are.
    for (Socket& client : fates.served) client.send_all("x");
    for (Socket& upstream : upstreams) CHECK(upstream.receive_exactly(1) == "x");

    // One goes, one may come, and no more than one.
    for (std::size_t round = 0; round < 3; ++round) {
        fates.served[round].close();
        wait_until(
            [&] {
                // Which upstream was its? The one that ends.
                return std::erase_if(upstreams,
                                     [](Socket& upstream) { return !upstream.silent(Milliseconds(0)); }) > 0;
            },
            soon);
        REQUIRE(upstreams.size() == sessions_max - 1);
        expect_sockets(relay.relay(), sockets + 2 * (sessions_max - 1));
        Socket next = connect_to(relay.address());
        upstreams.push_back(relay.backend().accept());
        next.send_all("y");
        CHECK(upstreams.back().receive_exactly(1) == "y");
        Socket too_many = connect_or_reset(relay.address());
        CHECK(ending_of(too_many) == Ending::reset);
        fates.served[round] = std::move(next);
    }
    fates.served.clear();
    upstreams.clear();
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

ENGINE_TEST("sessions_max of the process is exact under a burst at two workers") {
    RelayLayout layout;
    layout.settings = "workers: 2\nsessions_max: 8\n";
    check_sessions_max(here, layout, 8);
}

ENGINE_TEST("sessions_max of a listener is exact under a burst at two workers") {
    RelayLayout layout;
    layout.settings = "workers: 2\n";
    layout.listener_settings = "    sessions_max: 8\n";
    check_sessions_max(here, layout, 8);
}

ENGINE_TEST("a listener at its limit does not limit another") {
    Listener backend;
    const std::string full = "127.0.0.1:" + std::to_string(free_port());
    const std::string other = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay =
        RelayProcess::with_config("workers: 2\nlisteners:\n  - {name: full, bind: \"" + full + "\", to: \"" +
                                      backend.address() + "\", sessions_max: 1}\n  - {name: other, bind: \"" +
                                      other + "\", to: \"" + backend.address() + "\"}\n",
                                  here.engine);
    Socket first = connect_to(full);
    Socket upstream = backend.accept();
    Socket too_many = connect_or_reset(full);
    CHECK(ending_of(too_many) == Ending::reset);
    Socket second = connect_to(other);
    Socket other_upstream = backend.accept();
    CHECK(pass(second, other_upstream, "served") == "served");
    CHECK(pass(first, upstream, "served") == "served");
    first.close();
    second.close();
    upstream.receive_to_end();
    upstream.close();
    other_upstream.receive_to_end();
    other_upstream.close();
    relay.stop();
}

// Descriptors.

void allow_descriptors(pid_t pid, rlim_t count) {
    rlimit limit{};
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) == 0);
    limit.rlim_cur = count;
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, &limit, nullptr) == 0);
}

ENGINE_TEST("a drain without a free descriptor lets those who wait, wait until there is one") {
    RelayLayout layout;
    layout.settings = "workers: 1\ndrain_timeout: 60s\n";
    RelayWithBackend relay(here, layout);
    Ends first = relay.session();
    establish(first);
    relay.relay().process().signal(SIGSTOP);
    Socket waiting = connect_to(relay.address());
    waiting.send_all("question");
    allow_descriptors(relay.relay().pid(), 4);  // fewer than are open; poll(2) itself needs some
    relay.relay().process().signal(SIGTERM);
    relay.relay().process().signal(SIGCONT);
    REQUIRE(relay.relay().process().wait_for_text("draining", soon));
    CHECK(waiting.silent(Milliseconds(500)));
    CHECK(pass(first.near, first.far, "still served") == "still served");
    allow_descriptors(relay.relay().pid(), 1000);
    Socket upstream = relay.backend().accept();
    CHECK(upstream.receive_exactly(8) == "question");
    upstream.close();
    CHECK(waiting.receive_to_end().ending == Ending::fin);
    waiting.close();
    first.near.close();
    first.far.close();
    relay.relay().expect_exit(0);
}

RelayOptions with_descriptors(rlim_t count) {
    RelayOptions options;
    options.process.before_exec = [count] {
        const rlimit limit{count, count};
        ::setrlimit(RLIMIT_NOFILE, &limit);
    };
    return options;
}

ENGINE_TEST("with 64 descriptors the relay serves what fits, and resets the rest") {
    RelayLayout layout;
    layout.settings = "workers: 1\n";
    RelayWithBackend relay(here, layout, with_descriptors(64));
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    std::vector<Socket> upstreams;
    std::vector<Socket> clients;
    std::size_t refused = 0;
    for (int client = 0; client < 60; ++client) {
        clients.push_back(connect_or_reset(relay.address()));
        const auto decided = [&] {
            if (relay.backend().waiting()) {
                upstreams.push_back(relay.backend().accept());
                return true;
            }
            if (clients.back().open() && clients.back().silent(Milliseconds(0))) return false;
            CHECK(ending_of(clients.back()) == Ending::reset);
            clients.pop_back();
            ++refused;
            return true;
        };
        REQUIRE(wait_until(decided, soon));
    }
    // Two descriptors each, and the relay needs some itself.
    CHECK(upstreams.size() >= 8);
    CHECK(upstreams.size() < 32);
    CHECK(clients.size() == upstreams.size());
    CHECK(refused == 60 - upstreams.size());
    CHECK(relay.relay().process().wait_for_text("limit", soon));
    CHECK(comes_to_rest(relay.relay().pid()));
    for (std::size_t session = 0; session < clients.size(); ++session) {
        promote(clients[session], upstreams[session]);  // pipes may be refused here, but bytes must pass
        CHECK(pass(upstreams[session], clients[session], "back") == "back");
    }
    clients.clear();
    for (Socket& upstream : upstreams) CHECK(upstream.receive_to_end().ending == Ending::fin);
    upstreams.clear();
    expect_sockets(relay.relay(), sockets);
    Ends ends = relay.session();
    CHECK(pass(ends.near, ends.far, "room again") == "room again");
    ends.near.close();
    ends.far.close();
    relay.stop();
}

ENGINE_TEST(
    "when descriptors run out under way some clients are refused, the others wait and are served later") {
    RelayLayout layout;
    layout.settings = "workers: 1\n";
    RelayWithBackend relay(here, layout);
    const pid_t pid = relay.relay().pid();
    const std::size_t sockets = descriptors_of_kind(pid, "socket:");
    // Somebody else eats them: the relay was promised more when it started. Room for ten sessions is left.
    const rlim_t room = descriptors_open(pid) + 20;
    const rlimit less{.rlim_cur = room, .rlim_max = room};
    REQUIRE(::prlimit(pid, RLIMIT_NOFILE, &less, nullptr) == 0);

    constexpr std::size_t count = 60;
    std::vector<Socket> clients;
    for (std::size_t client = 0; client < count; ++client) {
        clients.push_back(connect_to(relay.address()));
        clients.back().send_all("question");
    }
    std::size_t served = 0;
    std::size_t refused = 0;
    while (!clients.empty()) {
        if (relay.backend().waiting(Milliseconds(10))) {
            Socket upstream = relay.backend().accept();
            CHECK(upstream.receive_exactly(8) == "question");
            upstream.send_all("answer");
            upstream.shutdown_write();
            ++served;
        }
        REQUIRE(wait_until(
            [&] {
                const auto decided = std::ranges::find_if(
                    clients, [](const Socket& client) { return !client.silent(Milliseconds(0)); });
                if (decided == clients.end()) return relay.backend().waiting(Milliseconds(0));
                const Received answer = decided->receive_to_end();
                if (answer.bytes.empty()) {
                    CHECK(answer.ending == Ending::reset);
                    ++refused;
                } else {
                    CHECK(answer.bytes == "answer");
                }
                clients.erase(decided);
                return true;
            },
            soon));
    }
    CHECK(served + refused == count);
    CHECK(served >= count / 2);
    CHECK(relay.relay().process().wait_for_text("raise the limit", soon));
    expect_sockets(relay.relay(), sockets);
    CHECK(comes_to_rest(pid));
    relay.stop();
}

// Pipes.

constexpr uid_t nobody = 65'534;

// In a child before exec: another user, who is subject to the limits of users. It still dies with its parent.
void become_nobody() {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(nobody, nobody, nobody) != 0 ||
        ::setresuid(nobody, nobody, nobody) != 0)
        ::_exit(126);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
}

// Takes pipes until the user has no more to get, and keeps them.
void take_all_pipes() {
    become_nobody();
    for (int size = 1024 * 1024; size >= 4096;) {
        int ends[2];
        if (::pipe(ends) != 0) ::_exit(125);
        if (::fcntl(ends[0], F_GETPIPE_SZ) < 65'536) return;  // beyond the limit the kernel gives two slots
        while (size >= 4096 && ::fcntl(ends[0], F_SETPIPE_SZ, size) < 0) size /= 2;
    }
}

ENGINE_TEST("without pipes bulk is copied, and nothing stalls") {
    if (::geteuid() != 0) SLUICE_SKIP("needs root, to be another user whose pipes can be used up");
    ProcessOptions hog_options;
    hog_options.before_exec = take_all_pipes;
    Process hog({"sleep", "600"}, hog_options);
    // It has them all once the program runs.
    REQUIRE(wait_until([&] { return descriptors_of_kind(hog.pid(), "pipe:") > 60; }));
    REQUIRE(
        wait_until([&] { return read_file("/proc/" + std::to_string(hog.pid()) + "/comm") == "sleep\n"; }));

    Listener backend("127.0.0.1:0", {64 * 1024, 64 * 1024});
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayOptions options;
    options.process.before_exec = become_nobody;
    RelayProcess relay = RelayProcess::forward(listen, {backend.address()}, here.engine, options);
    const std::string bytes = pattern(8 * 1024 * 1024, 1);
    constexpr std::size_t sessions = 3;
    for (std::size_t session = 0; session < sessions; ++session) {
        Socket client = connect_to(listen, {64 * 1024, 64 * 1024});
        Socket upstream = backend.accept();
        CHECK(pass(client, upstream, bytes) == bytes);
        CHECK(pass(upstream, client, bytes) == bytes);
        const std::size_t size = client.send_until_full(64 * 1024 * 1024);
        client.close();
        const Received rest = upstream.receive_to_end();
        CHECK(rest.bytes == pattern(size, 0));
        CHECK(rest.ending == Ending::fin);
    }
    for (const AccessLine& line : relay.access_log(sessions)) {
        CAPTURE(line.text);
        CHECK(line.path == "copy");
        CHECK(line.fields.contains("why"));
        if (line.fields.contains("why")) CHECK(line.fields.at("why") == "no_pipe");
        CHECK(line.end == "client_fin");
    }
    relay.stop();
}

}  // namespace
}  // namespace sluice::test
