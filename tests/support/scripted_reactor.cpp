#include "tests/support/scripted_reactor.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace sluice::test {

namespace {

const char* name_of(Question question) {
    switch (question) {
        case Question::accept: return "accept";
        case Question::watch_client: return "watch_client";
        case Question::watch_upstream: return "watch_upstream";
        case Question::watch_datagrams: return "watch_datagrams";
        case Question::watch_datagram_upstream: return "watch_datagram_upstream";
        case Question::carry: return "carry";
        case Question::doorbell: return "doorbell";
    }
    return "no question";
}

}  // namespace

std::string to_string(Token token) {
    return std::string(name_of(token.question())) + " of slot " + std::to_string(token.name().slot) +
           ", generation " + std::to_string(token.name().generation);
}

void QuestionLedger::asked(int fd, Token token) {
    Entry entry{token, fd, false, 0, 0};
    struct stat file{};
    if (::fstat(fd, &file) != 0) broken("asked about a descriptor that is not open: " + to_string(token));
    entry.device = file.st_dev;
    entry.inode = file.st_ino;
    if (!entries_.emplace(token.raw(), entry).second) broken("asked while it was out: " + to_string(token));
}

void QuestionLedger::cancelled(Token token) {
    const auto found = entries_.find(token.raw());
    if (found == entries_.end()) return;
    found->second.cancelled = true;
}

void QuestionLedger::answered(const Completion& completion) {
    const auto found = entries_.find(completion.token.raw());
    if (found == entries_.end())
        return broken("answered, but it was not out: " + to_string(completion.token));
    const Entry& entry = found->second;
    struct stat file{};
    if (::fstat(entry.fd, &file) != 0 || file.st_dev != entry.device || file.st_ino != entry.inode)
        broken("its descriptor was closed before its last answer: " + to_string(completion.token));
    if (!completion.more) entries_.erase(found);
}

struct Script::State {
    struct Batch {
        std::vector<Completion> answers;
        bool checked = true;
    };

    mutable std::mutex mutex;
    std::condition_variable changed;
    std::deque<Batch> batches;
    QuestionLedger ledger;
    std::map<Question, std::size_t> times_asked;
    std::vector<Token> left_out;
    bool opened = false;
    bool waiting = false;  // the worker is inside wait(), with nothing to take
    bool ended = false;    // the worker's thread is at its end
    bool carries = false;
};

class Script::ScriptedReactor final : public Reactor {
  public:
    explicit ScriptedReactor(std::shared_ptr<State> state) : state_(std::move(state)) {}

    ~ScriptedReactor() override {
        const std::lock_guard lock(state_->mutex);
        for (const auto& [raw, entry] : state_->ledger.entries()) state_->left_out.push_back(entry.token);
    }
    ScriptedReactor(const ScriptedReactor&) = delete;
    ScriptedReactor& operator=(const ScriptedReactor&) = delete;

    void accept(int listening_fd, Token token) override { ask(listening_fd, token); }
    void watch(int fd, Token token) override { ask(fd, token); }
    void watch_readable(int fd, Token token) override { ask(fd, token); }
    bool carry(std::span<const Send> sends) noexcept override {
        const std::lock_guard lock(state_->mutex);
        if (!state_->carries) return false;
        for (const Send& send : sends) {
            const ssize_t sent = ::send(send.fd, send.bytes.data(), send.bytes.size(), MSG_DONTWAIT);
            if (!std::cmp_equal(sent, send.bytes.size())) state_->ledger.broken("a carried send was short");
        }
        return true;
    }
    void cancel(int, Token token) override {
        const std::lock_guard lock(state_->mutex);
        state_->ledger.cancelled(token);
    }

    std::size_t wait(std::span<Completion> answers, Time deadline) override {
        std::unique_lock lock(state_->mutex);
        const auto something = [this] { return !state_->batches.empty(); };
        // A worker that only waits for its run queue has not settled.
        if (!something() && deadline != Time::min()) {
            state_->waiting = true;
            state_->changed.notify_all();
            if (deadline == time_never)
                state_->changed.wait(lock, something);
            else
                state_->changed.wait_until(lock, deadline, something);
            state_->waiting = false;
        }
        if (!something()) return 0;
        const State::Batch batch = std::move(state_->batches.front());
        state_->batches.pop_front();
        if (batch.answers.size() > answers.size())
            state_->ledger.broken("a batch larger than the room for it");
        const std::size_t count = std::min(batch.answers.size(), answers.size());
        for (std::size_t index = 0; index < count; ++index) {
            answers[index] = batch.answers[index];
            if (batch.checked) state_->ledger.answered(batch.answers[index]);
        }
        return count;
    }

    const char* name() const noexcept override { return "scripted"; }

  private:
    void ask(int fd, Token token) {
        const std::lock_guard lock(state_->mutex);
        state_->ledger.asked(fd, token);
        ++state_->times_asked[token.question()];
    }

    std::shared_ptr<State> state_;
};

Script::Script() : state_(std::make_shared<State>()) {}
Script::~Script() = default;

std::expected<std::unique_ptr<Reactor>, std::string> Script::open_reactor() {
    if (std::exchange(state_->opened, true)) return std::unexpected("a script has one reactor only");
    return std::make_unique<ScriptedReactor>(state_);
}

void Script::answer(std::vector<Completion> batch) {
    deliver(std::move(batch), true);
}

void Script::answer_unasked(std::vector<Completion> batch) {
    deliver(std::move(batch), false);
}

void Script::deliver(std::vector<Completion> batch, bool checked) {
    {
        const std::lock_guard lock(state_->mutex);
        state_->batches.push_back({std::move(batch), checked});
        state_->waiting = false;
        state_->changed.notify_all();
    }
    settle();
}

void Script::settle() {
    std::unique_lock lock(state_->mutex);
    const bool settled = state_->changed.wait_for(
        lock, patience, [this] { return state_->ended || (state_->waiting && state_->batches.empty()); });
    if (!settled) throw std::runtime_error("the worker did not come back for more answers");
}

void Script::carry_sends() {
    const std::lock_guard lock(state_->mutex);
    state_->carries = true;
}

void Script::worker_ended() {
    const std::lock_guard lock(state_->mutex);
    state_->ended = true;
    state_->changed.notify_all();
}

Token Script::out(Question question) const {
    const std::lock_guard lock(state_->mutex);
    Token found(0);
    for (const auto& [raw, entry] : state_->ledger.entries()) {
        if (entry.token.question() != question) continue;
        if (found != Token(0))
            throw std::runtime_error(std::string("more than one is out: ") + name_of(question));
        found = entry.token;
    }
    if (found == Token(0)) throw std::runtime_error(std::string("none is out: ") + name_of(question));
    return found;
}

std::size_t Script::count_out(Question question) const {
    const std::lock_guard lock(state_->mutex);
    return static_cast<std::size_t>(std::ranges::count_if(
        state_->ledger.entries(),
        [question](const auto& each) { return each.second.token.question() == question; }));
}

bool Script::cancelled(Question question) const {
    const Token token = out(question);
    const std::lock_guard lock(state_->mutex);
    return state_->ledger.entries().at(token.raw()).cancelled;
}

std::size_t Script::times_asked(Question question) const {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->times_asked.find(question);
    return found == state_->times_asked.end() ? 0 : found->second;
}

std::vector<std::string> Script::broken_promises() const {
    const std::lock_guard lock(state_->mutex);
    return state_->ledger.broken_promises();
}

std::vector<Token> Script::left_out() const {
    const std::lock_guard lock(state_->mutex);
    return state_->left_out;
}

}  // namespace sluice::test
