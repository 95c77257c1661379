#pragma once

#include "sluice/datagram/table.hpp"
#include "sluice/net/bound_address.hpp"
#include "sluice/session/session.hpp"

#include <sys/socket.h>

#include <array>
#include <expected>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace sluice {

// One thread of the relay: a reactor, its listening sockets, its sessions. Shares nothing that changes while
// bytes flow, but the counts of sessions under the limits.
class Worker {
  public:
    using OpenReactor = std::function<std::expected<std::unique_ptr<Reactor>, std::string>()>;

    struct Listening {
        OwnedFd socket;
        const config::Listener* listener;
        std::size_t pool;                // index in Plan::pools
        Seat::Count* sessions;           // of the listener, over all workers
        int socket_type = SOCK_STREAM;   // or SOCK_SEQPACKET
        std::uint16_t port_offset = 0;   // in the listener's range of ports
        const Endpoint* bind = nullptr;  // which of the listener's addresses
    };

    struct Plan {
        std::size_t index = 0;                   // whose ring of records
        const char* name = "worker";             // of its thread
        int cpu = -1;                            // to run on, -1: wherever
        const config::Config* config = nullptr;  // outlives the worker
        OpenReactor open_reactor;
        std::vector<Listening> listening;
        struct DatagramListening : Listening {
            Seat::Count* wanted;  // of the listener: see DatagramListener
        };
        std::vector<DatagramListening> datagrams;
        std::uint32_t workers = 1;
        std::uint32_t sessions_max = 0;  // of the process
        Seat::Count* sessions = nullptr;
        DatagramWishes* wishes = nullptr;
        std::size_t pipe_budget = 0;  // bytes
        Records* records = nullptr;
    };

    // What other threads may ask of a worker; done between two turns.
    struct LearnAddresses {
        std::size_t pool;
        std::uint32_t backend;
        AddressList addresses;
    };
    struct Drain {
        Time deadline;
    };
    struct Kill {};
    using Command = std::variant<LearnAddresses, Drain, Kill>;

    // The error says what the system refused.
    static std::expected<std::unique_ptr<Worker>, std::string> open(Plan plan);
    ~Worker();
    // Its own thread, the doorbell and the reactor hold addresses inside.
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    // The body of its thread. Answers `started` once it accepts or cannot; returns after Drain or Kill, when
    // no session is left.
    void run(std::promise<std::expected<void, std::string>> started);

    // Any thread's.
    void post(Command command);
    const WorkerCounters& counters() const noexcept { return counters_; }

  private:
    Worker(Plan plan, OwnedFd doorbell);

    enum class Accepting : std::uint8_t {
        armed,   // the reactor has the question
        paused,  // it failed for want of descriptors or memory: asked again at resume_at_
        closed,  // draining: for good
    };
    struct Listener {
        Listening listening;
        SessionKind kind;
        Accepting accepting = Accepting::paused;
    };

    void turn();
    Time next_deadline() noexcept;
    void dispatch(const Completion& completion) noexcept;
    void arm(std::size_t listener);
    void resume(std::size_t listener);
    void on_accept(std::size_t listener, const Completion& completion);
    void on_accept_failed(Listener& listener, std::size_t index, int error);
    void pause_accepting();
    void admit(Listener& listener, OwnedFd client) noexcept;
    void turn_away(Listener& listener, OwnedFd client, End reason) noexcept;
    void warn_of_limit(const Listener& listener);
    void open_datagrams();
    void watch_doorbell();
    void answer_doorbell();
    void obey(LearnAddresses& command) noexcept;
    void obey(const Drain& command);
    void obey(const Kill&);
    void stop_listening();
    void close_listener(Listener& listener);
    void end_all(End reason) noexcept;
    void run_queued() noexcept;
    void expire() noexcept;
    void report() noexcept;
    void retire_if_quiet(Session& session) noexcept;
    bool finished() const noexcept;

    Plan plan_;
    WorkerCounters counters_;
    OwnedFd doorbell_;
    std::mutex mailbox_mutex_;
    std::vector<Command> mailbox_;

    std::vector<Pool> pools_;
    std::unique_ptr<std::byte[]> scratch_;
    BlockPool blocks_;
    PipePool pipes_;
    // Declared so that the reactor dies before the slab: no question may outlive what it names.
    std::unique_ptr<Slab<Session>> sessions_;
    std::unique_ptr<DatagramTable> datagrams_;  // null: it has no listener of them
    std::unique_ptr<Reactor> reactor_;
    std::unique_ptr<Services> services_;
    std::vector<Listener> listeners_;
    std::array<Completion, 512> answers_;
    Time resume_at_ = time_never;
    Time drain_at_ = time_never;
    Time report_at_ = time_never;  // when the periodic lines are due
    std::uint32_t reported_ = 0;   // the slot at which that walk goes on
    bool draining_ = false;
    std::optional<End> over_;  // killed or drained: what still comes out of the queues ends at once
    bool doorbell_watched_ = false;
    Time warned_limit_at_{};
    std::uint64_t turned_away_ = 0;  // since the last warning
    Time warned_pause_at_{};
};

}  // namespace sluice
