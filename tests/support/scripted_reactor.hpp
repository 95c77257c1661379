#pragma once

// A reactor that answers only what the test tells it to, so that every order of answers can be had:
//
//     Script script;
//     plan.open_reactor = [&] { return script.open_reactor(); };
//     ...
//     script.settle();                                      // the worker has done its work and waits
//     script.answer({{script.out(Question::watch_client), POLLIN, true}});
//
// The worker runs on a thread of its own; each call here is one step of the test.

#include "sluice/reactor/reactor.hpp"

#include "tests/support/waiting.hpp"

#include <sys/types.h>

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sluice::test {

std::string to_string(Token token);

// Which questions are out, and whether both sides keep to the contract of Reactor. One thread at a time.
class QuestionLedger {
  public:
    struct Entry {
        Token token{0};
        int fd = -1;
        bool cancelled = false;
        // Which open file the descriptor named when it was asked about.
        dev_t device = 0;
        ino_t inode = 0;
    };

    void asked(int fd, Token token);
    // A cancel of what is not out is tolerated: its last answer may just have been given.
    void cancelled(Token token);
    // REQUIRES of the reactor: the question is out. A last answer is noted, and the descriptor must be the
    // one that was asked about: closed earlier, its number could name another client's socket.
    void answered(const Completion& completion);
    void broken(std::string promise) { broken_.push_back(std::move(promise)); }

    bool out(Token token) const { return entries_.contains(token.raw()); }
    const std::map<std::uint64_t, Entry>& entries() const { return entries_; }
    // Everything that went against the contract, a sentence each.
    const std::vector<std::string>& broken_promises() const { return broken_; }

  private:
    std::map<std::uint64_t, Entry> entries_;  // by raw token
    std::vector<std::string> broken_;
};

// The test's end of a scripted reactor. Outlives the worker.
class Script {
  public:
    Script();
    ~Script();
    Script(const Script&) = delete;
    Script& operator=(const Script&) = delete;

    // The worker's end; once.
    std::expected<std::unique_ptr<Reactor>, std::string> open_reactor();

    // The answers that one wait() is to return, in this order. Then waits until the worker has handled them
    // and waits again, or has ended. Throws at the deadline.
    void answer(std::vector<Completion> batch);
    // The same with answers that nobody asked for, as a broken kernel would give them.
    void answer_unasked(std::vector<Completion> batch);
    // Waits until the worker has handled all answers and waits for more.
    void settle();

    // From now on the reactor takes sends along; they are made, and nothing is told of them.
    void carry_sends();

    // The worker's thread says that it ends: nobody will take an answer any more.
    void worker_ended();

    // The only question of its kind that is out; throws when there is none or more than one.
    Token out(Question question) const;
    std::size_t count_out(Question question) const;
    // Whether the only question of its kind that is out is wished to end.
    bool cancelled(Question question) const;
    // How often a question of this kind was asked so far.
    std::size_t times_asked(Question question) const;

    std::vector<std::string> broken_promises() const;
    // What was out when the reactor was destroyed.
    std::vector<Token> left_out() const;

  private:
    class ScriptedReactor;
    struct State;
    void deliver(std::vector<Completion> batch, bool checked);
    std::shared_ptr<State> state_;
};

}  // namespace sluice::test
