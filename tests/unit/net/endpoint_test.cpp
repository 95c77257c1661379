#include "sluice/net/endpoint.hpp"

#include <doctest/doctest.h>

namespace sluice {
namespace {

Endpoint parsed(std::string_view text) {
    auto endpoint = parse_endpoint(text);
    REQUIRE_MESSAGE(endpoint, (endpoint ? std::string() : endpoint.error()));
    return *endpoint;
}

std::string refusal(std::string_view text) {
    const auto endpoint = parse_endpoint(text);
    REQUIRE_MESSAGE(!endpoint, std::string(text));
    return endpoint.error();
}

bool mentions(const std::string& message, std::string_view part) {
    return message.find(part) != std::string::npos;
}

TEST_CASE("a host and a port are read with and without the scheme") {
    CHECK(parsed("10.0.0.1:443").host == "10.0.0.1");
    CHECK(parsed("10.0.0.1:443").port == 443);
    CHECK(parsed("tcp://10.0.0.1:443") == parsed("10.0.0.1:443"));
    CHECK(parsed("db1:5432").host == "db1");
    CHECK(parsed("my_service.default.svc.:80").host == "my_service.default.svc.");
}

TEST_CASE("an empty host means every interface, and port 0 is left to the caller") {
    CHECK(parsed(":5432").host.empty());
    CHECK(parsed(":5432").port == 5432);
    CHECK(parsed("127.0.0.1:0").port == 0);
    CHECK(parsed("127.0.0.1:65535").port == 65535);
}

TEST_CASE("an IPv6 address stands in brackets and is kept in its canonical form without them") {
    CHECK(parsed("[::1]:8443").host == "::1");
    CHECK(parsed("[2001:DB8:0:0::1]:80").host == "2001:db8::1");
    CHECK(parsed("tcp://[::]:80").host == "::");
    CHECK(parsed("[0:0::1]:80") == parsed("[::1]:80"));
}

TEST_CASE("unix addresses are paths or abstract names") {
    CHECK(parsed("unix:/run/app.sock").kind == Endpoint::Kind::unix_stream);
    CHECK(parsed("unix:/run/app.sock").path == "/run/app.sock");
    CHECK_FALSE(parsed("unix:/run/app.sock").is_abstract());
    CHECK(parsed("unix:@app").path == "@app");
    CHECK(parsed("unix:@app").is_abstract());
}

TEST_CASE("only a host that is no address needs DNS") {
    CHECK(parsed("db1:5432").is_name());
    CHECK(parsed("a.example.org:80").is_name());
    CHECK(parsed("LOCALHOST:80").is_name());
    CHECK(parsed("LOCALHOST:80") == parsed("localhost:80"));
    CHECK_FALSE(parsed("10.0.0.1:80").is_name());
    CHECK_FALSE(parsed("[::1]:80").is_name());
    CHECK_FALSE(parsed(":80").is_name());
    CHECK_FALSE(parsed("unix:@app").is_name());
}

TEST_CASE("every written endpoint reads back to itself") {
    for (const char* text : {"10.0.0.1:443", "db1.example.org:5432", ":80", "127.0.0.1:0", "[::1]:8443",
                             "[2001:db8::1]:1", "unix:/run/app.sock", "unix:@app", "udp://10.0.0.1:53",
                             "udp://[::1]:53-54", ":10000-10099", "unix-seqpacket:/a", "unix-dgram:@b",
                             "file:/a", "file:/a?append", "file:/a?create", "file:/a?append&create"}) {
        CHECK(to_string(parsed(text)) == text);
        CHECK(parsed(to_string(parsed(text))) == parsed(text));
    }
}

TEST_CASE("a bare IPv6 address is refused with the brackets it needs") {
    CHECK(mentions(refusal("::1:8443"), "needs brackets"));
    CHECK(mentions(refusal("2001:db8::1:80"), "needs brackets"));
    CHECK(mentions(refusal("::1"), "needs brackets"));
    CHECK(mentions(refusal("a:b:80"), "more than one colon"));
}

TEST_CASE("every scheme has its kind and its transport") {
    const auto is = [](std::string_view text, Endpoint::Kind kind, Transport transport) {
        CHECK(parsed(text).kind == kind);
        CHECK(parsed(text).transport() == transport);
    };
    is("1.2.3.4:53", Endpoint::Kind::tcp, Transport::stream);
    is("udp://1.2.3.4:53", Endpoint::Kind::udp, Transport::datagram);
    is("udp://:53", Endpoint::Kind::udp, Transport::datagram);
    is("unix:/a", Endpoint::Kind::unix_stream, Transport::stream);
    is("unix-seqpacket:@a", Endpoint::Kind::unix_seqpacket, Transport::seqpacket);
    is("unix-dgram:/a", Endpoint::Kind::unix_dgram, Transport::datagram);
    is("file:/a", Endpoint::Kind::file, Transport::file);
    CHECK(parsed("udp://dns.example:53").is_name());
    CHECK(parsed("unix-dgram:@a").is_abstract());
    CHECK(parsed("unix-seqpacket:/a").is_unix());
    CHECK_FALSE(parsed("file:/a").is_unix());
    CHECK_FALSE(parsed("file:/a").is_name());
}

TEST_CASE("a port may be a range") {
    CHECK(parsed("127.0.0.1:10000-10099").port == 10000);
    CHECK(parsed("127.0.0.1:10000-10099").port_last == 10099);
    CHECK(parsed("127.0.0.1:10000-10099").ports() == 100);
    CHECK(parsed("udp://[::1]:1-65535").ports() == 65535);
    CHECK(parsed(":80").ports() == 1);
    CHECK(parsed(":80-80") == parsed(":80"));
    CHECK(mentions(refusal(":2-1"), "1-2"));
    CHECK(mentions(refusal(":0-5"), "begins with 0"));
    CHECK(mentions(refusal(":1-65536"), "out of range"));
    CHECK(mentions(refusal(":1-"), "not a port number"));
    CHECK(mentions(refusal(":1-2-3"), "not a port number"));
    CHECK(mentions(refusal(":1-x"), "not a port number"));
}

TEST_CASE("a file is served, or takes what comes") {
    CHECK(parsed("file:/srv/data").path == "/srv/data");
    CHECK_FALSE(parsed("file:/srv/data").is_sink());
    CHECK(parsed("file:/log?append").append);
    CHECK_FALSE(parsed("file:/log?append").create);
    CHECK(parsed("file:/log?append").is_sink());
    CHECK(parsed("file:/log?create").is_sink());
    CHECK(parsed("file:/log?create&append") == parsed("file:/log?append&create"));
    CHECK(mentions(refusal("file:/log?apend"), "?append"));
    CHECK(mentions(refusal("file:/log?"), "?append"));
    CHECK(mentions(refusal("file:log"), "not absolute"));
    CHECK(mentions(refusal("file:"), "not absolute"));
    CHECK(mentions(refusal("file:/tmp/"), "directory"));
}

TEST_CASE("ports out of range or not numbers are refused") {
    CHECK(mentions(refusal("h:65536"), "out of range"));
    CHECK(mentions(refusal("h:4294967376"), "out of range"));
    CHECK(mentions(refusal("h:99999999999999999999999"), "out of range"));
    CHECK(mentions(refusal("h:http"), "not a port number"));
    CHECK(mentions(refusal("h:-1"), "not a port number"));
    CHECK(mentions(refusal("h:+1"), "not a port number"));
    CHECK(mentions(refusal("h:"), "no port"));
    CHECK(mentions(refusal("h"), "no port"));
    CHECK(mentions(refusal("[::1]"), "no port"));
    CHECK(mentions(refusal("[::1]80"), "no port"));
}

TEST_CASE("invalid hosts are refused with the rule they break") {
    CHECK(mentions(refusal("10.0.0.256:80"), "looks like an IPv4 address"));
    CHECK(mentions(refusal("127.1:80"), "looks like an IPv4 address"));
    CHECK(mentions(refusal("-a:80"), "hyphen"));
    CHECK(mentions(refusal("a-.b:80"), "hyphen"));
    CHECK(mentions(refusal("a..b:80"), "empty"));
    CHECK(mentions(refusal(".:80"), "empty"));
    CHECK(mentions(refusal("a/b:80"), "only letters"));
    CHECK(mentions(refusal("\xc3\xa4:80"), "only letters"));
    CHECK(mentions(refusal("a b:80"), "blanks"));
    CHECK(mentions(refusal(std::string_view("a\0b:80", 6)), "control characters"));
    CHECK(mentions(refusal(std::string(64, 'a') + ":80"), "63"));
    CHECK(mentions(refusal("[::g]:80"), "not an IPv6 address"));
    CHECK(mentions(refusal("[1.2.3.4]:80"), "not an IPv6 address"));
    CHECK(mentions(refusal("[fe80::1%eth0]:80"), "zone"));
    CHECK(mentions(refusal("[::1:80"), "closing bracket"));
    CHECK(mentions(refusal("http://a:80"), "scheme"));
    CHECK(mentions(refusal(""), "empty"));

    std::string long_name;
    for (int part = 0; part < 64; ++part) long_name += "abc.";
    CHECK(mentions(refusal(long_name + ":80"), "253"));
}

TEST_CASE("a unix path fits into sun_path, is absolute, and is refused otherwise") {
    const std::string fits = "/" + std::string(106, 'p');
    CHECK(parsed("unix:" + fits).path == fits);
    CHECK(mentions(refusal("unix:" + fits + "p"), "at most 107"));
    CHECK(parsed("unix:@" + std::string(106, 'p')).path.size() == 107);
    CHECK(mentions(refusal("unix:@" + std::string(107, 'p')), "at most 107"));
    CHECK(mentions(refusal("unix:relative"), "not absolute"));
    CHECK(mentions(refusal("unix:"), "not absolute"));
    CHECK(mentions(refusal("unix:@"), "empty"));
    CHECK(mentions(refusal("unix:/run/"), "directory"));
    CHECK(mentions(refusal("/run/app.sock"), "unix:/run/app.sock"));
    CHECK(mentions(refusal(std::string_view("unix:/a\0b", 9)), "control characters"));
    CHECK(mentions(refusal("unix:/with blank"), "blanks"));
}

TEST_CASE("binds overlap where one surely takes the other's clients, and only there") {
    const auto overlap = [](std::string_view one, std::string_view other) {
        CHECK(binds_overlap(parsed(one), parsed(other)) == binds_overlap(parsed(other), parsed(one)));
        return binds_overlap(parsed(one), parsed(other));
    };
    CHECK(overlap(":80", ":80"));
    CHECK(overlap(":80", "0.0.0.0:80"));
    CHECK(overlap(":80", "[::]:80"));
    CHECK(overlap("unix:@a", "unix:@a"));
    CHECK(overlap("unix:/a", "unix-seqpacket:/a"));
    CHECK_FALSE(overlap("unix:@a", "unix-seqpacket:@a"));
    CHECK(overlap(":80-90", ":90"));
    CHECK(overlap(":80-90", "0.0.0.0:85-95"));
    CHECK_FALSE(overlap(":80-90", ":91-95"));
    CHECK(overlap("udp://:53", "udp://:53"));
    CHECK_FALSE(overlap("udp://:53", ":53"));
    CHECK_FALSE(overlap(":80", "127.0.0.1:80"));
    CHECK_FALSE(overlap("0.0.0.0:80", "[::]:80"));
    CHECK_FALSE(overlap(":80", ":81"));
    CHECK_FALSE(overlap("127.0.0.1:0", "127.0.0.1:0"));
    CHECK_FALSE(overlap("unix:@a", "unix:/a"));
}

}  // namespace
}  // namespace sluice
