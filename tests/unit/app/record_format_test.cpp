#include "sluice/app/record_format.hpp"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>

#include <cerrno>

namespace sluice {
namespace {

struct Scene {
    config::Listener listener;
    config::Pool pool;
    config::Backend backend;
    SessionRecord record;

    Scene() {
        listener.name = "web";
        pool.name = "db";
        backend.name = "10.0.0.1:5432";
        record.listener = &listener;
        record.pool = &pool;
        record.backend = &backend;
        record.client = PeerAddress(*SocketAddress::from_literal("192.0.2.7", 4242));
        record.time = std::chrono::system_clock::time_point(std::chrono::milliseconds(1'700'000'000'123));
        record.upload_bytes = 100;
        record.download_bytes = 1000;
        record.spliced_bytes = 1100;
        record.duration = std::chrono::microseconds(1'234'567);
        record.connect = std::chrono::microseconds(250);
        record.end = End::upstream_fin;
    }
    std::string text() const { return format_record(record, config::Format::text); }
    nlohmann::json json() const { return nlohmann::json::parse(format_record(record, config::Format::json)); }
};

TEST_CASE("a session's end is one line in the form of the contract") {
    CHECK(Scene().text() ==
          "2023-11-14T22:13:20.123Z web 192.0.2.7:4242 -> db/10.0.0.1:5432 upload=100 download=1000 "
          "duration=1.234567s connect=0.000250s path=splice end=upstream_fin why=bulk");
}

TEST_CASE("the line says which of the listener's addresses and ports was reached") {
    Scene scene;
    CHECK(scene.json()["reached"].is_null());
    scene.record.reached = PeerAddress(*SocketAddress::from_literal("10.0.0.9", 10'042));
    CHECK(scene.text().ends_with(" end=upstream_fin why=bulk reached=10.0.0.9:10042"));
    CHECK(scene.json()["reached"] == "10.0.0.9:10042");
    scene.record.reached = PeerAddress(*SocketAddress::from_literal("fd00::9", 53));
    scene.record.event = SessionRecord::Event::accept;
    CHECK(scene.text().ends_with(" reached=[fd00::9]:53"));
    const Endpoint path = parse_endpoint("unix:/run/web.sock").value();
    scene.record.reached = PeerAddress(SocketAddress::from_unix_path("/run/web.sock"));
    scene.record.bind = &path;
    CHECK(scene.text().ends_with(" reached=unix:/run/web.sock"));
    CHECK(scene.json()["reached"] == "unix:/run/web.sock");
}

TEST_CASE("a session that reached no backend says so with a dash") {
    Scene scene;
    scene.record.backend = nullptr;
    scene.record.connect = Nanoseconds(-1);
    scene.record.end = End::connect_failed;
    scene.record.error = ECONNREFUSED;
    const std::string line = scene.text();
    CHECK(line.find(" -> db/- ") != std::string::npos);
    CHECK(line.find(" connect=- ") != std::string::npos);
    CHECK(line.ends_with(" error=\"Connection refused\""));
}

TEST_CASE("the path is splice when all was spliced, copy when nothing was, and mixed between") {
    Scene scene;
    CHECK(path_taken(scene.record) == std::string("splice"));
    scene.record.spliced_bytes = 1099;
    CHECK(path_taken(scene.record) == std::string("mixed"));
    scene.record.spliced_bytes = 0;
    CHECK(path_taken(scene.record) == std::string("copy"));
    scene.record.upload_bytes = scene.record.download_bytes = 0;
    CHECK(path_taken(scene.record) == std::string("copy"));
}

TEST_CASE("accept and connect have their event in place of the sums") {
    Scene scene;
    scene.record.event = SessionRecord::Event::accept;
    scene.record.backend = nullptr;
    scene.record.connect = Nanoseconds(-1);
    CHECK(scene.text() == "2023-11-14T22:13:20.123Z web 192.0.2.7:4242 -> db/- event=accept");
    scene.record.event = SessionRecord::Event::connect;
    scene.record.connect = std::chrono::milliseconds(3);
    CHECK(scene.text().ends_with(" event=connect connect=0.003000s"));
    CHECK(scene.json()["event"] == "connect");
}

TEST_CASE("as JSON the names are the same, numbers are numbers and nothing is null") {
    Scene scene;
    const auto object = scene.json();
    CHECK(object["time"] == "2023-11-14T22:13:20.123Z");
    CHECK(object["listener"] == "web");
    CHECK(object["client"] == "192.0.2.7:4242");
    CHECK(object["upload"] == 100);
    CHECK(object["download"] == 1000);
    CHECK(object["duration"].get<double>() == doctest::Approx(1.234567));
    CHECK(object["connect"].get<double>() == doctest::Approx(0.00025));
    CHECK(object["path"] == "splice");
    CHECK(object["end"] == "upstream_fin");
    CHECK(object["why"] == "bulk");
    CHECK(object["error"].is_null());
    scene.record.backend = nullptr;
    scene.record.connect = Nanoseconds(-1);
    CHECK(scene.json()["backend"].is_null());
    CHECK(scene.json()["connect"].is_null());
}

TEST_CASE("a session of datagrams is told with their numbers, and a stream without") {
    Scene scene;
    CHECK(scene.text().find("datagrams") == std::string::npos);
    CHECK_FALSE(scene.json().contains("upload_datagrams"));
    scene.record.datagrams = true;
    scene.record.spliced_bytes = 0;
    scene.record.path_reason = PathReason::datagrams;
    scene.record.end = End::idle_timeout;
    scene.record.upload_datagrams = 3;
    scene.record.download_datagrams = 2;
    scene.record.lost_datagrams = 1;
    CHECK(
        scene.text().ends_with(" path=copy end=idle_timeout why=datagrams upload_datagrams=3 "
                               "download_datagrams=2 lost_datagrams=1"));
    const auto object = scene.json();
    CHECK(object["upload_datagrams"] == 3);
    CHECK(object["download_datagrams"] == 2);
    CHECK(object["lost_datagrams"] == 1);
}

TEST_CASE("a name with blanks and control characters stays one word of one line") {
    Scene scene;
    scene.listener.name = "unix:/tmp/a b\n\"c\"";
    CHECK(scene.text().find(" unix:/tmp/a\\x20b\\x0a\"c\" 192.0.2.7:4242 -> ") != std::string::npos);
    CHECK(scene.json()["listener"] == scene.listener.name);
    scene.listener.name = "\xff";  // no UTF-8
    CHECK(scene.json()["listener"] == "\xef\xbf\xbd");
}

}  // namespace
}  // namespace sluice
