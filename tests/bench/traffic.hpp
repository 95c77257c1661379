#pragma once

#include "tests/bench/load.hpp"
#include "tests/bench/options.hpp"

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

namespace sluice::bench {

// Every workload whose connections live as long as the run: bulk, echo, the mix, slow readers, idle ones.
class Traffic : public Load {
  public:
    explicit Traffic(const Options& options);

    bool open() override;
    void start() override;
    bool turn() override;
    void stop() override;
    bool settled() const override;

  private:
    // What moves on one connection; the client names it in its greeting, so the backend knows too.
    enum class Role : std::uint8_t { upload, download, both, echo, slow, idle };

    // One socket of a connection.
    struct End {
        enum class State : std::uint8_t {
            greeting,  // the client waits for the byte that answers its greeting; the backend for the
                       // greeting
            ready,     // both ends know each other
            dead,      // failed, counted, in no epoll
        };

        OwnedFd socket;
        State state = State::greeting;
        Role role = Role::idle;
        bool client = false;
        std::uint32_t peer = 0;  // the other end's index, once ready
        // Of bulk, in all.
        std::uint64_t sent = 0;
        std::uint64_t received = 0;
        // Of the message that is coming or going.
        std::size_t arrived_bytes = 0;
        std::size_t owed_bytes = 0;
        std::uint64_t serial = 0;  // its head
        Time asked = time_never;   // of a client: the question that is under way; time_never: none is
        Time due = time_never;     // of a client: when the next one should begin

        // Whether this end sends, takes bulk.
        bool source() const noexcept { return role == Role::both || (role == Role::upload) == client; }
        bool sink() const noexcept { return role == Role::both || (role == Role::upload) != client; }
    };

    static bool bulky(Role role) noexcept { return role != Role::echo && role != Role::idle; }
    Role role_of(std::uint32_t connection) const noexcept;

    // Opening.
    void dial_next();
    void accept_all();
    void greet(End& end);
    void be_greeted(End& end);

    void enlarge_buffer(End& end);
    void let_sinks_take(bool take);
    void keep_relay_behind();
    // Handles up to `events_max` events of one epoll; false if there was none.
    bool handle_events(int epoll, int events_max);
    void handle(End& end, std::uint32_t events);
    void send_bulk(End& end);
    void take_bulk(End& end);
    bool read_slowly();
    bool ask_what_is_due();
    void take_message(End& end);
    void ask(End& end, Time now);
    void send_owed(End& end);
    ssize_t take(End& end, std::size_t count);
    void watch(int epoll, int operation, End& end, std::uint32_t events);
    void lose(End& end, const char* what, int error);

    const Options options_;
    const std::uint32_t connections_;  // all of them, of each role
    const std::size_t bulk_bytes_;     // that one event may move
    const Material material_;
    OwnedFd listening_;
    // The chatty ones are looked after between any two moves of a bulky one.
    OwnedFd chatty_epoll_;
    OwnedFd bulky_epoll_;
    std::vector<End> ends_;
    std::uint32_t dialled_ = 0;
    std::uint32_t ready_ = 0;
    bool stopped_ = false;
    std::deque<std::uint32_t> timed_;  // clients whose turn comes at a time: slow readers, those that pause
    Time slow_due_;                    // of the slow reader at the front
    Time sinks_from_ = time_never;     // when the sinks of bulk begin to take; time_never: they do
    Time idle_at_;                     // when there was nothing to do last
    std::vector<char> scratch_;
};

}  // namespace sluice::bench
