// Programs that people really put behind a relay.

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"

#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace sluice::test {
namespace {

constexpr Milliseconds program_patience{60'000};

// In PATH or where Debian hides it; empty when it is missing.
std::string find_program(const std::string& name) {
    if (program_available(name)) return name;
    std::vector<std::string> folders = {"/usr/sbin", "/sbin"};
    std::error_code none;  // no PostgreSQL: no folder
    for (const auto& version : std::filesystem::directory_iterator("/usr/lib/postgresql", none))
        folders.push_back(version.path().string() + "/bin");
    for (const std::string& folder : folders)
        if (::access((folder + "/" + name).c_str(), X_OK) == 0) return folder + "/" + name;
    return "";
}

#define REQUIRE_PROGRAM(name) \
    if (find_program(name).empty()) SLUICE_SKIP(std::string("there is no ") + (name))

std::string relay_yaml(const std::string& listen, const std::string& backend) {
    return "listeners:\n  - {name: front, bind: \"" + listen + "\", to: \"" + backend + "\"}\n";
}

std::string local(std::uint16_t port) {
    return "127.0.0.1:" + std::to_string(port);
}

Output checked(const std::vector<std::string>& argv, ProcessOptions options = {}) {
    Output output = run(argv, program_patience, std::move(options));
    CHECK_MESSAGE(output.exit.success(), argv.front() << ": " << to_string(output.exit) << "\n"
                                                      << output.out.substr(0, 2000) << output.error);
    return output;
}

// A database of its own in a temporary folder, reachable by TCP and by a unix socket.
class Postgres {
  public:
    Postgres() : port_(free_port()) {
        // It refuses to be run by root.
        if (::geteuid() == 0) {
            const passwd* user = ::getpwnam("postgres");
            if (user == nullptr) user = ::getpwnam("nobody");
            if (user == nullptr || ::chown(folder_.path().c_str(), user->pw_uid, user->pw_gid) != 0)
                throw std::runtime_error("no user to run PostgreSQL as");
            as_user_ = {"setpriv", "--reuid=" + std::to_string(user->pw_uid),
                        "--regid=" + std::to_string(user->pw_gid), "--clear-groups"};
        }
        const std::string data = folder_.file("data");
        const Output made = run(command({find_program("initdb"), "-D", data, "-A", "trust", "-U", "postgres",
                                         "--no-sync", "-E", "UTF8", "--locale=C"}),
                                program_patience);
        if (!made.exit.success()) throw std::runtime_error("initdb: " + made.out + made.error);
        server_ = std::make_unique<Process>(command(
            {find_program("postgres"), "-D", data, "-p", std::to_string(port_), "-k", folder_.path().string(),
             "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"}));
        if (!server_->wait_for_text("ready to accept connections", program_patience))
            throw std::runtime_error("PostgreSQL does not start: " + server_->error());
    }
    ~Postgres() {
        // Its own children are in sessions of their own: only an orderly end reaches them.
        server_->signal(SIGINT);
        server_->wait(program_patience);
    }
    Postgres(const Postgres&) = delete;
    Postgres& operator=(const Postgres&) = delete;

    std::uint16_t port() const { return port_; }
    std::string unix_address() const { return "unix:" + folder_.file(".s.PGSQL." + std::to_string(port_)); }

  private:
    std::vector<std::string> command(std::vector<std::string> words) const {
        words.insert(words.begin(), as_user_.begin(), as_user_.end());
        return words;
    }

    TemporaryFolder folder_;
    std::uint16_t port_;
    std::vector<std::string> as_user_;
    std::unique_ptr<Process> server_;
};

// `length`: how pgbench is told for how long.
void use_postgres(const RelayCase& here, const Postgres& server, const std::string& backend,
                  const std::vector<std::string>& length) {
    const std::uint16_t port = free_port();
    RelayProcess relay = RelayProcess::with_config(relay_yaml(local(port), backend), here.engine);
    const auto client = [](const std::string& program, std::uint16_t at, std::vector<std::string> words) {
        const std::vector<std::string> target = {find_program(program), "-h", "127.0.0.1", "-p",
                                                 std::to_string(at),    "-U", "postgres"};
        words.insert(words.begin(), target.begin(), target.end());
        return words;
    };
    // 50 MB whose every line is different.
    const std::vector<std::string> query = {
        "-X",
        "-A",
        "-t",
        "-c",
        "select md5(i::text) || repeat('x', 968) from generate_series(1, 50000) i",
        "postgres"};
    const Output direct = checked(client("psql", server.port(), query));
    const Output relayed = checked(client("psql", port, query));
    CHECK(relayed.out.size() > 50'000'000);
    CHECK((relayed.out == direct.out));  // not shown when they differ: it is 50 MB
    checked(client("pgbench", port, {"-i", "-q", "-s", "1", "postgres"}));
    std::vector<std::string> load = {"-n", "-c", "8", "-j", "2"};
    load.insert(load.end(), length.begin(), length.end());
    load.push_back("postgres");
    const Output bench = checked(client("pgbench", port, load));
    INFO(bench.out << bench.error);
    CHECK(bench.out.contains("number of transactions actually processed"));
    CHECK(!bench.out.contains("processed: 0\n"));
    CHECK(!bench.error.contains("error"));
    if (bench.out.contains("failed transactions"))
        CHECK(bench.out.contains("number of failed transactions: 0 "));
    for (const AccessLine& line : relay.access_log(2)) CHECK_MESSAGE(line.end.ends_with("_fin"), line.text);
}

ENGINE_TEST("PostgreSQL: psql and pgbench, over TCP and to a unix socket") {
    for (const char* name : {"initdb", "postgres", "psql", "pgbench", "setpriv"}) REQUIRE_PROGRAM(name);
    const Postgres server;
    use_postgres(here, server, local(server.port()), {"-T", "3"});
    use_postgres(here, server, server.unix_address(), {"-t", "100"});
}

ENGINE_TEST("Redis: redis-benchmark, with and without pipelining") {
    for (const char* name : {"redis-server", "redis-benchmark"}) REQUIRE_PROGRAM(name);
    const TemporaryFolder folder;
    const std::uint16_t server_port = free_port();
    Process server({find_program("redis-server"), "--port", std::to_string(server_port), "--bind",
                    "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder.path().string(),
                    "--daemonize", "no"});
    REQUIRE(server.wait_for_text("Ready to accept connections"));
    const std::uint16_t port = free_port();
    RelayProcess relay = RelayProcess::with_config(relay_yaml(local(port), local(server_port)), here.engine);
    for (const char* pipelined : {"1", "16"}) {
        const Output output =
            checked({find_program("redis-benchmark"), "-h", "127.0.0.1", "-p", std::to_string(port), "-q",
                     "-n", "20000", "-c", "50", "-P", pipelined, "-t", "ping,set,get,incr,lpush,lrange_100"});
        INFO(output.out << output.error);
        CHECK(output.out.contains("SET:"));
        CHECK(output.out.contains("LRANGE_100"));
        for (const char* word : {"rror", "ERR", "WARNING", "reset"})
            CHECK(!(output.out + output.error).contains(word));
    }
    const Output set = checked({"redis-benchmark", "-h", "127.0.0.1", "-p", std::to_string(port), "-q", "-n",
                                "100", "-c", "4", "-d", "1000000", "-t", "set,get"});
    CHECK(!(set.out + set.error).contains("rror"));
}

// The answer's body, compared as it comes with a repeated block. Returns how many bytes were right.
std::uint64_t download_right(const std::string& address, std::string_view block) {
    Socket client = connect_to(address);
    client.send_all("GET /big HTTP/1.0\r\n\r\n");
    std::string head;
    while (!head.contains("\r\n\r\n")) {
        const std::string byte = client.receive_exactly(1);
        head += byte;
    }
    std::uint64_t at = 0;
    for (;;) {
        const std::string bytes = client.receive_some(256 * 1024);
        if (bytes.empty()) return at;
        for (std::string_view rest = bytes; !rest.empty();) {
            const std::size_t place = at % block.size();
            const std::size_t size = std::min(rest.size(), block.size() - place);
            if (rest.substr(0, size) != block.substr(place, size)) return at;
            at += size;
            rest.remove_prefix(size);
        }
    }
}

ENGINE_TEST("nginx: wrk without one error, and a file of 200 MiB byte by byte") {
    for (const char* name : {"nginx", "wrk"}) REQUIRE_PROGRAM(name);
    const TemporaryFolder folder;
    std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
    const std::uint16_t server_port = free_port();
    const std::string path = folder.path().string();
    folder.write("nginx.conf", "daemon off;\nmaster_process off;\npid " + path +
                                   "/pid;\nerror_log stderr notice;\n" +
                                   "worker_rlimit_nofile 2048;\nevents { worker_connections 1024; }\n" +
                                   "http {\n  access_log off;\n  keepalive_requests 1000000;\n" +
                                   "  client_body_temp_path " + path + "/body;\n  proxy_temp_path " + path +
                                   "/proxy;\n  fastcgi_temp_path " + path + "/fastcgi;\n  uwsgi_temp_path " +
                                   path + "/uwsgi;\n  scgi_temp_path " + path + "/scgi;\n" +
                                   "  server { listen " + local(server_port) + "; root " + path + "; }\n}\n");
    folder.write("index.html", "hello\n");
    // A block whose size no buffer has, so that a hole or a repetition cannot hide.
    const std::string block = pattern(10'000'019, 7);
    constexpr std::uint64_t file_bytes = 200 * 1024 * 1024;
    std::string content;
    while (content.size() < file_bytes) content += block;
    content.resize(file_bytes);
    folder.write("big", content);
    content = std::string();

    Process server({find_program("nginx"), "-p", path, "-c", path + "/nginx.conf", "-e", "stderr"});
    REQUIRE_MESSAGE(wait_until([&] { return try_connect(local(server_port)) == 0; }), server.error());
    const std::uint16_t port = free_port();
    RelayProcess relay = RelayProcess::with_config(relay_yaml(local(port), local(server_port)), here.engine);
    const Output output = checked({"wrk", "-t1", "-c64", "-d2s", "http://" + local(port) + "/"});
    INFO(output.out);
    CHECK(output.out.contains("Requests/sec"));
    CHECK(!output.out.contains("Non-2xx"));
    CHECK(!output.out.contains("Socket errors"));
    CHECK(download_right(local(port), block) == file_bytes);
    server.signal(SIGQUIT);
    CHECK(server.wait().code == 0);
}

ENGINE_TEST("iperf3: both ways, and four streams at once") {
    REQUIRE_PROGRAM("iperf3");
    const std::vector<std::vector<std::string>> ways = {
        {}, {"-R"}, {"-P", "4"}, {"-P", "4", "-R"}, {"--bidir"}};
    const std::uint16_t server_port = free_port();
    const std::uint16_t port = free_port();
    RelayProcess relay = RelayProcess::with_config(relay_yaml(local(port), local(server_port)), here.engine);
    for (const auto& way : ways) {
        // For one client each: a server that goes on may still be busy with the last one's end.
        Process server(
            {"iperf3", "-s", "-1", "--forceflush", "-B", "127.0.0.1", "-p", std::to_string(server_port)});
        REQUIRE(server.wait_for_text("Server listening"));
        std::vector<std::string> command = {"iperf3", "-c", "127.0.0.1", "-p", std::to_string(port),
                                            "-t",     "1"};
        command.insert(command.end(), way.begin(), way.end());
        const Output output = checked(command);
        CHECK(!(output.out + output.error).contains("error"));
        CHECK_MESSAGE(output.out.contains("receiver"), output.out);
        CHECK(server.wait().ended);
    }
}

ENGINE_TEST("nc -N: an answer that begins after the question has ended") {
    REQUIRE_PROGRAM("nc");
    RelayWithBackend relay(here);
    const std::string question = "question " + std::string(60'000, 'q');
    const std::string answer = pattern(3 * 1024 * 1024, 11);
    ProcessOptions options;
    options.input = question;
    Process client({"nc", "-N", "127.0.0.1", relay.address().substr(relay.address().rfind(':') + 1)},
                   options);
    Socket upstream = relay.backend().accept();
    const Received received = upstream.receive_to_end();
    CHECK(received.ending == Ending::fin);
    CHECK((received.bytes == question));
    upstream.send_all(answer);
    upstream.close();
    CHECK(client.wait().success());
    CHECK((client.out() == answer));
    CHECK(relay.access_log(1).front().end == "client_fin");
}

ENGINE_TEST("ssh: the server speaks first, and 20 MiB go each way") {
    for (const char* name : {"sshd", "ssh", "ssh-keygen", "sha256sum"}) REQUIRE_PROGRAM(name);
    const passwd* user = ::getpwuid(::geteuid());
    if (user == nullptr) SLUICE_SKIP("this user has no name");
    const TemporaryFolder folder;
    for (const char* name : {"host", "user"})
        checked({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder.file(name)});
    folder.write("authorized", read_file(folder.file("user.pub")));
    const std::uint16_t server_port = free_port();
    const std::string config = folder.write(
        "config",
        "ListenAddress 127.0.0.1\nPort " + std::to_string(server_port) + "\nHostKey " + folder.file("host") +
            "\nAuthorizedKeysFile " + folder.file("authorized") +
            "\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nPasswordAuthentication no\n");
    // Its privilege separation wants this folder, which Debian's service makes.
    std::error_code ignored;  // not ours to make: then sshd says so
    std::filesystem::create_directories("/run/sshd", ignored);
    std::string sshd = find_program("sshd");
    if (!sshd.starts_with('/')) sshd = ::access("/usr/sbin/sshd", X_OK) == 0 ? "/usr/sbin/sshd" : sshd;
    Process server({sshd, "-D", "-e", "-f", config});
    if (!server.wait_for_text("Server listening")) SLUICE_SKIP("sshd does not run here: " + server.error());
    const std::string content = pattern(20 * 1024 * 1024, 13);
    const std::string file = folder.write("content", content);

    const auto ssh = [&](std::uint16_t port) {
        return "ssh -i " + folder.file("user") + " -p " + std::to_string(port) +
               " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o "
               "LogLevel=ERROR "
               "-o IdentitiesOnly=yes -F none " +
               user->pw_name + "@127.0.0.1 ";
    };
    const Output direct = run({"sh", "-c", ssh(server_port) + "echo in"}, program_patience);
    if (direct.out != "in\n") SLUICE_SKIP("ssh does not work here even without a relay: " + direct.error);

    const std::uint16_t port = free_port();
    RelayProcess relay = RelayProcess::with_config(relay_yaml(local(port), local(server_port)), here.engine);
    const Output down = checked({"sh", "-c", ssh(port) + "cat " + file});
    CHECK((down.out == content));
    const Output up = checked({"sh", "-c", ssh(port) + "sha256sum < " + file});
    CHECK(up.out == checked({"sh", "-c", "sha256sum < " + file}).out);
    for (const AccessLine& line : relay.access_log(2)) CHECK_MESSAGE(line.end.ends_with("_fin"), line.text);
}

}  // namespace
}  // namespace sluice::test
