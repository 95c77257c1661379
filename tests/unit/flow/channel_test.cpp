#include "sluice/flow/channel.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/process.hpp"
#include "tests/support/sockets.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {
namespace {

using Outcome = Transfer::Outcome;

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

// Until the kernel holds so many bytes for the reader of this socket.
void wait_until_queued(const test::Socket& socket, int bytes) {
    REQUIRE(test::wait_until([&] {
        int queued = 0;
        return ::ioctl(socket.descriptor(), FIONREAD, &queued) == 0 && queued >= bytes;
    }));
}

// Until the kernel tells one of these of the socket.
void wait_for(const test::Socket& socket, short events) {
    pollfd one{.fd = socket.descriptor(), .events = events, .revents = 0};
    REQUIRE(::poll(&one, 1, static_cast<int>(test::patience.count())) == 1);
}

struct Memory {
    std::vector<std::byte> bytes = std::vector<std::byte>(message_bytes_max);
    std::string text(std::size_t size) const { return {reinterpret_cast<const char*>(bytes.data()), size}; }
};

#define OPEN_PIPE(name)                                                                           \
    auto name##_opened = Pipe::open(65'536);                                                      \
    if (!name##_opened) SLUICE_SKIP("this user's pipe budget (pipe-user-pages-soft) is used up"); \
    SpliceChannel name(std::move(*name##_opened))

TEST_CASE("a splice channel carries bytes through its pipe and knows how many it holds") {
    OPEN_PIPE(channel);
    auto [sender, source] = test::tcp_pair();
    auto [target, receiver] = test::tcp_pair();
    CHECK(channel.fill(source.descriptor(), 100).outcome == Outcome::blocked);
    CHECK(channel.empty());
    sender.send_all("hello world");
    wait_until_queued(source, 11);
    CHECK(channel.fill(source.descriptor(), 5).bytes == 5);
    CHECK(channel.held() == 5);
    CHECK(channel.drain(target.descriptor()).bytes == 5);
    CHECK(channel.empty());
    CHECK(channel.fill(source.descriptor(), 100).bytes == 6);
    CHECK(channel.drain(target.descriptor()).bytes == 6);
    CHECK(receiver.receive_exactly(11) == "hello world");
    sender.shutdown_write();
    wait_for(source, POLLRDHUP);
    CHECK(channel.fill(source.descriptor(), 100).outcome == Outcome::ended);
}

TEST_CASE("a splice channel drains as much as the target takes, and the rest later") {
    OPEN_PIPE(channel);
    auto [sender, source] = test::tcp_pair();
    auto [target, receiver] = test::tcp_pair({.receive = 4096, .send = 4096});
    std::string expected(target.send_until_full(1 << 20), '\0');
    expected = test::pattern(expected.size(), 0);
    const std::string bytes = test::pattern(20'000, 1);
    sender.send_all(bytes);
    wait_until_queued(source, 20'000);
    REQUIRE(channel.fill(source.descriptor(), 65'536).outcome == Outcome::moved);
    CHECK(channel.drain(target.descriptor()).outcome == Outcome::blocked);
    const std::size_t held = channel.held();
    std::string received;
    while (!channel.empty()) {
        received += receiver.receive_some(4096);
        const std::size_t before = channel.held();
        const Transfer drained = channel.drain(target.descriptor());
        CHECK(channel.held() == before - drained.bytes);
        CHECK(drained.outcome == (drained.bytes > 0 ? Outcome::moved : Outcome::blocked));
    }
    target.shutdown_write();
    received += receiver.receive_to_end().bytes;
    CHECK((received == expected + bytes.substr(0, held)));
}

TEST_CASE("the tail of sixteen segments is not held back in the target") {
    OPEN_PIPE(channel);
    auto [sender, source] = test::tcp_pair();
    auto [target, receiver] = test::tcp_pair();
    // A drain that asked for more than the pipe holds would cost 205 ms in every second round (6.18). A slow
    // machine may take long, too, but not that often.
    int slow = 0;
    for (int round = 0; round < 16; ++round) {
        for (int segment = 0; segment < 16; ++segment) sender.send_all("x");
        wait_until_queued(source, 16);
        const auto begin = test::TestClock::now();
        REQUIRE(channel.fill(source.descriptor(), 65'536).bytes == 16);
        REQUIRE(channel.drain(target.descriptor()).bytes == 16);
        CHECK(receiver.receive_exactly(16) == std::string(16, 'x'));
        if (test::TestClock::now() - begin > test::Milliseconds(150)) ++slow;
    }
    CHECK(slow <= 4);
}

TEST_CASE("a broken target leaves the bytes in the pipe") {
    OPEN_PIPE(channel);
    auto [sender, source] = test::tcp_pair();
    auto [target, receiver] = test::tcp_pair();
    sender.send_all("secret");
    wait_until_queued(source, 6);
    REQUIRE(channel.fill(source.descriptor(), 100).bytes == 6);
    receiver.reset();
    wait_for(target, POLLERR);
    const Transfer transfer = channel.drain(target.descriptor());
    CHECK(transfer.outcome == Outcome::broken);
    CHECK(transfer.error == ECONNRESET);
    CHECK(channel.held() == 6);
}

TEST_CASE("a reset whose error splice has swallowed is still a reset, and no end after a FIN") {
    OPEN_PIPE(channel);
    auto [sender, source] = test::tcp_pair();
    auto [target, receiver] = test::tcp_pair();
    sender.send_all("secret");
    wait_until_queued(source, 6);
    REQUIRE(channel.fill(source.descriptor(), 100).bytes == 6);
    receiver.reset();
    wait_for(target, POLLERR);
    int error = 0;
    socklen_t length = sizeof(error);
    REQUIRE(::getsockopt(target.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length) == 0);
    REQUIRE(error == ECONNRESET);
    CHECK(channel.drain(target.descriptor()).error == ECONNRESET);
}

TEST_CASE("what cannot be spliced is called unsuitable, and nothing was consumed") {
    OPEN_PIPE(channel);
    const OwnedFd counter(::eventfd(7, EFD_NONBLOCK | EFD_CLOEXEC));
    CHECK(channel.fill(counter.get(), 100).outcome == Outcome::unsuitable);
    auto [sender, source] = test::tcp_pair();
    sender.send_all("hello");
    wait_until_queued(source, 5);
    REQUIRE(channel.fill(source.descriptor(), 100).bytes == 5);
    // A file opened for appending answers EINVAL, splice(2) says.
    const OwnedFd file(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(::fcntl(file.get(), F_SETFL, O_APPEND) == 0);
    CHECK(channel.drain(file.get()).outcome == Outcome::unsuitable);
    CHECK(channel.held() == 5);
    CopyChannel copy;
    Memory memory;
    const Pipe pipe = std::move(channel).take_pipe();
    CHECK(copy.fill_from_pipe(pipe.read_end(), memory.bytes).bytes == 5);
    auto [target, receiver] = test::tcp_pair();
    CHECK(copy.drain(*open_single_calls(), target.descriptor()).bytes == 5);
    CHECK(receiver.receive_exactly(5) == "hello");
    BlockPool blocks;
    copy.clear(blocks);
}

TEST_CASE("a full pipe is never filled, and an empty one never drained") {
    CHECK(test::death_of([] {
              SpliceChannel channel(std::move(*Pipe::open(65'536)));
              auto [one, other] = test::unix_pair();
              channel.drain(one.descriptor());
          }).broke_promise("!empty()"));
    CHECK(test::death_of([] {
              SpliceChannel channel(std::move(*Pipe::open(65'536)));
              auto [sender, source] = test::tcp_pair();
              sender.send_all("hello");
              wait_until_queued(source, 5);
              channel.fill(source.descriptor(), 100);
              channel.fill(source.descriptor(), 100);
          }).broke_promise("empty()"));
}

TEST_CASE("what a copy channel could not drain survives the scratch memory") {
    const auto calls = open_single_calls();
    auto [sender, source] = test::tcp_pair();
    auto [target, receiver] = test::tcp_pair({.receive = 4096, .send = 4096});
    const std::size_t before = target.send_until_full(1 << 20);
    const std::string bytes = test::pattern(20'000, 3);
    sender.send_all(bytes);
    wait_until_queued(source, 20'000);
    Memory scratch;
    BlockPool blocks;
    CopyChannel channel;
    REQUIRE(channel.fill(*calls, source.descriptor(), scratch.bytes).bytes == 20'000);
    CHECK(blocks.taken_bytes() == 0);
    CHECK(channel.drain(*calls, target.descriptor()).outcome == Outcome::blocked);
    CHECK(channel.settle(blocks));
    CHECK(blocks.taken_bytes() == 65'536);
    std::ranges::fill(scratch.bytes, std::byte{0xee});
    CHECK(channel.settle(blocks));  // a second time changes nothing
    CHECK(blocks.taken_bytes() == 65'536);
    std::string received;
    while (!channel.empty()) {
        received += receiver.receive_some(4096);
        channel.drain(*calls, target.descriptor());
    }
    channel.clear(blocks);
    CHECK(blocks.taken_bytes() == 0);
    target.shutdown_write();
    received += receiver.receive_to_end().bytes;
    CHECK((received == test::pattern(before, 0) + bytes));
}

TEST_CASE("settling an empty channel takes no block, and a channel is filled only when empty") {
    const auto calls = open_single_calls();
    auto [sender, source] = test::tcp_pair();
    Memory scratch;
    BlockPool blocks;
    CopyChannel channel;
    CHECK(channel.settle(blocks));
    CHECK(blocks.taken_bytes() == 0);
    sender.send_all("hello");
    wait_until_queued(source, 5);
    REQUIRE(channel.fill(*calls, source.descriptor(), scratch.bytes).bytes == 5);
    CHECK(test::death_of([&] { channel.fill(*calls, source.descriptor(), scratch.bytes); }).signal ==
          SIGABRT);
    channel.clear(blocks);
    CHECK(channel.empty());
}

TEST_CASE("blocks come in four sizes, are used again and counted") {
    BlockPool blocks;
    std::vector<BlockPool::Block> taken;
    for (const auto& [bytes, size] :
         {std::pair{1, 2048}, std::pair{2048, 2048}, std::pair{2049, 16'384}, std::pair{16'385, 65'536},
          std::pair{65'536, 65'536}, std::pair{65'537, 262'144}, std::pair{262'144, 262'144}}) {
        taken.push_back(blocks.take(static_cast<std::size_t>(bytes)));
        CHECK(std::cmp_equal(taken.back().size, size));
    }
    CHECK(blocks.taken_bytes() == 2 * 2048 + 16'384 + 2 * 65'536 + 2 * 262'144);
    const std::byte* last = taken.back().memory.get();
    while (!taken.empty()) {
        blocks.give_back(std::move(taken.back()));
        taken.pop_back();
    }
    CHECK(blocks.taken_bytes() == 0);
    const BlockPool::Block first = blocks.take(262'144);
    const BlockPool::Block second = blocks.take(262'144);
    CHECK((first.memory.get() == last || second.memory.get() == last));
    CHECK(test::death_of([&] { blocks.take(message_bytes_max + 1); }).signal == SIGABRT);
}

// Two sockets that keep the boundaries of messages; what `reader` receives has a time.
std::pair<test::Socket, test::Socket> message_pair() {
    auto pair = test::unix_pair(SOCK_SEQPACKET);
    const int on = 1;
    for (const test::Socket* socket : {&pair.first, &pair.second})
        REQUIRE(::setsockopt(socket->descriptor(), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)) == 0);
    return pair;
}

TEST_CASE("messages pass one by one, an empty one is a message, and the end is none") {
    auto [sender, source] = message_pair();
    auto [target, receiver] = message_pair();
    const std::string longest = test::pattern(200'000, 1);
    const std::vector<std::string> messages = {"one", "", "two", longest, ""};
    Memory memory;
    BlockPool blocks;
    MessageChannel channel;
    for (const std::string& message : messages) {
        REQUIRE(::send(sender.descriptor(), message.data(), message.size(), 0) ==
                static_cast<ssize_t>(message.size()));
        const Transfer filled = channel.fill(source.descriptor(), memory.bytes);
        CHECK(filled.outcome == Outcome::moved);
        CHECK(filled.bytes == message.size());
        CHECK(!channel.empty());
        // It outlives the turn.
        REQUIRE(channel.settle(blocks));
        std::ranges::fill(memory.bytes, std::byte{0xee});
        const Transfer drained = channel.drain(target.descriptor());
        CHECK(drained.outcome == Outcome::moved);
        CHECK(channel.empty());
        channel.clear(blocks);
        const Transfer received = receive_message(receiver.descriptor(), memory.bytes);
        CHECK(received.outcome == Outcome::moved);
        CHECK((memory.text(received.bytes) == message));
    }
    CHECK(channel.fill(source.descriptor(), memory.bytes).outcome == Outcome::blocked);
    sender.shutdown_write();
    CHECK(channel.fill(source.descriptor(), memory.bytes).outcome == Outcome::ended);
    CHECK(blocks.taken_bytes() == 0);
}

TEST_CASE("a message that is too long for the memory, or for the target, is said to be so") {
    auto [sender, source] = message_pair();
    std::array<std::byte, 10> little{};
    sender.send_all("more than ten bytes");
    const Transfer cut = receive_message(source.descriptor(), little);
    CHECK(cut.outcome == Outcome::broken);
    CHECK(cut.error == EMSGSIZE);
    auto [target, receiver] = message_pair();
    target.set_buffers({.receive = 0, .send = 4096});
    const std::string big = test::pattern(100'000, 2);
    const Transfer refused = send_message(target.descriptor(), bytes_of(big));
    CHECK(refused.outcome == Outcome::broken);
    CHECK(refused.error == EMSGSIZE);
}

TEST_CASE("a target that takes no message leaves it in the channel") {
    auto [sender, source] = message_pair();
    auto [target, receiver] = message_pair();
    sender.send_all("waits");
    while (send_message(target.descriptor(), bytes_of("filler")).outcome == Outcome::moved) continue;
    Memory memory;
    BlockPool blocks;
    MessageChannel channel;
    REQUIRE(channel.fill(source.descriptor(), memory.bytes).bytes == 5);
    CHECK(channel.drain(target.descriptor()).outcome == Outcome::blocked);
    CHECK(!channel.empty());
    REQUIRE(channel.settle(blocks));
    CHECK(blocks.taken_bytes() > 0);
    channel.clear(blocks);
    CHECK(channel.empty());
    CHECK(blocks.taken_bytes() == 0);
}

}  // namespace
}  // namespace sluice
