#include "sluice/config/addresses.hpp"

#include <doctest/doctest.h>

namespace sluice::config {
namespace {

std::string text_of(const std::expected<Endpoint, std::string>& endpoint) {
    return endpoint ? to_string(*endpoint) : "refused";
}

std::string error_of(const std::expected<Endpoint, std::string>& endpoint) {
    return endpoint ? "accepted" : endpoint.error();
}

TEST_CASE("what is bound is an address and no name") {
    for (const char* text : {":80", "127.0.0.1:0", "[::1]:80", "unix:/run/x", "unix:@x"})
        CHECK(text_of(parse_bind(text)) == text);
    CHECK_FALSE(parse_bind("localhost:80"));
    CHECK_FALSE(parse_bind("80"));
    CHECK(error_of(parse_bind("[::ffff:10.0.0.1]:80")).ends_with("(write 10.0.0.1:80)"));
}

TEST_CASE("what is dialled has a host and a port") {
    for (const char* text : {"db:80", "127.0.0.1:1", "[::1]:80", "unix:/run/x", "unix:@x"})
        CHECK(text_of(parse_target(text)) == text);
    CHECK(error_of(parse_target(":80")).ends_with("has no host (write HOST:80)"));
    CHECK(error_of(parse_target("db:0")).find("port 0") != std::string::npos);
}

TEST_CASE("a name server is an address, with port 53 where none is written") {
    CHECK(text_of(parse_name_server("10.0.0.53")) == "10.0.0.53:53");
    CHECK(text_of(parse_name_server("10.0.0.53:5353")) == "10.0.0.53:5353");
    CHECK(text_of(parse_name_server("::1")) == "[::1]:53");
    CHECK(text_of(parse_name_server("[::1]")) == "[::1]:53");
    CHECK(text_of(parse_name_server("[::1]:5353")) == "[::1]:5353");
    for (const char* text :
         {"", "dns.example.org", ":53", "10.0.0.53:0", "unix:/x", "tcp://10.0.0.53:53", "fe80::1%eth0"})
        CHECK_MESSAGE(text_of(parse_name_server(text)) == "refused", text);
}

}  // namespace
}  // namespace sluice::config
