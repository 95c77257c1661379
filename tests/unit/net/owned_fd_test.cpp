#include "sluice/net/owned_fd.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

namespace sluice {
namespace {

int any_descriptor() {
    return ::eventfd(0, EFD_CLOEXEC);
}

bool is_open(int fd) {
    return ::fcntl(fd, F_GETFD) >= 0;
}

TEST_CASE("a descriptor closes with its owner") {
    int number = -1;
    {
        const OwnedFd owner(any_descriptor());
        number = owner.get();
        CHECK(owner.valid());
        CHECK(is_open(number));
    }
    CHECK(!is_open(number));
    CHECK(!OwnedFd().valid());
}

TEST_CASE("a descriptor moves to its new owner, who closes what he had") {
    OwnedFd one(any_descriptor());
    OwnedFd other(any_descriptor());
    const int first = one.get();
    const int second = other.get();
    other = std::move(one);
    CHECK(!one.valid());  // NOLINT(bugprone-use-after-move): moved from means empty here
    CHECK(other.get() == first);
    CHECK(is_open(first));
    CHECK(!is_open(second));
    OwnedFd& itself = other;
    other = std::move(itself);
    CHECK(other.get() == first);
    CHECK(is_open(first));
}

TEST_CASE("a released descriptor is the caller's, and closing twice is closing once") {
    OwnedFd owner(any_descriptor());
    const int number = owner.release();
    CHECK(!owner.valid());
    owner.close();
    CHECK(is_open(number));
    OwnedFd again(number);
    again.close();
    again.close();
    CHECK(!is_open(number));
}

TEST_CASE("a descriptor that somebody else closed is a broken promise") {
    const test::Death death = test::death_of([] {
        const OwnedFd owner(any_descriptor());
        ::close(owner.get());
    });
    CHECK(death.broke_promise("result == 0 || errno != EBADF"));
}

}  // namespace
}  // namespace sluice
