#include "sluice/base/list.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <memory>
#include <random>
#include <string>
#include <vector>

namespace sluice {
namespace {

struct Waiting;
struct Ready;

struct Item : ListNode<Waiting>, ListNode<Ready> {
    explicit Item(int which) : number(which) {}
    int number;

    bool waiting() const { return ListNode<Waiting>::linked(); }
    bool ready() const { return ListNode<Ready>::linked(); }
};

using WaitingList = List<Item, Waiting>;
using ReadyList = List<Item, Ready>;

std::vector<int> take_all(WaitingList& list) {
    std::vector<int> numbers;
    while (!list.empty()) numbers.push_back(list.pop_front().number);
    return numbers;
}

TEST_CASE("a new list is empty, and its items stand in no list") {
    const WaitingList list;
    const Item item(1);
    CHECK(list.empty());
    CHECK_FALSE(item.waiting());
}

TEST_CASE("items leave a list in the order in which they came") {
    Item one(1), two(2), three(3);
    WaitingList list;
    list.push_back(two);
    list.push_back(one);
    list.push_back(three);
    CHECK(&list.front() == &two);
    CHECK(take_all(list) == std::vector{2, 1, 3});
    CHECK_FALSE(one.waiting());
}

TEST_CASE("an item is taken out of the middle, the front or the back without the list") {
    Item one(1), two(2), three(3);
    for (Item* leaving : {&one, &two, &three}) {
        WaitingList list;
        for (Item* item : {&one, &two, &three}) list.push_back(*item);
        leaving->ListNode<Waiting>::unlink();
        CHECK_FALSE(leaving->waiting());
        std::vector<int> rest = {1, 2, 3};
        std::erase(rest, leaving->number);
        CHECK(take_all(list) == rest);
    }
}

TEST_CASE("taking out an item that stands in no list does nothing") {
    Item item(1);
    item.ListNode<Waiting>::unlink();
    CHECK_FALSE(item.waiting());
}

TEST_CASE("an item that dies leaves its list whole") {
    Item one(1), three(3);
    WaitingList list;
    list.push_back(one);
    {
        Item two(2);
        list.push_back(two);
        list.push_back(three);
    }
    CHECK(take_all(list) == std::vector{1, 3});
}

TEST_CASE("a list that dies lets its items go") {
    Item item(1);
    {
        WaitingList list;
        list.push_back(item);
        CHECK(item.waiting());
    }
    CHECK_FALSE(item.waiting());
    WaitingList other;
    other.push_back(item);
    CHECK(take_all(other) == std::vector{1});
}

TEST_CASE("an item stands in two lists of different tags at once, and leaves them one by one") {
    Item item(1);
    WaitingList waiting;
    ReadyList ready;
    waiting.push_back(item);
    ready.push_back(item);
    CHECK(&waiting.pop_front() == &item);
    CHECK_FALSE(item.waiting());
    CHECK(item.ready());
    CHECK(&ready.front() == &item);
}

TEST_CASE("an item that was taken out may be put back, at the end") {
    Item one(1), two(2);
    WaitingList list;
    list.push_back(one);
    list.push_back(two);
    list.push_back(list.pop_front());
    CHECK(take_all(list) == std::vector{2, 1});
}

TEST_CASE("putting an item into a second list of the same tag is a broken promise") {
    Item item(1);
    WaitingList list;
    WaitingList other;
    list.push_back(item);
    CHECK(test::death_of([&] { other.push_back(item); }).broke_promise("!node.linked()"));
}

TEST_CASE("asking an empty list for its front is a broken promise") {
    WaitingList list;
    CHECK(test::death_of([&] { list.front(); }).broke_promise("!empty()"));
    CHECK(test::death_of([&] { list.pop_front(); }).broke_promise("!empty()"));
}

TEST_CASE("after any number of random moves the list holds what a vector would") {
    std::mt19937_64 random = test::generator("list");
    std::vector<std::unique_ptr<Item>> items;
    for (int number = 0; number < 20; ++number) items.push_back(std::make_unique<Item>(number));
    WaitingList list;
    std::vector<int> expected;
    for (int move = 0; move < 5'000; ++move) {
        Item& item = *items[random() % items.size()];
        if (item.waiting()) {
            item.ListNode<Waiting>::unlink();
            std::erase(expected, item.number);
        } else {
            list.push_back(item);
            expected.push_back(item.number);
        }
        REQUIRE(list.empty() == expected.empty());
        if (!expected.empty()) REQUIRE(list.front().number == expected.front());
    }
    CHECK(take_all(list) == expected);
}

}  // namespace
}  // namespace sluice
