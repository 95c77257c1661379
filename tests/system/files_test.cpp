// Files as backends: served to each client, or taking what clients send, each session whole and in order.

#include "tests/system/ends.hpp"
#include "tests/system/system_calls.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::size_t bulk = 8 * 1024 * 1024 + 12'345;

struct FileRelay {
    FileRelay(RelayCase here, const std::string& target, RelayOptions options = {})
        : address("127.0.0.1:" + std::to_string(free_port())),
          relay(RelayProcess::forward(address, {"file:" + target}, here.engine, std::move(options))) {}
    std::string address;
    RelayProcess relay;
};

ENGINE_TEST("a file is served whole to several clients at once, each ends with a FIN, by splice alone") {
    const TemporaryFolder folder;
    const std::string content = pattern(bulk, 1);
    FileRelay files(here, folder.write("data", content));
    const std::size_t sockets = descriptors_of_kind(files.relay.pid(), "socket:");
    std::vector<Socket> clients;
    for (int client = 0; client < 8; ++client) clients.push_back(connect_to(files.address));
    for (Socket& client : clients) {
        const Received received = client.receive_to_end();
        CHECK((received.bytes == content));
        CHECK(received.ending == Ending::fin);
        client.close();
    }
    for (const AccessLine& line : files.relay.access_log(clients.size())) {
        CHECK(line.end == "upstream_fin");
        CHECK(line.download == content.size());
        CHECK(line.path == "splice");
    }
    expect_sockets(files.relay, sockets);
    CHECK(wait_until([&] { return descriptors_of_kind(files.relay.pid(), folder.file("data")) == 0; }, soon));
    files.relay.stop();
}

ENGINE_TEST("what a client says to a served file is thrown away, and spoils nothing") {
    const TemporaryFolder folder;
    const std::string content = pattern(bulk, 2);
    FileRelay files(here, folder.write("data", content));
    Socket client = connect_to(files.address);
    client.send_all(pattern(300'000, 3));
    const Received received = client.receive_to_end();
    CHECK((received.bytes == content));
    CHECK(received.ending == Ending::fin);
    client.send_all("and more");
    client.close();
    const AccessLine line = files.relay.access_log(1).back();
    CHECK(line.end == "upstream_fin");
    CHECK(line.upload == 0);
    files.relay.stop();
}

ENGINE_TEST("an empty file is served as an end, and a client that goes early ends its session alone") {
    const TemporaryFolder folder;
    FileRelay empty(here, folder.write("empty", ""));
    Socket client = connect_to(empty.address);
    CHECK(client.receive_to_end().bytes.empty());
    client.close();
    empty.relay.stop();
    FileRelay files(here, folder.write("data", pattern(bulk, 4)));
    Socket hasty = connect_to(files.address);
    REQUIRE(hasty.receive_some(1000).size() > 0);
    hasty.reset();
    CHECK(files.relay.access_log(1).back().end == "client_reset");
    files.relay.stop();
}

// What each of these clients sends: more than one read, and its own.
std::string saying(std::size_t client) {
    return pattern(1'000'000 + client * 7, 100 + client);
}

ENGINE_TEST("a file takes what clients send, each session whole, by splice and by copy") {
    for (const char* mode : {"?create", "?append", "?append&create"}) {
        CAPTURE(mode);
        const TemporaryFolder folder;
        const std::string path = folder.file("taken");
        const bool append = std::string(mode).starts_with("?append");
        const std::string before = "what stood there\n";
        folder.write("taken", before);
        FileRelay files(here, path + mode);
        std::vector<std::thread> senders;
        constexpr std::size_t count = 6;
        for (std::size_t number = 0; number < count; ++number)
            senders.emplace_back([&files, number] {
                try {
                    Socket client = connect_to(files.address);
                    client.send_all(saying(number));
                    client.shutdown_write();
                    // The FIN says that the file has everything.
                    if (client.receive_to_end().ending != Ending::fin) FAIL_CHECK("no FIN");
                } catch (const std::runtime_error& error) {
                    FAIL_CHECK(error.what());
                }
            });
        for (std::thread& sender : senders) sender.join();
        std::string content = read_file(path);
        CHECK(content.starts_with(before));
        for (std::size_t number = 0; number < count; ++number) {
            const std::string said = saying(number);
            const std::size_t at = content.find(said);
            CHECK(at != std::string::npos);
            if (at != std::string::npos) content.erase(at, said.size());
        }
        CHECK(content == before);
        for (const AccessLine& line : files.relay.access_log(count)) {
            CHECK(line.end == "client_fin");
            CHECK(line.path == (append ? "copy" : "splice"));
            CHECK(line.fields.at("why") == (append ? "not_spliceable" : "bulk"));
        }
        files.relay.stop();
    }
}

ENGINE_TEST("a file holds what came before a client's reset") {
    const TemporaryFolder folder;
    const std::string path = folder.file("taken");
    FileRelay files(here, path + "?create");
    Socket client = connect_to(files.address);
    const std::string said = pattern(100'000, 5);
    client.send_all(said);
    wait_acknowledged(client);
    client.reset();
    CHECK(files.relay.access_log(1).back().end == "client_reset");
    CHECK((read_file(path) == said));
    files.relay.stop();
}

ENGINE_TEST("a file that is missing, or is none, ends the session with the reason") {
    const TemporaryFolder folder;
    const struct {
        std::string target;
        std::string error;
    } cases[] = {
        {folder.file("missing"), "No such file or directory"},
        {folder.file("missing") + "?append", "No such file or directory"},
        {folder.path().string(), "Is a directory"},
        {"/dev/zero", "Operation not supported"},
    };
    for (const auto& each : cases) {
        CAPTURE(each.target);
        FileRelay files(here, each.target);
        Socket client = connect_or_reset(files.address);
        CHECK(ending_of(client) == Ending::reset);
        const AccessLine line = files.relay.access_log(1).back();
        CHECK(line.end == "file_failed");
        CHECK(line.text.find(each.error) != std::string::npos);
        files.relay.stop();
    }
}

ENGINE_TEST("a missing permission ends the session with the reason") {
    if (::geteuid() != 0) SLUICE_SKIP("needs root, to start the relay as nobody");
    const TemporaryFolder folder;
    std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
    const std::string secret = folder.write("secret", "not for nobody");
    std::filesystem::permissions(secret, std::filesystem::perms::owner_read);
    RelayOptions options;
    options.process.before_exec = [] {
        if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) ::_exit(126);
    };
    FileRelay files(here, secret, options);
    Socket client = connect_or_reset(files.address);
    CHECK(ending_of(client) == Ending::reset);
    const AccessLine line = files.relay.access_log(1).back();
    CHECK(line.end == "file_failed");
    CHECK(line.text.find("Permission denied") != std::string::npos);
    files.relay.stop();
}

ENGINE_TEST("a full disk ends the session with the reason, and what fitted stays") {
    if (::geteuid() != 0) SLUICE_SKIP("needs root, to mount a small disk");
    for (const char* mode : {"?create", "?append&create"}) {
        CAPTURE(mode);
        const TemporaryFolder folder;
        if (::mount("none", folder.path().c_str(), "tmpfs", 0, "size=1m") != 0)
            SLUICE_SKIP("this system lets nobody mount a tmpfs");
        {
            FileRelay files(here, folder.file("taken") + mode);
            Socket client = connect_to(files.address);
            const std::string said = pattern(3'000'000, 6);
            try {
                client.send_all(said);
            } catch (const std::runtime_error&) {
                // The reset came first.
            }
            const AccessLine line = files.relay.access_log(1).back();
            CHECK(line.end == "file_failed");
            CHECK(line.text.find("No space left on device") != std::string::npos);
            const std::string content = read_file(folder.file("taken"));
            CHECK(content.size() > 500'000);
            CHECK(said.starts_with(content));
            CHECK(line.upload == content.size());
            files.relay.stop();
        }
        ::umount2(folder.path().c_str(), MNT_DETACH);
    }
}

ENGINE_TEST("sessions take turns at a file, and one that waits for its turn may go") {
    const TemporaryFolder folder;
    FileRelay files(here, folder.file("taken") + "?create");
    Socket first = connect_to(files.address);
    first.send_all("first");
    REQUIRE(wait_until([&] { return read_file(folder.file("taken")) == "first"; }));
    Socket second = connect_to(files.address);
    second.send_all("second");
    CHECK(second.silent());
    first.shutdown_write();
    CHECK(first.receive_to_end().ending == Ending::fin);
    first.close();
    REQUIRE(wait_until([&] { return read_file(folder.file("taken")) == "firstsecond"; }));
    Socket third = connect_to(files.address);
    CHECK(third.silent());
    third.reset();
    second.close();
    for (const AccessLine& line : files.relay.access_log(3))
        CHECK((line.end == "client_fin" || line.end == "client_reset"));
    files.relay.stop();
}

ENGINE_TEST("a file that is cut short while it is served does not look whole") {
    const TemporaryFolder folder;
    const std::string path = folder.write("data", pattern(64 * 1024 * 1024, 8));
    FileRelay files(here, path);
    Socket client = connect_to(files.address, {.receive = 64 * 1024, .send = 0});
    REQUIRE(client.receive_some(1000).size() > 0);
    std::filesystem::resize_file(path, 16 * 1024 * 1024);
    CHECK(client.receive_to_end().ending == Ending::reset);
    CHECK(files.relay.access_log(1).back().end == "file_failed");
    files.relay.stop();
}

ENGINE_TEST("who waited for a file that was replaced meanwhile writes to the new one") {
    const TemporaryFolder folder;
    const std::string path = folder.file("taken");
    FileRelay files(here, path + "?create");
    Socket first = connect_to(files.address);
    first.send_all("first");
    REQUIRE(wait_until([&] { return read_file(path) == "first"; }));
    Socket second = connect_to(files.address);
    second.send_all("second");
    CHECK(second.silent());
    std::filesystem::rename(path, folder.file("taken.1"));
    folder.write("taken", "new ");
    first.close();
    CHECK(wait_until([&] { return read_file(path) == "new second"; }));
    CHECK(read_file(folder.file("taken.1")) == "first");
    second.close();
    files.relay.access_log(2);
    files.relay.stop();
}

ENGINE_TEST("a client that says nothing keeps a file from nobody") {
    const TemporaryFolder folder;
    FileRelay files(here, folder.file("taken") + "?create");
    Socket silent = connect_to(files.address);
    CHECK(silent.silent());
    Socket talker = connect_to(files.address);
    talker.send_all("served");
    talker.shutdown_write();
    CHECK(talker.receive_to_end().ending == Ending::fin);
    silent.send_all(" later");
    silent.shutdown_write();
    CHECK(silent.receive_to_end().ending == Ending::fin);
    CHECK(read_file(folder.file("taken")) == "served later");
    files.relay.stop();
}

// A lease that lets nobody else open the file, as file servers take it.
class Lease {
  public:
    explicit Lease(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
        // SIGURG is ignored where nobody asks for it; SIGIO, the signal of leases, would end us.
        held_ = ::fcntl(fd_, F_SETSIG, SIGURG) == 0 && ::fcntl(fd_, F_SETLEASE, F_WRLCK) == 0;
    }
    ~Lease() { ::close(fd_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    bool held() const { return held_; }
    // From then on it tells what the lease must become.
    bool wanted() const { return ::fcntl(fd_, F_GETLEASE) != F_WRLCK; }
    void give_up() { ::fcntl(fd_, F_SETLEASE, F_UNLCK); }

  private:
    int fd_;
    bool held_;
};

ENGINE_TEST("a file on which somebody has a lease is waited for") {
    for (const char* mode : {"", "?create"}) {
        CAPTURE(mode);
        const bool served = std::string(mode).empty();
        const TemporaryFolder folder;
        const std::string content = pattern(100'000, 9);
        const std::string path = folder.write("data", served ? content : "");
        Lease lease(path);
        if (!lease.held()) SLUICE_SKIP("this file system grants no leases");
        FileRelay files(here, path + mode);
        Socket client = connect_to(files.address);
        if (!served) client.send_all(content);
        client.shutdown_write();
        REQUIRE(wait_until([&] { return lease.wanted(); }));
        CHECK(client.silent());
        lease.give_up();
        const Received received = client.receive_to_end();
        CHECK(received.ending == Ending::fin);
        CHECK((received.bytes == (served ? content : "")));
        CHECK((read_file(path) == content));
        client.close();
        CHECK(files.relay.access_log(1).back().end == "client_fin");
        files.relay.stop();
    }
}

ENGINE_TEST("a file whose lease is not given up is waited for as long as a session may be idle") {
    const TemporaryFolder folder;
    const std::string path = folder.write("data", "never served");
    const Lease lease(path);
    if (!lease.held()) SLUICE_SKIP("this file system grants no leases");
    const std::string address = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay = RelayProcess::with_config(
        "timeouts: {idle: 300ms}\nlisteners:\n  - {bind: \"" + address + "\", to: \"file:" + path + "\"}\n",
        here.engine);
    Socket client = connect_to(address);
    CHECK(client.receive_to_end().ending == Ending::reset);
    CHECK(relay.access_log(1).back().end == "idle_timeout");
    relay.stop();
}

// Nobody ends before strace does: the lines about ends are written, too.
ENGINE_TEST("between files and clients bytes move by splice alone") {
    if (!program_available("strace")) SLUICE_SKIP("there is no strace");
    const TemporaryFolder folder;
    const std::string content = pattern(32 * 1024 * 1024, 7);
    constexpr std::size_t count = 4;
    FileRelay served(here, folder.write("data", content));
    SystemCalls serving(served.relay.pid());
    if (!serving.attached()) SLUICE_SKIP("strace cannot attach: " + serving.why());
    std::vector<Socket> clients;
    for (std::size_t client = 0; client < count; ++client) clients.push_back(connect_to(served.address));
    for (Socket& client : clients) CHECK((client.receive_to_end().bytes == content));
    const auto served_by = serving.stop();
    INFO("calls to serve:" << to_string(served_by));
    CHECK(served_by.contains("splice"));
    CHECK(served_by.size() == 1);
    clients.clear();
    served.relay.stop();

    FileRelay taking(here, folder.file("taken") + "?create");
    SystemCalls writing(taking.relay.pid());
    REQUIRE(writing.attached());
    Socket client = connect_to(taking.address);
    client.send_all(content);
    CHECK(wait_until([&] { return std::filesystem::file_size(folder.file("taken")) == content.size(); }));
    const auto taken_by = writing.stop();
    INFO("calls to take:" << to_string(taken_by));
    CHECK(taken_by.contains("splice"));
    CHECK(taken_by.size() == 1);
    client.close();
    CHECK((read_file(folder.file("taken")) == content));
    taking.relay.stop();
}

}  // namespace
}  // namespace sluice::test
