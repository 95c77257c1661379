#include "tests/support/relay.hpp"

#include <liburing.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace sluice::test {
namespace {

// Any of them in the log means that the relay broke a promise, whatever it returned.
constexpr std::array reproaches = {
    "AddressSanitizer", "LeakSanitizer",  "ThreadSanitizer",  "UndefinedBehaviorSanitizer",
    "runtime error:",   "broken promise", "terminate called",
};

bool says_engine(const std::string& yaml) {
    return yaml.starts_with("engine:") || yaml.contains("\nengine:");
}

// The value of " name=" in a line; empty when it is not there.
std::string value_of(const std::string& line, const std::string& name) {
    const std::size_t at = line.find(" " + name + "=");
    if (at == std::string::npos) return "";
    const std::size_t start = at + name.size() + 2;
    return line.substr(start, line.find_first_of(" \n", start) - start);
}

std::string last_line_with(const std::string& text, const std::string& word) {
    const std::size_t at = text.rfind(word);
    if (at == std::string::npos) return "";
    const std::size_t start = text.rfind('\n', at) + 1;
    return text.substr(start, text.find('\n', at) - start);
}

std::vector<std::string> words_of(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
}

std::string join(const std::vector<std::string>& words, std::size_t count) {
    std::string text;
    for (std::size_t index = 0; index < count; ++index) text += (index > 0 ? " " : "") + words[index];
    return text;
}

bool ring_available() {
    io_uring ring{};
    io_uring_params parameters{};
    parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (::io_uring_queue_init_params(8, &ring, &parameters) != 0) return false;
    ::io_uring_queue_exit(&ring);
    return true;
}

}  // namespace

const char* to_string(Engine engine) {
    switch (engine) {
        case Engine::epoll: return "epoll";
        case Engine::io_uring: return "io_uring";
    }
    return "?";
}

bool engine_available(Engine engine) {
    if (engine == Engine::epoll) return true;
    static const bool available = ring_available();
    return available;
}

std::string relay_binary() {
    if (const char* path = std::getenv("SLUICE_BINARY"); path != nullptr && *path != '\0') return path;
#ifdef SLUICE_BINARY_PATH
    return SLUICE_BINARY_PATH;
#else
    throw std::runtime_error("this build has no sluice executable; name one with SLUICE_BINARY");
#endif
}

std::vector<AccessLine> parse_access_log(const std::string& text) {
    std::vector<AccessLine> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
        const std::size_t arrow = line.find(" -> ");
        if (arrow == std::string::npos || !line.contains(" upload=")) continue;
        const std::vector<std::string> before = words_of(line.substr(0, arrow));
        const std::vector<std::string> after = words_of(line.substr(arrow + 4));
        if (before.size() < 2 || after.empty()) continue;
        AccessLine result;
        result.text = line;
        result.client = before.back();
        result.listener = before[before.size() - 2];
        result.time = join(before, before.size() - 2);
        const std::size_t slash = after.front().find('/');
        result.pool = after.front().substr(0, slash);
        if (slash != std::string::npos) result.backend = after.front().substr(slash + 1);
        for (const std::string& word : after)
            if (const std::size_t equals = word.find('='); equals != std::string::npos)
                result.fields.insert_or_assign(word.substr(0, equals), word.substr(equals + 1));
        result.upload = std::strtoull(result.fields["upload"].c_str(), nullptr, 10);
        result.download = std::strtoull(result.fields["download"].c_str(), nullptr, 10);
        result.path = result.fields["path"];
        result.end = result.fields["end"];
        lines.push_back(std::move(result));
    }
    return lines;
}

struct RelayProcess::State {
    TemporaryFolder folder;
    std::string config_path;
    std::unique_ptr<Process> process;
    bool settled = false;  // its end was checked, or the test took that upon itself

    void start(std::vector<std::string> command, RelayOptions options) {
        if (sanitized && !options.wrapper.empty()) {
            // The wrapper may be strace, and the search for leaks is itself a tracer: there can be only one.
            const char* given = std::getenv("ASAN_OPTIONS");
            options.process.environment.push_back(std::string("ASAN_OPTIONS=") +
                                                  (given != nullptr ? given : "") + ":detect_leaks=0");
        }
        std::vector<std::string> argv = std::move(options.wrapper);
        argv.push_back(relay_binary());
        argv.insert(argv.end(), command.begin(), command.end());
        argv.insert(argv.end(), options.flags.begin(), options.flags.end());
        process = std::make_unique<Process>(std::move(argv), std::move(options.process));
        if (options.wait_for_ready && !process->wait_for_text("ready", options.ready_deadline)) {
            settled = true;
            const Exit exit = process->wait(Milliseconds(0));
            throw std::runtime_error("the relay did not become ready (" + to_string(exit) + "); its log:\n" +
                                     process->error());
        }
    }

    void check_end(int code, Milliseconds deadline) {
        settled = true;
        Exit exit = process->wait(deadline);
        CHECK_MESSAGE(exit.ended, "the relay did not end in time");
        if (!exit.ended) exit = process->kill();
        CHECK_MESSAGE(exit.code == code, "the relay: " << to_string(exit));
        const std::string log = process->error();
        for (const char* reproach : reproaches)
            CHECK_MESSAGE(!log.contains(reproach), "the relay's log says \"" << reproach << "\"");
        if (code == 0) {
            const std::string summary = last_line_with(log, "stopped:");
            CHECK_MESSAGE(value_of(summary, "stale_completions") == "0",
                          "the relay's last words are not those of a clean stop: " << summary);
        }
        print_log_if_failing();
    }

    void print_log_if_failing() const {
        if (!failing()) return;
        std::fprintf(stderr, "---- the relay's log ----\n%s---- end of the relay's log ----\n",
                     process->error().c_str());
    }

    ~State() {
        if (process == nullptr) return;
        // When an exception is on its way out, the test has failed already; only the log is worth something.
        if (!settled && std::uncaught_exceptions() == 0) {
            process->signal(SIGTERM);
            check_end(0, Milliseconds(60'000));
        } else if (!settled) {
            process->kill();
            print_log_if_failing();
        }
    }
};

RelayProcess::RelayProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}
RelayProcess::~RelayProcess() = default;
RelayProcess::RelayProcess(RelayProcess&&) noexcept = default;

RelayProcess RelayProcess::with_config(const std::string& yaml, Engine engine, RelayOptions options) {
    const std::string line = says_engine(yaml) ? "" : std::string("engine: ") + to_string(engine) + "\n";
    return with_config(line + yaml, std::move(options));
}

RelayProcess RelayProcess::with_config(const std::string& yaml, RelayOptions options) {
    auto state = std::make_unique<State>();
    state->config_path = state->folder.write("sluice.yaml", yaml);
    state->start({"run", "-c", state->config_path}, std::move(options));
    return RelayProcess(std::move(state));
}

RelayProcess RelayProcess::forward(const std::string& listen, const std::vector<std::string>& targets,
                                   Engine engine, RelayOptions options) {
    auto state = std::make_unique<State>();
    std::vector<std::string> command = {"forward", listen};
    command.insert(command.end(), targets.begin(), targets.end());
    command.insert(command.end(), {"--engine", to_string(engine)});
    state->start(std::move(command), std::move(options));
    return RelayProcess(std::move(state));
}

pid_t RelayProcess::pid() const {
    return state_->process->pid();
}
Process& RelayProcess::process() {
    return *state_->process;
}
std::string RelayProcess::log() const {
    return state_->process->error();
}
const std::string& RelayProcess::config_path() const {
    return state_->config_path;
}

std::vector<AccessLine> RelayProcess::access_log() const {
    return parse_access_log(log());
}

std::vector<AccessLine> RelayProcess::access_log(std::size_t count, Milliseconds deadline) const {
    std::vector<AccessLine> lines;
    wait_until(
        [&] {
            lines = access_log();
            return lines.size() >= count;
        },
        deadline);
    REQUIRE_MESSAGE(lines.size() >= count, "only " << lines.size() << " lines in the access log");
    return lines;
}

void RelayProcess::stop(Milliseconds deadline) {
    state_->process->signal(SIGTERM);
    state_->check_end(0, deadline);
}

void RelayProcess::abandon() {
    state_->settled = true;
    state_->process->kill();
}

void RelayProcess::expect_exit(int code, Milliseconds deadline) {
    state_->check_end(code, deadline);
}

namespace {

std::string relay_yaml(const RelayLayout& layout, const std::string& listen, const std::string& backend) {
    return layout.settings + "listeners:\n  - name: front\n    bind: \"" + listen + "\"\n    pool: back\n" +
           layout.listener_settings + "pools:\n  back:\n    backends: [\"" + backend + "\"]\n" +
           layout.pool_settings;
}

std::string listen_address(const RelayLayout& layout) {
    return layout.listen.empty() ? "127.0.0.1:" + std::to_string(free_port()) : layout.listen;
}

}  // namespace

RelayWithBackend::RelayWithBackend(RelayCase here, RelayLayout layout, RelayOptions options)
    : here_(here),
      layout_(std::move(layout)),
      backend_(layout_.backend, layout_.backend_buffers),
      listen_(listen_address(layout_)),
      relay_(RelayProcess::with_config(relay_yaml(layout_, listen_, backend_.address()), here.engine,
                                       std::move(options))) {}

RelayWithBackend::Roles RelayWithBackend::session_with_roles() {
    Roles roles;
    roles.client = connect_to(listen_, layout_.client_buffers);
    roles.upstream = backend_.accept();
    return roles;
}

Ends RelayWithBackend::session() {
    Roles roles = session_with_roles();
    if (exchanged()) return {std::move(roles.upstream), std::move(roles.client)};
    return {std::move(roles.client), std::move(roles.upstream)};
}

std::string RelayWithBackend::near_end(const std::string& what) const {
    return (exchanged() ? "upstream_" : "client_") + what;
}

std::string RelayWithBackend::far_end(const std::string& what) const {
    return (exchanged() ? "client_" : "upstream_") + what;
}

std::uint64_t RelayWithBackend::near_to_far(const AccessLine& line) const {
    return exchanged() ? line.download : line.upload;
}

std::uint64_t RelayWithBackend::far_to_near(const AccessLine& line) const {
    return exchanged() ? line.upload : line.download;
}

}  // namespace sluice::test
