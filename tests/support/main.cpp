// The main function of every suite, and the count of what it really ran.

#define DOCTEST_CONFIG_IMPLEMENT
#include "tests/support/doctest.hpp"

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>

namespace sluice::test {
namespace {

std::string suite_name = "tests";

std::uint64_t chosen_seed() {
    if (const char* text = std::getenv("SLUICE_SEED"); text != nullptr && *text != '\0')
        return std::strtoull(text, nullptr, 0);
    return (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
}

// Of the running test case. Checks may fail on any thread.
std::atomic<bool> case_failed = false;
std::atomic<bool> case_skipped = false;

// doctest counts a test case that left early as passed; we want to know how many really ran.
class Counting : public doctest::IReporter {
  public:
    explicit Counting(const doctest::ContextOptions& options)
        : query_(options.list_test_cases || options.count) {}

    void report_query(const doctest::QueryData&) override { query_ = true; }
    void test_run_start() override {
        std::printf("seed %llu (repeat with SLUICE_SEED)\n", static_cast<unsigned long long>(seed()));
        std::fflush(stdout);
    }
    // Also called when a signal ends a test case, before doctest gives the signal its way.
    void test_run_end(const doctest::TestRunStats&) override {
        if (query_) return;
        std::printf("suite %s: %u passed, %u failed, %u skipped\n", suite_name.c_str(), passed_, failed_,
                    skipped_);
        std::fflush(stdout);
    }
    void test_case_start(const doctest::TestCaseData& data) override {
        case_failed = case_skipped = false;
        if (std::getenv("SLUICE_TEST_NAMES") != nullptr) {
            std::printf("running: %s\n", data.m_name);
            std::fflush(stdout);
        }
    }
    void test_case_reenter(const doctest::TestCaseData&) override {}
    void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
        if (stats.failure_flags != 0)
            ++failed_;
        else if (case_skipped)
            ++skipped_;
        else
            ++passed_;
    }
    void test_case_exception(const doctest::TestCaseException&) override { case_failed = true; }
    void subcase_start(const doctest::SubcaseSignature&) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData& assertion) override {
        if (assertion.m_failed) case_failed = true;
    }
    void log_message(const doctest::MessageData&) override {}
    void test_case_skipped(const doctest::TestCaseData&) override {}

  private:
    bool query_;
    unsigned passed_ = 0;
    unsigned failed_ = 0;
    unsigned skipped_ = 0;
};

REGISTER_LISTENER("counting", 1, Counting);

}  // namespace

std::uint64_t seed() {
    static const std::uint64_t value = chosen_seed();
    return value;
}

std::mt19937_64 generator(const std::string& name) {
    return std::mt19937_64(seed() ^ std::hash<std::string>{}(name));
}

void mark_skipped(const std::string& reason) {
    case_skipped = true;
    std::printf("skipped: %s: %s\n", doctest::detail::g_cs->currentTest->m_name, reason.c_str());
    std::fflush(stdout);
}

bool failing() {
    return case_failed || std::uncaught_exceptions() > 0;
}

}  // namespace sluice::test

int main(int count, char** arguments) {
    ::signal(SIGPIPE, SIG_IGN);
    // "unit-tests" is the suite "unit".
    std::string name = std::filesystem::path(arguments[0]).filename().string();
    if (const std::size_t end = name.rfind("-tests"); end != std::string::npos) name.resize(end);
    sluice::test::suite_name = name;
    doctest::Context context(count, arguments);
    return context.run();
}
