#include "sluice/net/bound_address.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/sockets.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace sluice {
namespace {

namespace fs = std::filesystem;

std::expected<BoundAddress, std::string> bind_to(const std::string& address, std::uint32_t workers = 1) {
    if (auto room =
            BoundAddress::make_room(*parse_endpoint(address), Clock::now() + BoundAddress::departure_max);
        !room)
        return std::unexpected(room.error());
    return BoundAddress::open(*parse_endpoint(address), SocketOptions{}, workers);
}

std::string refusal(const std::string& address) {
    const auto bound = bind_to(address);
    REQUIRE_MESSAGE(!bound, address);
    return bound.error();
}

bool mentions(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

std::string this_process() {
    return "pid " + std::to_string(::getpid()) + " (";
}

// Leaves the file of a socket on which nobody listens any more.
void leave_stale_socket(const std::string& path) {
    const test::Listener listener("unix:" + path);
}

TEST_CASE("port 0 is given once, and the workers share it") {
    for (const char* address : {"127.0.0.1:0", "[::1]:0", ":0"}) {
        if (address[0] == '[' && !test::ipv6_available()) continue;
        CAPTURE(address);
        auto bound = bind_to(address, 3);
        REQUIRE_MESSAGE(bound, (bound ? "" : bound.error()));
        const std::uint16_t port = bound->address().port();
        CHECK(port != 0);
        std::vector<OwnedFd> sockets;
        for (std::uint32_t worker = 0; worker < 3; ++worker) {
            sockets.push_back(bound->take_socket(worker));
            CHECK(local_address_of(sockets.back().get()).port() == port);
        }
        CHECK(sockets[0].get() != sockets[1].get());
        const std::string host = address[0] == '[' ? "[::1]" : "127.0.0.1";
        std::vector<test::Socket> clients;
        for (int count = 0; count < 24; ++count)
            clients.push_back(test::connect_to(host + ":" + std::to_string(port)));
        // The kernel shares them out: all arrive, whoever gets them.
        std::size_t arrived = 0;
        test::wait_until([&] {
            for (const OwnedFd& socket : sockets)
                while (OwnedFd(::accept(socket.get(), nullptr, nullptr)).valid()) ++arrived;
            return arrived == clients.size();
        });
        CHECK(arrived == clients.size());
    }
}

TEST_CASE("a port in use is refused with the address and who holds it") {
    const test::Listener holder;
    const std::string message = refusal(holder.address());
    CHECK(mentions(message, holder.address()));
    CHECK(mentions(message, "in use by " + this_process()));
    // Another relay's shared port, too.
    auto shared = bind_to("127.0.0.1:0");
    REQUIRE(shared);
    CHECK(mentions(refusal(to_string(shared->address())), this_process()));
}

// A listening socket that lies in no process: under way from one end of a unix socket to the other. As the
// sockets of a process that has just been killed, which io_uring lets go a little later.
class DepartedHolder {
  public:
    DepartedHolder() : pair_(test::unix_pair()) {
        test::Listener listener("127.0.0.1:0");
        port_ = listener.port();
        const int fd = listener.descriptor();
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
        char byte = 'x';
        iovec vector{.iov_base = &byte, .iov_len = 1};
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
        REQUIRE(::sendmsg(pair_.first.descriptor(), &message, 0) == 1);
    }
    std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
    void let_go() { pair_.second.close(); }

  private:
    std::pair<test::Socket, test::Socket> pair_;
    std::uint16_t port_ = 0;
};

TEST_CASE("a port whose holder has just died is waited for; one that stays taken is refused") {
    DepartedHolder holder;
    const std::string message = refusal(holder.address());
    CHECK(mentions(message, "in use by another process"));
    std::thread death([&holder] {
        std::this_thread::sleep_for(test::glance);
        holder.let_go();
    });
    const auto bound = bind_to(holder.address());
    death.join();
    CHECK_MESSAGE(bound, (bound ? "" : bound.error()));
}

TEST_CASE("an address of no interface is refused with the reason") {
    CHECK(mentions(refusal("192.0.2.1:8080"), "no interface"));
}

TEST_CASE("a unix path has one socket, of which each worker has a duplicate") {
    const test::TemporaryFolder folder;
    auto bound = bind_to("unix:" + folder.file("s"), 3);
    REQUIRE_MESSAGE(bound, (bound ? "" : bound.error()));
    struct stat first{};
    std::vector<OwnedFd> sockets;
    for (std::uint32_t worker = 0; worker < 3; ++worker) {
        sockets.push_back(bound->take_socket(worker));
        REQUIRE(sockets.back().valid());
        struct stat each{};
        REQUIRE(::fstat(sockets.back().get(), &each) == 0);
        if (worker == 0) first = each;
        CHECK(each.st_ino == first.st_ino);
    }
    CHECK(test::try_connect("unix:" + folder.file("s")) == 0);
}

TEST_CASE("a stale unix path is taken over") {
    const test::TemporaryFolder folder;
    leave_stale_socket(folder.file("s"));
    REQUIRE(fs::exists(folder.file("s")));
    const auto bound = bind_to("unix:" + folder.file("s"));
    REQUIRE_MESSAGE(bound, (bound ? "" : bound.error()));
    CHECK(test::try_connect("unix:" + folder.file("s")) == 0);
}

TEST_CASE("a unix path on which somebody listens is refused, and goes on working for him") {
    const test::TemporaryFolder folder;
    test::Listener holder("unix:" + folder.file("s"));
    const std::string message = refusal("unix:" + folder.file("s"));
    CHECK(mentions(message, folder.file("s")));
    CHECK(mentions(message, "in use by " + this_process()));
    CHECK(!holder.waiting(test::glance));  // being asked was no client to him
    CHECK(test::try_connect("unix:" + folder.file("s")) == 0);
}

TEST_CASE("a file that is no socket is refused and kept") {
    const test::TemporaryFolder folder;
    const std::string path = folder.write("precious", "data");
    CHECK(mentions(refusal("unix:" + path), "no socket"));
    CHECK(test::read_file(path) == "data");
    fs::create_symlink(path, folder.file("link"));
    CHECK(mentions(refusal("unix:" + folder.file("link")), "no socket"));
    CHECK(test::read_file(path) == "data");
    CHECK(fs::is_symlink(folder.file("link")));
}

TEST_CASE("a folder that is missing is named as the reason") {
    const test::TemporaryFolder folder;
    CHECK(mentions(refusal("unix:" + folder.file("missing/s")), "folder does not exist"));
}

TEST_CASE("the unix path goes with its owner, also after he moved") {
    const test::TemporaryFolder folder;
    {
        auto bound = bind_to("unix:" + folder.file("s"));
        REQUIRE(bound);
        {
            const BoundAddress owner(std::move(*bound));
            CHECK(fs::exists(folder.file("s")));
        }
        CHECK(!fs::exists(folder.file("s")));
        leave_stale_socket(folder.file("s"));
    }
    // Who was moved from owns nothing.
    CHECK(fs::exists(folder.file("s")));
}

TEST_CASE("a unix path that somebody else has replaced stays") {
    const test::TemporaryFolder folder;
    {
        const auto bound = bind_to("unix:" + folder.file("s"));
        REQUIRE(bound);
        // Both files exist for a moment, so that the new one cannot have the old one's inode.
        leave_stale_socket(folder.file("new"));
        fs::rename(folder.file("new"), folder.file("s"));
    }
    CHECK(fs::exists(folder.file("s")));
}

TEST_CASE("a refused bind removes nobody's path") {
    const test::TemporaryFolder folder;
    test::Listener holder("unix:" + folder.file("s"));
    refusal("unix:" + folder.file("s"));
    CHECK(fs::exists(folder.file("s")));
}

TEST_CASE("an abstract name has no file; in use, it is refused with its holder") {
    const std::string name = "unix:@sluice-listener-" + std::to_string(::getpid());
    const auto bound = bind_to(name, 2);
    REQUIRE_MESSAGE(bound, (bound ? "" : bound.error()));
    CHECK(test::try_connect(name) == 0);
    CHECK(mentions(refusal(name), this_process()));
}

}  // namespace
}  // namespace sluice
