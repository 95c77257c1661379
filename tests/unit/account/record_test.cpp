#include "sluice/account/record.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/waiting.hpp"

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

SessionRecord numbered(std::uint64_t number) {
    SessionRecord record;
    record.upload_bytes = number;
    return record;
}

TEST_CASE("every reason for a path has a name of its own") {
    std::set<std::string> names;
    for (const PathReason reason : {PathReason::bulk, PathReason::small_reads, PathReason::unix_socket,
                                    PathReason::no_pipe, PathReason::not_spliceable})
        CHECK(names.insert(to_string(reason)).second);
}

TEST_CASE("a record reaches the reader whole, and wait() returns for one that came before it") {
    Records records(2, 4);
    SessionRecord sent = numbered(7);
    sent.end = End::idle_timeout;
    sent.error = 110;
    records.push(1, sent);
    records.wait();
    SessionRecord record;
    REQUIRE(records.pop(record));
    CHECK(record.upload_bytes == 7);
    CHECK(record.end == End::idle_timeout);
    CHECK(record.error == 110);
    CHECK(!records.pop(record));
}

TEST_CASE("records without room are lost and counted, over all workers") {
    Records records(2, 2);
    for (std::uint64_t number = 0; number < 5; ++number) {
        records.push(0, numbered(number));
        records.push(1, numbered(number));
    }
    CHECK(records.lost() == 6);
    int arrived = 0;
    for (SessionRecord record; records.pop(record);) ++arrived;
    CHECK(arrived == 4);
}

TEST_CASE("a reader who waits hears of every record of every worker, and of the stop") {
    constexpr std::uint64_t each = 20'000;
    Records records(2, 1 << 16);
    std::vector<std::thread> workers;
    for (std::size_t worker = 0; worker < 2; ++worker)
        workers.emplace_back([&records, worker] {
            for (std::uint64_t number = 0; number < each; ++number) records.push(worker, numbered(number));
        });
    std::uint64_t arrived = 0;
    std::thread reader([&] {
        while (true) {
            records.wait();
            const bool last = records.stopped();  // before the rings are read: nothing is left behind
            for (SessionRecord record; records.pop(record);) ++arrived;
            if (last) break;
        }
    });
    for (std::thread& worker : workers) worker.join();
    records.stop();
    reader.join();
    CHECK(arrived == 2 * each);
    CHECK(records.lost() == 0);
}

TEST_CASE("a lone record wakes a reader who sleeps") {
    Records records(1, 16);
    for (std::uint64_t round = 0; round < 500; ++round) {
        std::uint64_t seen = 0;
        std::thread reader([&] {
            SessionRecord record;
            while (!records.pop(record)) records.wait();
            seen = record.upload_bytes;
        });
        records.push(0, numbered(round + 1));
        reader.join();
        REQUIRE(seen == round + 1);
    }
}

TEST_CASE("a reader who has read everything sleeps until there is more") {
    Records records(1, 16);
    records.push(0, numbered(1));
    records.wait();
    SessionRecord record;
    REQUIRE(records.pop(record));
    std::atomic<bool> awake = false;
    std::thread reader([&] {
        records.wait();
        awake = true;
    });
    CHECK(!test::wait_until([&] { return awake.load(); }, test::glance));
    records.push(0, numbered(2));
    reader.join();
    REQUIRE(records.pop(record));
    CHECK(record.upload_bytes == 2);
}

TEST_CASE("after stop() nobody waits") {
    Records records(1, 16);
    records.stop();
    records.wait();
    records.wait();
    CHECK(records.stopped());
}

}  // namespace
}  // namespace sluice
