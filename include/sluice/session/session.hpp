#pragma once

#include "sluice/account/counters.hpp"
#include "sluice/account/end.hpp"
#include "sluice/account/record.hpp"
#include "sluice/account/seat.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/base/deadlines.hpp"
#include "sluice/base/list.hpp"
#include "sluice/base/slab.hpp"
#include "sluice/config/config.hpp"
#include "sluice/flow/flow.hpp"
#include "sluice/flow/round.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/socket.hpp"
#include "sluice/reactor/reactor.hpp"
#include "sluice/upstream/pool.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

class Session;
struct PatienceTag;  // how long the session may stay as it is: connect, idle, half-closed, flush
struct AgeTag;       // how long it may live at all
struct RunTag;       // the two queues of those who have something to do
struct AwaitTag;     // sessions that wait for a name to be resolved

// What the sessions of one listener have in common, as one worker knows it. Outlives its sessions.
struct SessionKind {
    const config::Listener* listener;
    Pool* pool;
    int socket_type;                 // SOCK_STREAM or SOCK_SEQPACKET, on both sides
    std::uint16_t port_offset;       // of the bound port, in the listener's range
    const Endpoint* bind = nullptr;  // which of the listener's addresses
    bool local;                      // its clients come by a unix socket
    bool recorded;                   // who they are is asked for
    // What is set on an upstream socket at once, and what only on that of a session that has settled: most do
    // not live so long, and what nobody needs before need not cost them a system call each.
    SocketOptions upstream_options;
    SocketOptions upstream_keepalive;
    // Deadline classes of the worker.
    std::uint32_t connect, idle, half_closed, settling, max_age;
    // Idle is the shorter patience, so that it ends half-closed sessions too.
    bool idle_when_half_closed;
};

// What a worker does for its sessions. One per worker; the sessions get it with every call.
struct Services {
    Reactor& reactor;
    Lane lane;
    Deadlines<Session, PatienceTag> patience;
    Deadlines<Session, AgeTag> ages;
    // Sessions that have something to do: those of small messages, which have all their turn when there is
    // news, and those of bulk, which have theirs one after the other while nobody of the first is kept
    // waiting.
    List<Session, RunTag> ready;
    List<Session, RunTag> run_queue;
    List<Session, AwaitTag> awaiting;
    List<Session, AwaitTag> awaiting_file;  // another session's turn at a file; who came first is first
    WorkerCounters& counters;
    Records& records;
    std::size_t worker;                 // whose ring of records
    config::AccessEvents events;        // what is recorded
    std::uint32_t flush_class;          // deadline class of flush_interval
    std::uint32_t flush_stalled_class;  // and of flush_stalled_interval
    Time now;                           // as of this turn
    bool starved = false;               // a dial found no descriptor: the worker stops accepting for a while
    Time shed_at{};                     // the turn in which a starved session was last given up
};

// How old a session is when it has settled. No keepalive asks sooner (its shortest time is one second).
inline constexpr Nanoseconds settling_time = std::chrono::seconds(1);

// While a broken end's last bytes are on their way, how often the target is asked whether it has them. There
// is no event for it: the kernel tells when a send queue has room, not when it is empty.
inline constexpr Nanoseconds flush_interval = std::chrono::milliseconds(5);
// Less often while it takes nothing: 200 looks a second at one stalled target cost 0.8 to 1.3 % of a CPU.
inline constexpr Nanoseconds flush_stalled_interval = std::chrono::milliseconds(50);
// And after how long without any progress the target is reset all the same.
inline constexpr Nanoseconds flush_max = std::chrono::seconds(10);

enum class SessionState : std::uint8_t {
    awaiting_address,  // the pool's names are still being resolved; no upstream socket
    dialing,           // the upstream socket is connecting, and watched
    redialing,  // a dial failed and its socket's last answer is awaited; or time is given to a busy unix
                // queue, or to others to free a descriptor or a file
    relaying,   // both flows may run
    flushing,   // one side is broken; what it sent before is being delivered to the other
    closing,    // ended: only last answers are awaited
};

// One client socket, one upstream socket, two flows. Lives in a worker's slab, is reached by its name only,
// and is retired by the worker in one place: when it is closing and nothing it asked is outstanding.
//
// Every call may end the session; the caller asks quiet() afterwards.
class Session : public DeadlineNode<PatienceTag>,
                public DeadlineNode<AgeTag>,
                public ListNode<RunTag>,
                public ListNode<AwaitTag> {
  public:
    // Owns the client's socket from here on.
    Session(SlotName name, OwnedFd client, const SessionKind& kind, Seat seat, Time now) noexcept;

    SlotName name() const noexcept { return name_; }

    // Begins: watches the client and dials.
    void start(Services& services) noexcept;

    // One of its questions was answered. REQUIRES: the question was asked by this session and is outstanding
    void answer(Question question, const Completion& completion, Services& services) noexcept;

    // Its turn in one of the queues. What its flows can do together with others' they have done in a round
    // before.
    // True: beside that it has nothing to do.
    bool join(Round& round) noexcept;
    void run(Services& services) noexcept;

    // Its patience is over: what that means depends on the state.
    void patience_over(Services& services) noexcept;

    // It has settled, or is too old.
    void age_over(Services& services) noexcept;

    // An address for its pool may have come.
    void address_news(Services& services) noexcept;

    // Says how far it is (the periodic record).
    void report(Services& services) const noexcept;

    // Ends it by our own decision: both sides see a reset. No effect on one that is closing already.
    void end(End reason, Services& services) noexcept;

    // Nothing names it any more: it may be retired.
    bool quiet() const noexcept {
        return state_ == SessionState::closing && !client_watched_ && !upstream_watched_;
    }

  private:
    enum class Dialled : std::uint8_t { under_way, failed, ended };

    void dial_next(Services& services) noexcept;
    Dialled dial_target(const SocketAddress& target, Services& services) noexcept;
    Dialled open_upstream_file(const Endpoint& file, Services& services) noexcept;
    bool shares_file_with(const Session& other) const noexcept;
    void pass_on_file(Services& services) noexcept;
    Dialled dial_upstream(const SocketAddress& target, Services& services) noexcept;
    void dial_again(Services& services) noexcept;
    Dialled starve(int error, Services& services) noexcept;
    void abort_dial(End reason, int error, Services& services) noexcept;
    void client_changed(Services& services) noexcept;
    void upstream_changed(Services& services) noexcept;
    void connected(Services& services) noexcept;
    void choose_paths() noexcept;
    void keep_upstream_alive() noexcept;
    void enqueue(Services& services) noexcept;
    void relay(Services& services) noexcept;
    void note_half_close(Services& services) noexcept;
    bool slow_reader_moves(Services& services) noexcept;
    void close_done(Services& services) noexcept;
    void break_off(Services& services) noexcept;
    void flush(Services& services) noexcept;
    void close(End reason, Services& services) noexcept;
    void watch(Socket& socket, Question question, Services& services) noexcept;
    bool& watched(Question question) noexcept;
    void record(SessionRecord::Event event, Services& services) const noexcept;
    PathReason path_reason() const noexcept;

    SlotName name_;
    SessionState state_ = SessionState::dialing;
    End end_ = End::no_backend;  // the reason, as far as it is known: of the last failed dial, the first FIN
    bool client_watched_ = false;    // a watch of the client's socket is outstanding
    bool upstream_watched_ = false;  // likewise
    bool settled_ = false;           // old enough for what only lasting sessions need
    bool half_closed_ = false;       // one flow has finished; end_ says whose FIN it was
    Pool::Attempt attempt_;
    int error_ = 0;  // errno of the last failed dial, or of what broke

    Socket client_;
    Socket upstream_;
    Flow upload_;    // client -> upstream
    Flow download_;  // upstream -> client

    const SessionKind* kind_;
    std::uint64_t progress_seen_ =
        0;  // of both flows, as of the last turn: its patience begins anew with more
    Time started_;
    Nanoseconds connect_took_{-1};
    Time give_up_at_{};  // flushing: reset then. redialing for want of anything: over then
    // flushing and half-closed: bytes that the reader has acknowledged, as of the last look
    std::uint64_t flush_delivered_ = 0;
    PeerAddress peer_;
    Seat seat_;
};

}  // namespace sluice
