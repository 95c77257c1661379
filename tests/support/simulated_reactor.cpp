#include "tests/support/simulated_reactor.hpp"

#include "sluice/net/owned_fd.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <map>
#include <stdexcept>
#include <utility>

namespace sluice::test {

namespace {

class Dice {
  public:
    explicit Dice(std::uint64_t seed) : random_(seed) {}
    std::uint64_t below(std::uint64_t end) { return random_() % end; }
    bool happens(std::uint32_t per_mille) { return per_mille > 0 && below(1000) < per_mille; }
    std::mt19937_64& engine() { return random_; }

  private:
    std::mt19937_64 random_;
};

class SimulatedReactor final : public Reactor {
  public:
    SimulatedReactor(std::uint64_t seed, Unkindness unkindness, std::function<bool()> meanwhile,
                     std::shared_ptr<SimulationReport> report)
        : dice_(seed),
          unkindness_(unkindness),
          meanwhile_(std::move(meanwhile)),
          report_(std::move(report)),
          epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
        if (!epoll_.valid()) throw std::runtime_error("epoll_create1");
    }

    ~SimulatedReactor() override {
        for (const auto& [raw, asked] : questions_) {
            report_->left_out.push_back(asked.token);
            if (!asked.gifts.empty())
                report_->ledger.broken("destroyed with accepted clients on their way: " +
                                       to_string(asked.token));
        }
    }
    SimulatedReactor(const SimulatedReactor&) = delete;
    SimulatedReactor& operator=(const SimulatedReactor&) = delete;

    void accept(int listening_fd, Token token) override {
        ask(listening_fd, token, EPOLLIN | EPOLLET).listening = true;
    }

    void watch(int fd, Token token) override {
        watch_for(EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET, fd, token);
    }

    void watch_readable(int fd, Token token) override { watch_for(EPOLLIN | EPOLLET, fd, token); }

    bool carry(std::span<const Send> sends) noexcept override {
        if (dice_.below(2) == 0) return false;
        carried_.assign(sends.begin(), sends.end());
        return true;
    }

    void watch_for(std::uint32_t events, int fd, Token token) {
        if (token.question() != Question::doorbell && dice_.happens(unkindness_.refuse_watch)) {
            Asked& asked = ask(fd, token, 0);
            ++report_->watches_refused;
            end(asked, -ENOMEM);
            return;
        }
        ask(fd, token, events);
    }

    void cancel(int, Token token) override {
        report_->ledger.cancelled(token);
        const auto found = questions_.find(token.raw());
        if (found == questions_.end() || found->second.ending) return;
        Asked& asked = found->second;
        if (asked.listening && dice_.below(2) == 0) {
            // The kernel was faster than the cancel: these were accepted before it took hold.
            take_clients(asked, 1 + dice_.below(3));
            report_->gifts_after_cancel += asked.gifts.size();
        }
        if (!dice_.happens(unkindness_.events_after_cancel)) asked.events.clear();
        end(asked, -ECANCELED);
    }

    std::size_t wait(std::span<Completion> answers, Time deadline) override {
        ++report_->turns;
        const std::size_t told = send_carried(answers);
        return told + wait_for_events(answers.subspan(told), told > 0 ? Time::min() : deadline);
    }

    const char* name() const noexcept override { return "simulated"; }

  private:
    // What was to be taken along goes before anything else; only what did not go as a whole is told.
    std::size_t send_carried(std::span<Completion> answers) {
        std::size_t told = 0;
        for (const Send& send : carried_) {
            const ssize_t sent =
                ::send(send.fd, send.bytes.data(), send.bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (std::cmp_equal(sent, send.bytes.size())) continue;
            answers[told++] = {send.token, sent < 0 ? -errno : static_cast<int>(sent), false};
        }
        carried_.clear();
        return told;
    }

    std::size_t wait_for_events(std::span<Completion> answers, Time deadline) {
        const bool moved = meanwhile_();
        bool on_its_way = collect(Nanoseconds(0));
        // Time passes only when nothing else does: the kernel's timers and the worker's deadlines need it.
        if (!on_its_way && !moved && deadline > Clock::now()) {
            const Nanoseconds most = std::chrono::milliseconds(1);
            on_its_way =
                collect(std::min<Nanoseconds>(deadline == time_never ? most : deadline - Clock::now(), most));
        }
        if (!on_its_way) return 0;
        repeat_something();
        const std::size_t count = deliver(answers);
        ++turn_;
        return count;
    }

    struct Event {
        int bits = 0;
        std::uint64_t due = 0;  // turn
    };
    struct Gift {
        OwnedFd client;
        std::uint64_t due = 0;
    };
    struct Asked {
        Token token{0};
        int fd = -1;
        bool listening = false;
        bool in_epoll = false;
        bool clients_wait = false;  // accept(2) has not answered EAGAIN since the last event
        bool ending = false;        // its last answer is on its way
        int last_result = 0;
        std::uint64_t last_due = 0;
        int told = 0;  // bits that were delivered since it was asked
        std::deque<Event> events;
        std::deque<Gift> gifts;

        bool has_answers() const { return ending || !events.empty() || !gifts.empty(); }
    };

    std::uint64_t some_turn() { return turn_ + dice_.below(unkindness_.delay_turns_max + 1); }

    Asked& ask(int fd, Token token, std::uint32_t events) {
        report_->ledger.asked(fd, token);
        Asked& asked = questions_[token.raw()];
        asked = Asked{};
        asked.token = token;
        asked.fd = fd;
        if (events != 0) {
            epoll_event event{};
            event.events = events;
            event.data.u64 = token.raw();
            asked.in_epoll = ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
            if (!asked.in_epoll) end(asked, -errno);
        }
        return asked;
    }

    void leave_epoll(Asked& asked) {
        if (std::exchange(asked.in_epoll, false)) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, asked.fd, nullptr);
    }

    void end(Asked& asked, int result) {
        leave_epoll(asked);
        asked.ending = true;
        asked.last_result = result;
        asked.last_due = some_turn();
    }

    // Takes over what the kernel has to tell; whether any answer is on its way now.
    bool collect(Nanoseconds most) {
        std::array<epoll_event, 256> events;
        const timespec timeout{0, static_cast<long>(std::max<std::int64_t>(most.count(), 0))};
        const int count =
            ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()), &timeout, nullptr);
        for (int index = 0; index < count; ++index) {
            const epoll_event& event = events[static_cast<std::size_t>(index)];
            Asked& asked = questions_.at(event.data.u64);
            if (asked.listening)
                asked.clients_wait = true;
            else
                note(asked, static_cast<int>(event.events));
        }
        bool any = false;
        for (auto& [raw, asked] : questions_) {
            if (asked.listening && !asked.ending) collect_clients(asked);
            any = any || asked.has_answers();
        }
        return any;
    }

    void note(Asked& asked, int bits) {
        // A broken socket tells everything at once: error and hang-up never come behind the rest.
        const bool whole = (bits & (POLLERR | POLLHUP)) != 0;
        const int writable = bits & POLLOUT;
        const int others = bits & ~POLLOUT;
        if (!whole && writable != 0 && others != 0 && dice_.happens(unkindness_.split)) {
            const bool writable_first = dice_.below(2) == 0;
            push(asked, writable_first ? writable : others);
            push(asked, writable_first ? others : writable);
            return;
        }
        // Merged with what has not been told yet, as epoll would; or behind it.
        if (!asked.events.empty() && dice_.below(2) == 0)
            asked.events.back().bits |= bits;
        else
            push(asked, bits);
    }

    void push(Asked& asked, int bits) {
        const std::uint64_t before = asked.events.empty() ? 0 : asked.events.back().due;
        asked.events.push_back({bits, std::max(before, some_turn())});
    }

    void collect_clients(Asked& asked) {
        if (!asked.clients_wait) return;
        if (dice_.happens(unkindness_.abort_accept)) {
            ++report_->accepts_aborted;
            return end(asked, -ECONNABORTED);
        }
        if (dice_.happens(unkindness_.exhaust_accept)) {
            ++report_->accepts_exhausted;
            return end(asked, -EMFILE);
        }
        take_clients(asked, 1 + dice_.below(4));
    }

    void take_clients(Asked& asked, std::uint64_t most) {
        for (std::uint64_t taken = 0; taken < most; ++taken) {
            OwnedFd client(::accept4(asked.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (!client.valid()) {
                asked.clients_wait = false;
                return;
            }
            asked.gifts.push_back({std::move(client), some_turn()});
        }
    }

    // An event that was told before, told again: true by the contract ("came or hold"), and no news.
    void repeat_something() {
        if (!dice_.happens(unkindness_.repeat)) return;
        std::vector<Asked*> candidates;
        for (auto& [raw, asked] : questions_)
            if (asked.told != 0 && !asked.ending) candidates.push_back(&asked);
        if (candidates.empty()) return;
        Asked& chosen = *candidates[dice_.below(candidates.size())];
        push(chosen, chosen.told);
        ++report_->repeated;
    }

    std::size_t deliver(std::span<Completion> answers) {
        std::vector<std::uint64_t> order;
        std::uint64_t earliest = UINT64_MAX;
        for (const auto& [raw, asked] : questions_) {
            if (!asked.has_answers()) continue;
            order.push_back(raw);
            earliest = std::min(earliest, due(asked));
        }
        turn_ = std::max(turn_, earliest);  // nobody is made to wait for turns in which nothing happens
        std::ranges::shuffle(order, dice_.engine());
        std::size_t count = 0;
        for (const std::uint64_t raw : order) {
            Asked& asked = questions_.at(raw);
            while (count < answers.size() && asked.has_answers() && due(asked) <= turn_) {
                answers[count] = next_answer(asked);
                report_->ledger.answered(answers[count]);
                if (!answers[count++].more) {
                    leave_epoll(asked);
                    questions_.erase(raw);
                    break;
                }
            }
        }
        return count;
    }

    static std::uint64_t due(const Asked& asked) {
        if (!asked.gifts.empty()) return asked.gifts.front().due;
        if (!asked.events.empty()) return asked.events.front().due;
        return asked.last_due;
    }

    // REQUIRES: has_answers()
    Completion next_answer(Asked& asked) {
        if (!asked.gifts.empty()) {
            const int client = asked.gifts.front().client.release();
            asked.gifts.pop_front();
            const bool last = asked.gifts.empty() && dice_.happens(unkindness_.last_gift);
            return {asked.token, client, !last};
        }
        if (asked.events.empty()) return {asked.token, asked.last_result, false};
        const int bits = asked.events.front().bits;
        asked.events.pop_front();
        asked.told |= bits;
        const bool last = !asked.ending && dice_.happens(unkindness_.lose_more);
        // What was still to be told is what holds when it is asked anew.
        if (last) ++report_->more_lost;
        return {asked.token, bits, !last};
    }

    Dice dice_;
    Unkindness unkindness_;
    std::function<bool()> meanwhile_;
    std::shared_ptr<SimulationReport> report_;
    OwnedFd epoll_;
    std::map<std::uint64_t, Asked> questions_;
    std::vector<Send> carried_;  // by raw token: an order that does not change between runs
    std::uint64_t turn_ = 0;
};

}  // namespace

Unkindness Unkindness::drawn(std::mt19937_64& random) {
    const auto up_to = [&](std::uint32_t most) {
        return random() % 3 == 0 ? 0 : static_cast<std::uint32_t>(random() % (most + 1));
    };
    Unkindness drawn;
    drawn.delay_turns_max = up_to(8);
    drawn.split = up_to(1000);
    drawn.repeat = up_to(500);
    drawn.lose_more = up_to(200);
    drawn.refuse_watch = random() % 8 == 0 ? up_to(100) : 0;
    drawn.abort_accept = random() % 3 == 0 ? up_to(500) : 0;
    drawn.exhaust_accept = random() % 30 == 0 ? up_to(200) : 0;  // each costs the worker's pause of 100 ms
    drawn.last_gift = up_to(300);
    drawn.events_after_cancel = up_to(1000);
    return drawn;
}

std::unique_ptr<Reactor> open_simulated_reactor(std::uint64_t seed, Unkindness unkindness,
                                                std::function<bool()> meanwhile,
                                                std::shared_ptr<SimulationReport> report) {
    return std::make_unique<SimulatedReactor>(seed, unkindness, std::move(meanwhile), std::move(report));
}

}  // namespace sluice::test
