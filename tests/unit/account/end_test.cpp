#include "sluice/account/end.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <set>
#include <string>

namespace sluice {
namespace {

TEST_CASE("every end has a name of its own, and only the two FINs are orderly") {
    std::set<std::string> names;
    for (std::size_t number = 0; number < ends_count; ++number) {
        const auto end = static_cast<End>(number);
        const std::string name = to_string(end);
        CHECK(names.insert(name).second);
        CHECK(orderly(end) == name.ends_with("_fin"));
    }
    CHECK(test::death_of([] {
              to_string(static_cast<End>(ends_count));
          }).broke_promise("an End that has no name"));
}

}  // namespace
}  // namespace sluice
